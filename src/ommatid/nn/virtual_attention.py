"""Virtual attention inside an ordinary convolution (arXiv:2105.04181, E8-E10): filters in blocks that choose inputs."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError
from ommatid.nn.capture import Layer, select


class VirtualAttention(nn.Module):
    """A convolution whose blocks of filters weigh blocks of input channels, by numbers that no input changes (E8, E9).

    At first every block weighs all inputs alike, and the convolution is what it was. After training the weights can be
    multiplied into the filters, and nothing is left to pay for.

    Args:
        module: the convolution, ungrouped; it stays the one that is trained.
        block_size: channels of a block, a divisor of both numbers of channels.
        log_temperature: of the softmax, as a parameter that several layers may share; one of its own by default.

    Raises:
        InputError: the convolution has groups, or channels that are no whole number of blocks.

    Examples:
        >>> convolution = nn.Conv2d(8, 16, 3, padding=1)
        >>> images = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(VirtualAttention(convolution, block_size=4)(images), convolution(images), atol=1e-6)
        True
    """

    def __init__(self, module: nn.Conv2d, block_size: int = 8, log_temperature: nn.Parameter | None = None) -> None:
        super().__init__()
        if not fits(module, block_size):
            raise InputError(
                f"module: {module} cannot be divided into blocks, expected a convolution without groups whose channels "
                f"are multiples of block_size {block_size}"
            )
        self.convolution, self.block_size = module, block_size
        self.blocks = module.out_channels // block_size, module.in_channels // block_size
        # As a vector: recipes decay what has more dimensions, and a preference is not to decay.
        self.logits = nn.Parameter(torch.zeros(math.prod(self.blocks)))
        self.log_temperature = nn.Parameter(torch.zeros(())) if log_temperature is None else log_temperature

    def attention(self) -> Float[Tensor, "out_block in_block"]:
        """How much every block of filters listens to every block of channels; rows sum to 1 (E8)."""
        return (self.logits.float() / self.log_temperature.float().exp()).view(self.blocks).softmax(dim=1)

    def weight(self) -> Float[Tensor, "out in height width"]:
        """The filters that the layer amounts to (E9)."""
        weight = self.convolution.weight
        # Uniform attention times the number of blocks is one.
        scale = (self.attention() * self.blocks[1]).to(weight.dtype)
        return (
            weight * scale.repeat_interleave(self.block_size, 0).repeat_interleave(self.block_size, 1)[..., None, None]
        )

    def forward(self, images: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out rows columns"]:
        return self.convolution._conv_forward(images, self.weight(), self.convolution.bias)

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """The convolution with the attention in its filters."""
        self.convolution.weight.copy_(self.weight())
        self.logits.zero_()
        return self.convolution

    def entropy(self, normalise: bool = False) -> Float[Tensor, "out_block"]:
        """Of the attention of every block of filters, in nats, or as a share of the largest possible (E10)."""
        attention = self.attention()
        entropy = -torch.special.xlogy(attention, attention).sum(dim=1)
        return entropy / math.log(max(attention.shape[1], 2)) if normalise else entropy


def fits(layer: nn.Module, block_size: int) -> bool:
    """Whether a layer is a convolution that can be divided into blocks of channels."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and not layer.in_channels % block_size
        and not layer.out_channels % block_size
    )


def add_virtual_attention(model: nn.Module, block_size: int = 8, at: Layer = nn.Conv2d) -> list[str]:
    """Give every convolution of a model that can be divided into blocks its attention, with one common temperature.

    Returns:
        Names of the layers, at least one.

    Raises:
        InputError: no convolution of those chosen can be divided.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> add_virtual_attention(model, block_size=4)
        ['2']
        >>> fold_virtual_attention(model)
        >>> model[2]
        Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    chosen = {name: layer for name, layer in select(model, at).items() if fits(layer, block_size)}
    if not chosen:
        raise InputError(f"block_size: no convolution has channels that are multiples of {block_size}")
    shared = nn.Parameter(torch.zeros((), device=next(model.parameters()).device))
    for name, layer in chosen.items():
        assert isinstance(layer, nn.Conv2d)
        attention = VirtualAttention(layer, block_size, shared).to(layer.weight.device)
        model.set_submodule(name, attention.train(layer.training))
    return list(chosen)


def fold_virtual_attention(model: nn.Module) -> None:
    """Multiply all attention into the filters: plain convolutions remain, and the outputs stay."""
    for name, module in list(model.named_modules()):
        if isinstance(module, VirtualAttention):
            model.set_submodule(name, module.fold())


def attention_entropy(model: nn.Module, normalise: bool = False) -> Float[Tensor, ""]:
    """Mean over layers and blocks of the entropy of their attention (E10); a loss term that asks for specialisation.

    Raises:
        InputError: the model has no virtual attention.
    """
    entropies = [layer.entropy(normalise).mean() for layer in virtual_attentions(model)]
    if not entropies:
        raise InputError("model: found no virtual attention, expected one or more (see add_virtual_attention)")
    return torch.stack(entropies).mean()


def virtual_attentions(model: nn.Module) -> Iterator[VirtualAttention]:
    return (module for module in model.modules() if isinstance(module, VirtualAttention))
