"""`Segmenter`: the base of every method that parts an image into foreground and background."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.data.images import read_image
from ommatid.dense.data import MaskData
from ommatid.dense.otsu import otsu_of_counts, otsu_threshold
from ommatid.dense.segmentation_metrics import SegmentationScores, confusion_matrices
from ommatid.dense.task import LEVELS, MaskBatch, Segmentation, TiledSegmentation, shown_step
from ommatid.dense.windows import map_in_bands, open_bands
from ommatid.engine.data import DataModule
from ommatid.engine.method import Method
from ommatid.errors import InputError, unknown

Images = Float[Tensor, "batch 3 height width"]
Probabilities = Float[Tensor, "batch 1 height width"]
Threshold = Literal["half", "otsu"]


class Segmenter(Method):
    """Images in [0, 1] in, probabilities of the foreground out.

    A subclass has the arguments `image_size` and `threshold` and implements `forward(images) -> probabilities`, of the
    size of the images, and `training_step`.
    """

    data_module: ClassVar[type[MaskData]] = MaskData  # type: ignore[assignment]
    monitor = "val/IoU"

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, MaskData)
        return {"image_size": data.size}

    def align(self, data: DataModule) -> None:
        assert isinstance(data, MaskData)
        data.use(int(self.hparams.image_size))

    def identity(self, batch: MaskBatch) -> Int[Tensor, "batch"]:
        return batch.index

    def new_scores(self) -> SegmentationScores:
        return SegmentationScores()

    def score(self, batch: MaskBatch) -> dict[str, Float[Tensor, "batch 2 2"]]:
        """What `SegmentationScores` gathers."""
        maps = self(batch.images).float()
        predicted = maps >= self.thresholds(maps)[:, None, None, None]
        return {"confusion": confusion_matrices(predicted, batch.masks > 0, 2, batch.valid)}

    def thresholds(self, maps: Probabilities) -> Float[Tensor, "batch"]:
        """From which probability on a pixel is foreground: one half, or what parts each map best."""
        kind = self.hparams.threshold
        if kind == "otsu":
            return otsu_threshold(maps[:, 0])
        if kind != "half":
            raise unknown("threshold", kind, ("half", "otsu"))
        return maps.new_full((len(maps),), 0.5)

    @torch.no_grad()
    def predict(
        self, image: str | Path, threshold: float | None = None, tile: int | None = None, overlap: float = 0.5
    ) -> Segmentation | TiledSegmentation:
        """The foreground of your own image, in its own size.

        Args:
            image: picture file; it is resized to what was trained on, and its map back, unless there are tiles.
            threshold: from which probability on a pixel is foreground; what the method was trained with where None.
            tile: side in pixels of windows that are seen one by one, for images that show more than those of training
                did. TIFF files are read in parts: of any size, they need memory for one byte a pixel.
            overlap: share of a window that the next one sees, too; their probabilities are averaged.

        Raises:
            InputError: the file is missing or no readable picture, or an argument lies outside its range.
            MissingDependency: a TIFF file in tiles without the extra `slides`.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise InputError(f"threshold must lie in [0, 1], found {threshold}")
        if tile is not None:
            return self._predict_tiles(Path(image), threshold, tile, overlap)
        pixels, size = read_image(image).float() / 255, int(self.hparams.image_size)
        small = F.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True, align_corners=False)
        maps = self.eval()(small.to(self.device)).float()
        chosen = float(self.thresholds(maps)[0]) if threshold is None else threshold
        whole = F.interpolate(maps, pixels.shape[1:], mode="bilinear", align_corners=False)[0, 0].cpu()
        return Segmentation(pixels, whole, chosen)

    def _predict_tiles(self, path: Path, threshold: float | None, tile: int, overlap: float) -> TiledSegmentation:
        image, size = open_bands(path), int(self.hparams.image_size)
        self.eval()

        def maps(windows: Images) -> Probabilities:
            small = F.interpolate(windows, (size, size), mode="bilinear", antialias=True, align_corners=False)
            return F.interpolate(
                self(small.to(self.device)).float(), (tile, tile), mode="bilinear", align_corners=False
            )

        levels = torch.empty(image.height, image.width, dtype=torch.uint8)
        step, shown, counts = shown_step(image.height, image.width), [], torch.zeros(LEVELS + 1)
        for top, pixels, found in map_in_bands(maps, image, tile, overlap):
            band = (found * LEVELS).round().to(torch.uint8)
            levels[top : top + len(band)] = band
            counts += band.flatten().bincount(minlength=len(counts))
            # A copy: a view would keep the whole band.
            shown.append(pixels[:, -top % step :: step, ::step].clone())
        usual = float(otsu_of_counts(counts)) if self.hparams.threshold == "otsu" else 0.5
        chosen = usual if threshold is None else threshold
        return TiledSegmentation(torch.cat(shown, dim=1).float() / 255, levels, chosen)

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """A plain-tensor network, example inputs, and the names of inputs and outputs."""
        size = int(self.hparams.image_size)
        example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        return _PlainSegmenter(self), (example,), ("images",), ("probabilities",)


class _PlainSegmenter(nn.Module):
    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor) -> Tensor:
        return self.segmenter(images)
