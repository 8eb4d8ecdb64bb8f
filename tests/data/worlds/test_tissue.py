"""`world-tissue`: exact masks of vessels that are coarser than their tissue, in stains that differ more than both."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from ommatid.data.worlds import tissue
from ommatid.data.worlds.tissue import FORMATS, SPLITS, TissueWorld
from ommatid.errors import InputError

PATCHES = TissueWorld(labelled=256).split("labelled")


def written(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def pixels(path):
    with Image.open(path) as file:
        return np.array(file)


def test_a_split_is_a_function_of_its_seed():
    world = TissueWorld(**dict.fromkeys(SPLITS, 4), size=16)
    again, other = (TissueWorld(labelled=4, size=16, seed=seed).split("labelled") for seed in (0, 1))
    first = world.split("labelled")
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.vessels, again.vessels)
    drawn = [other, *(world.split(name) for name in SPLITS)]
    drawn += [TissueWorld(**dict.fromkeys(SPLITS, 4), size=16, seed=1).split(name) for name in SPLITS[1:]]
    for one, two in itertools.combinations(drawn, 2):
        assert not torch.equal(one.images, two.images)


def test_a_smaller_world_is_the_beginning_of_a_larger_one():
    small, large = (TissueWorld(unlabelled=count, size=16).split("unlabelled") for count in (100, 300))
    assert (len(small), len(large)) == (100, 300)
    assert torch.equal(small.images, large.images[:100])
    assert torch.equal(small.vessels, large.vessels[:100])


def test_patches_of_a_split_differ():
    assert len(TissueWorld(labelled=300, size=16).split("labelled").images.flatten(1).unique(dim=0)) == 300


def test_a_split_may_have_no_patches():
    assert TissueWorld(val=0, size=16).split("val").images.shape == (0, 3, 16, 16)


def test_vessels_are_one_to_three_and_of_many_sizes():
    shares = PATCHES.masks.float().mean(dim=(1, 2))
    assert shares.min() > 0.01
    assert shares.min() < 0.04 < 0.4 < shares.max() < 0.9
    most = PATCHES.vessels.flatten(1).amax(dim=1).bincount(minlength=4)
    assert most[0] == 0
    assert (most[1:] / len(PATCHES) - 1 / 3).abs().max() < 0.12


def test_the_border_is_the_outline_of_the_mask_blurred_by_one_to_two_pixels(monkeypatch):
    # Without noise a border lies between two plain colours: the density of a channel tells the part of the vessel.
    monkeypatch.setattr(torch, "randn", lambda *sides, generator: torch.zeros(sides))
    # Far apart, so that rounding to bytes changes no part by much.
    monkeypatch.setattr(tissue, "CONTENT", (0.6, 0.6))
    patches = TissueWorld(labelled=128).split("labelled")
    fitting = []
    for image, vessels in zip(patches.images.numpy() / 255, patches.vessels.numpy(), strict=True):
        blurred = {sigma: gaussian_filter((vessels > 0).astype(float), sigma) for sigma in (1.0, 1.25, 1.5, 1.75, 2.0)}
        outside, inside = blurred[2.0] < 1e-3, blurred[2.0] > 0.999
        if vessels.max() > 1 or not outside.any() or not inside.any():
            continue
        density = -np.log(image)
        low, high = (np.median(density[:, plain], axis=1) for plain in (outside, inside))
        channel = np.abs(high - low).argmax()
        part = (density[channel] - low[channel]) / (high - low)[channel]
        errors = {sigma: np.abs(part - each)[8:-8, 8:-8].max() for sigma, each in blurred.items()}
        fitting.append(min(errors, key=errors.get))
        assert min(errors.values()) < 0.1
    assert len(fitting) > 20
    assert {1.0, 1.25, 1.5, 1.75, 2.0} == set(fitting)


def test_vessels_have_a_coarser_grain_than_their_tissue():
    values = PATCHES.images.float().mean(dim=1)
    same = PATCHES.vessels[:, :, 1:] == PATCHES.vessels[:, :, :-1]
    here, right = values[:, :, :-1], values[:, :, 1:]
    alike = []
    for inside in (PATCHES.masks, ~PATCHES.masks):
        chosen = same & inside[:, :, 1:]
        smooth = torch.nn.functional.avg_pool2d(values[:, None], 9, 1, 4, count_include_pad=False)[:, 0]
        one, two = (here - smooth[:, :, :-1]) * chosen, (right - smooth[:, :, 1:]) * chosen
        alike.append((one * two).sum(dim=(1, 2)) / (one.square() + two.square()).sum(dim=(1, 2)) * 2)
    assert (alike[0] > alike[1]).float().mean() > 0.9


def test_colour_alone_does_not_tell_vessels():
    """The best of all thresholds on one channel, in either direction, is no better than all being a vessel."""
    masks = PATCHES.masks
    share = masks.float().mean().item()
    everywhere = 2 * share / (share + 1)
    for channel in PATCHES.images.float().unbind(dim=1):
        for level in torch.quantile(channel.flatten()[::50], torch.linspace(0.02, 0.98, 25)):
            for found in (channel > level, channel <= level):
                dice = 2 * (found & masks).sum() / (found.sum() + masks.sum())
                assert dice < everywhere + 0.05


def test_patches_are_pink_and_differ_more_than_vessels_do():
    means = PATCHES.images.float().mean(dim=(2, 3)) / 255
    red, green, blue = means.unbind(dim=1)
    assert (red > green).all()
    assert (blue > green).float().mean() > 0.95
    assert means.std(dim=0).min() > 0.05


def test_what_cannot_be_drawn_is_refused():
    for name, value, least in (("labelled", 0, 1), ("test", 0, 1), ("val", -1, 0), ("size", 15, 16)):
        with pytest.raises(InputError, match=f"^{name} must be at least {least}, found {value}$"):
            TissueWorld(**{name: value})
    with pytest.raises(InputError, match="unknown split 'train'"):
        TissueWorld(size=16).split("train")


def test_an_unknown_format_or_a_full_folder_is_refused_and_nothing_is_left(tmp_path):
    world = TissueWorld(labelled=1, unlabelled=0, source=0, val=0, test=1, size=16)
    with pytest.raises(InputError, match="unknown format of world-tissue 'coco'"):
        world.write(tmp_path / "tissue", "coco")
    assert not list(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        world.write(tmp_path / "full")
    assert written(tmp_path) == {"full/mine.txt"}


WORLD = TissueWorld(labelled=2, unlabelled=1, source=2, val=1, test=2, size=16)
EXPECTED = {
    "folder": {
        *(f"train/{kind}/train_0000{number}.png" for kind in ("images", "masks") for number in (0, 1)),
        "train/images/train_00002.png",
        *(f"val/{kind}/val_00000.png" for kind in ("images", "masks")),
        *(f"test/{kind}/test_0000{number}.png" for kind in ("images", "masks") for number in (0, 1)),
        *(f"source/{kind}/train_0000{number}.png" for kind in ("images", "masks") for number in (0, 1)),
    },
    "tiles": {
        *(f"train/{kind}/train00_{x}_0000.png" for kind in ("tiles", "masks") for x in ("0000", "0016")),
        "train/tiles/train00_0032_0000.png",
        *(f"val/{kind}/val00_0000_0000.png" for kind in ("tiles", "masks")),
        *(f"test/{kind}/test00_{x}_0000.png" for kind in ("tiles", "masks") for x in ("0000", "0016")),
        *(f"source/{kind}/train00_{x}_0000.png" for kind in ("tiles", "masks") for x in ("0000", "0016")),
    },
    "pairs": {
        "train.txt", "val.txt", "test.txt", "source/train.txt",
        *(f"Images/train_0000{number}.png" for number in range(3)),
        *(f"Labels/train_0000{number}.png" for number in range(2)),
        *(f"{kind}/val_00000.png" for kind in ("Images", "Labels")),
        *(f"{kind}/test_0000{number}.png" for kind in ("Images", "Labels") for number in (0, 1)),
        *(f"source/{kind}/train_0000{number}.png" for kind in ("Images", "Labels") for number in (0, 1)),
    },
    "glas": {
        *(f"train_{number}{kind}.bmp" for kind in ("", "_anno") for number in (1, 2)),
        *(f"source/train_{number}{kind}.bmp" for kind in ("", "_anno") for number in (1, 2)),
        "train_3.bmp",
        *(f"testA_{number}{kind}.bmp" for kind in ("", "_anno") for number in (1, 2)),
    },
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_its_files(format, tmp_path):
    counts = WORLD.write(tmp_path / "tissue", format)
    assert written(tmp_path / "tissue") == EXPECTED[format]
    assert counts == {name: getattr(WORLD, name) for name in SPLITS if (name, format) != ("val", "glas")}


def test_a_world_of_labelled_and_test_patches_has_no_other_files(tmp_path):
    world = TissueWorld(labelled=1, unlabelled=0, source=0, val=0, test=1, size=16)
    assert world.write(tmp_path / "tissue") == {"labelled": 1, "test": 1}
    assert {path.name for path in (tmp_path / "tissue").iterdir()} == {"train", "test"}


def test_masks_are_written_as_the_format_has_them(tmp_path):
    for format in FORMATS:
        WORLD.write(tmp_path / format, format)
    vessels = WORLD.split("labelled").vessels[1].numpy()
    assert np.array_equal(pixels(tmp_path / "folder" / "train" / "masks" / "train_00001.png"), 255 * (vessels > 0))
    assert np.array_equal(pixels(tmp_path / "glas" / "train_2_anno.bmp"), vessels)
    assert (tmp_path / "pairs" / "train.txt").read_text().splitlines() == [
        "Images/train_00000.png Labels/train_00000.png",
        "Images/train_00001.png Labels/train_00001.png",
        "Images/train_00002.png",
    ]


def test_a_slide_is_full_after_eight_rows_of_eight_tiles(tmp_path):
    world = TissueWorld(labelled=66, unlabelled=0, source=0, val=0, test=1, size=16)
    world.write(tmp_path / "tissue", "tiles")
    names = {path.stem for path in (tmp_path / "tissue" / "train" / "tiles").iterdir()}
    assert {"train00_0000_0000", "train00_0112_0000", "train00_0000_0016", "train00_0112_0112"} <= names
    assert {name for name in names if name.startswith("train01")} == {"train01_0000_0000", "train01_0016_0000"}
    assert sum(name.startswith("train00") for name in names) == 64
