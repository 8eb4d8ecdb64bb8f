import math

import torch

from ommatid.data.worlds.drawing import grid, own_frame, rgb


def test_pixels_have_their_coordinates_at_their_middle():
    x, y = grid(4)
    assert x[0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert torch.equal(y, x.T)


def test_a_shape_s_frame_is_moved_scaled_and_turned_with_it():
    u, v = own_frame(torch.tensor([[0.25, -0.25, 0.5, 0.0], [0.0, 0.0, 1.0, math.pi / 2]]), 4)
    x, y = grid(4)
    torch.testing.assert_close(u[0], (x - 0.25) / 0.5)
    torch.testing.assert_close(v[0], (y + 0.25) / 0.5)
    torch.testing.assert_close(u[1], y, atol=1e-6, rtol=0)
    torch.testing.assert_close(v[1], -x, atol=1e-6, rtol=0)


def test_hues_go_round_and_grey_has_none():
    hues = torch.tensor([0.0, 1 / 3, 2 / 3, 1.0])
    found = rgb(hues, 1.0, torch.ones(4))
    torch.testing.assert_close(found, torch.eye(3)[[0, 1, 2, 0]], atol=1e-5, rtol=0)
    each = rgb(hues, torch.tensor([0.0, 0.5, 1.0, 0.0]), torch.full((4,), 0.6))
    torch.testing.assert_close(each[0], torch.full((3,), 0.6))
    torch.testing.assert_close(each[1], torch.tensor([0.3, 0.6, 0.3]), atol=1e-5, rtol=0)
