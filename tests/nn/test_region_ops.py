"""Non-maximum suppression and region pooling against loops that follow their definitions literally."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.nn import region_ops
from ommatid.nn.region_ops import nms, roi_align


def suppress_one_by_one(boxes, scores, threshold):
    """The definition: take the best box left, drop what overlaps it too much."""
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    for i in order:
        if all(iou(boxes[i], boxes[j]) <= threshold or math.isnan(iou(boxes[i], boxes[j])) for j in kept):
            kept.append(i)
    return kept


def iou(a, b):
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else math.nan


corner = st.integers(0, 6)
extent = st.integers(0, 4)  # zero: boxes without area
scored_box = st.tuples(corner, corner, extent, extent, st.integers(0, 3))  # few scores: many ties


@settings(deadline=None, max_examples=150)
@given(
    st.lists(scored_box, max_size=24), st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7, 1.0]), st.sampled_from([1, 3, 256])
)
def test_nms_keeps_what_the_definition_keeps(scored, threshold, block):
    rows = torch.tensor(scored, dtype=torch.float64).reshape(-1, 5)
    boxes, scores = torch.cat([rows[:, :2], rows[:, :2] + rows[:, 2:4]], dim=1), rows[:, 4]
    whole, region_ops.BLOCK = region_ops.BLOCK, block
    try:
        kept = nms(boxes, scores, threshold)
    finally:
        region_ops.BLOCK = whole
    assert kept.tolist() == suppress_one_by_one(boxes.tolist(), scores.tolist(), threshold)


def test_nms_compares_with_the_threshold_in_full_precision():
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 1, 1]])  # intersection over union: 0.1 rounded up to single precision
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.1).tolist() == [0]
    assert nms(boxes, torch.tensor([0.9, 0.8]), float(torch.tensor(0.1))).tolist() == [0, 1]


def test_nms_of_a_long_chain_keeps_every_other_box():
    left = torch.arange(600.0)
    boxes = torch.stack([left, torch.zeros(600), left + 2, torch.ones(600)], dim=1)
    assert nms(boxes, -left, 0.3).tolist() == list(range(0, 600, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_nms_takes_half_precision_and_integers(dtype):
    boxes = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 7], [20, 20, 24, 24]], dtype=dtype)
    assert nms(boxes, torch.tensor([1, 2, 3], dtype=dtype), 0.5).tolist() == [2, 1]


def random_boxes(count, span):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * span
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 50], dim=1)
    return boxes, torch.rand(count, generator=generator)


def test_nms_of_many_boxes_needs_no_square_matrix():
    boxes, scores = random_boxes(6000, 100)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            largest.append(max((r.numel() for r in [result] if isinstance(r, torch.Tensor)), default=0))
            return result

    with Watch():
        kept = nms(boxes, scores, 0.3)
    assert max(largest) <= region_ops.BLOCK * 6000
    assert 0 < len(kept) < 2000


def test_nms_does_not_step_from_box_to_box():
    """Its operations are counted: a loop over 2,000 boxes would need thousands."""
    boxes, scores = random_boxes(2000, 1000)
    count = 0

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal count
            count += 1
            return func(*args, **(kwargs or {}))

    with Count():
        kept = nms(boxes, scores, 0.7)
    assert len(kept) > 1000
    assert count < 1000


def pool_one_by_one(features, rois, scale, bins_y, bins_x, ratio, aligned):
    """The definition: the mean of bilinear samples, a sample more than one pixel outside counting as zero."""
    pooled = features.new_zeros(len(rois), features.shape[1], bins_y, bins_x)
    for k, (image, *corners) in enumerate(rois.tolist()):
        left, top, right, bottom = (c * scale - 0.5 * aligned for c in corners)
        span_x, span_y = (right - left, bottom - top) if aligned else (max(right - left, 1), max(bottom - top, 1))
        count_y = ratio if ratio > 0 else math.ceil(span_y / bins_y)
        count_x = ratio if ratio > 0 else math.ceil(span_x / bins_x)
        for i in range(bins_y):
            for j in range(bins_x):
                for a in range(count_y):
                    for b in range(count_x):
                        y = top + (i + (a + 0.5) / count_y) * span_y / bins_y
                        x = left + (j + (b + 0.5) / count_x) * span_x / bins_x
                        pooled[k, :, i, j] += bilinear(features[int(image)], y, x) / max(count_y * count_x, 1)
    return pooled


def bilinear(image, y, x):
    _, height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(len(image), dtype=image.dtype)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    low_y, low_x = int(y), int(x)
    high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
    part_y, part_x = y - low_y, x - low_x
    upper = (1 - part_x) * image[:, low_y, low_x] + part_x * image[:, low_y, high_x]
    lower = (1 - part_x) * image[:, high_y, low_x] + part_x * image[:, high_y, high_x]
    return (1 - part_y) * upper + part_y * lower


ROIS = torch.tensor(
    [[0, 2, 2, 14, 10], [1, -6, -4, 5, 5], [1, 6, 1, 30, 25], [0, 3, 3, 3, 3], [0, 40, 40, 50, 50]], dtype=torch.float64
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [2, 1, -1])
def test_roi_align_averages_what_the_definition_averages(ratio, aligned):
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = pool_one_by_one(features, ROIS, 0.5, 3, 2, ratio, aligned)
    torch.testing.assert_close(roi_align(features, ROIS, 0.5, 3, 2, ratio, aligned), expected)


def test_roi_align_gives_the_same_in_many_chunks(monkeypatch):
    features = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    whole = roi_align(features, ROIS.float(), 0.5, 3, 2, -1, False)
    monkeypatch.setattr(region_ops, "LOOKUPS_AT_ONCE", 1)
    torch.testing.assert_close(roi_align(features, ROIS.float(), 0.5, 3, 2, -1, False), whole)


def test_roi_align_passes_gradients_to_the_features():
    features = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: roi_align(f, ROIS, 0.3, 2, 2, 2, True), features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_keeps_half_precision_features_half(dtype):
    features = torch.ones(2, 1, 8, 8, dtype=dtype)
    pooled = roi_align(features, ROIS[:1].float(), 0.5, 2, 2, 2, False)
    assert pooled.dtype == dtype
    assert (pooled == 1).all()


def test_roi_align_of_no_regions_is_empty():
    assert roi_align(torch.zeros(1, 4, 8, 8), torch.zeros(0, 5), 1.0, 7, 5, 2, False).shape == (0, 4, 7, 5)
