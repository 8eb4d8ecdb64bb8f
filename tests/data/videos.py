"""Small real video files for tests."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def grey(level: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A picture of one grey level, which survives compression."""
    return np.full((height, width, 3), level, dtype=np.uint8)


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[float],
    codec: str = "libx264",
    rate: int = 10,
    ticks: int = 1000,
) -> Path:
    """Encode pictures that are shown from the given seconds on; `rate` is what the header says."""
    tick = Fraction(1, ticks)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = tick
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def steady(path: Path, seconds: float = 2.0, rate: int = 10) -> Path:
    """A film that gets lighter by 8 levels with every frame."""
    count = round(seconds * rate)
    return write_video(path, [grey(8 * i % 256) for i in range(count)], [i / rate for i in range(count)])
