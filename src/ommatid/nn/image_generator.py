"""A small convolutional generator that is trained anew for every batch of images."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError


class ImageGenerator(nn.Module):
    """Images in [0, 1] from latent vectors (CMI, arXiv:2105.08584, E1): a linear map, then two doublings of the size.

    In training mode the batch norms use the statistics of the batch, which is how images are synthesised.

    Args:
        image_size: height and width of the images, a multiple of 4.

    Examples:
        >>> generator = ImageGenerator(latent_dim=8, base_channels=4, image_size=16)
        >>> generator(torch.randn(2, 8)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self, latent_dim: int = 256, base_channels: int = 64, image_size: int = 32, out_channels: int = 3
    ) -> None:
        super().__init__()
        if image_size % 4 or image_size < 4:
            raise InputError(f"image_size: found {image_size}, expected a multiple of 4")
        self.latent_dim = latent_dim
        self.start_size = image_size // 4
        wide, narrow = 2 * base_channels, base_channels
        self.project = nn.Linear(latent_dim, wide * self.start_size**2)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(wide),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(wide, wide, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(wide, narrow, 3, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.LeakyReLU(0.2),
            nn.Conv2d(narrow, out_channels, 3, padding=1),
            nn.Sigmoid(),
        )
        self.reset_parameters()

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel height width"]:
        maps = rearrange(self.project(latents), "b (c h w) -> b c h w", h=self.start_size, w=self.start_size)
        return self.layers(maps)

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02, generator: torch.Generator | None = None) -> None:
        """Start anew: weights from N(0, std), batch-norm scales from N(1, std), biases and shifts 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.weight.normal_(1.0, std, generator=generator)
                module.bias.zero_()


def load_published_generator(state: dict[str, Tensor]) -> ImageGenerator:
    """The generator whose weights the authors of CMI saved, of the size that the weights have.

    Raises:
        InputError: the weights are not those of such a generator.
    """
    names = {"l1.0.": "project.", "conv_blocks.": "layers."}
    renamed = {
        key.replace(old, new, 1): value
        for key, value in state.items()
        for old, new in names.items()
        if key.startswith(old)
    }
    try:
        values, latent_dim = renamed["project.weight"].shape
        base_channels = renamed["layers.7.weight"].shape[0]
        generator = ImageGenerator(
            latent_dim,
            base_channels,
            image_size=4 * math.isqrt(values // (2 * base_channels)),
            out_channels=renamed["layers.9.weight"].shape[0],
        )
        counters = {key: value for key, value in generator.state_dict().items() if key.endswith("num_batches_tracked")}
        generator.load_state_dict({**counters, **renamed})
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        found = ", ".join(list(state)[:3]) or "nothing"
        raise InputError(
            f"state: found {found}, expected the weights l1.* and conv_blocks.* of a CMI generator"
        ) from error
    return generator
