"""A folder of DICOM slices is one volume in HU, in the order of their places, not of their names."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ommatid.data.volume_files import read_volume, resampled
from ommatid.errors import InputError

pydicom = pytest.importorskip("pydicom")


def write_slice(path, pixels, position, series="1.2.3", along=(1, 0, 0, 0, 1, 0), **tags):
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.Modality = series, "CT"
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing, data.SliceThickness = [0.5, 0.75], 3.0
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(along)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.astype(np.int16).tobytes()
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path):
    """Four slices of 2 rows and 3 columns, named against their order, beside a text."""
    for number in range(4):
        pixels = 100 * number + np.arange(6).reshape(2, 3)
        write_slice(tmp_path / f"{9 - number}.dcm", pixels, (10, 20, 5 + 3 * number))
    (tmp_path / "notes.txt").write_text("none")
    return tmp_path


def test_slices_are_one_volume(series):
    volume = read_volume(series)
    assert volume.voxels.shape == (3, 2, 4)
    assert volume.spacing.tolist() == [0.75, 0.5, 3.0]
    assert not volume.voxels.is_floating_point()
    # DICOM's columns go to the left and rows to the back: the last of both comes first.
    expected = torch.tensor([[5, 2], [4, 1], [3, 0]]) - 1024
    for number in range(4):
        assert torch.equal(volume.voxels[..., number], (expected + 100 * number).int())
    # The first pixel of the first slice lies at (10, 20, 5) of DICOM, which is (-10, -20, 5) here.
    corner = volume.affine @ torch.tensor([2.0, 1, 0, 1], dtype=torch.double)
    torch.testing.assert_close(corner[:3], torch.tensor([-10.0, -20, 5], dtype=torch.double))


def test_labels_are_written_as_nifti_beside_a_series(series, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = read_volume(series)
    volume.save_like((volume.voxels > -800).int(), tmp_path / "labels.nii.gz")
    file = nibabel.load(tmp_path / "labels.nii.gz")
    assert file.shape == (3, 2, 4)
    np.testing.assert_allclose((file.affine @ [0, 0, 0, 1])[:3], [-10, -20, 5])


def test_faulty_series_are_told_in_one_sentence(series, tmp_path):
    pixels = np.zeros((2, 3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no DICOM slices, expected those of one series"):
        read_volume(tmp_path / "empty")
    write_slice(series / "z.dcm", pixels, (10, 20, 17), series="9.9")
    with pytest.raises(InputError, match="found slices of 2 series, expected those of one"):
        read_volume(series)
    write_slice(series / "z.dcm", pixels, (10, 20, 20))
    with pytest.raises(InputError, match=r"found 6 mm between 6.dcm and z.dcm, expected 3 mm"):
        read_volume(series)
    write_slice(series / "z.dcm", np.zeros((2, 2)), (10, 20, 17))
    with pytest.raises(InputError, match=r"z.dcm: found 2 x 2 pixels, expected 3 x 2 as 6.dcm has"):
        read_volume(series)
    write_slice(series / "z.dcm", pixels, (10, 20, 17), along=(0, 1, 0, 0, 0, 1))
    with pytest.raises(InputError, match=r"z.dcm: found a slice that is turned"):
        read_volume(series)
    write_slice(series / "z.dcm", pixels, (10, 20, 17), PixelSpacing=None)
    with pytest.raises(InputError, match=r"z.dcm: found no PixelSpacing"):
        read_volume(series)
    for spacing, sentence in (
        ([2, 2], r"pixels 2 x 2 mm apart, expected 0.5 x 0.75"),
        ([0, 0], r"PixelSpacing \[0.0, 0.0\]"),
    ):
        write_slice(series / "z.dcm", pixels, (10, 20, 17), PixelSpacing=spacing)
        with pytest.raises(InputError, match=rf"z.dcm: found {sentence}"):
            read_volume(series)
    write_slice(series / "z.dcm", pixels, (10, 20, 17), Rows=200)
    with pytest.raises(InputError, match=r"z.dcm: found 3 x 200 pixels"):
        read_volume(series)
    for position in (None, [10, 20]):
        write_slice(series / "z.dcm", pixels, (10, 20, 17), ImagePositionPatient=position)
        with pytest.raises(InputError, match=r"z.dcm: found no ImagePositionPatient of 3 numbers, expected it of"):
            read_volume(series)
    colours = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "Columns": 3}
    write_slice(series / "z.dcm", np.zeros((2, 9)), (10, 20, 17), **colours)
    with pytest.raises(InputError, match=r"z.dcm: found 2 x 3 x 3 values, expected 2 x 3, one a pixel"):
        read_volume(series)


def test_cut_slices_are_told_in_one_sentence(series):
    for path in series.glob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(InputError, match="found pixels that cannot be decoded"):
        read_volume(series)


@pytest.mark.parametrize("name", ["6.dcm", "6"])
@pytest.mark.parametrize("kept", [140, 250, 450, 520])
def test_a_slice_that_breaks_off_is_not_passed_over(series, name, kept):
    """At an end of the series no gap would tell of it."""
    content = (series / "6.dcm").read_bytes()
    (series / "6.dcm").unlink()
    (series / name).write_bytes(content[:kept])
    with pytest.raises(InputError, match=rf"{name}: found (a damaged file|no ImagePositionPatient|no \w+ of)"):
        read_volume(series)


def test_what_calls_itself_dicom_has_to_be(series):
    (series / "z.dcm").write_bytes(b"")
    with pytest.raises(InputError, match=r"z.dcm: found a damaged file \(no SOPClassUID\), expected a DICOM slice"):
        read_volume(series)


def test_slices_without_the_preamble_are_read(series):
    whole = read_volume(series)
    first, second = series / "6.dcm", series / "7.dcm"
    first.write_bytes(first.read_bytes()[132:])
    data = pydicom.dcmread(second)
    second.unlink()
    del data.file_meta, data.preamble
    data.save_as(series / "7", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert torch.equal(read_volume(series).voxels, whole.voxels)


def test_other_objects_of_a_study_are_passed_over(series):
    """A table of contents and a report are DICOM, too, but no slices."""
    from pydicom.uid import BasicTextSRStorage

    whole = read_volume(series)
    write_slice(series / "report.dcm", np.zeros((2, 3)), (0, 0, 0), SOPClassUID=BasicTextSRStorage)
    data = pydicom.dcmread(series / "report.dcm")
    del data.ImagePositionPatient
    data.save_as(series / "report.dcm")
    assert torch.equal(read_volume(series).voxels, whole.voxels)


@pytest.fixture
def tilted(tmp_path):
    """Ten slices of which each lies 1.09 mm before the one below it, as with a tilted gantry."""
    for number in range(10):
        write_slice(tmp_path / f"{number}.dcm", np.full((4, 5), 10 * number), (0, 1.09 * number, 3 * number))
    return tmp_path


def test_slices_of_a_tilted_gantry_lie_where_they_say(tilted):
    volume = read_volume(tilted)
    for number in (0, 9):
        # The first pixel of a slice, which turning has made the last of both axes.
        corner = volume.affine @ torch.tensor([4.0, 3, number, 1], dtype=torch.double)
        torch.testing.assert_close(corner[:3], torch.tensor([0, -1.09 * number, 3 * number], dtype=torch.double))


def test_labels_of_a_tilted_series_keep_its_affine(tilted, tmp_path):
    """A qform cannot hold it: programs that trust one would place the labels elsewhere."""
    nibabel = pytest.importorskip("nibabel")
    volume = read_volume(tilted)
    volume.save_like(torch.zeros(5, 4, 10), tmp_path / "labels.nii.gz")
    file = nibabel.load(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose((file.affine @ [0, 0, 9, 1])[:3], [0, -9.81, 27], atol=1e-5)
    assert (int(file.header["sform_code"]), int(file.header["qform_code"])) == (1, 0)
    assert torch.equal(read_volume(tmp_path / "labels.nii.gz").voxels, torch.zeros(5, 4, 10).int())


def test_oblique_slices_are_resampled_in_place(tilted):
    """Voxels that tell where they are still do so on another grid."""
    volume = read_volume(tilted)
    places = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in volume.voxels.shape), indexing="ij"))
    volume = replace(volume, voxels=(torch.einsum("i,ixyz->xyz", volume.affine[1, :3], places)).float())
    finer = resampled(volume, [0.75, 0.5, 1.6])
    inside = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in finer.voxels.shape), indexing="ij"))
    expected = torch.einsum("i,ixyz->xyz", finer.affine[1, :3], inside) + finer.affine[1, 3] - volume.affine[1, 3]
    torch.testing.assert_close(finer.voxels[..., 1:-1].double(), expected[..., 1:-1], atol=1e-4, rtol=0)


def test_slices_beside_the_line_are_refused(tilted):
    write_slice(tilted / "4.dcm", np.zeros((4, 5)), (0, 0, 12))
    with pytest.raises(InputError, match=r"4.dcm: found a slice 4.36 mm beside the line from the first to the last"):
        read_volume(tilted)


def test_small_differences_of_distances_may_not_add_up(tmp_path):
    """Each is within what programs round to; in the middle they are a third of a slice."""
    for number in range(100):
        place = number if number < 50 else 50 + 1.015 * (number - 50)
        write_slice(tmp_path / f"{number:03d}.dcm", np.zeros((2, 2)), (0, 0, place))
    with pytest.raises(InputError, match=r"050.dcm: found a slice 0.37\d mm from where .* expected even distances"):
        read_volume(tmp_path)


def test_damaged_header_values_are_told_in_one_sentence(series):
    path = series / "6.dcm"
    whole = path.read_bytes()
    for value, named in ((b"-1024", "RescaleIntercept"), (b"1.2.3", "series")):
        damaged = b"-W024" if value == b"-1024" else b"9.2.3"
        path.write_bytes(whole.replace(value, damaged))
        with pytest.raises(InputError, match=named):
            read_volume(series)
    # A representation of values that there is none of.
    tag = b"\x20\x00\x0e\x00UI"
    assert tag in whole
    path.write_bytes(whole.replace(tag, tag[:4] + b"W@"))
    with pytest.raises(InputError, match=r"6.dcm: found a damaged"):
        read_volume(series)


def test_values_without_a_scale_are_as_stored(series):
    for path in series.glob("*.dcm"):
        header = pydicom.dcmread(path)
        header.RescaleSlope = None
        del header.RescaleIntercept
        header.save_as(path)
    assert read_volume(series).voxels.unique().tolist()[:6] == [0, 1, 2, 3, 4, 5]
