"""Exemplar pre-training: momentum contrast in which pictures of one class are never pushed apart (E2)."""

import copy
from itertools import chain

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.losses.exemplar import exemplar_loss
from ommatid.nn.colour_views import jitter_colours, random_blur, random_grey
from ommatid.nn.crops import random_crop_boxes, take_crops, whole_box
from ommatid.nn.memory import RingMemory
from ommatid.nn.projection_head import ProjectionHead

Images = Float[Tensor, "batch 3 height width"]


class ExemplarPretraining(nn.Module):
    """What teaches an encoder without belonging to it: heads, a momentum copy, a queue of labelled keys.

    Args:
        encoder: from images to maps of `feature_dim` channels; it is not a part of this module.
        queue: keys of earlier images.
        momentum: of the copy.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        embed_dim: int = 128,
        queue: int = 65_536,
        momentum: float = 0.999,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.momentum, self.temperature = momentum, temperature
        self.head = ProjectionHead(feature_dim, embed_dim)
        self.key_encoder, self.key_head = copy.deepcopy(encoder), copy.deepcopy(self.head)
        self.key_encoder.requires_grad_(False)
        self.key_head.requires_grad_(False)
        self.queue = RingMemory(queue, embed_dim, fields={"label": torch.long})

    def loss(self, encoder: nn.Module, query: Images, key: Images, labels: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
        """E2 of two views; afterwards the keys stand in the queue."""
        queries = self.head(encoder(query).mean(dim=(2, 3)))
        with torch.no_grad():
            keys = self.key_head(self.key_encoder(key).mean(dim=(2, 3))).float()
        known = self.queue.all()
        loss = exemplar_loss(queries, keys, known.values, labels, known.fields["label"], self.temperature)
        self.queue.add(keys, label=labels)
        return loss

    @torch.no_grad()
    def follow(self, encoder: nn.Module) -> None:
        """The copy moves a little towards the encoder."""
        ours: list[Tensor] = list(chain(self.key_encoder.parameters(), self.key_head.parameters()))
        theirs: list[Tensor] = list(chain(encoder.parameters(), self.head.parameters()))
        torch._foreach_lerp_(ours, theirs, 1 - self.momentum)


def exemplar_view(images: Images, size: int) -> Float[Tensor, "batch 3 size size"]:
    """One random view of every image: a crop, mirrored or not, with other colours, grey or blurred."""
    height, width = images.shape[2:]
    boxes = random_crop_boxes(whole_box(height, width, images.device).expand(len(images), 1, 4))
    mirrored = torch.rand(len(images), 1, device=images.device) < 0.5
    view = take_crops(images, boxes, size, mirrored)[:, 0]
    return random_blur(random_grey(jitter_colours(view, share=0.3), share=0.2), share=0.2)
