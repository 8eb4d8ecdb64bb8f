"""Box suppression and region pooling in plain PyTorch: exact, vectorised, and without compiled extensions."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

BLOCK = 256
LOOKUPS_AT_ONCE = 2**22


def nms(boxes: Real[Tensor, "box 4"], scores: Real[Tensor, " box"], iou_threshold: float) -> Int[Tensor, " kept"]:
    """Greedy non-maximum suppression: indices of the kept boxes (x1, y1, x2, y2), best score first.

    A box falls when its intersection over union with a better kept box exceeds `iou_threshold`. Equal scores keep their
    order; boxes without area never suppress each other. Memory grows with the number of boxes, not with its square.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]])
        >>> nms(boxes, torch.tensor([0.8, 0.9, 0.1]), 0.5)
        tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order].to(torch.promote_types(boxes.dtype, torch.float32))
    limit = _largest_not_above(iou_threshold, ranked.dtype)
    kept = [order[:0]]
    remaining = torch.arange(len(order), device=order.device)
    while len(remaining):  # greedy by definition: a block can only be judged once the better ones are
        block, rest = remaining[:BLOCK], remaining[BLOCK:]
        survivors = block[_greedy(_overlap(ranked[block], ranked[block], limit))]
        kept.append(survivors)
        remaining = rest[~_overlap(ranked[survivors], ranked[rest], limit).any(dim=0)]
    return order[torch.cat(kept)]


def roi_align(
    features: Float[Tensor, "batch channel height width"],
    rois: Float[Tensor, "roi 5"],
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "roi channel {pooled_height} {pooled_width}"]:
    """Bilinear average of each region over a grid of bins (Mask R-CNN, arXiv:1703.06870), differentiable in `features`.

    Args:
        rois: image index and corners x1, y1, x2, y2; `spatial_scale` turns the corners into feature pixels.
        sampling_ratio: samples per bin and axis; 0 or less takes about one per feature pixel.
        aligned: shift by half a pixel, so that pixel centres and box coordinates agree.

    Examples:
        >>> ramp = torch.arange(8.0).expand(1, 1, 8, 8)
        >>> roi_align(ramp, torch.tensor([[0.0, 2, 2, 6, 6]]), 1.0, 1, 2, 2, True)
        tensor([[[[2.5000, 4.5000]]]])
    """
    _, channels, height, width = features.shape
    if not len(rois):
        return features.new_zeros(0, channels, pooled_height, pooled_width)
    dtype = torch.promote_types(features.dtype, torch.float32)
    table = rearrange(features.to(dtype), "b c h w -> (b h w) c")
    with torch.no_grad():
        image = rois[:, 0].long()
        left, top, right, bottom = (rois[:, 1:].to(dtype) * spatial_scale).unbind(dim=1)
        row, row_weight = _axis_samples(top, bottom, pooled_height, height, sampling_ratio, aligned)
        column, column_weight = _axis_samples(left, right, pooled_width, width, sampling_ratio, aligned)
        row = row + (image * height)[:, None, None]

    def pool(chunk: slice) -> Tensor:
        lookup = row[chunk, :, None, :, None] * width + column[chunk, None, :, None, :]
        weight = row_weight[chunk, :, None, :, None] * column_weight[chunk, None, :, None, :]
        lookup, weight = (rearrange(x, "k p q y x -> (k p q) (y x)") for x in (lookup, weight))
        return F.embedding_bag(lookup, table, per_sample_weights=weight, mode="sum")

    lookups = pooled_height * pooled_width * row.shape[-1] * column.shape[-1]
    step = max(1, LOOKUPS_AT_ONCE // lookups)
    # Adaptive sampling asks for so many lookups that they are made in turns.
    pooled = torch.cat([pool(slice(start, start + step)) for start in range(0, len(rois), step)])
    return rearrange(pooled, "(k p q) c -> k c p q", p=pooled_height, q=pooled_width).to(features.dtype)


def _largest_not_above(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of `dtype` up to `threshold`: comparing with it decides as in full precision."""
    rounded = torch.tensor(threshold, dtype=dtype)
    if rounded.item() > threshold:
        rounded = torch.nextafter(rounded, torch.tensor(-math.inf, dtype=dtype))
    return rounded.item()


def _overlap(
    boxes: Float[Tensor, "box 4"], others: Float[Tensor, "other 4"], limit: float
) -> Bool[Tensor, "box other"]:
    """Which pairs have an intersection over union above `limit`; in place, because memory traffic is the whole cost."""
    left, top, right, bottom = boxes[:, :, None].unbind(dim=1)
    other_left, other_top, other_right, other_bottom = others.unbind(dim=1)
    shared = torch.minimum(right, other_right).sub_(torch.maximum(left, other_left)).clamp_(min=0)
    shared *= torch.minimum(bottom, other_bottom).sub_(torch.maximum(top, other_top)).clamp_(min=0)
    area = (right - left) * (bottom - top)
    other_area = (other_right - other_left) * (other_bottom - other_top)
    return shared.div_((area + other_area).sub_(shared)) > limit


def _greedy(overlaps: Bool[Tensor, "box box"]) -> Bool[Tensor, " box"]:
    """Which of the boxes, best first, survive: the one fixed point of "no surviving better box overlaps me"."""
    beats = overlaps.triu(diagonal=1).float()
    survives = torch.ones(len(overlaps), dtype=torch.bool, device=overlaps.device)
    while True:  # every round settles at least one more box, mostly all of them within a few
        settled = survives.float() @ beats == 0
        if torch.equal(settled, survives):
            return survives
        survives = settled


def _axis_samples(
    start: Float[Tensor, " roi"], end: Float[Tensor, " roi"], bins: int, size: int, sampling_ratio: int, aligned: bool
) -> tuple[Int[Tensor, "roi {bins} sample"], Float[Tensor, "roi {bins} sample"]]:
    """Pixels along one axis that every bin reads, and their weights (bilinear, averaged over the bin's samples)."""
    extent = end - start if aligned else (end - start).clamp(min=1)
    start = start - 0.5 if aligned else start
    bin_size = (extent / bins)[:, None, None]
    fixed = sampling_ratio > 0
    counts = torch.full_like(bin_size, sampling_ratio) if fixed else bin_size.ceil().clamp(min=0)
    sample = torch.arange(sampling_ratio if fixed else max(1, int(counts.max())), device=start.device)
    place = torch.arange(bins, device=start.device)[:, None] + (sample + 0.5) / counts.clamp(min=1)
    position = start[:, None, None] + place * bin_size
    counted = (sample < counts) & (position >= -1) & (position <= size)
    position = position.clamp(min=0, max=size - 1)
    low = position.floor()
    pixel = torch.stack([low, (low + 1).clamp(max=size - 1)], dim=-1).long()
    share = counted / counts.clamp(min=1)
    weight = torch.stack([1 - (position - low), position - low], dim=-1) * share[..., None]
    return pixel.flatten(-2), weight.flatten(-2)
