"""DeepLabV3+ (arXiv:1802.02611) on any staged backbone of timm's, in two halves as `ommatid.nn.unet` has them."""

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import FeatureInfo
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from ommatid.errors import InputError

Maps = Float[Tensor, "batch _ _ _"]
RATES = (6, 12, 18)
LOW_WIDTH = 48


class DeepLabEncoder(nn.Module):
    """Maps at a quarter of the size, and at the backbone's last stride, which dilation keeps at `output_stride`."""

    def __init__(
        self, backbone: str = "resnet101", in_channels: int = 3, output_stride: int = 16, pretrained: bool = False
    ) -> None:
        super().__init__()
        try:
            self.backbone = timm.create_model(
                backbone,
                pretrained=pretrained,
                features_only=True,
                output_stride=output_stride,
                in_chans=in_channels,
            )
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise InputError(f"backbone {backbone!r}: {error}") from error
        found = self.backbone.feature_info
        assert isinstance(found, FeatureInfo)
        strides = found.reduction()
        if 4 not in strides:
            raise InputError(f"backbone {backbone!r}: found maps of the strides {strides}, expected one of stride 4")
        self.low = strides.index(4)
        widths = found.channels()
        self.widths = widths[self.low], widths[-1]

    def forward(self, images: Maps) -> list[Maps]:
        found = self.backbone(images)
        return [found[self.low], found[-1]]


class DeepLabDecoder(nn.Module):
    """Atrous spatial pyramid of the last maps, enlarged, joined with the low ones, two convolutions, logits."""

    def __init__(self, widths: tuple[int, int], outputs: int = 1, width: int = 256) -> None:
        super().__init__()
        self.pyramid = ASPP(widths[1], RATES, width)
        self.low = nn.Sequential(nn.Conv2d(widths[0], LOW_WIDTH, 1, bias=False), nn.BatchNorm2d(LOW_WIDTH), nn.ReLU())
        layers: list[nn.Module] = []
        for inputs in (width + LOW_WIDTH, width):
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.merge = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: list[Maps]) -> Maps:
        low, last = maps
        context = F.interpolate(self.pyramid(last), low.shape[2:], mode="bilinear", align_corners=True)
        return self.head(self.merge(torch.cat([context, self.low(low)], dim=1)))


class DeepLabV3Plus(nn.Module):
    """Image to logits of the same size.

    Examples:
        >>> network = DeepLabV3Plus("resnet18").eval()
        >>> network(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(
        self,
        backbone: str = "resnet101",
        in_channels: int = 3,
        outputs: int = 1,
        output_stride: int = 16,
        width: int = 256,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = DeepLabEncoder(backbone, in_channels, output_stride, pretrained)
        self.decoder = DeepLabDecoder(self.encoder.widths, outputs, width)

    def forward(self, images: Maps) -> Maps:
        logits = self.decoder(self.encoder(images))
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=True)
