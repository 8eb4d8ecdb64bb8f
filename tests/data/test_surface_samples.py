import pytest
import torch
import torch.nn.functional as F

from data.made_surfaces import made
from ommatid.data.surface_samples import (
    Camera,
    decoded_normals,
    encoded_normals,
    normals_from_depth,
)
from ommatid.errors import InputError


def test_bytes_are_decoded_to_directions_all_around_or_left_as_the_authors_had_them():
    pixels = torch.tensor([[0, 255, 255], [128, 0, 255], [128, 0, 255]], dtype=torch.uint8)[:, None]
    unit, raw = decoded_normals(pixels)[:, 0], decoded_normals(pixels, "raw")[:, 0]
    assert unit[0, 0] == pytest.approx(-1, abs=1e-4)
    assert unit[:, 1].tolist() == pytest.approx([3**-0.5, -(3**-0.5), -(3**-0.5)])
    assert raw[:, 1].tolist() == [1, 0, 0]
    assert (raw >= 0).all()
    assert (unit[:, 2] == 0).all()
    assert (raw[:, 2] == 0).all()


def test_normals_survive_their_bytes():
    normals = made().normals
    assert torch.equal(encoded_normals(decoded_normals(encoded_normals(normals))), encoded_normals(normals))


def test_the_camera_goes_with_the_size_of_the_image():
    full, half = Camera.of_nyu(), Camera.of_nyu(240, 320)
    assert (full.fx, full.fy, full.cx, full.cy) == pytest.approx((518.858, 519.470, 325.582, 253.736), abs=1e-3)
    # A pixel of the smaller image is four of the larger one; its middle is the corner of them.
    large, small = full.rays(480, 640), half.rays(240, 320)
    torch.testing.assert_close(small, F.avg_pool2d(large[None], 2)[0], rtol=1e-5, atol=1e-5)


CAMERA = Camera(60.0, 66.0, 14.0, 11.0)


def plane(normal, distance=2.0, size=(24, 30)):
    """Depth of a plane that faces the viewer, straight ahead so far away."""
    right, up, ahead = F.normalize(torch.tensor(normal), dim=0)
    rays = CAMERA.rays(*size)
    return (distance * ahead / (ahead * rays[2] - right * rays[0] + up * rays[1]))[None]


NORMALS = [(0.0, 0.0, 1.0), (0.6, 0.0, 0.8), (0.0, 0.7, 0.7), (-0.5, -0.3, 0.6), (0.9, 0.1, 0.5)]


@pytest.mark.parametrize("normal", NORMALS)
@pytest.mark.parametrize("window", [3, 5])
def test_a_planes_normal_is_found_at_every_pixel(normal, window):
    found = normals_from_depth(plane(normal), CAMERA, window)
    expected = F.normalize(torch.tensor(normal), dim=0)[:, None, None].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_a_surface_that_rises_to_the_right_looks_to_the_left():
    """Nearer on the right: its normal has a negative x. Nearer below: it looks up."""
    depth = 3 - torch.arange(30.0).expand(1, 24, 30) / 60
    assert (normals_from_depth(depth, CAMERA)[0] < 0).all()
    assert (normals_from_depth(depth, CAMERA)[2] > 0).all()
    depth = 3 - torch.arange(24.0)[:, None].expand(1, 24, 30) / 60
    assert (normals_from_depth(depth, CAMERA)[1] > 0).all()


def test_planes_do_not_mix_at_their_edges():
    left, right = plane((0.5, 0.0, 0.8)), plane((-0.3, 0.4, 0.8), distance=3.0)
    both = torch.cat([left[..., :15], right[..., 15:]], dim=2)
    found = normals_from_depth(both, CAMERA)
    for part, normal in ((found[..., :15], (0.5, 0.0, 0.8)), (found[..., 15:], (-0.3, 0.4, 0.8))):
        expected = F.normalize(torch.tensor(normal), dim=0)[:, None, None].expand_as(part)
        torch.testing.assert_close(part, expected, rtol=0, atol=5e-3)


def test_holes_do_not_change_what_is_around_them():
    depth = plane((0.6, 0.0, 0.8))
    depth[:, 5:9, 5:9] = 0
    found = normals_from_depth(depth, CAMERA)
    assert torch.equal((found == 0).all(dim=0), depth[0] == 0)
    seen = found[:, depth[0] > 0]
    torch.testing.assert_close(seen[0] / seen[2], torch.full_like(seen[0], 0.75), rtol=0, atol=5e-3)


def test_a_line_of_pixels_has_no_normal():
    depth = torch.zeros(1, 9, 9)
    depth[:, 4] = 2.0
    assert (normals_from_depth(depth, CAMERA) == 0).all()
    with pytest.raises(InputError, match="window: found 4, expected an odd number from 3 on"):
        normals_from_depth(depth, CAMERA, window=4)
