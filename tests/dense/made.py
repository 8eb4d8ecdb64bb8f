"""Small segmenters and steps for the tests of this field."""

from dataclasses import fields

import torch

from ommatid.dense.boundary import BoundarySettings
from ommatid.dense.evs_net import EVSNet
from ommatid.dense.task import BoundaryBatch, MaskBatch
from ommatid.dense.trans_net import TransNet
from ommatid.engine.settings import build, merge

SMALL = {
    "image_size": 16,
    "network": "unet",
    "widths": [4, 8],
    "boundary": {"critic_base": 4, "critic_blocks": 2, "paste": 0.0},
}


def made(kind, **settings):
    """A small method; settings of the boundary may stand beside the others."""
    inner = {field.name for field in fields(BoundarySettings)}
    outer = {name: value for name, value in settings.items() if name not in inner}
    boundary = {name: value for name, value in settings.items() if name in inner}
    torch.manual_seed(0)
    return build(kind, merge(SMALL, outer, {"boundary": boundary}))


def trans_net(**settings):
    return made(TransNet, **{"kernels": [3, 5], **settings})


def evs_net(**settings):
    return made(EVSNet, **{"kernel": 3, **settings})


def masked(count, seed=0, size=16):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, size, size, generator=generator)
    masks = torch.zeros(count, 1, size, size)
    masks[:, :, 4:10, 5:12] = 1
    return MaskBatch(images, masks, torch.ones_like(masks, dtype=torch.bool), torch.arange(count))


def step(unlabelled=4, source=4, labelled=3):
    return BoundaryBatch(masked(unlabelled, 1), masked(source, 2), masked(labelled, 3))


class Constant(torch.nn.Module):
    """In place of a network: the same logit everywhere, or the logits given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return torch.as_tensor(self.logits, dtype=torch.float32).expand(len(images), 1, *images.shape[2:])
