"""`world-shapes`: seven factors, each drawn alone and to be seen where it says, with the mask of the shape."""

import colorsys
import csv
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2_contingency, chisquare

from ommatid.data.images import image_folder
from ommatid.data.worlds.shapes import FACTORS, HALF_SIZES, VALUES, ShapeWorld, captions, labels
from ommatid.errors import InputError

CLEAN = ShapeWorld(train=768, noise=0.0).split("train")
SIDE = 32


def column(scenes, name):
    return scenes.factors[:, FACTORS.index(name)]


def where(scenes, **values):
    """The numbers of the scenes whose factors have these values."""
    chosen = torch.ones(len(scenes.factors), dtype=torch.bool)
    for name, value in values.items():
        chosen &= column(scenes, name) == VALUES[name].index(value)
    return chosen.nonzero().flatten().tolist()


def own_frame(pose, row, across):
    """Where the middle of a pixel lies on the shape: its centre is the origin, its half size one."""
    x, y = (across + 0.5) * 2 / SIDE - 1 - pose[0], (row + 0.5) * 2 / SIDE - 1 - pose[1]
    turned = complex(x, y) * complex(math.cos(pose[3]), -math.sin(pose[3])) / pose[2]
    return turned.real, turned.imag


OUTLINES = {
    "disc": lambda u, v: u * u + v * v < 1,
    "square": lambda u, v: -0.85 < u < 0.85 and -0.85 < v < 0.85,
    "triangle": lambda u, v: v < 0.7 and -0.55 * (v + 1) < u < 0.55 * (v + 1),
    "ring": lambda u, v: 0.55**2 < u * u + v * v < 1,
    "cross": lambda u, v: (abs(u) < 0.3 and abs(v) < 1) or (abs(v) < 0.3 and abs(u) < 1),
    "flower": lambda u, v: math.hypot(u, v) < 0.55 + 0.4 * math.cos(5 * math.atan2(v, u)),
    "bar": lambda u, v: -1 < u < 1 and -0.4 < v < 0.4,
    "crescent": lambda u, v: u * u + v * v < 1 and not (u - 0.45) ** 2 + v * v <= 0.49,
}


def hues(image, mask):
    """Hue (in bins of sixths) of the middle colour of the masked pixels."""
    red, green, blue = (image[:, mask].double() / 255).tolist()
    sixths = [6 * colorsys.rgb_to_hsv(*pixel)[0] for pixel in zip(red, green, blue, strict=True)]
    turns = np.exp(1j * np.pi / 3 * np.array(sixths))
    return np.angle(np.median(turns.real) + 1j * np.median(turns.imag)) * 3 / np.pi % 6


def around(difference):
    """The way between two hues, the shorter way round."""
    return abs((difference + 3) % 6 - 3)


def gains(scenes, number):
    """What the texture leaves of the brightest channel, and where on the shape."""
    mask = scenes.masks[number]
    bright = scenes.images[number].amax(dim=0)[mask].double().numpy()
    places = [own_frame(scenes.poses[number].tolist(), row, across) for row, across in mask.nonzero().tolist()]
    return bright, np.array(places).T


def test_a_split_is_a_function_of_its_seed():
    world = ShapeWorld(train=20, val=20, test=20, size=12)
    first = world.split("train")
    again, other = (ShapeWorld(train=20, size=12, seed=seed).split("train") for seed in (0, 1))
    for name in ("images", "factors", "masks", "poses"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    drawn = [first, other, world.split("val"), world.split("test")]
    drawn += [ShapeWorld(val=20, size=12, seed=1).split("val"), ShapeWorld(test=20, size=12, seed=1).split("test")]
    for one, two in itertools.combinations(drawn, 2):
        assert not torch.equal(one.factors, two.factors)


def test_scenes_of_a_split_differ():
    poses = ShapeWorld(train=700, size=4).split("train").poses
    assert len(poses.unique(dim=0)) == 700


def test_a_smaller_world_is_the_beginning_of_a_larger_one():
    small, large = (ShapeWorld(train=count, size=9).split("train") for count in (300, 700))
    assert small.images.shape == (300, 3, 9, 9)
    for name in ("images", "factors", "masks", "poses"):
        assert torch.equal(getattr(small, name), getattr(large, name)[:300])


def test_scenes_are_those_of_the_seed_at_any_size():
    small, large = (ShapeWorld(train=40, size=size).split("train") for size in (16, 48))
    assert torch.equal(small.factors, large.factors)
    area = [scenes.masks.float().mean(dim=(1, 2)) for scenes in (small, large)]
    assert (area[0] - area[1]).abs().max() < 0.03


def test_factors_are_uniform_and_independent():
    factors = ShapeWorld(train=20000, size=1).split("train").factors.numpy()
    chance = 1e-4  # of one of the 28 tables; a value that is drawn a tenth too often is far below
    for number, name in enumerate(FACTORS):
        counts = np.bincount(factors[:, number], minlength=len(VALUES[name]))
        assert len(counts) == len(VALUES[name])
        assert chisquare(counts).pvalue > chance, name
    for one, two in itertools.combinations(range(7), 2):
        table = np.zeros((len(VALUES[FACTORS[one]]), len(VALUES[FACTORS[two]])))
        np.add.at(table, (factors[:, one], factors[:, two]), 1)
        assert chi2_contingency(table).pvalue > chance, (FACTORS[one], FACTORS[two])


@pytest.mark.parametrize("shape", VALUES["shape"])
def test_the_mask_is_the_shape_at_its_pose(shape):
    for number in where(CLEAN, shape=shape)[:4]:
        pose = CLEAN.poses[number].tolist()
        pixels = itertools.product(range(SIDE), repeat=2)
        drawn = np.array([OUTLINES[shape](*own_frame(pose, *pixel)) for pixel in pixels]).reshape(SIDE, SIDE)
        # A pixel whose middle is on the outline may fall to either side.
        assert (drawn != CLEAN.masks[number].numpy()).sum() <= 1
        assert drawn.sum() > 10


def test_poses_are_those_of_the_factors():
    places = torch.stack([column(CLEAN, "x"), column(CLEAN, "y")], dim=-1)
    shift = CLEAN.poses[:, :2] - (places - 1) * 0.3
    stretch = CLEAN.poses[:, 2] / torch.tensor(HALF_SIZES)[column(CLEAN, "size")]
    for drawn, low, high in ((shift, -0.08, 0.08), (stretch, 0.9, 1.1), (CLEAN.poses[:, 3], -0.4, 0.4)):
        assert low - 1e-6 <= drawn.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < drawn.max() <= high + 1e-6


def test_area_follows_size():
    squares = [CLEAN.masks[where(CLEAN, shape="square", size=size)] for size in VALUES["size"]]
    areas = [masks.float().sum(dim=(1, 2)).mean().item() / (SIDE / 2) ** 2 for masks in squares]
    for area, half in zip(areas, HALF_SIZES, strict=True):
        # The largest ones reach beyond the picture.
        assert area == pytest.approx((1.7 * half) ** 2, rel=0.12)


def test_the_centroid_follows_the_place():
    numbers = where(CLEAN, shape="disc", size="small") + where(CLEAN, shape="square", size="small")
    axis = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    masks = CLEAN.masks[numbers].float()
    total = masks.sum(dim=(1, 2))
    for name, weight in (("x", axis), ("y", axis[:, None])):
        centroid = (masks * weight).sum(dim=(1, 2)) / total
        expected = (column(CLEAN, name)[numbers] - 1) * 0.3
        assert (centroid - expected).abs().max() < 0.08 + 2 / SIDE
        assert len(expected.unique()) == 3


def test_words_of_places_are_meant_as_the_picture_is_seen():
    rows, columns = (CLEAN.masks.float().sum(dim=axis) for axis in (2, 1))
    half = SIDE // 2
    for word, counts in (("left", columns[:, :half]), ("right", columns[:, half:])):
        numbers = where(CLEAN, x=word, size="small")
        assert (counts.sum(dim=1) / columns.sum(dim=1))[numbers].mean() > 0.8
    for word, counts in (("top", rows[:, :half]), ("bottom", rows[:, half:])):
        numbers = where(CLEAN, y=word, size="small")
        assert (counts.sum(dim=1) / rows.sum(dim=1))[numbers].mean() > 0.8


def test_hues_follow_the_factors():
    for number in range(120):
        image, mask = CLEAN.images[number], CLEAN.masks[number]
        inside = hues(image, mask) - column(CLEAN, "hue")[number].item()
        outside = hues(image, ~mask) - column(CLEAN, "background")[number].item()
        assert around(inside) < 0.15 + 0.03
        assert around(outside) < 0.03


def test_the_background_is_weaker_than_the_shape():
    bright = CLEAN.images.amax(dim=1).float() / 255
    least = CLEAN.images.amin(dim=1).float() / 255
    saturation = 1 - least / bright
    assert (saturation[CLEAN.masks] - 0.8).abs().max() < 0.02
    assert (saturation[~CLEAN.masks] - 0.35).abs().max() < 0.03
    ground = bright[~CLEAN.masks]
    assert 0.25 * 0.6 - 0.01 < ground.min() < 0.17
    assert 0.47 < ground.max() < 0.5 + 0.01


def test_plain_shapes_have_one_level_and_patterned_ones_two():
    for texture, levels in (("plain", [1.0]), ("striped", [0.4, 1.0]), ("checkered", [0.4, 1.0])):
        for number in where(CLEAN, texture=texture)[:40]:
            bright, _ = gains(CLEAN, number)
            assert 0.75 * 255 - 1 < bright.max() < 256
            assert np.unique((bright / bright.max()).round(1)).tolist() == levels, texture


@pytest.mark.parametrize(
    ("texture", "pattern"),
    [
        ("striped", lambda u, v, f, phase: np.sign(np.sin(6 * f * u + phase))),
        ("checkered", lambda u, v, f, phase: np.sign(np.sin(6 * f * u + phase) * np.sin(6 * f * v + phase))),
        ("ringed", lambda u, v, f, phase: np.sin(4 * f * np.hypot(u, v) + phase)),
    ],
)
def test_a_texture_is_its_pattern_at_some_frequency_and_phase(texture, pattern):
    """The others cannot be told by their levels: stripes from checks, say."""
    frequency = np.linspace(1.5, 2.5, 81)[:, None, None]
    phase = np.linspace(0, 2 * np.pi, 96)[:, None]
    for number in where(CLEAN, texture=texture, size="large")[:6]:
        bright, (u, v) = gains(CLEAN, number)
        # The brightness is drawn too: with it, the gain is 0.7 + 0.3 of the pattern.
        modelled = 0.7 + 0.3 * pattern(u, v, frequency, phase)
        value = (modelled @ bright) / (modelled**2).sum(axis=-1)
        wrong = np.abs(modelled * value[..., None] - bright) > 12
        best = np.unravel_index(wrong.mean(axis=-1).argmin(), value.shape)
        assert wrong[best].mean() < 0.03
        assert 0.73 * 255 < value[best] < 1.02 * 255


def test_noise_is_added_to_every_channel_of_every_pixel():
    clean, noisy = (ShapeWorld(train=300, noise=noise).split("train") for noise in (0.0, 0.04))
    assert torch.equal(clean.poses, noisy.poses)
    # Far from black and white, where values are cut.
    middle = (clean.images > 60) & (clean.images < 195)
    added = (noisy.images.float() - clean.images.float())[middle]
    assert added.mean().abs() < 0.1
    assert added.std().item() == pytest.approx(0.04 * 255, rel=0.03)
    assert not torch.equal(noisy.images[:, 0] > clean.images[:, 0], noisy.images[:, 1] > clean.images[:, 1])


def test_labels_number_every_combination_once():
    classes, names = labels(CLEAN.factors)
    assert len(names) == len(set(names)) == 32
    assert torch.equal(classes, 4 * column(CLEAN, "shape") + column(CLEAN, "texture"))
    for label, row in zip(classes[:50].tolist(), CLEAN.factors[:50].tolist(), strict=True):
        assert names[label] == f"{VALUES['shape'][row[0]]} {VALUES['texture'][row[1]]}"
    for name in FACTORS:
        classes, names = labels(CLEAN.factors, (name,))
        assert torch.equal(classes, column(CLEAN, name))
        assert names == VALUES[name]


def test_captions_are_words_of_the_named_factors_in_their_order():
    factors = torch.tensor([[0, 1, 0, 4, 2, 0, 1], [6, 2, 5, 0, 0, 2, 2]])
    assert captions(factors) == ["large striped red disc", "small checkered magenta bar"]
    assert captions(factors, ("y", "background")) == ["middle navy", "bottom maroon"]
    classes, names = labels(factors, ("hue", "x"))
    assert [names[label] for label in classes] == captions(factors, ("hue", "x"))


def test_a_word_tells_its_factor():
    words = [word for values in VALUES.values() for word in values]
    assert len(words) == len(set(words)) == 33
    assert all(word.isalpha() for word in words)


def test_a_mosaic_is_four_scenes():
    mosaic = ShapeWorld(train=300, noise=0.0).mosaic("train")
    assert mosaic.images.shape == (300, 3, 32, 32)
    assert mosaic.factors.shape == (300, 4, 7)
    classes, names = labels(mosaic.factors)
    assert classes.shape == (300, 4)
    assert len(names) == 32
    half = SIDE // 2
    for quadrant, (top, left) in enumerate(((0, 0), (0, half), (half, 0), (half, half))):
        image = mosaic.images[:, :, top : top + half, left : left + half]
        mask = mosaic.masks[:, top : top + half, left : left + half]
        for number in range(60):
            hue = mosaic.factors[number, quadrant, FACTORS.index("hue")].item()
            background = mosaic.factors[number, quadrant, FACTORS.index("background")].item()
            assert around(hues(image[number], mask[number]) - hue) < 0.2
            assert around(hues(image[number], ~mask[number]) - background) < 0.05


def test_quadrants_of_a_mosaic_are_independent_and_none_is_a_scene_of_the_split():
    world = ShapeWorld(train=4000, size=2)
    mosaic, scenes = world.mosaic("train"), world.split("train")
    for one, two in itertools.combinations(range(4), 2):
        table = np.zeros((8, 8))
        np.add.at(table, (mosaic.factors[:, one, 0].numpy(), mosaic.factors[:, two, 0].numpy()), 1)
        assert chi2_contingency(table).pvalue > 1e-3
    assert (mosaic.factors.flatten(0, 1)[:4000] == scenes.factors).float().mean() < 0.3


def test_a_written_world_is_read_back(tmp_path):
    world = ShapeWorld(train=120, val=20, test=30, size=16)
    assert world.write(tmp_path / "made", factors=("texture", "x")) == {"train": 120, "val": 20, "test": 30}
    with (tmp_path / "made" / "factors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for split in ("train", "val", "test"):
        scenes = world.split(split)
        classes, names = labels(scenes.factors, ("texture", "x"))
        read = image_folder(tmp_path / "made", split)
        assert set(read.class_names) == {name.replace(" ", "_") for name in names}
        found = {path.relative_to(tmp_path / "made").as_posix(): place for place, path in enumerate(read.images.paths)}
        drawn = [row for row in rows if row["image"].startswith(f"{split}/")]
        assert len(found) == len(drawn) == len(scenes.factors)
        for number, row in enumerate(drawn):
            place = found[row["image"]]
            assert torch.equal(read.images[place], scenes.images[number])
            assert read.class_names[read.labels[place]] == names[classes[number]].replace(" ", "_")
            assert [VALUES[name].index(row[name]) for name in FACTORS] == scenes.factors[number].tolist()
            mask = np.array(Image.open(tmp_path / "made" / "masks" / row["image"]))
            assert np.array_equal(mask, 255 * scenes.masks[number].numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="val must be at least 1, found 0"):
        ShapeWorld(val=0)
    with pytest.raises(InputError, match="size must be at least 1, found -3"):
        ShapeWorld(size=-3)
    for noise in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match=f"noise must be 0 or more, found {noise}"):
            ShapeWorld(noise=noise)
    with pytest.raises(InputError, match="unknown split 'tran': did you mean 'train'"):
        ShapeWorld().split("tran")
    with pytest.raises(InputError, match="unknown split 'tran'"):
        ShapeWorld().mosaic("tran")
    with pytest.raises(InputError, match="size must be even for a mosaic, found 33"):
        ShapeWorld(size=33).mosaic("train")


@pytest.mark.parametrize("function", [labels, captions])
def test_factors_that_are_none_are_refused(function):
    with pytest.raises(InputError, match="unknown factor of world-shapes 'textur': did you mean 'texture'"):
        function(CLEAN.factors, ("shape", "textur"))
    with pytest.raises(InputError, match="factors: found none, expected some of shape, texture"):
        function(CLEAN.factors, ())
    with pytest.raises(InputError, match="factors: found one twice in hue, hue"):
        function(CLEAN.factors, ("hue", "hue"))


def test_a_folder_that_cannot_be_written_is_refused_and_left(tmp_path):
    world = ShapeWorld(train=3, val=1, test=1, size=4)
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        world.write(tmp_path)
    with pytest.raises(InputError, match=r"kept\.txt: found a file, expected a new folder"):
        world.write(tmp_path / "kept.txt")
    with pytest.raises(InputError, match=r"kept.txt.new: .*, expected a folder that can be written"):
        ShapeWorld(train=64, val=1, test=1, size=4).write(tmp_path / "kept.txt" / "new", factors=("y",))
    with pytest.raises(InputError, match="unknown format of world-shapes 'list'"):
        world.write(tmp_path / "new", format="list")
    with pytest.raises(
        InputError, match=r"train: found no picture of '\w+ \w+' among 3, expected one of each of the 32"
    ):
        world.write(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
