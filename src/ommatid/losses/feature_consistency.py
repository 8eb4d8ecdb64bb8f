"""Features of a video that change little from patch to neighbouring patch and from frame to frame
(PAVER, arXiv:2209.08956, E12-E14).

The released code differs from the method in all three losses; what it computes stands here under names of its own, for
those who train on from its weights.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Patches = Float[Tensor, "batch time patch dim"]
Valid = Bool[Tensor, "batch time"]


def spatial_consistency_loss(
    patches: Patches, adjacency: Float[Tensor, "patch patch"], valid: Valid | None = None
) -> Float[Tensor, ""]:
    """Mean squared distance of every patch to the mean of its neighbours, which get no gradient (E12).

    Args:
        adjacency: share of each patch (row) in the neighbourhood of another (column).
        valid: frames that count; all where None.

    Examples:
        >>> from ommatid.nn.sphere import spherical_adjacency
        >>> bool(spatial_consistency_loss(torch.ones(1, 2, 8, 4), spherical_adjacency(2)) < 1e-9)
        True
    """
    patches, valid = _prepared(patches, valid)
    # Under autocast the mean would be rounded, and the patches that it is compared with not.
    with torch.autocast(patches.device.type, enabled=False):
        neighbours = torch.einsum("ji,btjc->btic", adjacency.to(patches.dtype), patches.detach())
    return _frame_mean((patches - neighbours) ** 2, valid)


def temporal_consistency_loss(patches: Patches, valid: Valid | None = None) -> Float[Tensor, ""]:
    """Mean squared distance of every patch to the mean of the frames before and after, which get no gradient (E13).

    A frame with one valid neighbour is compared with that one, and a frame without does not count.

    Args:
        valid: frames that count and are compared with; all where None.

    Examples:
        >>> still = torch.ones(1, 3, 1, 1)
        >>> temporal_consistency_loss(still).item(), temporal_consistency_loss(still[:, :1]).item()
        (0.0, 0.0)
    """
    patches, valid = _prepared(patches, valid)
    weights = valid.to(patches.dtype)
    others, known = _sum_beside(patches.detach() * weights[..., None, None]), _sum_beside(weights)
    neighbours = others / known.clamp(min=1)[..., None, None]
    return _frame_mean((patches - neighbours) ** 2, valid & (known > 0))


def cls_consistency_loss(cls: Float[Tensor, "batch time dim"], valid: Valid | None = None) -> Float[Tensor, ""]:
    """Mean squared distance of every frame's CLS token to their mean over the clip, which gets no gradient (E14).

    Args:
        valid: frames that count; all where None.

    Examples:
        >>> cls_consistency_loss(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])).item()
        1.0
    """
    tokens, valid = _prepared(cls[:, :, None], valid)
    frames = valid.sum(dim=1).clamp(min=1)[:, None, None, None]
    return _frame_mean((tokens - tokens.detach().sum(dim=1, keepdim=True) / frames) ** 2, valid)


def released_spatial_consistency_loss(patches: Patches, valid: Valid | None = None) -> Float[Tensor, ""]:
    """What the released code computes for E12: the mean square of the patches themselves.

    It reads the diagonal of the adjacency, which is zero, for the neighbours; padded frames are zero, and count.

    Examples:
        >>> released_spatial_consistency_loss(torch.full((1, 2, 8, 4), 3.0)).item()
        9.0
    """
    patches, valid = _prepared(patches, valid)
    return (patches**2).mean()


def released_temporal_consistency_loss(patches: Patches, valid: Valid | None = None) -> Float[Tensor, ""]:
    """What the released code computes for E13: padded frames are neighbours, too, and count as zero.

    A clip of one frame is compared with nothing: the mean square of its patches.

    Examples:
        >>> released_temporal_consistency_loss(torch.full((1, 1, 8, 4), 3.0)).item()
        9.0
    """
    patches = _single(patches)
    weights = torch.ones_like(patches[..., 0, 0])
    neighbours = _sum_beside(patches.detach()) / _sum_beside(weights).clamp(min=1)[..., None, None]
    squares = (patches - neighbours) ** 2
    return (squares if valid is None else squares * valid[..., None, None]).mean()


def released_cls_consistency_loss(
    cls: Float[Tensor, "batch time dim"], valid: Valid | None = None
) -> Float[Tensor, ""]:
    """What the released code computes for E14: the token's distance to itself divided by the number of valid frames,
    with gradient on both sides, over all frames.

    Examples:
        >>> released_cls_consistency_loss(torch.full((1, 2, 1), 4.0)).item()
        4.0
    """
    cls = _single(cls)
    valid = torch.ones_like(cls[..., 0], dtype=torch.bool) if valid is None else valid
    frames = valid.sum(dim=1).clamp(min=1)[:, None, None]
    return ((cls - cls / frames) ** 2).mean()


def _prepared(patches: Patches, valid: Valid | None) -> tuple[Patches, Valid]:
    """Single precision at least, and zeros in padded frames: what fills them, NaN included, must not count."""
    if valid is None:
        return _single(patches), torch.ones_like(patches[..., 0, 0], dtype=torch.bool)
    return _single(patches).masked_fill(~valid[..., None, None], 0), valid


def _single(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _frame_mean(squares: Patches, valid: Valid) -> Float[Tensor, ""]:
    """Mean over the valid frames; 0 where there is none."""
    frames = squares.mean(dim=(2, 3)) * valid
    return frames.sum() / valid.sum().clamp(min=1)


def _sum_beside(values: Float[Tensor, "batch time *rest"]) -> Float[Tensor, "batch time *rest"]:
    """Sum of the frames before and after."""
    beside = torch.zeros_like(values)
    beside[:, 1:] += values[:, :-1]
    beside[:, :-1] += values[:, 1:]
    return beside
