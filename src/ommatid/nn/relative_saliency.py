"""Saliency without labels: how far a patch's feature is from its picture's, its past's and its surroundings'
(PAVER, arXiv:2209.08956, E8-E11)."""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

Scores = Float[Tensor, "batch time patch"]


def relative_saliency(
    patches: Float[Tensor, "batch time patch dim"],
    cls: Float[Tensor, "batch time dim"],
    valid: Bool[Tensor, "batch time"] | None = None,
) -> dict[str, Scores]:
    """Mean squared distance of every patch token to the CLS token of its frame ("local", E8), to the same patch's mean
    over the frames ("temporal", E9), and to the mean over the frame's patches ("spatial", E10).

    Args:
        valid: frames that are real; the others have no part in means over time, and score 0. All where None, which is
            what was released.

    Examples:
        >>> tokens = torch.zeros(1, 2, 4, 8)
        >>> tokens[0, 1, 3] = 2.0
        >>> scores = relative_saliency(tokens, torch.ones(1, 2, 8))
        >>> {name: score[0, 1].tolist() for name, score in scores.items()}
        {'local': [1.0, 1.0, 1.0, 1.0], 'temporal': [0.0, 0.0, 0.0, 1.0], 'spatial': [0.25, 0.25, 0.25, 2.25]}
    """
    patches, cls = _single(patches), _single(cls)
    real = torch.ones_like(cls[..., 0]) if valid is None else valid.to(cls.dtype)
    # Whatever fills a padded frame, NaN included, must not reach the means.
    patches = patches if valid is None else patches.masked_fill(~valid[..., None, None], 0)
    cls = cls if valid is None else cls.masked_fill(~valid[..., None], 0)
    frames = real.sum(dim=1).clamp(min=1)[:, None, None, None]
    references = {
        "local": cls[:, :, None],
        "temporal": patches.sum(dim=1, keepdim=True) / frames,
        "spatial": patches.mean(dim=2, keepdim=True),
    }
    return {name: ((patches - reference) ** 2).mean(dim=-1) * real[..., None] for name, reference in references.items()}


def combined_saliency(scores: Mapping[str, Scores], weights: Mapping[str, float] | None = None) -> Scores:
    """Weighted sum of the scores; those without a weight count once.

    Examples:
        >>> score = torch.ones(1, 1, 2)
        >>> combined_saliency({"local": score, "spatial": score}, {"spatial": 0.5})
        tensor([[[1.5000, 1.5000]]])
    """
    weights = weights or {}
    return torch.stack([weights.get(name, 1.0) * score for name, score in scores.items()]).sum(dim=0)


def saliency_heatmap(
    scores: Scores, basis: Float[Tensor, "patch height width"]
) -> Float[Tensor, "batch time height width"]:
    """Squared scores, each spread over its patch's map, and scaled to between 0 and 1 in every frame (E11).

    A frame whose map is the same everywhere, such as a padded one, is 0.

    Args:
        basis: of every patch, see `ommatid.nn.sphere.spherical_gaussian_basis`.

    Examples:
        >>> basis = torch.eye(2)[:, None]
        >>> saliency_heatmap(torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]), basis)[0, :, 0].tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    batch = scores.shape[0]
    squares = rearrange(_single(scores) ** 2, "b t n -> (b t) n")
    # Half precision has too few steps for a map that is squared and then stretched.
    with torch.autocast(scores.device.type, enabled=False):
        maps = squares @ basis.to(squares.dtype).flatten(1)
    low, high = maps.amin(dim=1, keepdim=True), maps.amax(dim=1, keepdim=True)
    scaled = (maps - low) / torch.where(high > low, high - low, 1.0)
    return scaled.reshape(batch, -1, *basis.shape[1:])


def _single(values: Tensor) -> Tensor:
    """Single precision at least: scores are squares of differences."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
