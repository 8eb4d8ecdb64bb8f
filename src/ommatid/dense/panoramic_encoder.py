"""A frozen vision transformer that looks all around: its patches lie on planes that touch the sphere (PAVER,
arXiv:2209.08956, E1-E5)."""

import copy
import hashlib
import math
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ommatid.engine.checkpoint import read_foreign
from ommatid.errors import CheckpointError, InputError
from ommatid.nn.normalise import Normalise
from ommatid.nn.sphere import SphericalPatchEmbed

Geometry = Literal["spherical", "planar"]
TINY: dict[str, Any] = {"patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4}
"""Of the vision transformer that is called "tiny"."""
CHUNK = 32
"""Frames that are encoded at once."""


class PanoramicEncoder(nn.Module):
    """Any vision transformer of timm on equirectangular pictures: a token for every patch, and one of the whole.

    Its position embedding is resized to twice as many columns as rows (E5). Nothing else is new: weights that were
    learnt from flat pictures stay as they are.

    Args:
        name: of timm's model, or "tiny".
        height: rows of the pictures, a multiple of the patch size.
        weights: "pretrained" for timm's, a file with timm's names, or None for random ones.
        geometry: "planar" cuts patches out of the picture itself.
        exact, circular: of the sphere's patches, see `SphericalPatchEmbed`.

    Raises:
        InputError: timm has no such vision transformer with a CLS token, or the height is no multiple of its patches.
        CheckpointError: the file cannot be read, or its weights do not fit.

    Examples:
        >>> encoder = PanoramicEncoder("tiny", height=32)
        >>> patches, cls = encoder.encode(torch.zeros(2, 3, 32, 64, dtype=torch.uint8))
        >>> patches.shape, cls.shape
        (torch.Size([2, 32, 64]), torch.Size([2, 64]))
    """

    def __init__(
        self,
        name: str,
        height: int,
        weights: str | None = None,
        geometry: Geometry = "spherical",
        exact: bool = True,
        circular: bool = True,
    ) -> None:
        super().__init__()
        self.name, self.height, self.geometry, self.exact, self.circular = name, height, geometry, exact, circular
        network = _transformer(name, pretrained=weights == "pretrained")
        if weights not in (None, "pretrained"):
            _load(network, Path(str(weights)))
        self.patch_size = int(network.patch_embed.patch_size[0])
        if height < 2 * self.patch_size or height % self.patch_size:
            raise InputError(f"height: found {height}, expected a multiple of the encoder's patches, {self.patch_size}")
        config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
        self.normalise = Normalise(config.get("mean", (0.5,) * 3), config.get("std", (0.5,) * 3))
        stretch(network, (height, 2 * height))
        if geometry == "spherical":
            network.patch_embed = SphericalPatchEmbed(network.patch_embed, height, exact, circular)
        self.network = network

    @property
    def dim(self) -> int:
        """Width of the tokens."""
        return int(self.network.embed_dim)

    @property
    def rows(self) -> int:
        """Patches from pole to pole."""
        return self.height // self.patch_size

    def forward(
        self, images: Float[Tensor, "frame 3 height width"]
    ) -> tuple[Float[Tensor, "frame patch dim"], Float[Tensor, "frame dim"]]:
        """Patch tokens and CLS token of pictures in [0, 1], behind the last norm (E5)."""
        tokens = self.network.forward_features(self.normalise(images))
        return tokens[:, self.network.num_prefix_tokens :], tokens[:, 0]

    @torch.no_grad()
    def encode(
        self, frames: UInt8[Tensor, "frame 3 height width"]
    ) -> tuple[Float[Tensor, "frame patch dim"], Float[Tensor, "frame dim"]]:
        """The tokens of any number of frames, on the CPU, in single precision whatever the training's is."""
        self.eval()
        device = self.normalise.mean.device
        with torch.autocast(device.type, enabled=False):
            # Some at a time: a video's frames would fill the memory of an accelerator.
            parts = [self(part.to(device, self.normalise.mean.dtype) / 255) for part in frames.split(CHUNK)]
        patches, cls = (torch.cat(part).float().cpu() for part in zip(*parts, strict=True))
        return patches, cls

    @torch.no_grad()
    def patch_tokens(self, images: Float[Tensor, "picture 3 height width"]) -> Float[Tensor, "picture patch dim"]:
        """What the patches alone give, before position and attention."""
        return self.network.patch_embed(self.normalise(images.to(self.normalise.mean)))

    def fingerprint(self) -> str:
        """Another one for other weights, another size or another geometry: tokens of one are not the other's."""
        told = hashlib.blake2b(repr(self.describe()).encode(), digest_size=16)
        for name, tensor in self.state_dict().items():
            told.update(name.encode())
            told.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return told.hexdigest()

    def describe(self) -> dict[str, Any]:
        """The settings that decide about tokens, beside the weights."""
        settings = {"encoder": self.name, "height": self.height, "geometry": self.geometry}
        sphere = {"exact": self.exact, "circular": self.circular} if self.geometry == "spherical" else {}
        return {**settings, **sphere}

    def learn_from_views(
        self,
        images: UInt8[Tensor, "view 3 size size"],
        labels: Int[Tensor, "view"],
        steps: int,
        lr: float = 1e-3,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        """Pre-train on what a camera sees, with planar patches: the CLS token tells the label.

        Args:
            images: pictures of one size, a multiple of the patch size.
            seed: of the head and the order; the global generator is left as it was.
        """
        learner = copy.deepcopy(self.network)
        if self.geometry == "spherical":
            learner.patch_embed = learner.patch_embed.patch_embed
        stretch(learner, (images.shape[2], images.shape[3]))
        learner = learner.to(self.normalise.mean.device).requires_grad_(True).train()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _classify(learner, self.normalise, images, labels, steps, lr, batch_size)
        stretch(learner, (self.height, 2 * self.height))
        if self.geometry == "spherical":
            self.network.patch_embed.patch_embed.load_state_dict(learner.patch_embed.state_dict())
            learner.patch_embed = self.network.patch_embed
        self.network.load_state_dict(learner.state_dict())


def stretch(network: Any, size: tuple[int, int]) -> None:
    """Make a vision transformer read pictures of another size: its position embedding is resized, bicubic (E5)."""
    from timm.layers import resample_abs_pos_embed

    embed = network.patch_embed
    before = embed.grid_size
    embed.img_size, embed.grid_size, embed.num_patches = embed._init_img_size(size)
    position = resample_abs_pos_embed(
        network.pos_embed.detach(),
        list(embed.grid_size),
        list(before),
        num_prefix_tokens=0 if network.no_embed_class else network.num_prefix_tokens,
        antialias=False,
    )
    network.pos_embed = nn.Parameter(position.clone(), requires_grad=network.pos_embed.requires_grad)


def _classify(
    network: Any,
    normalise: Normalise,
    images: UInt8[Tensor, "view 3 height width"],
    labels: Int[Tensor, "view"],
    steps: int,
    lr: float,
    batch_size: int,
) -> None:
    """Cross-entropy of a linear head on the CLS token; AdamW, one cycle."""
    device = normalise.mean.device
    head = nn.Linear(network.embed_dim, int(labels.max()) + 1).to(device)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps + 1)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch_size,))
        tokens = network.forward_features(normalise(images[chosen].to(device) / 255))
        loss = F.cross_entropy(head(tokens[:, 0]), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _transformer(name: str, pretrained: bool) -> Any:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    if name == "tiny":
        if pretrained:
            raise InputError("encoder_weights: found 'pretrained', expected a file or none for the encoder 'tiny'")
        size = 8 * TINY["patch_size"]
        network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=size, **TINY)
        network.pretrained_cfg = None  # type: ignore[assignment]
        return network
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"encoder: found {name!r}, expected 'tiny' or a name that timm.list_models('vit_*') has")
    network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    known = isinstance(network, VisionTransformer) and network.cls_token is not None and network.pos_embed is not None
    if not known:
        raise InputError(
            f"encoder: found {name!r}, expected a vision transformer with CLS token and position embedding"
        )
    return network


def _load(network: Any, path: Path) -> None:
    """Weights with timm's names; a position embedding of another size is resized, a classifier left out."""
    from timm.layers import resample_abs_pos_embed

    state = {key: value for key, value in read_foreign(path).items() if not key.startswith("head.")}
    position = state.get("pos_embed")
    if position is not None and position.ndim == 3 and position.shape[1] != network.pos_embed.shape[1]:
        prefix = 0 if network.no_embed_class else network.num_prefix_tokens
        state["pos_embed"] = resample_abs_pos_embed(
            position,
            list(network.patch_embed.grid_size),
            _grid(position.shape[1] - prefix, path),
            num_prefix_tokens=prefix,
            antialias=False,
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: {' '.join(str(error).split())[:200]}, expected weights of the encoder"
        ) from None


def _grid(patches: int, path: Path) -> list[int]:
    """Rows and columns of a square picture, or of one that is twice as wide as high."""
    for wider in (1, 2):
        rows = math.isqrt(max(0, patches) // wider)
        if rows and wider * rows**2 == patches:
            return [rows, wider * rows]
    raise CheckpointError(
        f"{path}: found a position embedding of {patches} patches, expected those of a square picture"
    )
