"""Volumes come in a fixed order with everything that is known of them, in parts to train with and whole to score."""

import json
import math

import numpy as np
import pytest
import torch

from dense.made_volumes import stationing
from ommatid.data.volume_files import write_nifti
from ommatid.data.worlds.phantoms import PhantomWorld
from ommatid.dense import volume_views
from ommatid.dense.volume_data import VolumeData
from ommatid.dense.volume_task import UNKNOWN
from ommatid.dense.volume_views import file_labels, network_input
from ommatid.engine.settings import build
from ommatid.errors import InputError

WORLD = {"train": 6, "val": 2, "test": 3, "size": 16}


def small(**settings):
    return VolumeData(**{"world": WORLD, **settings})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("nibabel")
    root = tmp_path_factory.mktemp("phantoms") / "made"
    PhantomWorld(dimensions=3, spacing=[1.0, 1.0, 2.0], **WORLD).write(root)
    return root


@pytest.mark.parametrize("dimensions", [2, 3])
def test_embedded_phantoms_are_those_of_the_world(dimensions):
    data = small(world={**WORLD, "dimensions": dimensions})
    world = PhantomWorld(dimensions=dimensions, **WORLD)
    phantoms, volumes = world.split("test"), data.volumes("test")
    assert data.dimensions == dimensions
    assert (data.class_names, data.organ_names) == (world.class_names, world.organ_names)
    assert (data.anchor_numbers, data.defining) == (world.anchors, world.defining)
    assert len(volumes) == len(data.case_names("test")) == 3
    for number, sample in enumerate(volumes):
        torch.testing.assert_close(sample.image[0], phantoms.images[number], atol=1e-6, rtol=0)
        assert torch.equal(sample.labels, phantoms.labels[number].long())
        assert torch.equal(sample.organs, phantoms.organs[number].long())
        assert torch.equal(sample.truth, sample.labels)
        assert sample.index == number


def test_files_are_what_the_world_wrote(written):
    data, made = VolumeData(str(written)), PhantomWorld(dimensions=3, **WORLD)
    assert data.dimensions == 3
    assert data.anchor_numbers == made.anchors
    assert data.defining == ()
    assert {split: len(each) for split, each in data.sets.items()} == {"train": 6, "val": 2, "test": 3}
    sample = data.volumes("val")[1]
    torch.testing.assert_close(sample.image[0], made.split("val").images[1], atol=1 / 800 + 1e-6, rtol=0)
    assert sample.spacing.tolist() == [1.0, 1.0, 2.0]
    assert VolumeData(str(written), anchors=["faint tube", "tube"]).anchor_numbers == (1, 4)
    with pytest.raises(InputError, match="unknown organ 'tubee'"):
        _ = VolumeData(str(written), anchors=["tubee"]).anchor_numbers


def test_resampling_leaves_the_truth_on_the_grid_of_the_file(written):
    data = VolumeData(str(written), spacing=[2.0, 2.0, 2.0])
    batch = data.collate([data.volumes("test")[0]])
    assert batch.images.shape == (1, 1, 8, 8, 12)
    assert batch.labels.shape == batch.organs.shape == (1, 8, 8, 12)
    assert batch.truth.shape == (1, 16, 16, 12)
    assert batch.spacing.tolist() == [[2.0, 2.0, 2.0]]
    assert batch.truth_spacing.tolist() == [[1.0, 1.0, 2.0]]
    data.use(None, [-160.0, 240.0])
    assert data.volumes("test")[0].image.shape == (1, 16, 16, 12)


def test_the_window_is_what_is_shown(written):
    wide = VolumeData(str(written), window=[-1000.0, 1000.0]).volumes("val")[0].image
    usual = VolumeData(str(written)).volumes("val")[0].image
    torch.testing.assert_close(wide * 2000 - 1000, usual * 400 - 160, atol=1e-3, rtol=0)


@pytest.mark.parametrize("channel", ["CT", "ct_venous"])
def test_a_ct_is_shown_in_the_window_of_soft_tissue(uneven, channel):
    describe(uneven, channel_names={"0": channel})
    assert VolumeData(str(uneven)).window == [-160.0, 240.0]


def test_a_window_is_asked_for_where_volumes_are_no_ct(uneven):
    describe(uneven, channel_names={"0": "T1"})
    data = VolumeData(str(uneven))
    with pytest.raises(
        InputError, match=r"window: found none for volumes of 'T1' in .*, expected the two of their intensities"
    ):
        data.first_batch("test")
    with pytest.raises(InputError, match="window: found none"):
        stationing(data)
    assert VolumeData(str(uneven), window=[0.0, 100.0]).volumes("test")[0].image.amax() == 1
    # A trained method brings its own.
    data.use(None, [0.0, 100.0])
    assert data.volumes("test")[0].image.amax() == 1


def test_training_parts_are_drawn_and_evaluation_is_whole():
    data = small(patch=[8, 8], augment="affine", batch_size=3)
    assert data.dataset("train").draws
    assert not data.dataset("test").draws
    batches = list(data.train_dataloader())
    assert [batch.images.shape for batch in batches] == [(3, 1, 8, 8)] * 2
    assert all(torch.equal(batch.truth, batch.labels) for batch in batches)
    again = list(data.train_dataloader())
    assert all(torch.equal(first.images, second.images) for first, second in zip(batches, again, strict=True))
    other = list(small(patch=[8, 8], augment="affine", batch_size=3, seed=1).train_dataloader())
    assert not torch.equal(batches[0].images, other[0].images)
    assert [batch.images.shape for batch in data.test_dataloader()] == [(3, 1, 16, 16)]


def test_patches_larger_than_a_volume_say_what_is_unknown():
    sample = small(patch=[24, 24]).dataset("train")[0]
    assert sample.image.shape == (1, 24, 24)
    assert sample.labels[0].unique().tolist() == [UNKNOWN]
    assert (sample.labels != UNKNOWN).sum() == 16 * 16


def describe(root, **more):
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "7": 1}, **more}))


@pytest.fixture
def uneven(tmp_path):
    """Six cases of six sizes without organs, and no test part."""
    pytest.importorskip("nibabel")
    for number in range(6):
        shape = (8 + number, 8, 4)
        labels = np.zeros(shape, np.uint8)
        labels[2:4, 2:4] = 1
        for kind, name, content in (("images", f"c{number}_0000", labels * 100.0), ("labels", f"c{number}", labels)):
            write_nifti(tmp_path / f"{kind}Tr" / f"{name}.nii.gz", content, np.eye(4))
    describe(tmp_path)
    folds = [{"train": [f"c{number}" for number in range(5)], "val": ["c5"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    return tmp_path


def test_volumes_of_several_sizes_are_evaluated_one_by_one(uneven):
    data = VolumeData(str(uneven), batch_size=2, patch=[4, 4, 4])
    assert data.case_names("train") == ("c0", "c1", "c2", "c3")
    assert (data.case_names("val"), data.case_names("test")) == (("c4",), ("c5",))
    assert data.organ_names == ()
    assert [len(batch) for batch in data.train_dataloader()] == [2, 2]
    data.sets["test"] = data.sets["train"]
    data.__dict__.pop("layouts")
    assert [len(batch) for batch in data.test_dataloader()] == [1] * 4
    with pytest.raises(InputError, match="found 9 x 8 x 4 voxels, expected 8 x 8 x 4 as before: set patch"):
        VolumeData(str(uneven)).first_batch("train")
    assert set(VolumeData(str(uneven)).baselines("test")) == {"all background"}


def test_as_many_bytes_are_kept_as_may_be(written, monkeypatch):
    """Truth on the grid of the files counts, too; a byte a voxel is kept of it, and the same values come back."""
    coarse = {"spacing": [2.0, 2.0, 2.0]}
    volumes, read = VolumeData(str(written), **coarse).volumes("train"), []
    expected = [volumes[number] for number in range(6)]
    each = 8 * 8 * 12 * (4 + 1 + 1) + 16 * 16 * 12
    monkeypatch.setattr(volume_views, "MOST_KEPT", 3 * each)
    shown = volume_views.shown_volume
    monkeypatch.setattr(volume_views, "shown_volume", lambda *rest: read.append(rest[-1]) or shown(*rest))
    volumes = VolumeData(str(written), **coarse).volumes("train")
    for _ in range(2):
        for found, sample in zip(volumes.each(), expected, strict=True):
            for name in ("image", "labels", "organs", "truth"):
                assert torch.equal(getattr(found, name), getattr(sample, name))
                assert getattr(found, name).dtype == getattr(sample, name).dtype
    assert read == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert expected[0].labels.dtype == expected[0].truth.dtype == torch.long


def test_the_usual_class_is_the_most_frequent_one():
    volumes = small().volumes("train")
    truth = torch.stack([sample.truth for sample in volumes.each()])
    known = torch.where(truth == UNKNOWN, 0, truth)
    classes = len(small().class_names)
    expected = torch.stack([(known == number).sum(dim=0) for number in range(classes + 1)]).argmax(dim=0)
    assert torch.equal(volumes.usual(classes), expected)


def test_baselines_are_scores_of_fixed_maps():
    pytest.importorskip("monai")
    data = small(world={**WORLD, "train": 1})
    nothing = data.baselines("test")["all background"]
    assert (nothing["Dice"], nothing["missed"]) == (0.0, 1.0)
    assert all(math.isnan(nothing[name]) for name in ("HD", "HD95", "ASD"))
    usual = "most frequent class of each voxel"
    assert data.baselines("train")[usual]["Dice"] == 1.0, "of one volume it is the volume's own"
    assert data.baselines("test")[usual]["Dice"] < 0.9


def test_a_ct_has_slabs_of_vessels_and_organs():
    data = VolumeData(embedded="ct")
    assert data.dimensions == 3
    assert "aorta" in data.class_names
    assert [data.organ_names[number - 1] for number in data.anchor_numbers][:2] == ["spine", "left hip"]
    assert data.volumes("test")[0].image.shape == (1, 112, 80, 8)
    assert data.describe()["volumes"] == {"train": 8, "val": 2, "test": 4}
    with pytest.raises(InputError, match="world: found size, expected no settings for ct"):
        VolumeData(embedded="ct", world={"size": 3}).dataset("train")


def test_a_network_sees_a_file_as_the_data_show_it(written):
    from ommatid.data.volumes import read_volume

    data = VolumeData(str(written), spacing=[2.0, 2.0, 2.0])
    sample = data.volumes("test")[0]
    volume = read_volume(written / "imagesTs" / f"{data.case_names('test')[0]}_0000.nii.gz")
    image, spacing = network_input(volume, data.spacing, data.window)
    assert torch.equal(image, sample.image)
    assert torch.equal(spacing, sample.spacing)
    logits = torch.nn.functional.one_hot(sample.labels, 5).movedim(-1, 0)[None].float()
    assert file_labels(logits, volume).shape == (16, 16, 12)


def test_what_is_there_is_described(written):
    told = VolumeData(str(written), patch=[8, 8, 8]).describe()
    assert told["name"] == "made (nnunet, fold 0)"
    assert (told["dimensions"], told["classes"], told["organs"], told["patch"]) == (3, 4, 9, [8, 8, 8])
    assert small().describe()["name"] == "world-phantoms"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"root": "/nowhere"}, "/nowhere: no such folder, expected volumes with label maps"),
        ({"spacing": [1.0, 0.0]}, "spacing: found"),
        ({"spacing": [1.0, 1.0, 1.0]}, r"spacing: found \[1.0, 1.0, 1.0\], expected 2 lengths"),
        ({"patch": [0, 4]}, "patch: found"),
        ({"patch": [4, 4, 4]}, r"patch: found \[4, 4, 4\], expected 2 numbers of voxels"),
        ({"window": [240.0, -160.0]}, "window: found"),
        ({"world": {"train": 0}}, "train: found 0, expected at least 1 phantom"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
    ],
)
def test_mistakes_are_told_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        _ = small(**settings).dataset("train")[0]


def test_names_from_the_command_line_are_checked():
    with pytest.raises(InputError, match="embedded"):
        build(VolumeData, {"embedded": "world-clouds"})
