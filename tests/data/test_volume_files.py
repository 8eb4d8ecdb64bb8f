"""Volumes come in RAS+ whatever the file has, go back onto its grid, and mistakes are told in one sentence."""

import gzip

import numpy as np
import pytest
import torch

from ommatid.data.volume_files import Volume, read_volume, resampled, same_grid, to_size, whole_numbers
from ommatid.errors import InputError, MissingDependency

nibabel = pytest.importorskip("nibabel")
# Axes of the file: head to feet, left to right, back to front; unequal steps; somewhere in space.
ODD = np.array([[0, 2.0, 0, -30], [0, 0, 1.5, 20], [-4.0, 0, 0, 100], [0, 0, 0, 1]])


def written(path, data, affine=ODD):
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def numbers():
    return np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def test_every_voxel_is_where_the_file_says(tmp_path, numbers):
    volume = read_volume(written(tmp_path / "odd.nii.gz", numbers))
    assert volume.voxels.shape == (3, 4, 2)
    assert volume.spacing.tolist() == [2.0, 1.5, 4.0]
    for place in np.ndindex(numbers.shape):
        where = ODD @ [*place, 1]
        x, y, z = torch.linalg.solve(volume.affine, torch.tensor(where))[:3].round().long()
        assert volume.voxels[x, y, z] == numbers[place]


def test_labels_go_back_onto_the_grid_of_the_file(tmp_path, numbers):
    volume = read_volume(written(tmp_path / "odd.nii.gz", numbers))
    volume.save_like(volume.voxels, tmp_path / "back.nii.gz")
    back = nibabel.load(tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), numbers)
    np.testing.assert_allclose(back.affine, ODD)
    np.testing.assert_allclose(back.get_qform(), ODD, atol=1e-5)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_same_labels_are_the_same_bytes(tmp_path, numbers):
    volume = read_volume(written(tmp_path / "odd.nii.gz", numbers))
    for name in ("a.nii.gz", "b.nii.gz"):
        volume.save_like(volume.voxels, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_scaled_files_come_in_their_unit(tmp_path, numbers):
    image = nibabel.Nifti1Image(numbers, ODD)
    image.header.set_slope_inter(2.0, -1000.0)
    nibabel.save(image, tmp_path / "scaled.nii")
    assert read_volume(tmp_path / "scaled.nii").voxels.float().min() == -1000 + 2 * 0


def test_a_slice_is_flat(tmp_path):
    volume = read_volume(written(tmp_path / "slice.nii.gz", np.ones((5, 6, 1), np.uint8), np.eye(4)))
    assert volume.flat == 2
    volume.save_like(torch.ones(5, 6), tmp_path / "labels.nii.gz")
    assert nibabel.load(tmp_path / "labels.nii.gz").shape == (5, 6, 1)


def test_a_straight_ramp_is_resampled_exactly_and_stays_in_place():
    ramp = torch.arange(12.0).view(12, 1, 1).expand(12, 4, 4)
    volume = Volume(ramp, torch.diag(torch.tensor([1.0, 1, 1, 1], dtype=torch.double)))
    coarse = resampled(volume, [3.0, 2.0, 1.0])
    assert coarse.voxels.shape == (4, 2, 4)
    places = coarse.affine[0, 0] * torch.arange(4) + coarse.affine[0, 3]
    torch.testing.assert_close(coarse.voxels[:, 0, 0].double(), places)


def test_labels_survive_a_finer_grid_and_back():
    labels = torch.randint(0, 5, (6, 7, 8), generator=torch.Generator().manual_seed(0))
    volume = Volume(labels, torch.diag(torch.tensor([3.0, 3, 3, 1], dtype=torch.double)))
    fine = resampled(volume, [1.0, 1.5, 0.75], labels=True)
    assert fine.voxels.shape == (18, 14, 32)
    assert torch.equal(to_size(fine.voxels[None, None], (6, 7, 8), smooth=False)[0, 0], labels)


def test_nearest_is_that_of_torch():
    maps = torch.rand(1, 2, 9, 5, generator=torch.Generator().manual_seed(0))
    for size in ((4, 7), (13, 5), (3, 11)):
        expected = torch.nn.functional.interpolate(maps, size, mode="nearest-exact")
        assert torch.equal(to_size(maps, size, smooth=False), expected)


def test_grids_must_agree(tmp_path, numbers):
    volume = read_volume(written(tmp_path / "a.nii.gz", numbers))
    moved = ODD.copy()
    moved[0, 3] += 1.0
    same_grid(volume, read_volume(written(tmp_path / "b.nii.gz", numbers, ODD + 1e-4 * np.eye(4))))
    with pytest.raises(InputError, match=r"c.nii.gz: found an affine that lies up to 1 mm away, expected that of"):
        same_grid(volume, read_volume(written(tmp_path / "c.nii.gz", numbers, moved)))
    with pytest.raises(InputError, match="found 3 x 4 x 1 voxels, expected 3 x 4 x 2 as"):
        same_grid(volume, read_volume(written(tmp_path / "d.nii.gz", numbers[:1])))


def test_labels_are_whole_and_known(tmp_path):
    whole = read_volume(written(tmp_path / "a.nii.gz", np.full((2, 2, 2), 3.0, np.float32)))
    assert whole_numbers(whole, 3).dtype == torch.long
    with pytest.raises(InputError, match=r"a.nii.gz: found the label 3, expected 0 to 2 as in dataset.json"):
        whole_numbers(whole, 2)
    with pytest.raises(InputError, match=r"b.nii.gz: found the label 0.5, expected whole numbers"):
        whole_numbers(read_volume(written(tmp_path / "b.nii.gz", np.full((2, 2, 2), 0.5, np.float32))), 2)


def test_broken_files_are_told_in_one_sentence(tmp_path, numbers):
    whole = written(tmp_path / "whole.nii.gz", np.random.default_rng(0).random((40, 40, 40))).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.nii.gz").write_bytes(whole[:5000] + bytes(500) + whole[5500:])
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"no volume"))
    (tmp_path / "plain.nii.gz").write_bytes(b"no volume")
    for name in ("cut", "flipped", "text", "plain"):
        with pytest.raises(InputError, match=rf"{name}.nii.gz: found a damaged.*, expected"):
            read_volume(tmp_path / f"{name}.nii.gz")
    with pytest.raises(InputError, match="found nothing, expected a NIfTI file or a folder of DICOM files"):
        read_volume(tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match="found 2 x 2 x 2 x 3 voxels, expected three axes"):
        read_volume(written(tmp_path / "film.nii.gz", np.zeros((2, 2, 2, 3), np.uint8)))
    hollow = np.zeros((2, 2, 2), np.float32)
    hollow[0, 0] = np.nan
    with pytest.raises(InputError, match="found 2 voxels that are no finite numbers"):
        read_volume(written(tmp_path / "nan.nii.gz", hollow))
    with pytest.raises(InputError, match="found 8 voxels that are no finite numbers"):
        read_volume(written(tmp_path / "huge.nii.gz", np.full((2, 2, 2), 1e300)))
    image = nibabel.Nifti1Image(numbers, None)
    image.set_sform(np.diag([1.0, 1, 0, 1]), code=1)
    nibabel.save(image, tmp_path / "flat.nii.gz")
    with pytest.raises(InputError, match="found an affine that maps axes onto each other"):
        read_volume(tmp_path / "flat.nii.gz")


def test_compressed_pairs_of_files_are_read(tmp_path, numbers):
    nibabel.save(nibabel.Nifti1Pair(numbers, np.eye(4)), tmp_path / "pair.img.gz")
    assert read_volume(tmp_path / "pair.img.gz").voxels.shape == numbers.shape


@pytest.mark.parametrize(("value", "kind"), [(2**32 + 1, np.int64), (2**32 - 1, np.uint32), (-(2**31) - 1, np.int64)])
def test_whole_numbers_that_do_not_fit_are_refused(tmp_path, value, kind):
    """They would come out as other labels."""
    data = np.zeros((2, 2, 2), kind)
    data[0, 0, 0] = value
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4), dtype=kind), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=rf"a.nii.gz: found the value {value}, expected whole numbers from -2"):
        read_volume(tmp_path / "a.nii.gz")


def test_voxels_may_be_as_small_as_a_microscope_shows_them(tmp_path, numbers):
    path = written(tmp_path / "small.nii.gz", numbers, np.diag([5e-4, 5e-4, 5e-4, 1]))
    assert read_volume(path).spacing.tolist() == pytest.approx([5e-4] * 3)


def test_impossible_requests_are_refused(tmp_path):
    volume = Volume(torch.zeros(2, 2, 2), torch.eye(4, dtype=torch.double))
    with pytest.raises(InputError, match=r"spacing: found \[0.0, 1.0, 1.0\], expected three lengths above 0"):
        resampled(volume, [0.0, 1.0, 1.0])
    with pytest.raises(InputError, match="labels: found 3, expected 2 x 2 x 2 as volume has"):
        volume.save_like(torch.zeros(3), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"found another ending, expected \.nii\.gz or \.nii"):
        volume.save_like(volume.voxels, tmp_path / "a.mha")


def test_what_is_missing_names_the_extra(tmp_path, monkeypatch, numbers):
    path = written(tmp_path / "a.nii.gz", numbers)
    for name in ("nibabel", "pydicom"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    for place in (path, tmp_path):
        with pytest.raises(MissingDependency, match=r"pip install 'ommatid\[volumes\]'"):
            read_volume(place)
