"""Reading videos, and taking clip features from them with any timm backbone."""

import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ommatid.errors import InputError, MissingDependency

SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".gif"})


def read_clips(path: str | Path, fps: float) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
    """Frames of a video at a steady rate: for the middle of every 1/fps seconds, the frame shown then, with its time.

    The times of the frames themselves count, not a frame rate that the header may state wrongly. Frames are upright,
    and all of the first one's size.

    Raises:
        InputError: the file is missing, no video, or damaged before its first frame.
    """
    if not 0 < fps < math.inf:
        raise InputError(f"fps must be above 0, found {fps}")
    step = 1.0 / fps
    due, last, end = 0.5 * step, None, 0.0
    for moment, image, shown_until in decode_video(Path(path)):
        while last is not None and due < moment:
            yield due, last()
            due += step
        last, end = image, shown_until
    assert last is not None
    # Clips that the last frame fills; a video shorter than one clip still has one.
    while due < end or due <= 0.5 * step:
        yield due, last()
        due += step


def video_duration(path: str | Path) -> float:
    """Seconds from the first frame to the end of the last one, by decoding."""
    [(_, _, end)] = deque(decode_video(Path(path)), maxlen=1)
    return end


def write_video(path: str | Path, frames: UInt8[np.ndarray, "frame height width 3"], fps: int) -> Path:
    """Frames as an H.264 file without visible loss; sides must be even."""
    av = import_pyav()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "4"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return Path(path)


Image = UInt8[np.ndarray, "height width 3"]


def decode_video(path: Path) -> Iterator[tuple[float, Callable[[], Image], float]]:
    """(seconds since the first frame, image as a function, its end) of every frame; at least one.

    A file that breaks off ends where it breaks. Raw frames (`.yuv`, 4:2:0 with 8 bits) have their size in their name,
    as in `street_3840x1920.yuv`.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        length = 1.0 / float(stream.average_rate or 25)
        count, first, size, moment, longest = 0, 0.0, {}, 0.0, 0.0
        try:
            for frame in container.decode(stream):
                time = frame.time if frame.time is not None else count * length
                if not count:
                    first, size = time, {"width": frame.width, "height": frame.height}
                longest, moment = max(longest, time - first - moment), time - first
                # The header states any length; no frame is shown longer than the longest one before it.
                shown = min(length, longest) if count else length
                count += 1
                # Few of the frames are asked for: converting each would cost more than decoding it.
                yield moment, cache(partial(_upright, frame, size)), moment + shown
        except import_pyav().error.FFmpegError:
            if not count:
                raise InputError(f"{path}: damaged before its first frame") from None
        if not count:
            raise InputError(f"{path}: holds no readable video frame")


def open_video(path: Path) -> Any:
    """A file as PyAV opens it, with a video stream at least.

    Raises:
        InputError: the file is missing or no video, or raw frames without their size in the name.
    """
    av = import_pyav()
    if not path.is_file():
        raise InputError(f"{path}: no such video file")
    opening = _opening(path)
    try:
        container = av.open(str(path), **opening)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable video ({type(error).__name__})") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{path}: holds no video stream")
    return container


def _opening(path: Path) -> dict[str, Any]:
    """How a file without a header is opened."""
    if path.suffix.lower() != ".yuv":
        return {}
    size = re.search(r"(?<!\d)\d{2,5}x\d{2,5}(?!\d)", path.stem)
    if size is None:
        raise InputError(f"{path}: found no size in the name, expected raw frames named as in street_3840x1920.yuv")
    return {"format": "rawvideo", "options": {"video_size": size[0], "pixel_format": "yuv420p"}}


def _upright(frame: Any, size: dict[str, int]) -> Image:
    """The picture as it is meant to be seen: phones store upright films lying down, with a note to turn them."""
    turns = round(getattr(frame, "rotation", 0) / 90)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24", **size), turns))


@dataclass(frozen=True)
class Extractor:
    """Clip features of a video: `fps` frames a second through a timm backbone.

    Attributes:
        backbone: timm's name of the model, CLIP's image towers among them.
        weights: file of the backbone's weights; timm's pretrained ones where None; "random" for a net that has
            learned nothing, the same one in every process.
    """

    backbone: str = "resnet50"
    weights: str | None = None
    fps: float = 2.0
    batch_size: int = 32

    @cached_property
    def network(self) -> nn.Module:
        import timm

        if not timm.is_model(self.backbone):
            raise InputError(f"unknown timm backbone {self.backbone!r}; 'timm.list_models()' shows what there is")
        try:
            # Features of a video to predict on must come from the random net that the training features came from.
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = timm.create_model(self.backbone, pretrained=self.weights is None, num_classes=0)
        except Exception as error:  # the hub client raises many kinds
            raise InputError(
                f"pretrained weights of {self.backbone} could not be fetched ({type(error).__name__}): give a file"
            ) from error
        if self.weights not in (None, "random"):
            load_backbone(model, Path(str(self.weights)))
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.inference_mode()
    def __call__(self, path: str | Path) -> tuple[Float[Tensor, "clip channel"], float]:
        """Features of a video's clips, and its duration in seconds."""
        features, batch, end = [], [], 0.0
        for moment, image in read_clips(path, self.fps):
            batch.append(torch.from_numpy(image))
            end = moment + 0.5 / self.fps
            if len(batch) == self.batch_size:
                features.append(self._embed(batch))
                batch = []
        if batch:
            features.append(self._embed(batch))
        return torch.cat(features), end

    def _embed(self, frames: list[UInt8[Tensor, "height width 3"]]) -> Float[Tensor, "clip channel"]:
        config: dict[str, Any] = self.network.pretrained_cfg  # type: ignore[assignment]
        height, width = config["input_size"][-2:]
        device = next(self.network.parameters()).device
        images = torch.stack(frames).to(device).permute(0, 3, 1, 2).float() / 255
        images = F.interpolate(images, [height, width], mode="bilinear", antialias=True)
        mean, std = (torch.tensor(config[key], device=device)[:, None, None] for key in ("mean", "std"))
        return self.network((images - mean) / std).cpu()

    def write(self, folder: Path) -> None:
        """Write down how the features of a folder were taken, so that predictions take theirs alike."""
        (folder / "extractor.json").write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")


def load_backbone(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: not a readable weights file ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: found a {type(state).__name__}, expected a dict of tensors")
    for name, tensor in model.state_dict().items():
        if name in state and state[name].shape != tensor.shape:
            found, expected = tuple(state[name].shape), tuple(tensor.shape)
            raise InputError(f"{path}: {name} has the shape {found}, expected {expected} as in the backbone")
    missing = model.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise InputError(f"{path}: lacks {len(missing)} weights of the backbone (first: {missing[0]})")


def import_pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingDependency("reading videos needs PyAV: pip install 'ommatid[video]'") from error
    return av
