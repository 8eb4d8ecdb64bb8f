"""KDExplainer: its loss and temperatures, the tree it leaves, trained alone, drawn and explained."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ommatid.classification.data import ImageData
from ommatid.engine.fit import evaluate, fit
from ommatid.engine.settings import build
from ommatid.errors import CheckpointError, InputError
from ommatid.nn.expert_hierarchy import ExpertHierarchy
from ommatid.transfer.kdexplainer import KDExplainer, read_tree
from ommatid.transfer.vam import VAM

TINY = {
    "channels": 1,
    "image_size": 8,
    "mean": [0.3],
    "std": [0.4],
    "teacher": "digits_cnn",
    "teacher_steps": 5,
    "width": 3,
    "last_width": 2,
    "head_hidden": 4,
    "head_size": 1,
    "rest_epochs": 0,
    "crop_pad": 0,
    "flip": False,
    "dropout": 0.0,
}


def tiny(**settings):
    torch.manual_seed(0)
    return KDExplainer(**{**TINY, **settings})


@pytest.fixture(scope="module")
def data():
    return ImageData(size=8, channels=1, batch_size=64)


def test_the_loss_is_that_of_labels_and_of_soft_targets(data):
    method, batch = tiny(ce_weight=0.3, kd_weight=0.6, kd_temperature=2.0).train(), data.first_batch()
    found = method.training_step(batch, 0)
    with torch.no_grad():
        ours, theirs = method(batch.images), method.teacher.eval()(batch.images)
    soft = F.kl_div((ours / 2).log_softmax(1), (theirs / 2).softmax(1), reduction="batchmean")
    torch.testing.assert_close(found.detach(), 0.3 * F.cross_entropy(ours, batch.labels) + 0.6 * 4 * soft)


def test_without_a_teacher_labels_alone_are_learnt_smoothed_if_asked(data):
    method, batch = tiny(teacher=None, smoothing=0.2).train(), data.first_batch()
    found = method.training_step(batch, 0)
    torch.testing.assert_close(found, F.cross_entropy(method(batch.images), batch.labels, label_smoothing=0.2))
    assert "teacher_top1" not in method.score(batch)


def test_the_teacher_changes_nothing_of_how_the_student_begins():
    with_teacher, alone = tiny(), tiny(teacher=None)
    for name, weight in alone.network.state_dict().items():
        torch.testing.assert_close(with_teacher.network.state_dict()[name], weight)


def test_the_temperature_falls_with_the_epoch_or_with_the_run(monkeypatch):
    inverse, linear = tiny(temperature=10.0), tiny(temperature=5.0, annealing="linear", last_temperature=1.0)
    monkeypatch.setattr(KDExplainer, "current_epoch", 4)
    monkeypatch.setattr(KDExplainer, "share_done", 0.5)
    assert inverse.annealed() == pytest.approx(2.0)
    assert linear.annealed() == pytest.approx(3.0)


def test_attention_rests_as_long_as_asked(data):
    method = tiny(rest_epochs=1, teacher=None)
    before = [each.logits.clone() for each in method.network.attention]
    fit(method, data, trainer={"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 0})
    for each, old in zip(method.network.attention, before, strict=True):
        torch.testing.assert_close(each.logits, old)


def test_the_last_temperature_is_kept_and_used(data, tmp_path):
    method = tiny(temperature=7.0, annealing="linear", last_temperature=0.5, teacher=None)
    fit(method, data, trainer={"max_steps": 4, "max_epochs": -1, "limit_val_batches": 0})
    assert float(method.temperature) < 7.0
    loaded = KDExplainer.load(method.save(tmp_path / "m.safetensors"))
    images = data.first_batch().images
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), method.eval()(images))


def test_a_tree_is_taken_from_a_checkpoint_and_trained_without_attention(data, tmp_path):
    soft = tiny(teacher=None)
    path = soft.save(tmp_path / "soft.safetensors")
    alone = tiny(teacher=None, tree_of=str(path))
    assert read_tree(path) == soft.network.tree() == alone.chosen
    assert not len(alone.network.attention)
    fit(alone, data, trainer={"max_steps": 2, "max_epochs": -1, "limit_val_batches": 0})
    saved = alone.save(tmp_path / "tree.safetensors")
    path.unlink()
    again = KDExplainer.load(saved)
    assert again.chosen == alone.chosen
    scores = evaluate(again, data, "test", {"limit_test_batches": 1})
    assert scores["top1"] == scores["tree_top1"]
    assert "entropy" not in again.read_outs(data)


def test_a_tree_of_another_method_is_refused(tmp_path):
    network = VAM(channels=1, image_size=8, mean=[0.3], std=[0.4], teacher="digits_cnn", student="digits_cnn")
    with pytest.raises(CheckpointError, match="a checkpoint of VAM, expected one of KDExplainer"):
        read_tree(network.save(tmp_path / "vam.safetensors"))


def test_read_outs_measure_attention_and_tree(data):
    method = tiny(teacher=None)
    for attention in method.network.attention:
        torch.nn.init.zeros_(attention.logits)
    found = method.read_outs(data)
    assert found["entropy"] == pytest.approx(1.0)
    assert found["class_entropy"] == pytest.approx(1.0)
    # All children of equal preferences choose the first parent: one way for all.
    assert (found["path_overlap"], found["leaves"]) == (1.0, 1.0)


def test_predict_names_the_way_of_the_winner(tmp_path):
    method = tiny(teacher=None)
    method.class_names = [f"digit {number}" for number in range(10)]
    Image.new("L", (20, 20), 90).save(tmp_path / "one.png")
    found = method.predict(tmp_path / "one.png", top=3)
    told = json.loads(json.dumps(found.to_json()))
    assert len(told["classes"]) == 3
    place = found.winner
    for step, block in zip(reversed(found.tree), reversed(told["way"]), strict=True):
        place = step[place]
        assert place == block
    assert set(told["shares_last_block_with"]) == {
        name
        for number, name in enumerate(method.class_names)
        if found.tree[-1][number] == found.tree[-1][found.winner] and number != found.winner
    }
    found.draw(tmp_path / "one-explained.png")
    assert Image.open(tmp_path / "one-explained.png").width > 400


def test_a_picture_that_is_none_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png"):
        tiny(teacher=None).predict(tmp_path / "text.png")


def test_training_leaves_a_picture_of_the_tree(tmp_path):
    (path,) = tiny(teacher=None).draw_training(tmp_path)
    assert Image.open(path).width > 400


def test_authors_weights_are_read_under_their_names(tmp_path):
    method = tiny(teacher="digits_cnn")
    state = {"conv1_0.0.weight": torch.zeros(64, 3, 7, 7)}
    torch.manual_seed(5)
    source = ExpertHierarchy(10, 1, width=3, last_width=2, head_hidden=4, head_size=1).state_dict()
    names = {"conv1": "0", "norm1": "1", "conv2": "3", "norm2": "4"}
    for level, count in enumerate((2, 4, 8)):
        for name, place in names.items():
            for key in [key for key in source if key.startswith(f"levels.{level}.{name}.")]:
                kind = key.rsplit(".", 1)[1]
                for block in range(count):
                    whole = source[key]
                    part = whole if whole.ndim == 0 else whole.unflatten(0, (count, -1))[block]
                    state[f"conv{level + 2}_{block}.{place}.{kind}"] = part.clone()
        state[f"branch_{level + 2}.0"] = source[f"attention.{level}.logits"].view([4, 8, 10][level], count)
    for layer, theirs in enumerate(("fc1_{}.0", "fc2_{}.0", "fc2_{}.3")):
        for kind in ("weight", "bias"):
            for task in range(10):
                state[f"{theirs.format(task)}.{kind}"] = source[f"heads.layers.{layer}.{kind}"][task].clone()
    torch.save(state, tmp_path / "released.pth")
    method.load_published(tmp_path / "released.pth")
    for name, tensor in source.items():
        torch.testing.assert_close(method.network.state_dict()[name], tensor)
    assert not method.teacher_is_trained, "a hierarchy brings no teacher"


def test_the_paper_s_larger_hierarchy_builds():
    method = build(KDExplainer, {"num_classes": 200, "image_size": 64, "stem": "large", "experts": [2, 4, 8, 16]})
    assert method.network.heads.layers[0].weight.shape == (200, 128, 1568)
