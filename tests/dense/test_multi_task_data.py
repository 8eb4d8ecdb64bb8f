import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ommatid.data.nyu import write_nyu
from ommatid.data.surface_augment import flipped
from ommatid.data.surface_samples import IGNORE, SurfaceSample
from ommatid.data.worlds.surfaces import SurfaceWorld
from ommatid.dense.multi_task_data import SceneData, SceneSet, held_out, resized_scene, scene_batch
from ommatid.dense.normals_metrics import angular_errors
from ommatid.engine.settings import build
from ommatid.errors import InputError

WORLD = {"train": 12, "val": 3, "test": 5, "size": 12}


def small(**settings):
    return SceneData(**{"batch_size": 4, "world": WORLD, **settings})


def made(number=0, height=8, width=12, depth=False):
    generator = torch.Generator().manual_seed(number)
    semantic = torch.randint(3, (height, width), generator=generator)
    semantic[0] = IGNORE
    normals = F.normalize(torch.randn(3, height, width, generator=generator), dim=0)
    normals[:, :, 1] = 0
    metres = torch.full((1, height, width), 2.0) if depth else None
    return SurfaceSample(torch.rand(3, height, width, generator=generator), semantic, normals, metres, f"{number:04d}")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for split, numbers in (("train", range(21)), ("test", range(21, 25))):
        write_nyu(root, split, (made(number) for number in numbers), ("a", "b", "c"))
    return root


# --- splits and samples ---


def test_scenes_of_the_world_come_with_all_that_is_known():
    drawn = SurfaceWorld(**WORLD).split("test")
    data = small()
    batch = data.first_batch("test")
    assert torch.equal(batch.images, drawn.images[:4].float() / 255)
    assert torch.equal(batch.semantic, drawn.classes[:4].long())
    assert torch.equal(batch.normals, drawn.normals[:4])
    assert torch.equal(batch.depth, drawn.depth[:4])
    assert batch.normals_valid.all()
    assert batch.index.tolist() == [0, 1, 2, 3]
    assert {split: len(each) for split, each in data.sets.items()} == {"train": 12, "val": 3, "test": 5}


def test_another_seed_is_another_world():
    assert not torch.equal(small(seed=1).first_batch("test").images, small(seed=2).first_batch("test").images)


def test_a_tenth_of_training_is_kept_to_validate_on(written):
    data = SceneData(str(written))
    assert {split: len(each) for split, each in data.sets.items()} == {"train": 19, "val": 2, "test": 4}
    ids = {split: [sample.id for sample, _ in each.each()] for split, each in data.sets.items()}
    assert ids["val"] == ["0009", "0019"]
    assert not set(ids["train"]) & set(ids["val"])
    assert data.class_names == ("a", "b", "c")
    assert [index for _, index in data.sets["val"].each()] == [0, 1], "a place in the split, not in the file"


def test_without_a_test_part_a_fifth_is_kept(written, tmp_path):
    shutil.copytree(written, tmp_path / "own")
    for file in (tmp_path / "own" / "nyu_v2" / "list").glob("testing_*"):
        file.unlink()
    counts = {split: len(each) for split, each in SceneData(str(tmp_path / "own")).sets.items()}
    assert counts == {"train": 16, "val": 1, "test": 4}


def test_pixels_without_labels_stay_without(written):
    batch = SceneData(str(written)).first_batch("test")
    assert (batch.semantic[:, 0] == IGNORE).all()
    assert not batch.normals_valid[:, :, 1].any()
    assert batch.normals_valid[:, :, 2:].all()
    assert not batch.depth.any()


def test_bytes_can_be_read_as_the_authors_did(written):
    plain, raw = (SceneData(str(written), decode=decode).first_batch("test").normals for decode in ("unit", "raw"))
    assert (plain < -0.5).any()
    assert (raw >= 0).all()


# --- size and view ---


def test_all_maps_are_resized_together():
    sample = made(depth=True)
    found = resized_scene(sample, (16, 24))
    assert found.image.shape == (3, 16, 24)
    assert torch.equal(found.semantic, sample.semantic.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert torch.equal(found.normals, sample.normals.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert found.depth.eq(2).all(), "the camera is where it was"
    assert resized_scene(sample, (8, 12)) is sample


def test_a_trained_method_gets_images_of_its_size():
    data = small(size=[10, 14])
    assert data.first_batch("val").images.shape == (3, 3, 10, 14)
    data.use(None)
    assert data.first_batch("val").images.shape == (3, 3, 12, 12)


def test_training_images_alone_are_seen_through_a_view():
    data = small(augment="view", crop=[9, 7])
    assert data.dataset("train").draws
    assert data.first_batch("train").normals.shape == (4, 3, 9, 7)
    assert data.first_batch("test").images.shape == (4, 3, 12, 12)
    assert not small().dataset("train").draws


@pytest.mark.parametrize("negate_x", [True, False])
def test_mirrored_normals_are_turned_unless_told_otherwise(negate_x):
    settings = {"augment": "view", "crop": [12, 12], "scales": [1.0, 1.0], "negate_x": negate_x}
    sample = small().sets["train"][0][0]
    mirrored, _ = small(**settings, flip=1.0).dataset("train")[0]
    assert torch.equal(mirrored.normals, flipped(sample, negate_x).normals)
    assert torch.equal(mirrored.semantic, sample.semantic.flip(-1))
    torch.testing.assert_close(mirrored.image, sample.image.flip(-1))


def test_epochs_come_again_with_the_same_draws():
    def images(seed, epoch=0):
        loader = small(augment="view", crop=[8, 8], seed=seed, world={**WORLD, "seed": 0}).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.cat([batch.images for batch in loader])

    assert torch.equal(images(0), images(0))
    assert not torch.equal(images(0), images(0, epoch=1))
    assert not torch.equal(images(0), images(1))


# --- baselines, description, errors ---


def test_baselines_are_the_most_frequent_class_and_the_mean_normal_of_training(written):
    data = SceneData(str(written))
    found = data.baselines("test")
    train = [sample for sample, _ in data.sets["train"].each()]
    labels = torch.cat([sample.semantic[sample.semantic != IGNORE] for sample in train])
    usual = int(labels.bincount().argmax())
    test = [sample for sample, _ in data.sets["test"].each()]
    truth = torch.cat([sample.semantic[sample.semantic != IGNORE] for sample in test])
    assert found["most frequent class"]["PA"] == pytest.approx(float((truth == usual).float().mean()))
    mean = torch.cat([sample.normals.flatten(1) for sample in train], dim=1).sum(dim=1)
    normals = torch.cat([sample.normals.flatten(1) for sample in test], dim=1)[None, :, :, None]
    angles = angular_errors(mean[None, :, None, None].expand_as(normals), normals)
    assert found["mean normal"]["mean angle"] == pytest.approx(float(angles.nanmean()), abs=1e-3)
    assert set(found) == {"most frequent class", "mean normal"}


def test_baselines_know_no_augmentation():
    settings = {"augment": "view", "crop": [5, 5]}
    assert small(**settings).baselines("train") == small().baselines("train")


def test_what_is_there_is_described(written):
    told = SceneData(str(written), size=[4, 6]).describe()
    assert told["name"] == f"{written.name} (nyu)"
    assert told == {**told, "images": {"train": 19, "val": 2, "test": 4}, "classes": 3, "size": [4, 6]}
    assert small().describe()["name"] == "world-surfaces"


def test_images_of_several_sizes_need_one():
    with pytest.raises(InputError, match="image 0001: found 8 x 10 pixels, expected 8 x 12 as before: set size"):
        scene_batch([(made(), 0), (made(1, width=10), 1)])


def test_depth_is_unknown_where_a_scene_has_none():
    batch = scene_batch([(made(depth=True), 0), (replace(made(), depth=None), 1)])
    assert batch.depth[0].eq(2).all()
    assert not batch.depth[1].any()


def test_too_few_images_cannot_be_divided():
    with pytest.raises(InputError, match="train: found 3 images, expected at least 10 to hold a part out"):
        held_out(SceneSet.of(made, 3, ("a",)), every=10)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"root": "/nowhere"}, "/nowhere: no such folder, expected images with classes and normals"),
        ({"size": [12]}, r"size: found \[12\], expected height and width, at least 1 each"),
        ({"crop": [0, 3]}, r"crop: found \[0, 3\], expected height and width"),
        ({"scales": [1.5, 0.5]}, r"scales: found \[1.5, 0.5\], expected a smallest and a largest scale"),
        ({"flip": 2.0}, "flip must lie in"),
        ({"degrees": -1.0}, "degrees must be at least 0, found -1"),
        ({"augment": "view", "decode": "raw"}, "negate_x is true, but decode 'raw' has no negative x"),
        (
            {"augment": "view", "decode": "raw", "flip": 0.0, "degrees": 30.0},
            r"degrees is 30\.0, but decode 'raw' has no negative x and y to turn to, expected 0",
        ),
        ({"world": {"train": 0}}, "train: found 0, expected at least 1 scene"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
    ],
)
def test_mistakes_are_told_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        small(**settings).dataset("train")


def test_a_folder_of_something_else_is_named(tmp_path):
    with pytest.raises(InputError, match=r"found neither nyu_depth_v2_labeled\.mat nor"):
        SceneData(str(tmp_path)).dataset("train")
    with pytest.raises(InputError, match="unknown format of scenes 'nyuu'"):
        SceneData(str(tmp_path), format="nyuu").dataset("train")


def test_names_from_the_command_line_are_checked():
    with pytest.raises(InputError, match="embedded"):
        build(SceneData, {"embedded": "world-clouds"})
