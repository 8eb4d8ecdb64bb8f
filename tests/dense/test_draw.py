import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.dense import draw
from ommatid.dense.draw import DIMMED, LIGHT, draw_mask, lit, save_large_mask, save_mask


def test_outside_is_dim_inside_is_as_it_was_and_the_edge_is_bright():
    image, mask = torch.full((3, 20, 20), 0.8), torch.zeros(20, 20, dtype=torch.bool)
    mask[6:14, 6:14] = True
    found = lit(image, mask).float() / 255
    torch.testing.assert_close(found[10, 10], torch.full((3,), 0.8), atol=0.01, rtol=0)
    torch.testing.assert_close(found[1, 1], torch.full((3,), 0.8 * DIMMED), atol=0.01, rtol=0)
    torch.testing.assert_close(found[6, 10], torch.tensor(LIGHT), atol=0.01, rtol=0)


def test_files_have_the_size_and_the_values(tmp_path):
    draw_mask(torch.rand(3, 8, 12), torch.ones(8, 12, dtype=torch.bool), tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (12, 8)
    classes = torch.arange(12, dtype=torch.uint8).view(3, 4)
    save_mask(classes, tmp_path / "b.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), classes.numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("rows", [10, 7, 25, 40], ids=["a part", "a shorter last part", "all but a few", "all at once"])
def test_a_large_mask_is_the_same_however_many_parts_it_is_written_in(rows, tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile", reason="large masks need the extra 'slides'")
    mask = torch.rand(30, 50, generator=torch.Generator().manual_seed(0)) > 0.5
    small = save_large_mask(mask.split(rows), (30, 50), tmp_path / "a.png")
    monkeypatch.setattr(draw, "MOST_PIXELS", 1000)
    large = save_large_mask(mask.split(rows), (30, 50), tmp_path / "a.png")
    assert [path.name for path in (small, large)] == ["a.mask.png", "a.mask.tif"]
    np.testing.assert_array_equal(tifffile.imread(large), 255 * mask.numpy().astype(np.uint8))
    for path in (small, large):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), 255 * mask.numpy().astype(np.uint8))
