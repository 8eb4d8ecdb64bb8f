import numpy as np
import pytest
import torch
from PIL import Image

from dense.made import Constant, masked, trans_net
from ommatid.dense.data import MaskData
from ommatid.dense.otsu import otsu_threshold
from ommatid.errors import InputError


def test_scores_are_confusions_at_one_half():
    method, batch = trans_net(), masked(2)
    logits = torch.where(batch.masks[:1] > 0, 3.0, -3.0)
    logits[..., 4, :] = -3.0
    method.network = Constant(logits)
    found = method.score(batch)["confusion"]
    assert found[0].tolist() == [[256 - 42, 0], [7, 35]]


def test_pixels_whose_mask_is_unknown_are_not_scored():
    method, batch = trans_net(), masked(2)
    batch.valid[1] = False
    assert method.score(batch)["confusion"].sum(dim=(1, 2)).tolist() == [256, 0]


def test_otsu_is_chosen_image_by_image():
    method = trans_net(threshold="otsu")
    maps = torch.rand(3, 1, 8, 8)
    assert torch.equal(method.thresholds(maps), otsu_threshold(maps[:, 0]))
    assert torch.equal(trans_net().thresholds(maps), torch.full((3,), 0.5))


def test_a_prediction_has_the_size_of_the_picture(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    found = trans_net().predict(tmp_path / "x.png")
    assert found.image.shape == (3, 30, 50)
    assert found.probabilities.shape == found.mask.shape == (30, 50)
    assert found.threshold == 0.5
    lower = trans_net().predict(tmp_path / "x.png", threshold=0.0)
    assert lower.mask.all()


def test_an_object_is_found_where_it_is(tmp_path):
    """A network that sees brightness alone."""

    class Bright(torch.nn.Module):
        def forward(self, images):
            return 20 * (images.mean(dim=1, keepdim=True) - 0.5)

    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[15:45, 60:80] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    method = trans_net()
    method.network = Bright()
    left, top, right, bottom = method.predict(tmp_path / "x.png").to_json()["box"]
    assert abs(left - 60) <= 4
    assert abs(right - 80) <= 4
    assert abs(top - 15) <= 4
    assert abs(bottom - 45) <= 4


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_impossible_thresholds_and_pictures_are_refused(tmp_path, threshold):
    with pytest.raises(InputError, match=r"threshold must lie in \[0, 1\]"):
        trans_net().predict(tmp_path / "x.png", threshold=threshold)
    with pytest.raises(InputError, match="found no such file, expected an image"):
        trans_net().predict(tmp_path / "x.png")


def test_data_come_in_the_size_of_training():
    data = MaskData(size=24, world={"train": 4, "val": 2, "test": 2})
    assert type(trans_net()).arguments_from(data) == {"image_size": 24}
    trans_net().align(data)
    assert data.size == 16


def test_the_export_is_the_method():
    method = trans_net().eval()
    network, example, inputs, outputs = method.exportable()
    torch.testing.assert_close(network(*example), method(*example))
    assert (inputs, outputs) == (("images",), ("probabilities",))
