"""`ClipClassifier`: the base of every method that names what happens in a clip."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.classification.classifier import Classifier, top_hits
from ommatid.data.clips import count_frames
from ommatid.data.images import unit_interval
from ommatid.engine.data import DataModule
from ommatid.engine.settings import build
from ommatid.recognition.clip_data import ClipData, test_views
from ommatid.recognition.sampling import Sampling
from ommatid.recognition.task import ClipBatch, ClipClassification


class ClipClassifier(Classifier):
    """Clips in [0, 1] in, class logits out: a subclass implements `forward(clips) -> logits` and `training_step`."""

    data_module = ClipData

    def __init__(self) -> None:
        super().__init__()
        self.sampling = Sampling()

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, ClipData)
        return {"num_classes": len(data.class_names), "clip_length": data.sampling.clip_length}

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        assert isinstance(data, ClipData)
        self.sampling = data.sampling

    def align(self, data: DataModule) -> None:
        super().align(data)
        assert isinstance(data, ClipData)
        data.use(self.sampling)

    def extras(self) -> dict[str, Any]:
        return {**super().extras(), "sampling": asdict(self.sampling)}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        super().restore_extras(extras)
        self.sampling = build(Sampling, extras["sampling"])

    def probabilities(self, clips: Float[Tensor, "batch view time 3 height width"]) -> Float[Tensor, "batch class"]:
        """Of a video: the mean over its views."""
        views = clips.shape[1]
        return self(clips.flatten(0, 1)).softmax(dim=1).unflatten(0, (-1, views)).mean(dim=1)

    def score(self, batch: ClipBatch) -> dict[str, Float[Tensor, "batch"]]:
        """Top-1 and top-5 accuracy of single videos."""
        return top_hits(self.probabilities(batch.clips), batch.labels)

    @torch.no_grad()
    def predict(self, video: str | Path, top: int = 5) -> ClipClassification:
        """The classes of your own video, most probable first.

        Args:
            video: video file, or a folder of its frames; its clips are taken as those of test videos were.
            top: how many classes.

        Raises:
            InputError: the file is missing or no readable video.
        """
        path = Path(video)
        clips = unit_interval(test_views(path, count_frames(path), self.sampling))
        probabilities = self.eval().probabilities(clips[None].to(self.device))[0].cpu()
        return ClipClassification(clips[len(clips) // 2], self.named(probabilities, top))

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """A plain-tensor network, example inputs, and the names of inputs and outputs."""
        size, length = self.sampling.size, self.sampling.clip_length
        example = torch.rand(1, length, 3, size, size, generator=torch.Generator().manual_seed(0))
        return _PlainClassifier(self), (example,), ("clips",), ("logits",)


class _PlainClassifier(nn.Module):
    def __init__(self, classifier: ClipClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, clips: Tensor) -> Tensor:
        return self.classifier(clips)
