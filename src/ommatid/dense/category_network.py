"""The rival of references: a network with one output for each category, which can tell none but those."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.dense.boundary import BoundarySettings
from ommatid.dense.networks import PixelNetwork
from ommatid.dense.ref_net import RefNet
from ommatid.dense.reference_data import IGNORED, ReferenceData
from ommatid.dense.reference_task import ReferenceBatch
from ommatid.dense.segmenter import Probabilities
from ommatid.dense.task import MaskBatch
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe


class CategoryNetwork(RefNet):
    """Softmax over categories and ground, learnt from the label maps of the same few images as Ref-Net learns from.

    It answers the same queries, and does not look at the references.

    Args:
        categories: how many there are.
        image_size, network, backbone, pretrained, widths, recipe: as of `RefNet`.
        paste: share of labelled images of which all objects get a background from the source.
    """

    claims = ()

    def __init__(
        self,
        categories: int = 6,
        image_size: int = 128,
        network: str = "deeplabv3plus",
        backbone: str = "resnet101",
        pretrained: bool = False,
        widths: list[int] = [16, 32, 64],  # noqa: B006  (plain values for the command line; never changed)
        paste: float = 0.0,
        recipe: Recipe = Recipe("adam", lr=1e-3, schedule="constant"),
    ) -> None:
        self.categories = categories
        super().__init__(
            image_size,
            network,
            backbone,
            pretrained,
            widths,
            boundary=BoundarySettings(judges=[], critic_blocks=0, self_weight=0.0, paste=paste),
            recipe=recipe,
        )
        self.save_hyperparameters(logger=False)

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, ReferenceData)
        return {**super().arguments_from(data), "categories": len(data.class_names)}

    def build_network(self) -> nn.Module:
        settings = self.hparams
        options = settings.network, settings.backbone, settings.pretrained, settings.widths
        return PixelNetwork(*options, outputs=self.categories + 1)

    def forward(self, batch: ReferenceBatch) -> Probabilities:  # type: ignore[override]
        """Probability of the category that is asked for."""
        found = self.network(batch.images).float().softmax(dim=1)
        asked = batch.category[:, None, None, None].expand(-1, 1, *found.shape[2:])
        return found.gather(1, asked)

    def labelled_loss(self, batch: MaskBatch) -> Float[Tensor, ""]:
        assert isinstance(batch, ReferenceBatch)
        return F.cross_entropy(self.network(batch.images).float(), batch.maps, ignore_index=IGNORED)
