"""Metrics, time indices and sampling against the numbers of the public implementations."""

import pytest
import torch

from ommatid.grounding.metrics import recall_at, temporal_iou
from ommatid.grounding.task import sort_moments
from ommatid.grounding.timeindex import (
    anchor_indices,
    pool_to_length,
    sample_to_length,
    seconds_to_steps,
    snap_span,
    steps_to_seconds,
    target_map,
)
from parity.fixture import load_fixture


def test_recall_in_seconds_equals_2dtan():
    fixture = load_fixture("field-eval")
    config = fixture.config
    moments = sort_moments(fixture.tensor("in/windows"), fixture.tensor("in/scores"))
    recall = recall_at(
        moments, fixture.tensor("in/gt"), config["tiou"], config["recall"], config["nms_seconds"], convention="seconds"
    )
    fixture.assert_close(recall, "out/recall_seconds")


def test_recall_in_frames_equals_the_csmgan_group():
    fixture = load_fixture("field-eval")
    moments = sort_moments(fixture.tensor("in/windows_idx"), fixture.tensor("in/scores"))
    gt, config = fixture.tensor("in/gt_idx"), fixture.config
    recall = recall_at(moments, gt, config["tiou"], config["recall"], convention="frames")
    fixture.assert_close(recall.T, "out/recall_frames")


def test_mean_iou_of_the_best_moment_equals_2dtan():
    fixture = load_fixture("field-eval")
    best = sort_moments(fixture.tensor("in/windows"), fixture.tensor("in/scores")).spans[:, 0]
    iou = temporal_iou(best, fixture.tensor("in/gt"))
    fixture.assert_close(iou, "out/iou_top1")
    fixture.assert_close(iou.mean(), "out/miou")


def test_pooling_and_arg_max_indices_equal_vslnet():
    fixture = load_fixture("field-timeindex")
    fixture.assert_close(
        pool_to_length(fixture.tensor("in/feature"), fixture.config["num_units"], keep_short=True), "out/sampled"
    )
    duration = fixture.tensor("in/duration")
    steps = torch.full(duration.shape, fixture.config["num_units"])
    span = torch.stack([fixture.tensor("in/start"), fixture.tensor("in/end")], dim=1)
    index = seconds_to_steps(span, duration, steps)
    fixture.assert_close(index, "out/index")
    fixture.assert_close(steps_to_seconds(index, duration, steps), "out/time")


def test_target_map_equals_2dtan_where_a_moment_exists():
    fixture = load_fixture("field-2dtan")
    expected = fixture.array("in/map_gt")
    steps = expected.shape[-1]
    iou = target_map(fixture.tensor("in/gt"), fixture.tensor("in/duration"), steps)[:, None]
    assert not iou.tril(-1).any()
    # Cells below the diagonal were recorded too, although no moment ends before it starts.
    iou = iou.triu() + fixture.tensor("in/map_gt").tril(-1)
    fixture.assert_close(iou, "in/map_gt")


@pytest.mark.parametrize("name", ["anet", "tacos", "charades"])
def test_sparse_sampling_and_snapped_labels_equal_the_group_loader(name):
    fixture = load_fixture("ssrn-sampling")
    if name not in fixture.config["T"]:
        pytest.skip(f"no {name} in this recording")
    steps = fixture.config["T"][name]
    clips = fixture.tensor(f"in/{name}_num").long()
    frames = fixture.tensor(f"in/{name}_frames")
    fixture.assert_close(
        torch.stack([sample_to_length(video[:n], steps) for video, n in zip(frames, clips, strict=True)]),
        f"out/{name}_frames",
    )
    index = torch.stack([anchor_indices(int(n), steps) for n in clips])
    snapped = snap_span(fixture.tensor(f"in/{name}_label").long(), index, as_released=True)
    fixture.assert_close(snapped, f"out/{name}_label")
