"""What critics of boundaries look at: an image, the part of it that a mask cuts out, and the mask.

Whether a cut-out is clean (no background left inside, nothing of the object left outside) can be seen whatever the
object is: critics that learn it from one kind of object can judge masks of another. Source: Trans-Net
(arXiv:2108.00379), E2-E4 of docs/methods/trans-net.md, and EVS-Net (arXiv:2108.00384), E1-E4 of
docs/methods/evs-net.md.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch channel height width"]
Masks = Float[Tensor, "batch 1 height width"]
Tuples = Float[Tensor, "batch stacked height width"]
MASK_COPIES = 3
"""The mask stands three times in a tuple, so that it weighs as much as a picture in colour."""


def boundary_tuple(images: Images, masks: Masks, shown: Masks | None = None) -> Tuples:
    """Image, image times mask, and three times the mask, stacked along the channels (Trans-Net E2).

    Args:
        masks: what cuts out.
        shown: the mask that the critic is shown; that which cuts out where None. A wrong cut-out beside the right mask
            is what the authors of Trans-Net make of their sources.

    Examples:
        >>> boundary_tuple(torch.rand(2, 3, 8, 8), torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 9, 8, 8])
    """
    shown = masks if shown is None else shown
    return torch.cat([images, images * masks, shown.expand(-1, MASK_COPIES, -1, -1)], dim=1)


def background_tuple(images: Images, masks: Masks) -> Tuples:
    """The same of what the mask leaves out (EVS-Net E2)."""
    return boundary_tuple(images, 1 - masks)


class PatchCritic(nn.Module):
    """Scores of all patches of an image: strided convolutions without norms, which a gradient penalty would not bear.

    Widths double from `base` on: 16 to 512 with six blocks, as published; so is what weights and biases begin with.

    Args:
        in_channels: 9 of a tuple of a picture in colour.
        blocks: how often it halves the resolution.
        sigmoid: whether scores end in (0, 1), as in the authors' code.

    Examples:
        >>> PatchCritic(blocks=3)(torch.rand(2, 9, 32, 32)).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(self, in_channels: int = 9, base: int = 16, blocks: int = 6, sigmoid: bool = True) -> None:
        super().__init__()
        widths = [in_channels, *(base * 2**number for number in range(blocks))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.01)]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)
        self.squash = nn.Sigmoid() if sigmoid else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.normal_(module.bias)

    def forward(self, tuples: Tuples) -> Float[Tensor, "batch 1 rows columns"]:
        return self.squash(self.head(self.blocks(tuples)))


def published_critic(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' critic (`model.{2i}.*`, `out1.0.weight`) under our names.

    Examples:
        >>> sorted(published_critic({"model.0.bias": torch.zeros(16), "out1.0.weight": torch.zeros(1)}))
        ['blocks.0.bias', 'head.weight']
    """
    return {name.replace("model.", "blocks.").replace("out1.0.", "head."): tensor for name, tensor in state.items()}
