import numpy as np
import torch
from PIL import Image

from ommatid.dense.draw import DIMMED, LIGHT, draw_mask, lit, save_mask


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
