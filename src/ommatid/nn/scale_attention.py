"""A convolution whose kernels look at scales that they learn (arXiv:2209.08788, reconstructed; E1-E7)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError

Kernels = Float[Tensor, "out in height width"]


class ScaleAttentionConv2d(nn.Module):
    """Convolution with kernels made of scale-normalised Gaussian derivatives, every output channel at its own scale.

    The response of such a kernel is largest where its scale meets that of the pattern (E1-E3). Kernels do not depend on
    the input: after training `fold` leaves a plain convolution of the same size and cost (E5).

    Args:
        in_channels, out_channels, kernel_size, stride, groups, bias: as of a convolution; the kernel is odd, and
            the padding keeps the size at stride 1.
        order: highest derivative (E1).
        scales: how many scales there are, shared by as many groups of output channels; None for one a channel.
        learn_scale: let the scales learn (E4).
        basis: "derivatives" of a Gaussian, or "free" kernels blurred to their scale.

    Raises:
        InputError: the kernel is even or smaller than 3, or there are more scales than output channels.

    Examples:
        >>> layer = ScaleAttentionConv2d(3, 8, kernel_size=5, stride=2)
        >>> images = torch.randn(2, 3, 16, 16)
        >>> torch.allclose(layer(images), layer.fold()(images), atol=1e-5)
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        order: int = 3,
        scales: int | None = None,
        learn_scale: bool = True,
        basis: Literal["derivatives", "free"] = "derivatives",
    ) -> None:
        super().__init__()
        if kernel_size < 3 or not kernel_size % 2:
            raise InputError(f"kernel_size must be odd and at least 3, found {kernel_size}")
        scales = out_channels if scales is None else scales
        if not 1 <= scales <= out_channels:
            raise InputError(f"scales must lie between 1 and out_channels {out_channels}, found {scales}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.order, self.basis = kernel_size, stride, order, basis
        lowest, highest = 0.1 * kernel_size + 0.1, 0.3 * kernel_size + 0.1
        # A vector, hence free of weight decay in every recipe (E4).
        self.log_scale = nn.Parameter(torch.linspace(lowest, highest, scales).log(), requires_grad=learn_scale)
        inputs = in_channels // groups
        if basis == "derivatives":
            functions = (order + 1) * (order + 2) // 2
            spread = kernel_size * math.sqrt(2 / (inputs * functions))
            self.weight = nn.Parameter(torch.randn(out_channels, inputs, functions) * spread)
        else:
            spread = math.sqrt(2 / (inputs * kernel_size**2))
            self.weight = nn.Parameter(torch.randn(out_channels, inputs, kernel_size, kernel_size) * spread)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def scale(self) -> Float[Tensor, "out"]:
        """The scale of every output channel, in pixels of what the layer reads (E4)."""
        scales = self.log_scale.float().exp().clamp(0.3, self.kernel_size / 3)
        channel = torch.arange(self.out_channels, device=scales.device)
        return scales[channel * len(scales) // self.out_channels]

    def kernel(self) -> Kernels:
        """The kernels that the layer amounts to (E2)."""
        if self.basis == "free":
            return blurred(self.weight.float(), self.scale())
        functions = gaussian_derivatives(self.scale(), self.kernel_size, self.order)
        return torch.einsum("oib,obhw->oihw", self.weight.float(), functions)

    def forward(self, images: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out rows columns"]:
        kernel = self.kernel().to(self.weight.dtype)
        return F.conv2d(images, kernel, self.bias, self.stride, self.kernel_size // 2, groups=self.groups)

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """A plain convolution that gives the same (E5)."""
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.kernel_size // 2,
            groups=self.groups,
            bias=self.bias is not None,
        ).to(self.weight)
        plain.weight.copy_(self.kernel())
        if self.bias is not None and plain.bias is not None:
            plain.bias.copy_(self.bias)
        return plain.train(self.training)

    def extra_repr(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{sizes}, basis={self.basis}, scales={len(self.log_scale)}"


def gaussian_derivatives(
    scale: Float[Tensor, "kernel"], size: int, order: int
) -> Float[Tensor, "kernel function size size"]:
    """All derivatives up to an order of a Gaussian, times the scale to the power of the order (E1).

    Functions are sorted by total order, and within it by the derivative along the width.

    Examples:
        >>> gaussian_derivatives(torch.tensor([1.0, 2.0]), size=5, order=2).shape
        torch.Size([2, 6, 5, 5])
    """
    position = torch.arange(size, device=scale.device) - size // 2
    reduced = position / scale[:, None]
    bell = torch.exp(-(reduced**2) / 2) / (math.sqrt(2 * math.pi) * scale[:, None])
    # Hermite polynomials: each follows from the two before it.
    hermite = [torch.ones_like(reduced), reduced]
    for degree in range(1, order):
        hermite.append(reduced * hermite[degree] - degree * hermite[degree - 1])
    lines = [(-1) ** degree * hermite[degree] * bell for degree in range(order + 1)]
    planes = [
        torch.einsum("kh,kw->khw", lines[total - along], lines[along])
        for total in range(order + 1)
        for along in range(total + 1)
    ]
    return torch.stack(planes, dim=1)


def blurred(kernels: Kernels, scale: Float[Tensor, "out"]) -> Kernels:
    """Kernels as a Gaussian of their scale sees them, times the scale; what spreads beyond their size is cut off."""
    size = kernels.shape[-1]
    bell = gaussian_derivatives(scale, 2 * size - 1, 0)
    spread = F.conv2d(kernels.transpose(0, 1), bell, padding=size - 1, groups=len(kernels)).transpose(0, 1)
    return spread * scale[:, None, None, None]


def use_scale_attention(model: nn.Module, **settings: object) -> list[str]:
    """Replace every spatial convolution of a model by one that learns its scale (E7); names of the layers.

    Args:
        **settings: order, scales, learn_scale, basis.

    Raises:
        InputError: no convolution has an odd kernel larger than one.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
        >>> use_scale_attention(model, order=2)
        ['0']
        >>> fold_scale_attention(model)
        >>> model[0]
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    replaced = []
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1 and layer.kernel_size[0] % 2:
            like = (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.groups)
            made = ScaleAttentionConv2d(*like, bias=layer.bias is not None, **settings)  # type: ignore[arg-type]
            model.set_submodule(name, made.to(layer.weight).train(layer.training))
            replaced.append(name)
    if not replaced:
        raise InputError("model: found no convolution with an odd kernel larger than 1, expected one or more")
    return replaced


def fold_scale_attention(model: nn.Module) -> None:
    """Plain convolutions of the same cost in the place of all layers that learnt their scale (E5)."""
    for name, module in list(model.named_modules()):
        if isinstance(module, ScaleAttentionConv2d):
            model.set_submodule(name, module.fold())
