"""A prediction is a picture of planes, a label map on the file's own grid, and volumes in millilitres."""

import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.data.volume_files import Volume, read_volume, write_nifti
from ommatid.dense.volume_draw import covered, draw_volume, fullest
from ommatid.dense.volume_task import UNKNOWN, VolumePrediction

NAMES = ("4L", "4R", "7")


def made(shape=(8, 10, 6), spacing=(1.0, 2.0, 5.0)):
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.double))
    labels = torch.zeros(shape, dtype=torch.long)
    labels[2:5, 3:6], labels[6, 1] = 1, 3
    return VolumePrediction(Volume(torch.full(shape, 40.0), affine), labels, NAMES)


def test_classes_are_told_in_voxels_and_millilitres():
    told = made().to_json()
    assert told["size"] == [8, 10, 6]
    assert told["classes"] == {
        "4L": {"voxels": 54, "ml": 0.54},
        "4R": {"voxels": 0, "ml": 0.0},
        "7": {"voxels": 6, "ml": 0.06},
    }


def test_planes_go_through_the_largest_part():
    found = made()
    assert fullest(found.labels)[:2] == [2, 3]
    figure = draw_volume(found)
    assert [axis.get_title() for axis in figure.axes] == ["sagittal, 2", "coronal, 3", "axial, 0"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["4L", "7"], "those of most voxels first, none that is not there"


def test_right_is_left_and_the_front_is_up():
    found = made((8, 10, 1))
    picture = draw_volume(found).axes[0].images[0].get_array()
    assert picture.shape == (10, 8, 3)
    coloured = np.argwhere(np.ptp(np.asarray(picture).astype(int), axis=2) > 0)
    assert {8 - 1 - 6} <= set(coloured[:, 1].tolist()), "x = 6 lies left of the middle"
    assert 10 - 1 - 1 in coloured[:, 0], "y = 1 lies below"


def test_unknown_voxels_and_background_stay_grey():
    grey = torch.full((1, 3), 0.5)
    colours = torch.tensor([[255, 0, 0]], dtype=torch.uint8)
    found = covered(grey, torch.tensor([[0, UNKNOWN, 1]]), colours)
    assert found[0, 0].unique().tolist() == found[0, 1].unique().tolist() == [128]
    assert found[0, 2, 0] > found[0, 2, 1]


@pytest.mark.parametrize("shape", [(8, 10, 6), (8, 10, 1)])
def test_the_map_lies_beside_the_picture_on_the_grid_of_the_file(tmp_path, shape):
    nibabel = pytest.importorskip("nibabel")
    affine = np.diag([-1.0, -2.0, 5.0, 1.0])
    write_nifti(tmp_path / "scan.nii.gz", np.zeros(shape, np.int16), affine)
    volume = read_volume(tmp_path / "scan.nii.gz")
    labels = torch.zeros(shape, dtype=torch.long)
    labels[0, 0, 0] = 2
    VolumePrediction(volume, labels if shape[2] > 1 else labels[..., 0], NAMES).draw(tmp_path / "out" / "scan.png")
    file = nibabel.load(tmp_path / "out" / "scan.nii.gz")
    np.testing.assert_allclose(file.affine, affine)
    assert np.argwhere(np.asarray(file.dataobj) == 2).tolist() == [[7, 9, 0]], "the file's axes run the other way"
    with Image.open(tmp_path / "out" / "scan.png") as picture:
        assert min(picture.size) > 100


def test_nothing_found_is_drawn_too(tmp_path):
    found = made()
    blank = VolumePrediction(found.volume, torch.zeros_like(found.labels), NAMES)
    assert [axis.get_title() for axis in draw_volume(blank).axes] == ["sagittal, 4", "coronal, 5", "axial, 3"]
