"""Zero-shot metrics and the benchmark layout against recorded numbers of a public implementation."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from ommatid.data.zero_shot import unit_attributes, xlsa17
from ommatid.transfer.zero_shot_data import ZeroShotData
from ommatid.transfer.zero_shot_metrics import gzsl_metrics, mean_class_accuracy
from parity.fixture import load_fixture

# --- metrics ---


@pytest.fixture
def measured():
    return load_fixture("sa-gan-gzsl-metrics")


def test_metrics_are_the_recorded_ones(measured):
    predicted, labels, seen, unseen = (
        measured.tensor(f"in/{name}") for name in ("prediction", "target", "seen_classes", "unseen_classes")
    )
    found = gzsl_metrics(predicted, labels, seen, unseen)
    measured.assert_close(found["S"], "out/seen_accuracy")
    measured.assert_close(found["U"], "out/unseen_accuracy")
    measured.assert_close(found["H"], "out/harmonic_mean")
    # Recorded for contrast: what a mean over samples would be.
    measured.assert_close((predicted == labels).float().mean(), "out/sample_accuracy")


def test_a_class_without_samples_is_left_out_and_told(measured):
    """The recorded implementation counts it as 0."""
    predicted, labels, seen = (measured.tensor(f"in/{name}") for name in ("prediction", "target", "seen_classes"))
    kept = labels != seen[0]
    with pytest.warns(UserWarning, match=f"1 of {len(seen)} classes have no samples"):
        found = mean_class_accuracy(predicted[kept], labels[kept], seen)
    assert found == pytest.approx(mean_class_accuracy(predicted[kept], labels[kept], seen[1:]))


# --- layout ---


@pytest.fixture
def stored():
    return load_fixture("sa-gan-xlsa17")


@pytest.fixture
def root(stored, tmp_path):
    """The recorded arrays as the two files of the layout."""
    classes = stored.config["classes"]
    names = np.empty((classes, 1), dtype=object)
    names[:, 0] = [f"class {number}" for number in range(classes)]
    rows = {name: stored.array(f"in/{name}") for name in stored.tensors("in") if name.endswith("_loc")}
    savemat(tmp_path / "res101.mat", {name: stored.array(f"in/{name}") for name in ("features", "labels")})
    savemat(tmp_path / "att_splits.mat", {"att": stored.array("in/att"), "allclasses_names": names, **rows})
    return tmp_path


def test_what_is_read_is_the_recorded_set(stored, root):
    data = xlsa17(root)
    assert data.features.shape == (stored.config["samples"], stored.config["feature_dim"])
    stored.assert_close(unit_attributes(data.attributes), "out/attribute")
    stored.assert_close(data.seen, "out/seen_classes")
    stored.assert_close(data.unseen, "out/unseen_classes")
    for ours, theirs in {"trainval": "train", "test_seen": "test_seen", "test_unseen": "test_unseen"}.items():
        stored.assert_close(data.labels[data.splits[ours]], f"out/{theirs}_label")
    validation = data.labels[data.splits["train"]].unique(), data.labels[data.splits["val"]].unique()
    stored.assert_close(validation[0], "out/validation_seen_classes")
    stored.assert_close(validation[1], "out/validation_unseen_classes")
    stored.assert_close(data.kept_back(), "out/validation_unseen_classes")
    for ours, theirs in {"train": "train", "val": "test_unseen"}.items():
        stored.assert_close(data.labels[data.splits[ours]], f"out/validation_{theirs}_label")
        # Their validation mode forgets to scale.
        stored.assert_close(data.features[data.splits[ours]], f"out/validation_{theirs}_feature")


@pytest.mark.filterwarnings("ignore:.*have no samples")
def test_scaled_splits_are_the_recorded_ones(stored, root):
    data = ZeroShotData(str(root))
    features, labels = data.tensors("train")
    stored.assert_close(features, "out/train_feature")
    stored.assert_close(labels, "out/train_mapped_label")
    tested, numbers = data.tensors("test")
    seen = numbers < len(data.groups.seen)
    stored.assert_close(tested[seen], "out/test_seen_feature")
    stored.assert_close(tested[~seen], "out/test_unseen_feature")
    order = data.groups.order
    assert torch.equal(order[numbers[seen]], stored.tensor("out/test_seen_label"))
    assert torch.equal(order[numbers[~seen]], stored.tensor("out/test_unseen_label"))


@pytest.mark.filterwarnings("ignore:.*have no samples")
def test_validation_uses_the_recorded_classes_and_is_scaled(stored, root):
    data = ZeroShotData(str(root), protocol="validation")
    assert torch.equal(data.groups.seen, stored.tensor("out/validation_seen_classes"))
    assert torch.equal(data.groups.kept_back, stored.tensor("out/validation_unseen_classes"))
    assert data.tensors("train")[0].max() == 1
    mapped = torch.searchsorted(data.groups.seen, stored.tensor("out/validation_train_label"))
    stored.assert_close(mapped, "out/validation_train_mapped_label")


def test_every_recorded_array_is_compared(measured, stored):
    assert set(measured.tensors("out")) == {"seen_accuracy", "unseen_accuracy", "harmonic_mean", "sample_accuracy"}
    parts = {f"{split}_{what}" for split in ("train", "test_seen", "test_unseen") for what in ("feature", "label")}
    kept = {f"validation_{split}_{what}" for split in ("train", "test_unseen") for what in ("feature", "label")}
    groups = {"seen_classes", "unseen_classes", "train_mapped_label"}
    assert set(stored.tensors("out")) == parts | kept | groups | {f"validation_{name}" for name in groups} | {
        "attribute"
    }
