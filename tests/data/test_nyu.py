"""NYUv2 as the NDDR-CNN release lays it out and as its authors give it away, and augmentation that moves all maps."""

import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.io import savemat

from ommatid.data.nyu import (
    CLASSES,
    IGNORE,
    Camera,
    OfficialImages,
    RandomView,
    ReleasedImages,
    SurfaceSample,
    convert_nyu,
    cropped,
    decoded_normals,
    detect_nyu_format,
    encoded_normals,
    flipped,
    normals_from_depth,
    nyu_splits,
    open_nyu,
    rotated,
    scaled,
    write_nyu,
)
from ommatid.errors import InputError

SIZE = (6, 8)


def made(number=0, size=SIZE, depth=True):
    """A sample with an unlabelled row, and a column without normals and depth."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(256, (3, *size), generator=generator)
    semantic = torch.randint(40, size, generator=generator)
    semantic[0] = IGNORE
    normals = F.normalize(torch.randn(3, *size, generator=generator), dim=0)
    normals[:, :, 1] = 0
    metres = 1 + torch.rand(1, *size, generator=generator)
    metres[:, :, 1] = 0
    return SurfaceSample(pixels / 255, semantic, normals, metres if depth else None, f"{number:04d}")


@pytest.fixture
def released(tmp_path):
    for split, numbers in (("train", (1, 2)), ("test", (3,))):
        write_nyu(tmp_path, split, (made(number, depth=False) for number in numbers))
    return tmp_path


@pytest.fixture
def official(tmp_path):
    """Three images as the official files have them; labels of three kinds, of which the second is none of the 40."""
    generator = np.random.default_rng(0)
    arrays = {
        "images": generator.integers(256, size=(3, 3, SIZE[1], SIZE[0])).astype(np.uint8),
        "depths": (1 + generator.random((3, SIZE[1], SIZE[0]))).astype(np.float32),
        "labels": generator.integers(4, size=(3, SIZE[1], SIZE[0])).astype(np.uint16),
    }
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]])})
    savemat(tmp_path / "classMapping40.mat", {"mapClass": np.array([[40, 0, 5]])})
    return tmp_path, arrays


# The layout of the release.


def test_the_release_is_read_as_it_was_written(released):
    assert detect_nyu_format(released) == detect_nyu_format(released / "nyu_v2") == "nyu"
    train = open_nyu(released, "train")
    assert (len(train), len(open_nyu(released / "nyu_v2", "test"))) == (2, 1)
    assert train.class_names == CLASSES
    assert len(CLASSES) == 40
    for index, number in enumerate((1, 2)):
        found, expected = train[index], made(number)
        torch.testing.assert_close(found.image, expected.image)
        assert torch.equal(found.semantic, expected.semantic)
        assert torch.equal(found.normals_valid, expected.normals_valid)
        # A byte is 1/127.5 of the length.
        assert (found.normals - expected.normals).abs().max() < 1 / 127
        torch.testing.assert_close(found.normals.norm(dim=0), found.normals_valid.float())
        assert found.depth is None
        assert found.id == f"{number:04d}"


def test_lists_are_those_of_the_release(released):
    folder = released / "nyu_v2" / "list"
    assert sorted(path.name for path in folder.iterdir()) == [
        "testing_normal_mask.txt",
        "testing_seg.txt",
        "training_normal_mask.txt",
        "training_seg.txt",
    ]
    assert (folder / "testing_seg.txt").read_text() == "/nyu_train_val/0003.png /nyu_train_val/0003_seg.png\n"


def test_splits_are_those_that_have_lists(released, official):
    assert nyu_splits(released, "nyu") == ("train", "test")
    (released / "nyu_v2" / "list" / "training_seg.txt").unlink()
    assert nyu_splits(released, "nyu") == ("test",)
    assert nyu_splits(official[0]) == ("train", "test")


def test_bytes_are_decoded_to_directions_all_around_or_left_as_the_authors_had_them():
    pixels = torch.tensor([[0, 255, 255], [128, 0, 255], [128, 0, 255]], dtype=torch.uint8)[:, None]
    unit, raw = decoded_normals(pixels)[:, 0], decoded_normals(pixels, "raw")[:, 0]
    assert unit[0, 0] == pytest.approx(-1, abs=1e-4)
    assert unit[:, 1].tolist() == pytest.approx([3**-0.5, -(3**-0.5), -(3**-0.5)])
    assert raw[:, 1].tolist() == [1, 0, 0]
    assert (raw >= 0).all()
    assert (unit[:, 2] == 0).all()
    assert (raw[:, 2] == 0).all()


def test_decoding_is_up_to_the_reader(released):
    as_bytes = torch.from_numpy(np.array(Image.open(released / "nyu_v2/nyu_train_val/0003_normal.png"))).permute(
        2, 0, 1
    )
    for decode in ("unit", "raw"):
        expected = decoded_normals(as_bytes, decode)
        torch.testing.assert_close(open_nyu(released, "test", decode=decode)[0].normals, expected)
    with pytest.raises(InputError, match="unknown decode 'bytes'"):
        open_nyu(released, decode="bytes")


def test_normals_survive_their_bytes():
    normals = made().normals
    assert torch.equal(encoded_normals(decoded_normals(encoded_normals(normals))), encoded_normals(normals))


def test_classes_can_be_ones_own(released):
    (released / "nyu_v2" / "classes.txt").write_text("\n".join(f"kind {number}" for number in range(40)))
    assert open_nyu(released).class_names[3] == "kind 3"
    (released / "nyu_v2" / "classes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"0001_seg.png: found the class \d+, expected 0 to 1, or 255 for none"):
        open_nyu(released)[0]
    (released / "nyu_v2" / "classes.txt").write_text("a\na\n")
    with pytest.raises(InputError, match=r"classes.txt: found 2 classes, expected 1 to 255 different names"):
        open_nyu(released)


def test_palette_label_maps_are_read_by_their_numbers(released):
    place = released / "nyu_v2" / "nyu_train_val" / "0003_seg.png"
    image = Image.fromarray(np.array(Image.open(place)), "P")
    image.putpalette([7] * 768)
    image.save(place)
    assert torch.equal(open_nyu(released, "test")[0].semantic, made(3).semantic)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "list/testing_seg.txt",
            "/a.png\n",
            "testing_seg.txt, line 1: found '/a.png', expected an image and its label",
        ),
        ("list/testing_seg.txt", "\n", "testing_seg.txt: found no images, expected at least one"),
        ("list/testing_seg.txt", "/a.png /b.png\n" * 2, "line 2: found /a.png again, expected one line for each image"),
        ("list/testing_seg.txt", "/a.png /b.png\n", r"testing_normal_mask.txt: found no line for /a.png, expected the"),
        ("nyu_train_val/0003.png", "no picture", "0003.png: found a damaged or unreadable file"),
        ("nyu_train_val/0003_seg.png", "no picture", "0003_seg.png: found a damaged or unreadable file .* label map"),
    ],
)
def test_a_faulty_file_is_named(released, name, text, message):
    (released / "nyu_v2" / name).write_text(text)
    with pytest.raises(InputError, match=message):
        open_nyu(released, "test")[0]


def test_images_that_only_the_normals_have_are_named(released):
    file = released / "nyu_v2" / "list" / "testing_normal_mask.txt"
    file.write_text(file.read_text() + "/a.png /b.png\n")
    with pytest.raises(InputError, match=r"testing_seg.txt: found no line for /a.png"):
        open_nyu(released, "test")


def test_missing_files_are_counted(released):
    (released / "nyu_v2" / "nyu_train_val" / "0001.png").unlink()
    (released / "nyu_v2" / "nyu_train_val" / "0002_normal.png").unlink()
    with pytest.raises(InputError, match=r"list: 2 files of train are missing, expected all \(first: .*0001.png\)"):
        open_nyu(released)
    (released / "nyu_v2" / "list" / "training_normal_mask.txt").unlink()
    with pytest.raises(InputError, match=r"training_normal_mask.txt: found no such file, expected a list of images"):
        open_nyu(released)


def test_maps_are_of_the_size_of_their_image(released):
    place = released / "nyu_v2" / "nyu_train_val"
    Image.fromarray(np.zeros((6, 7), dtype=np.uint8)).save(place / "0003_seg.png")
    with pytest.raises(InputError, match=r"0003_seg.png: found 6 x 7 pixels, expected 6 x 8 as of 0003.png"):
        open_nyu(released, "test")[0]
    Image.fromarray(np.zeros((6, 8, 3), dtype=np.uint8)).save(place / "0003_seg.png")
    with pytest.raises(InputError, match=r"0003_seg.png: found an image of mode RGB, expected a label map"):
        open_nyu(released, "test")[0]


def test_unknown_splits_formats_and_folders_are_refused(released, tmp_path):
    with pytest.raises(InputError, match="unknown split 'val'"):
        open_nyu(released, "val")
    with pytest.raises(InputError, match="unknown format of NYUv2 'png'"):
        open_nyu(released, format="png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: found neither nyu_depth_v2_labeled.mat nor nyu_v2/list/\*_seg.txt"):
        open_nyu(tmp_path / "empty")
    with pytest.raises(InputError, match="nowhere: found nothing, expected a folder"):
        open_nyu(tmp_path / "nowhere")


# The official files.


def test_official_arrays_are_turned_and_labels_mapped(official):
    root, arrays = official
    assert detect_nyu_format(root) == "nyu-mat"
    train = open_nyu(root, "train")
    assert train.ids == ("0001", "0003")
    sample = train[1]
    assert np.array_equal((sample.image * 255).round().byte().numpy(), arrays["images"][2].swapaxes(1, 2))
    assert np.array_equal(sample.depth[0].numpy(), arrays["depths"][2].T)
    wanted = np.array([IGNORE, 39, IGNORE, 4])[arrays["labels"][2].T]
    assert np.array_equal(sample.semantic.numpy(), wanted)
    assert len(open_nyu(root, "test")) == 1
    assert train.class_names == CLASSES


def test_normals_are_fitted_to_the_depths_with_nyus_camera(official):
    root, _ = official
    sample = open_nyu(root, "test")[0]
    torch.testing.assert_close(sample.normals, normals_from_depth(sample.depth, Camera.of_nyu(*SIZE)))
    (root / "camera.txt").write_text("10 12 3 4")
    torch.testing.assert_close(
        open_nyu(root, "test")[0].normals, normals_from_depth(sample.depth, Camera(10.0, 12.0, 3.0, 4.0))
    )


def test_the_mapping_can_be_a_text_and_name_its_classes(official, tmp_path):
    root, _ = official
    expected = open_nyu(root)[0].semantic
    (tmp_path / "mine.txt").write_text("40\n0\n5\n")
    assert torch.equal(open_nyu(root, mapping=tmp_path / "mine.txt")[0].semantic, expected)
    names = np.array(["a", "b"], dtype=object)[None]
    savemat(tmp_path / "named.mat", {"mapClass": np.array([[2, 0, 1]]), "className": names})
    assert open_nyu(root, mapping=tmp_path / "named.mat").class_names == ("a", "b")


def test_unknown_depths_have_no_normals(official):
    root, _ = official
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["depths"][1, 2, 3], file["depths"][1, 0, 0] = np.nan, 0
    sample = open_nyu(root, "test")[0]
    assert (sample.depth == 0).nonzero().tolist() == [[0, 0, 0], [0, 3, 2]]
    assert not sample.normals_valid[0, 0]
    assert not sample.normals_valid[3, 2]
    assert sample.normals.isfinite().all()


def test_official_files_become_the_release(official, tmp_path):
    root, _ = official
    assert convert_nyu(root, tmp_path / "new") == {"train": 2, "test": 1}
    found, expected = ReleasedImages(tmp_path / "new", "train")[1], OfficialImages(root, "train")[1]
    torch.testing.assert_close(found.image, expected.image)
    assert torch.equal(found.semantic, expected.semantic)
    assert (found.normals - expected.normals).abs().max() < 1 / 127
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        convert_nyu(root, tmp_path / "new")


def spoil(root, what):
    data = root / "nyu_depth_v2_labeled.mat"
    if what == "damaged":
        data.write_bytes(b"MATLAB")
    elif what == "entry":
        with h5py.File(data, "r+") as file:
            del file["depths"]
    elif what == "axes":
        with h5py.File(data, "r+") as file:
            del file["labels"]
            file["labels"] = np.zeros((3, *SIZE), dtype=np.uint16)
    elif what == "flat":
        with h5py.File(data, "r+") as file:
            del file["images"]
            file["images"] = np.zeros((3, *SIZE), dtype=np.uint8)
    elif what == "label":
        with h5py.File(data, "r+") as file:
            file["labels"][0, 0, 0] = 9
    elif what == "splits":
        savemat(root / "splits.mat", {"trainNdxs": np.array([[4]])})
    elif what == "no splits":
        (root / "splits.mat").unlink()
    elif what == "empty split":
        savemat(root / "splits.mat", {"trainNdxs": np.zeros((0, 1))})
    elif what == "other splits":
        savemat(root / "splits.mat", {"train": np.array([[1]])})
    elif what == "no mapping":
        (root / "classMapping40.mat").unlink()
    elif what == "mapping":
        savemat(root / "classMapping40.mat", {"mapClass": np.array([[-1, 300]])})
    elif what == "broken mapping":
        (root / "classMapping40.mat").write_text("1 2 3")
    elif what == "camera":
        (root / "camera.txt").write_text("10 12")
    else:
        (root / "camera.txt").write_text("ten")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("damaged", r"nyu_depth_v2_labeled.mat: found a damaged file .* expected a MAT file of version 7.3"),
        ("entry", "nyu_depth_v2_labeled.mat: found no entry 'depths', expected images, labels and depths"),
        ("axes", r"found arrays of shapes \(3, 3, 8, 6\), \(3, 6, 8\), \(3, 8, 6\), expected one label map"),
        ("flat", r"found images of shape \(3, 6, 8\), expected that of NYUv2, axes reversed"),
        ("label", "labeled.mat, image 0001: found the label 9, expected 0 to 3"),
        ("splits", "splits.mat: found image 4 in trainNdxs, expected 1 to 3"),
        ("no splits", "splits.mat: found no such file, expected trainNdxs and testNdxs"),
        ("empty split", "splits.mat: found nothing in trainNdxs, expected numbers of images"),
        ("other splits", "splits.mat: found no entry 'trainNdxs', expected trainNdxs and testNdxs"),
        ("no mapping", "classMapping40.mat: found no such file, expected the class of each of the 894 labels"),
        ("mapping", "classMapping40.mat: found classes -1 to 300, expected 1 to 40"),
        ("broken mapping", r"classMapping40.mat: found no readable MAT file \(.*\), expected the class of each"),
        ("camera", "camera.txt: found 2 numbers, expected fx fy cx cy"),
        ("no camera", "camera.txt: found .* expected fx fy cx cy, numbers only"),
    ],
)
def test_a_faulty_official_file_is_named(official, what, message):
    root, _ = official
    spoil(root, what)
    with pytest.raises(InputError, match=message):
        open_nyu(root, format="nyu-mat")[0]


def test_a_missing_official_file_is_named(official):
    root, _ = official
    (root / "nyu_depth_v2_labeled.mat").unlink()
    with pytest.raises(InputError, match="found no such file, expected the labelled images of NYUv2"):
        open_nyu(root, format="nyu-mat")


def test_the_camera_goes_with_the_size_of_the_image():
    full, half = Camera.of_nyu(), Camera.of_nyu(240, 320)
    assert (full.fx, full.fy, full.cx, full.cy) == pytest.approx((518.858, 519.470, 325.582, 253.736), abs=1e-3)
    # A pixel of the smaller image is four of the larger one; its middle is the corner of them.
    large, small = full.rays(480, 640), half.rays(240, 320)
    torch.testing.assert_close(small, F.avg_pool2d(large[None], 2)[0], rtol=1e-5, atol=1e-5)


# Normals of depths.

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


# Augmentation.


def test_a_mirror_image_moves_all_maps_and_turns_normals():
    sample = made()
    found = flipped(sample)
    for name in ("image", "semantic", "depth"):
        assert torch.equal(getattr(found, name), getattr(sample, name).flip(-1))
    assert torch.equal(found.normals[0], -sample.normals[0].flip(-1))
    assert torch.equal(found.normals[1:], sample.normals[1:].flip(-1))
    again = flipped(found)
    assert torch.equal(again.normals, sample.normals)
    assert torch.equal(flipped(sample, negate_x=False).normals, sample.normals.flip(-1))


@pytest.mark.parametrize(
    "change", [flipped, lambda sample: rotated(sample, 90.0), lambda sample: rotated(sample, -90.0)]
)
def test_normals_of_the_changed_depth_are_the_changed_normals(change):
    """With a camera that looks through the middle, and has square pixels."""
    camera, size = Camera(60.0, 60.0, 15.0, 15.0), (31, 31)
    y, x = torch.meshgrid(torch.arange(31.0), torch.arange(31.0), indexing="ij")
    depth = (3 + 0.02 * x + 0.01 * y + 0.001 * x * y)[None]
    normals = normals_from_depth(depth, camera)
    sample = SurfaceSample(torch.rand(3, *size), torch.zeros(size, dtype=torch.long), normals, depth, "1")
    found = change(sample)
    torch.testing.assert_close(found.normals, normals_from_depth(found.depth, camera), rtol=0, atol=1e-3)
    assert not torch.equal(found.depth, sample.depth)


def test_a_quarter_turn_goes_counterclockwise():
    sample = made(size=(6, 6))
    found = rotated(sample, 90.0)
    for name in ("image", "depth"):
        torch.testing.assert_close(getattr(found, name), torch.rot90(getattr(sample, name), 1, (1, 2)))
    assert torch.equal(found.semantic, torch.rot90(sample.semantic, 1))
    right, up, ahead = torch.rot90(sample.normals, 1, (1, 2))
    torch.testing.assert_close(found.normals, torch.stack([-up, right, ahead]), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.normals_valid, torch.rot90(sample.normals_valid, 1))


def test_what_a_turn_brings_into_view_is_unlabelled():
    whole = torch.ones(3, 16, 16)
    sample = SurfaceSample(whole, torch.zeros(16, 16, dtype=torch.long), whole / 3**0.5, whole[:1], "1")
    found = rotated(sample, 45.0, fill=(0.0, 0.5, 1.0))
    corner = found.semantic == IGNORE
    assert 0.1 < corner.float().mean() < 0.3
    assert torch.equal(found.normals_valid, ~corner)
    assert torch.equal(found.depth[0] == 0, corner)
    assert found.image[:, 0, 0].tolist() == [0, 0.5, 1]
    torch.testing.assert_close(found.normals[:, 8, 8].norm(), torch.tensor(1.0))


def test_scaling_leaves_labels_whole_and_brings_things_nearer():
    sample = made(size=(20, 30))
    found = scaled(sample, 1.5)
    assert found.image.shape == (3, 30, 45)
    assert set(found.semantic.unique().tolist()) == set(sample.semantic.unique().tolist())
    half = scaled(sample, 0.5)
    assert half.semantic.shape == (10, 15)
    for each, factor in ((found, 1.5), (half, 0.5)):
        length = each.normals.norm(dim=0)
        assert ((length - 1).abs().lt(1e-5) | (length == 0)).all()
        assert set(each.depth.unique().tolist()) <= set((sample.depth / factor).unique().tolist())
    assert scaled(replace(sample, depth=None), 0.5).depth is None


def test_scaled_colours_stay_where_their_labels_are():
    ramp = torch.arange(8.0).expand(3, 8, 8)
    sample = replace(made(size=(8, 8)), image=ramp, semantic=ramp[0].long())
    half, twice = scaled(sample, 0.5), scaled(sample, 2.0)
    torch.testing.assert_close(half.image[0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    assert half.semantic[0].tolist() == [1, 3, 5, 7]
    torch.testing.assert_close(twice.image[0, 0, 1:5], torch.tensor([0.25, 0.75, 1.25, 1.75]))
    assert twice.semantic[0, :6].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_crop_beyond_the_border_is_filled_and_unlabelled():
    sample = made()
    found = cropped(sample, 2, 3, 7, 4, fill=(0.25, 0.5, 0.75))
    torch.testing.assert_close(found.image[:, :4], sample.image[:, 2:, 3:7])
    assert torch.equal(found.semantic[:4], sample.semantic[2:, 3:7])
    assert torch.equal(found.normals[:, :4], sample.normals[:, 2:, 3:7])
    assert torch.equal(found.depth[:, :4], sample.depth[:, 2:, 3:7])
    assert (found.semantic[4:] == IGNORE).all()
    assert not found.normals_valid[4:].any()
    assert (found.depth[:, 4:] == 0).all()
    assert found.image[:, 6, 3].tolist() == [0.25, 0.5, 0.75]


def test_a_random_view_is_a_function_of_its_generator():
    sample, view = made(size=(40, 60)), RandomView((24, 32))
    views = [view(sample, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(views[0].image, views[1].image)
    assert torch.equal(views[0].normals, views[1].normals)
    assert not torch.equal(views[0].image, views[2].image)
    assert all(each.image.shape == (3, 24, 32) and each.semantic.shape == (24, 32) for each in views)


def test_random_views_show_every_part_at_every_scale():
    columns = torch.arange(60).expand(40, 60)
    sample = replace(made(size=(40, 60)), semantic=columns.clone(), depth=torch.ones(1, 40, 60))
    generator = torch.Generator().manual_seed(0)
    views = [RandomView((20, 20))(sample, generator) for _ in range(200)]
    nearest = torch.stack([each.depth[each.depth > 0].max() for each in views])
    assert 0.66 < nearest.min() < 0.7
    assert 1.9 < nearest.max() <= 2.0
    mirrored = torch.tensor([int(each.semantic[0, 0]) > int(each.semantic[0, 10]) for each in views])
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.12)
    assert {0, 59} <= {int(value) for each in views for value in each.semantic.unique()}


def test_a_view_without_chance_is_the_image_itself():
    sample = made()
    view = RandomView(SIZE, scales=(1.0, 1.0), flip=0.0)(sample, torch.Generator().manual_seed(0))
    for name in ("image", "semantic", "normals", "depth"):
        torch.testing.assert_close(getattr(view, name), getattr(sample, name))


def test_turns_stay_within_their_limit():
    normals = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 9, 9)
    sample = SurfaceSample(torch.zeros(3, 9, 9), torch.zeros(9, 9, dtype=torch.long), normals, None, "1")
    view, generator = RandomView((9, 9), scales=(1.0, 1.0), flip=0.0, degrees=20.0), torch.Generator().manual_seed(0)
    middles = torch.stack([view(sample, generator).normals[:, 4, 4] for _ in range(50)])
    angles = torch.rad2deg(torch.atan2(middles[:, 1], middles[:, 0]))
    assert angles.abs().max() <= 20 + 1e-4
    assert angles.min() < -10
    assert angles.max() > 10
    assert math.isclose(float(middles.norm(dim=1).mean()), 1.0, abs_tol=1e-5)
