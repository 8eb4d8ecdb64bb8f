"""COSOC: stages of one training, what is found and kept, ways of deciding on the same crops, and its weights."""

import pytest
import torch

from ommatid.engine.fit import evaluate, fit
from ommatid.engine.runs import RunDir
from ommatid.engine.settings import build
from ommatid.errors import CheckpointError, InputError
from ommatid.nn.crops import overlap
from ommatid.nn.resnet12 import Conv4
from ommatid.transfer.cosoc import COSOC, VIEWS, average_scores
from ommatid.transfer.few_shot_data import EpisodeData

WORLD = {"train": 6, "val": 3, "test": 3, "images": 8, "object_size": 12}
DATA = {"size": 24, "way": 3, "queries": 3, "episodes": 6, "val_episodes": 3, "batch_size": 16}
SMALL = {
    "crop_size": 16,
    "backbone": "conv4-32",
    "exemplar_share": 0.5,
    "embed_dim": 8,
    "queue": 40,
    "seek_crops": 4,
    "crops": 3,
    "recipe": {"lr": 0.05},
}
TRAINER = {"max_steps": 6, "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def data():
    return EpisodeData(**DATA, world=WORLD)


def method(data, kind=COSOC, **settings):
    torch.manual_seed(0)
    made = build(kind, {**COSOC.arguments_from(data), **SMALL, **settings})
    made.report = lambda **_: None
    return made


def test_training_tells_images_apart_first_and_classes_afterwards(data):
    done = []

    class Watched(COSOC):
        def exemplar_loss(self, batch):
            done.append("exemplar")
            return super().exemplar_loss(batch)

        def seek(self, data):
            done.append("seek")
            super().seek(data)

        def classifier_loss(self, batch):
            done.append("classifier")
            return super().classifier_loss(batch)

    made = method(data, Watched)
    classifier = made.classifier.weight.clone()
    fit(made, data, trainer=TRAINER)
    assert done == ["exemplar"] * 3 + ["seek"] + ["classifier"] * 3
    assert not torch.equal(classifier, made.classifier.weight)
    assert len(made.exemplar.queue) == 40


def test_what_was_found_is_kept_with_the_weights(data, tmp_path):
    made = method(data)
    fit(made, data, trainer=TRAINER)
    assert torch.equal(made.fusion.labels, data.sets["train"].labels)
    assert (made.fusion.probabilities >= 0).all()
    assert (made.fusion.probabilities.sum(dim=1) <= 1.0001).all()
    whole = made.fusion.boxes[..., 2] * made.fusion.boxes[..., 3]
    assert 0.079 * 24**2 <= whole.min() <= whole.max() <= 24**2
    loaded = COSOC.load(made.save(tmp_path / "cosoc.safetensors"))
    assert torch.equal(loaded.fusion.boxes, made.fusion.boxes)
    batch = data.first_batch("test", 3)
    assert torch.equal(loaded(batch), made.eval()(batch))


def test_objects_are_sought_anew_in_a_new_training(data):
    made = method(data)
    fit(made, data, trainer=TRAINER)
    first = made.fusion.boxes.clone()
    made.fusion.boxes.zero_()
    fit(made, data, trainer=TRAINER)
    assert (made.fusion.boxes[..., 2] > 0).all()
    assert first.shape == made.fusion.boxes.shape


def test_other_training_images_are_refused_when_it_goes_on(data, tmp_path):
    run = RunDir.create(tmp_path, "cosoc")
    epochs = {**TRAINER, "max_steps": -1, "max_epochs": 4}
    made = method(data)
    fit(made, data, run, {**epochs, "max_epochs": 4})
    other = EpisodeData(**DATA, world={**WORLD, "train": 8, "images": 6})
    with pytest.raises(InputError, match="objects were sought in other training images"):
        fit(method(other, num_classes=6), other, run, {**epochs, "max_epochs": 5}, resume=True)


def test_a_perfect_encoder_finds_the_objects(data):
    """Vectors that tell only whether a crop shows the object: crops that do are kept."""

    class Seeing(COSOC):
        def vectors(self, images, crops):
            truth = self.truth[self.seen : self.seen + len(images)]
            self.seen = (self.seen + len(images)) % len(self.truth)
            shown = overlap(crops.boxes, truth[:, None])
            noise = torch.randn(*shown.shape, 8, generator=torch.Generator().manual_seed(1))
            is_object = (shown > 0.3)[..., None]
            return torch.nn.functional.normalize(torch.where(is_object, torch.ones(8), noise), dim=-1)

    made = method(data, Seeing, seek_crops=12)
    # Objects are sought class by class.
    made.truth, made.seen = data.sets["train"].boxes[data.sets["train"].labels.argsort(stable=True)], 0
    made.seek(data)
    found = made.fusion.overlaps(data)
    assert found["iou/nearest"] > 1.5 * found["iou/random"]


def test_boxes_of_the_data_lead_training_crops(data):
    made, batch = method(data, fusion="boxes", exemplar_share=0.0, box_probability=1.0), data.first_batch("train")
    boxes, chances = made.fusion(batch)
    assert torch.equal(boxes[:, 0], batch.boxes)
    assert (chances == 1).all()
    batch.boxes[0] = torch.nan
    boxes, chances = made.fusion(batch)
    assert chances[:2, 0].tolist() == [0, 1]
    assert boxes.isfinite().all()
    assert method(data, fusion="none", exemplar_share=0.0).fusion(batch)[1].max() == 0


def test_boxes_that_nobody_knows_cannot_be_used(data, tmp_path):
    data.world.write(tmp_path / "set")
    blind = EpisodeData(str(tmp_path / "set"), **DATA)
    for setting in ("fusion", "evaluate"):
        with pytest.raises(InputError, match=f"{setting}: found 'boxes', expected another, since these data have none"):
            method(blind, **{setting: "boxes"}).adopt(blind)
    # Read-outs leave out what cannot be known.
    found = method(blind, fusion="none", exemplar_share=0.0).read_outs(blind)
    assert "accuracy/soc" in found
    assert "accuracy/boxes" not in found


@pytest.mark.parametrize("way", list(VIEWS))
def test_every_way_of_deciding_gives_scores_of_all_classes(way, data):
    made, batch = method(data, evaluate=way).eval(), data.first_batch("test", 4)
    scores = made(batch)
    assert scores.shape == (4, 9, 3)
    assert scores.isfinite().all()
    torch.testing.assert_close(made(batch[2:3]), scores[2:3], rtol=1e-4, atol=1e-5)


def test_soc_and_average_see_the_same_crops(data):
    seen = []

    class Watched(COSOC):
        def vectors(self, images, crops):
            seen.append(crops.boxes)
            return super().vectors(images, crops)

    batch = data.first_batch("test", 2)
    for way in ("soc", "average"):
        method(data, Watched, evaluate=way).eval()(batch)
    assert torch.equal(*seen)


def test_a_table_of_vectors_gives_the_same_accuracy(data, monkeypatch):
    made = method(data)
    with_table = evaluate(made, data, "test", {"accelerator": "cpu"})
    assert made._table is None
    monkeypatch.setattr(EpisodeData, "repeats", lambda *_: False)
    assert evaluate(made, data, "test", {"accelerator": "cpu"}) == pytest.approx(with_table)
    data.evaluated_split = "test"
    assert made.read_outs(data)["accuracy/soc"] == pytest.approx(with_table["accuracy"])


def test_read_outs_compare_the_ways(data):
    made = method(data)
    fit(made, data, trainer=TRAINER)
    data.evaluated_split = "test"
    found = made.read_outs(data)
    assert {f"accuracy/{way}" for way in VIEWS} < set(found)
    assert found["soc over average"] == pytest.approx(found["accuracy/soc"] - found["accuracy/average"])
    assert {"base/whole", "base/boxes", "iou/found", "iou/nearest", "iou/random"} < set(found)
    assert all(0 <= found[name] <= 1 for name in found if name.startswith(("iou", "base", "accuracy")))


def test_one_crop_of_one_picture_is_decided_by_its_cosine():
    support, query = torch.randn(1, 3, 1, 1, 8), torch.randn(1, 4, 1, 8)
    support, query = (torch.nn.functional.normalize(each, dim=-1) for each in (support, query))
    torch.testing.assert_close(average_scores(support, query)[0], query[0, :, 0] @ support[0, :, 0, 0].T)


def test_an_encoder_that_was_trained_before_needs_no_first_stage(data, tmp_path):
    torch.manual_seed(3)
    encoder = Conv4((32,) * 4)
    torch.save(
        {"state_dict": {f"backbone.{key}": value for key, value in encoder.state_dict().items()}}, tmp_path / "e.pth"
    )
    made = method(data, exemplar_weights=str(tmp_path / "e.pth"))
    assert made.exemplar is None
    assert torch.equal(made.encoder.layers[0].weight, encoder.layers[0].weight)
    path = made.save(tmp_path / "cosoc.safetensors")
    (tmp_path / "e.pth").unlink()
    assert torch.equal(COSOC.load(path).encoder.layers[0].weight, encoder.layers[0].weight)
    with pytest.raises(CheckpointError, match="no such weights file"):
        method(data, exemplar_weights=str(tmp_path / "e.pth"))


def test_released_backbones_are_loaded_and_others_refused(data, tmp_path):
    torch.manual_seed(3)
    made, encoder = method(data), Conv4((32,) * 4)
    torch.save({f"module.{key}": value for key, value in encoder.state_dict().items()}, tmp_path / "e.pth")
    made.load_published(tmp_path / "e.pth")
    assert torch.equal(made.encoder.layers[4].weight, encoder.layers[4].weight)
    torch.save(Conv4((16,) * 4).state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"released weights: found .* expected \(32, 3, 3, 3\)"):
        made.load_published(tmp_path / "other.pth")


def test_full_size_has_the_published_encoder():
    with torch.device("meta"):
        made = COSOC(exemplar_share=0.0, fusion="none")
    assert sum(each.numel() for each in made.encoder.parameters()) == pytest.approx(12.4e6, rel=0.01)
    assert made.classifier.weight.shape == (64, 640)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exemplar_share": 1.5}, r"exemplar_share must lie from 0 to 1, found 1\.5"),
        ({"crops": 0}, "crops must be at least 1, found 0"),
        ({"centre": 1.1}, r"centre must lie from 0 to 1, found 1\.1"),
        ({"backbone": "vgg"}, "unknown backbone 'vgg'"),
    ],
)
def test_impossible_settings_are_refused(settings, message, data):
    with pytest.raises(InputError, match=message):
        method(data, **settings)


def test_a_training_without_an_end_is_refused(data):
    endless = {"max_steps": -1, "max_epochs": -1, "accelerator": "cpu"}
    with pytest.raises(InputError, match=r"expected trainer\.max_steps or max_epochs above 0"):
        fit(method(data), data, trainer=endless)
