"""`SaliencyPredictor`: the base of every method that tells where people look in a video shot all around."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from ommatid.data.saliency_videos import frame_chunks
from ommatid.data.video import open_video
from ommatid.dense.panoramic_encoder import PanoramicEncoder
from ommatid.dense.saliency_data import SaliencyData, padded, windows_of
from ommatid.dense.saliency_scores import VideoScores, frame_identity, frame_scores
from ommatid.dense.saliency_task import SaliencyBatch, SaliencyMaps
from ommatid.engine.data import DataModule
from ommatid.engine.method import Method
from ommatid.errors import InputError

Patches = Float[Tensor, "batch time patch dim"]
CLS = Float[Tensor, "batch time dim"]
Valid = Bool[Tensor, "batch time"]
Maps = Float[Tensor, "batch time height width"]
WINDOWS = 8
"""Windows of a user's video that are computed at once."""
FOLDER_FPS = 25.0


class SaliencyPredictor(Method):
    """Windows of encoded frames in, maps between 0 and 1 out.

    A subclass has the arguments `height` and `window`, a frozen `encoder`, and implements `heat_maps` and
    `training_step`.
    """

    data_module: ClassVar[type[SaliencyData]] = SaliencyData  # type: ignore[assignment]
    monitor = "val/CC"
    encoder: PanoramicEncoder

    def heat_maps(self, patches: Patches, cls: CLS, valid: Valid | None = None) -> Maps:
        """Maps of the size of the frames, between 0 and 1; padded frames (not `valid`) change no others."""
        raise NotImplementedError

    def forward(self, batch: SaliencyBatch) -> Maps:
        return self.heat_maps(batch.patches, batch.cls, batch.valid)

    # -- data --

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, SaliencyData)
        return {"height": data.height, "window": data.window}

    def adopt(self, data: DataModule) -> None:
        self.align(data)

    def align(self, data: DataModule) -> None:
        assert isinstance(data, SaliencyData)
        data.use(int(self.hparams.height), int(self.hparams.window))
        data.encode_with(self.encoder)

    # -- scores --

    def identity(self, batch: SaliencyBatch) -> Int[Tensor, "frame"]:
        """The frames that are scored: those with a map, each in one window alone."""
        frames = batch.start[:, None] + torch.arange(batch.valid.shape[1], device=batch.start.device)
        return frame_identity(batch.video[:, None].expand_as(frames)[batch.scored], frames[batch.scored])

    def new_scores(self) -> VideoScores:
        return VideoScores()

    def score(self, batch: SaliencyBatch) -> dict[str, Float[Tensor, "frame"]]:
        """What `frame_scores` tells of every frame with a map."""
        predicted = scored_maps(self(batch), batch)
        return frame_scores(predicted, batch.saliency[batch.scored], self.identity(batch))

    # -- a user's own video --

    @torch.no_grad()
    def predict(self, video: str | Path, start: int = 0, frames: int | None = None) -> SaliencyMaps:
        """Where people would look in your own video.

        Args:
            video: a file, or a folder of numbered frames, equirectangular: twice as wide as high.
            start: number of the first frame that is looked at, from 0.
            frames: how many; all where None. Each takes the memory of a map and a picture of the method's size.

        Raises:
            InputError: the video is missing, unreadable, too short or not equirectangular, or a number is too small.
        """
        path = Path(video)
        if start < 0 or (frames is not None and frames < 1):
            raise InputError(f"start and frames: found {start} and {frames}, expected at least 0 and at least 1")
        fps = frame_rate(path)
        seen, maps = zip(*self.watch(path, start, frames), strict=True)
        return SaliencyMaps(torch.cat(seen), torch.cat(maps), start, fps)

    @torch.no_grad()
    def watch(
        self, video: Path, start: int = 0, frames: int | None = None
    ) -> Iterator[tuple[UInt8[Tensor, "time 3 height width"], Float[Tensor, "time height width"]]]:
        """Frames and their maps in order, some at a time: a video of any length needs no more memory than a part of it.

        Windows are those of `SaliencyData`: the last one is moved back to end with the video.
        """
        self.eval()
        window, height = int(self.hparams.window), int(self.hparams.height)
        before: Tensor | None = None
        for chunk in first_frames(frame_chunks(video, height, WINDOWS * window, start), frames):
            patches, cls = self.encoder.encode(chunk)
            tokens = torch.cat([cls[:, None], patches], dim=1)
            # The last window may begin among the frames before.
            known = tokens if before is None else torch.cat([before, tokens])
            yield chunk, self._maps_of_last(known, len(chunk), window)
            before = known[-window:]

    def _maps_of_last(self, tokens: Float[Tensor, "time token dim"], count: int, window: int) -> Tensor:
        """Maps of the last `count` frames, whose windows begin at the first of these."""
        behind = len(tokens) - count
        places = [(max(0, behind + begin), behind + new) for begin, new in windows_of_part(count, window)]
        parts = torch.stack([padded(tokens[begin : begin + window], window) for begin, _ in places]).to(self.device)
        valid = torch.tensor([[begin + step < len(tokens) for step in range(window)] for begin, _ in places])
        maps = self.heat_maps(parts[:, :, 1:], parts[:, :, 0], valid.to(self.device)).float().cpu()
        ends = [min(begin + window, len(tokens)) for begin, _ in places]
        chosen = zip(maps, places, ends, strict=True)
        return torch.cat([each[new - begin : end - begin] for each, (begin, new), end in chosen])

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """A plain-tensor network, example inputs, and the names of inputs and outputs."""
        window, height = int(self.hparams.window), int(self.hparams.height)
        example = torch.rand(1, window, 3, height, 2 * height, generator=torch.Generator().manual_seed(0))
        return _PlainPredictor(self), (example,), ("frames",), ("maps",)


class _PlainPredictor(nn.Module):
    """A window of frames in [0, 1] in, their maps out."""

    def __init__(self, predictor: SaliencyPredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, frames: Tensor) -> Tensor:
        patches, cls = self.predictor.encoder(frames.flatten(0, 1))
        shape = frames.shape[:2]
        return self.predictor.heat_maps(patches.unflatten(0, shape), cls.unflatten(0, shape))


def scored_maps(maps: Maps, batch: SaliencyBatch) -> Float[Tensor, "frame map_height map_width"]:
    """Maps of the frames that are scored, in the size of what is known: bilinear, as Wild360 is evaluated."""
    chosen = maps[batch.scored].float()
    size = (int(batch.saliency.shape[2]), int(batch.saliency.shape[3]))
    if chosen.shape[1:] == size or not len(chosen):
        return chosen
    return F.interpolate(chosen[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def windows_of_part(count: int, window: int) -> list[tuple[int, int]]:
    """Windows of a part of a video that begins with a window: those of the whole video that end in the part.

    Examples:
        >>> windows_of_part(12, 5), windows_of_part(3, 5)
        ([(0, 0), (5, 5), (7, 10)], [(-2, 0)])
    """
    return [(-(window - count), 0)] if count < window else windows_of(count, window)


def first_frames(
    chunks: Iterator[UInt8[Tensor, "time 3 height width"]], count: int | None
) -> Iterator[UInt8[Tensor, "time 3 height width"]]:
    """The chunks up to so many frames; all where None."""
    left = count
    for chunk in chunks:
        yield chunk if left is None else chunk[:left]
        left = None if left is None else left - len(chunk)
        if left is not None and left <= 0:
            return


def frame_rate(path: Path) -> float:
    """Frames a second of a video, as its header says; 25 for a folder of frames and for raw ones."""
    if path.is_dir():
        return FOLDER_FPS
    with open_video(path) as container:
        return float(container.streams.video[0].average_rate or FOLDER_FPS)
