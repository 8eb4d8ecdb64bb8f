"""Networks that give one value for every pixel, by name."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ommatid.data.images import IMAGENET
from ommatid.errors import unknown
from ommatid.nn.deeplab import DeepLabV3Plus
from ommatid.nn.normalise import Normalise
from ommatid.nn.unet import UNet

NETWORKS = ("deeplabv3plus", "unet")


class PixelNetwork(nn.Module):
    """Images in [0, 1] to logits of their size: normalisation, then a network.

    Args:
        name: "deeplabv3plus" or "unet".
        backbone: timm's name of DeepLab's backbone.
        pretrained: with timm's weights of ImageNet, which it downloads once.
        widths: channels of every level of a U-Net.

    Examples:
        >>> import torch
        >>> PixelNetwork("unet", widths=(8, 16))(torch.rand(1, 3, 20, 20)).shape
        torch.Size([1, 1, 20, 20])
    """

    def __init__(
        self,
        name: str = "deeplabv3plus",
        backbone: str = "resnet101",
        pretrained: bool = False,
        widths: Sequence[int] = (8, 16, 32),
        outputs: int = 1,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
    ) -> None:
        super().__init__()
        if name not in NETWORKS:
            raise unknown("network", name, NETWORKS)
        self.normalise = Normalise(list(mean), list(std))
        self.network: nn.Module
        if name == "unet":
            self.network = UNet(len(mean), widths, outputs)
        else:
            self.network = DeepLabV3Plus(backbone, len(mean), outputs, pretrained=pretrained)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch out height width"]:
        return self.network(self.normalise(images))
