import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.data.masks import MaskedImages
from ommatid.data.worlds.cutouts import CutoutWorld
from ommatid.data.worlds.tissue import TissueWorld
from ommatid.dense.data import (
    BoundaryData,
    InMemory,
    MaskData,
    MaskSet,
    Pictures,
    held_out,
    held_out_masks,
    hidden,
    joined,
    resized,
)
from ommatid.dense.segmentation_metrics import confusion_matrices, segmentation_scores
from ommatid.engine.settings import build
from ommatid.errors import InputError

WORLD = {"train": 12, "val": 4, "test": 6, "source": 9}


def small(kind=BoundaryData, **settings):
    return kind(**{"size": 24, "batch_size": 4, "world": WORLD, "shots": 5, **settings})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("cutouts") / "made"
    CutoutWorld(**WORLD, size=30).write(root)
    return root


# --- splits and samples ---


def test_the_first_shots_are_labelled_and_all_others_are_not():
    data = small()
    drawn = CutoutWorld(**WORLD, size=24).split("train")
    assert len(data.sets["train"]) == 5
    assert len(data.streams()["unlabelled"]) == 12
    image, mask, valid, index = data.dataset("train")[3]
    torch.testing.assert_close(image, drawn.images[3].float() / 255)
    assert torch.equal(mask[0] > 0, drawn.maps[3] > 0)
    assert valid.all()
    assert index == 3
    assert len(small(shots=None).sets["train"]) == 12


def test_some_classes_can_be_the_foreground():
    drawn = CutoutWorld(**WORLD, size=24).split("train")
    data = small(MaskData, classes=["cross"], shots=None)
    for number in range(12):
        assert torch.equal(data.dataset("train")[number][1][0] > 0, drawn.maps[number] == 2)
    with pytest.raises(InputError, match="unknown class 'crozz'"):
        small(MaskData, classes=["crozz"]).dataset("train")


def test_tissue_has_its_labelled_patches_first():
    world = {"labelled": 3, "unlabelled": 4, "val": 2, "test": 2}
    data = MaskData(embedded="world-tissue", size=24, world=world)
    patches = TissueWorld(**world, size=24).split("labelled")
    assert len(data.sets["train"]) == 7
    assert torch.equal(data.dataset("train")[2][1][0] > 0, patches.masks[2])
    source = BoundaryData(embedded="world-tissue", size=24, world=world, shots=3).source_set
    assert len(source) == 3, "without a pool of its own the labelled patches are the source"


def test_files_come_to_one_size_with_their_masks(written):
    data = MaskData(str(written / "target"), size=16)
    assert {split: len(each) for split, each in data.sets.items()} == {"train": 12, "val": 4, "test": 6}
    image, mask, valid, _ = data.dataset("test")[2]
    assert image.shape == (3, 16, 16)
    assert mask.shape == valid.shape == (1, 16, 16)
    drawn = CutoutWorld(**WORLD, size=30).split("test")
    whole = float((drawn.maps[2] > 0).float().mean())
    assert float(mask.mean()) == pytest.approx(whole, abs=0.03)


def test_images_without_masks_are_shown_and_never_scored(written, tmp_path):
    import shutil

    shutil.copytree(written / "target", tmp_path / "some")
    for number in range(7, 12):
        (tmp_path / "some" / "train" / "masks" / f"{number:05d}.png").unlink()
    data = BoundaryData(str(tmp_path / "some"), size=16, shots=None, source=str(written / "source"))
    assert len(data.sets["train"]) == 7
    assert len(data.streams()["unlabelled"]) == 12
    assert not data.streams()["unlabelled"][9][2].any()
    assert len(data.source_set) == 9


def test_what_is_missing_of_the_splits_is_cut_from_training():
    pictures = InMemory(torch.zeros(20, 3, 4, 4, dtype=torch.uint8), torch.zeros(20, 4, 4, dtype=torch.uint8), ("a",))
    rest, part = held_out(pictures, every=5)
    assert (len(rest), len(part)) == (16, 4)
    assert isinstance(rest, Pictures)
    with pytest.raises(InputError, match="train: found 3 images, expected at least 5 to hold a part out"):
        held_out(pictures.select(range(3)), every=5)


def test_a_data_set_of_one_part_is_divided(written, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "own" / kind).mkdir(parents=True)
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "own" / "images" / f"{number}.png")
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "own" / "masks" / f"{number}.png")
    data = MaskData(str(tmp_path / "own"), size=8)
    assert {split: len(each) for split, each in data.sets.items()} == {"train": 15, "test": 4, "val": 1}
    assert data.describe()["name"] == "own (folder)"


def pictures_at(folder, masks, kind="images", count=None):
    """Pictures by name, those in `masks` with one; each is of another colour."""
    (folder / kind).mkdir(parents=True)
    (folder / "masks").mkdir()
    names = masks if count is None else [*masks, *(f"more_0_{number}" for number in range(count))]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / kind / f"{name}.png")
    for name in masks:
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "masks" / f"{name}.png")


@pytest.mark.parametrize(("masks", "sizes"), [(12, (9, 2, 1)), (4, (2, 1, 1)), (3, (1, 1, 1))])
def test_what_is_held_out_has_masks_however_few_there_are(tmp_path, masks, sizes):
    pictures_at(tmp_path, [f"a{number:02d}" for number in range(masks)], count=48)
    data = BoundaryData(str(tmp_path), size=8, shots=None)
    assert tuple(len(data.sets[split]) for split in ("train", "test", "val")) == sizes
    assert [len(data.pictures[split]) for split in ("train", "test", "val")] == [sizes[0] + 48, *sizes[1:]]
    shown = {split: {path.name for path in each.images} for split, each in data.pictures.items()}
    assert len(set().union(*shown.values())) == masks + 48


def test_one_image_cannot_be_divided(tmp_path):
    pictures_at(tmp_path, ["a"], count=9)
    with pytest.raises(InputError, match="train: found 1 images with masks, expected at least 2 to hold a part out"):
        _ = MaskData(str(tmp_path), size=8).sets


def test_a_part_without_masks_counts_as_missing(tmp_path):
    """As of VOC, whose test maps are kept back."""
    pictures_at(tmp_path / "train", [f"a{number}" for number in range(4)])
    pictures_at(tmp_path / "val", ["b0", "b1"])
    pictures_at(tmp_path / "test", [], count=3)
    data = MaskData(str(tmp_path), size=8)
    assert {path.stem for path in data.pictures["test"].images} == {"b0", "b1"}
    assert {split: len(each) for split, each in data.sets.items()} == {"train": 3, "val": 1, "test": 2}


def test_tiles_of_a_slide_stay_together(tmp_path):
    """Also those without a mask, of which training would see what is tested."""
    pictures_at(tmp_path, [f"s{slide}_0_{tile}" for slide in range(6) for tile in range(3)], kind="tiles", count=2)
    (tmp_path / "masks" / "s4_0_1.png").unlink()
    pictures = MaskData(str(tmp_path), size=8).pictures
    slides = {split: {origin.slide for origin in each.origins} for split, each in pictures.items()}
    assert slides == {"train": {"s0", "s1", "s2", "s3", "more"}, "test": {"s4"}, "val": {"s5"}}
    assert len(pictures["test"]) == 3
    with pytest.raises(InputError, match="train: found 1 slides with masks"):
        held_out_masks(pictures["test"], every=5)


def test_void_pixels_are_not_valid():
    maps = torch.tensor([[[0, 1], [255, 2]]], dtype=torch.uint8)
    _, mask, valid, _ = MaskSet(InMemory(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), maps, ("a", "b")), 2)[0]
    assert mask.tolist() == [[[0, 1], [0, 1]]]
    assert valid.tolist() == [[[True, True], [False, True]]]


def test_resizing_keeps_classes_as_they_are():
    classes = torch.randint(0, 3, (9, 13), dtype=torch.uint8) * 100
    image, small_classes = resized(torch.full((3, 9, 13), 200, dtype=torch.uint8), classes, 6)
    assert image.eq(200).all()
    assert set(small_classes.unique().tolist()) <= {0, 100, 200}


def test_parts_of_a_data_set_can_be_joined(written):
    from ommatid.data.masks import open_masks

    parts = [open_masks(written / "target", split) for split in ("train", "test")]
    both = joined(parts)
    assert isinstance(both, MaskedImages)
    assert len(both) == 18
    assert torch.equal(both.pixels(13), parts[1].pixels(1))


# --- what a step sees ---


def test_a_step_holds_the_three_streams_and_hides_what_nobody_knows():
    data = small(labelled_batch=3, steps_per_epoch=2)
    batches = list(data.train_dataloader())
    assert len(batches) == 2
    for batch in batches:
        assert (len(batch.unlabelled), len(batch.source), len(batch.labelled)) == (4, 4, 3)
        assert not batch.unlabelled.valid.any()
        assert not batch.unlabelled.masks.any()
        assert batch.source.masks.any()
        assert batch.labelled.index.max() < 5


def test_epochs_come_again_with_the_same_draws():
    def images(seed):
        data = small(augment="turns", steps_per_epoch=2, seed=seed)
        return torch.cat([batch.labelled.images for batch in data.train_dataloader()])

    assert torch.equal(images(0), images(0))
    assert not torch.equal(images(0), images(1))


def test_hiding_leaves_images_alone():
    batch = small().first_batch("train")
    found = hidden(batch)
    assert torch.equal(found.images, batch.images)
    assert not found.masks.any()
    assert not found.valid.any()
    assert batch.masks.any()
    assert batch.valid.all()


# --- baselines, description, errors ---


def test_baselines_are_scores_of_fixed_masks():
    data = small(MaskData, shots=None)
    found = data.baselines("test")
    masks = torch.stack([data.dataset("test")[number][1] for number in range(6)])
    everything = segmentation_scores(confusion_matrices(torch.ones_like(masks), masks, 2).sum(dim=0))
    assert found["all foreground"]["IoU"] == pytest.approx(float(masks.mean()))
    assert found["all foreground"]["mIoU"] == pytest.approx(float(everything["mIoU"]))
    assert found["all background"]["IoU"] == 0
    assert set(found) == {"all background", "all foreground", "mean mask"}


def test_the_mean_mask_is_summed_mask_by_mask(monkeypatch):
    train, alive, most, read = small(MaskData, shots=None).sets["train"], [], [], MaskSet.__getitem__
    expected = torch.stack([mask for _, mask, _, _ in train]).mean(dim=0)

    def watched(self, index):
        sample = read(self, index)
        alive.append(weakref.ref(sample[1].untyped_storage()))
        most.append(sum(each() is not None for each in alive))
        return sample

    monkeypatch.setattr(MaskSet, "__getitem__", watched)
    torch.testing.assert_close(train.mean_mask(), expected)
    assert len(most) == 12
    assert max(most) <= 3


def test_a_trained_method_gets_images_of_its_size():
    data = small()
    assert data.dataset("test")[0][0].shape[1] == 24
    data.use(32)
    assert data.dataset("test")[0][0].shape[1] == data.source_set[0][0].shape[1] == 32


def test_what_is_there_is_described():
    told = small().describe()
    assert told == {
        "name": "world-cutouts",
        "images": {"train": 5, "val": 4, "test": 6},
        "size": 24,
        "unlabelled": 12,
        "source": 9,
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"shots": 0}, "shots must be at least 1, found 0"),
        ({"labelled_batch": 0}, "labelled_batch must be at least 1, found 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, found 0"),
        ({"shots": 13}, "shots is 13, but only 12 training images have masks"),
        ({"root": "/nowhere"}, "/nowhere: no such folder, expected images with masks"),
        ({"source": "/nowhere"}, "/nowhere: no such folder, expected images with masks to learn boundaries from"),
        ({"world": {"train": 0}}, "train must be at least 1, found 0"),
    ],
)
def test_mistakes_are_told_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        small(**settings).streams()


def test_names_from_the_command_line_are_checked():
    with pytest.raises(InputError, match="embedded"):
        build(MaskData, {"embedded": "world-clouds"})
