"""`world-labels`: labels come in groups, one of a group is hard to see, and neither depends on how frequent it is."""

import json

import pytest
import torch
from PIL import Image

from ommatid.data.worlds.labels import CLASSES, COLOURS, GROUPS, LONER, LabelWorld
from ommatid.errors import InputError


@pytest.fixture(scope="module")
def scenes():
    return LabelWorld(train=4000).split("train")


@pytest.fixture(scope="module")
def clean():
    return LabelWorld(train=250, noise=0.0).split("train")


def test_a_split_is_a_function_of_its_seed():
    train, again = (LabelWorld(train=12).split("train") for _ in range(2))
    assert train.images.shape == (12, 3, 48, 48)
    assert train.labels.shape == train.tiny.shape == (12, 16)
    assert train.boxes.shape == (12, 16, 4)
    assert len(train) == 12
    for name in ("images", "labels", "tiny"):
        assert torch.equal(getattr(train, name), getattr(again, name))
    assert torch.equal(train.boxes.nan_to_num(-1), again.boxes.nan_to_num(-1))
    for other in (LabelWorld(train=12, seed=1).split("train"), LabelWorld(val=12).split("val")):
        assert not torch.equal(train.images, other.images)
        assert not torch.equal(train.labels, other.labels)


def test_chunks_differ():
    images = LabelWorld(train=500, size=24).split("train").images
    assert not torch.equal(images[:250], images[250:])


def test_every_label_is_in_one_group_of_unlike_objects_or_in_none():
    assert sorted([label for group in GROUPS for label in group] + [LONER]) == list(range(16))
    assert CLASSES[4 * 1 + 2] == "blue square"
    for group in GROUPS:
        assert len({label // len(COLOURS) for label in group}) == 3
        assert len({label % len(COLOURS) for label in group}) == 3


def test_images_show_two_to_six_objects(scenes):
    counts = scenes.labels.sum(dim=1).bincount(minlength=7)
    assert len(counts) == 7
    assert counts[:2].sum() == 0
    assert (counts[2:] > 100).all()


def test_frequencies_fall_as_one_over_the_rank_of_a_group(scenes):
    shares = scenes.labels.float().mean(dim=0)
    of_group = torch.stack([shares[list(group)].mean() for group in GROUPS])
    assert of_group[0] == pytest.approx(0.54, abs=0.03)
    assert (of_group * torch.arange(1, 6) / of_group[0]).tolist() == pytest.approx([1] * 5, abs=0.2)
    assert shares.argmin() == LONER
    assert shares[LONER] == pytest.approx(0.03, abs=0.01)


def test_groups_are_whole_with_probability_eight_tenths(scenes):
    for group in GROUPS:
        of_group = scenes.labels[:, list(group)]
        there = of_group.any(dim=1)
        assert of_group[there].all(dim=1).float().mean() == pytest.approx(0.8, abs=0.06)
        assert (of_group[there].sum(dim=1) >= 2).all()
    never = LabelWorld(train=250, together=0.0).split("train").labels
    assert not any(never[:, list(group)].all(dim=1).any() for group in GROUPS)


def test_one_label_of_a_whole_group_is_hard_in_six_of_ten_images(scenes):
    assert not (scenes.tiny & ~scenes.labels).any()
    for group in GROUPS:
        whole = scenes.labels[:, list(group)].all(dim=1)
        hard = scenes.tiny[whole][:, list(group)].sum(dim=1)
        assert hard.max() == 1
        assert hard.float().mean() == pytest.approx(0.6, abs=0.07)
    assert not LabelWorld(train=250, hard=0.0).split("train").tiny.any()


def test_rare_labels_are_hard_and_small_as_often_as_frequent_ones(scenes):
    halves = [GROUPS[0], [label for group in GROUPS[2:] for label in group]]
    width = scenes.boxes[..., 2] - scenes.boxes[..., 0]
    for values, tolerance in ((scenes.tiny.float(), 0.03), (width, 0.3)):
        frequent, rare = (values[:, list(half)][scenes.labels[:, list(half)]].mean() for half in halves)
        assert frequent == pytest.approx(rare.item(), abs=tolerance)
    assert scenes.tiny.sum() / scenes.labels.sum() == pytest.approx(0.2, abs=0.02)


def test_boxes_are_there_where_labels_are_and_do_not_meet(scenes):
    assert torch.equal(scenes.boxes.isnan().all(dim=-1), ~scenes.labels)
    assert torch.equal(scenes.boxes.isnan().any(dim=-1), ~scenes.labels)
    painted = torch.zeros(100, 48, 48)
    for image, label in scenes.labels[:100].nonzero().tolist():
        left, top, right, bottom = scenes.boxes[image, label].int().tolist()
        painted[image, top:bottom, left:right] += 1
    assert painted.max() == 1


def test_sizes_are_four_to_fourteen_pixels(scenes):
    size = torch.maximum(scenes.boxes[..., 2] - scenes.boxes[..., 0], scenes.boxes[..., 3] - scenes.boxes[..., 1])
    # The soft edge adds up to a pixel on both sides.
    plain, hard = size[scenes.labels & ~scenes.tiny], size[scenes.tiny]
    assert 7 <= plain.min() < 9
    assert 14 <= plain.max() <= 16
    assert 4 <= hard.min() < 6
    assert hard.max() <= 8


def test_hard_objects_lie_in_one_of_36_cells_each_of_which_is_used(scenes):
    boxes = scenes.boxes[scenes.tiny]
    first, last = boxes[:, :2] // 8, (boxes[:, 2:] - 1) // 8
    assert torch.equal(first, last)
    cells = (6 * first[:, 1] + first[:, 0]).long().bincount(minlength=36)
    assert len(cells) == 36
    assert cells.min() > 0.5 * cells.float().mean()


def test_about_half_of_the_hard_objects_show_only_one_half(scenes):
    boxes = scenes.boxes[scenes.tiny]
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    ratio = torch.maximum(width, height) / torch.minimum(width, height)
    assert (ratio > 1.3).float().mean() == pytest.approx(0.5, abs=0.15)


def test_boxes_hold_all_pixels_of_their_objects_and_no_more(clean):
    """Ground is smooth; what is not lies in boxes, and reaches all four sides of them."""
    images = clean.images.float()
    outside = torch.ones(len(clean), 48, 48, dtype=torch.bool)
    for image, label in clean.labels.nonzero().tolist():
        left, top, right, bottom = clean.boxes[image, label].int().tolist()
        outside[image, top:bottom, left:right] = False
    step = (images[..., 1:] - images[..., :-1]).abs().amax(dim=1)
    assert step[outside[..., 1:] & outside[..., :-1]].max() < 12
    assert step[outside[..., 1:] != outside[..., :-1]].max() > 60
    # Seen pixels of most objects differ from the ground in the next column outside of the box.
    stands_out = []
    for image, label in clean.labels.nonzero().tolist():
        left, top, right, bottom = clean.boxes[image, label].int().tolist()
        inside = images[image, :, top:bottom, left:right]
        edge = images[image, :, top:bottom, left - 1 if left else right]
        stands_out.append(((inside - edge[..., None]).abs().amax(dim=0) > 30).any())
    assert torch.stack(stands_out).float().mean() > 0.97


def test_objects_have_the_colour_of_their_label(clean):
    """The middle of a plain object is nearer to its own colour than to the others."""
    colours = 255 * torch.tensor(list(COLOURS.values()))
    right = []
    for image, label in (clean.labels & ~clean.tiny).nonzero().tolist():
        x, y = ((clean.boxes[image, label, :2] + clean.boxes[image, label, 2:]) / 2).long().tolist()
        right.append((clean.images[image, :, y, x] - colours).norm(dim=1).argmin().item() == label % len(COLOURS))
    assert sum(right) / len(right) > 0.85


def test_shapes_cover_the_part_of_their_box_that_they_should(clean):
    """Squares fill their boxes, circles most, triangles half of them, crosses in between."""
    share = {shape: [] for shape in range(4)}
    for image, label in (clean.labels & ~clean.tiny).nonzero().tolist():
        left, top, right, bottom = clean.boxes[image, label].int().tolist()
        inside = clean.images[image, :, top:bottom, left:right].float()
        middle = inside[:, inside.shape[1] // 2, inside.shape[2] // 2]
        share[label // 4].append(((inside - middle[:, None, None]).abs().amax(dim=0) < 40).float().mean())
    circle, square, triangle, cross = (torch.stack(share[shape]).mean().item() for shape in range(4))
    assert square > circle + 0.05
    assert circle > cross + 0.05
    assert circle > triangle + 0.05


def test_noise_is_that_of_the_argument(clean):
    noisy = LabelWorld(train=250, noise=0.1).split("train")
    assert torch.equal(noisy.labels, clean.labels)
    grey = (clean.images > 90) & (clean.images < 165)
    assert (noisy.images.float() - clean.images.float())[grey].std() / 255 == pytest.approx(0.1, rel=0.05)


def test_sizes_of_objects_go_with_that_of_the_image():
    scenes = LabelWorld(train=100, size=96).split("train")
    size = (scenes.boxes[..., 2:] - scenes.boxes[..., :2])[scenes.labels & ~scenes.tiny].amax(dim=1)
    assert scenes.images.shape == (100, 3, 96, 96)
    assert size.min() >= 14
    assert 24 < size.max() <= 30


def test_csv_names_what_is_in_the_images(tmp_path):
    world = LabelWorld(train=3, val=2, test=1)
    assert world.write(tmp_path / "csv") == {"train": 3, "val": 2, "test": 1}
    lines = (tmp_path / "csv" / "val.csv").read_text().splitlines()
    val = world.split("val")
    assert lines[0] == "file,labels"
    shown = ";".join(CLASSES[label] for label in val.labels[1].nonzero()[:, 0])
    assert lines[2] == f"images/val_000002.png,{shown}"
    with Image.open(tmp_path / "csv" / "images" / "val_000002.png") as image:
        assert image.tobytes() == val.images[1].permute(1, 2, 0).contiguous().numpy().tobytes()


def test_coco_has_boxes_and_a_gap_in_its_category_ids(tmp_path):
    world = LabelWorld(train=20, val=1, test=1)
    world.write(tmp_path / "coco", "coco")
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert list(names) == [*range(1, 12), *range(13, 18)]
    train = world.split("train")
    assert len({each["id"] for each in content["annotations"]}) == len(content["annotations"]) == train.labels.sum()
    first = [each for each in content["annotations"] if each["image_id"] == content["images"][0]["id"]]
    assert [names[each["category_id"]] for each in first] == [CLASSES[i] for i in train.labels[0].nonzero()[:, 0]]
    left, top, width, height = first[0]["bbox"]
    assert [left, top, left + width, top + height] == train.boxes[0][train.labels[0]][0].tolist()


def test_bad_settings_are_refused(tmp_path):
    for settings, message in (
        ({"val": 0}, "val: found 0, expected at least 1 image"),
        ({"size": 40}, "size: found 40, expected a multiple of 6 from 24 on"),
        ({"together": 1.5}, "together: found 1.5, expected a share from 0 to 1"),
        ({"noise": -1.0}, "noise: found -1.0, expected a standard deviation from 0 on"),
    ):
        with pytest.raises(InputError, match=message):
            LabelWorld(**settings)
    with pytest.raises(InputError, match="unknown split 'dev'"):
        LabelWorld(train=1).split("dev")
    with pytest.raises(InputError, match="unknown format of world-labels 'voc'"):
        LabelWorld(train=1).write(tmp_path / "new", "voc")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        LabelWorld(train=1).write(tmp_path)
