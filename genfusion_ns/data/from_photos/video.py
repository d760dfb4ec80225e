"""Frames of a video as they are to be seen: turned as its metadata say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from genfusion_ns.data.captures.image_files import CaptureError

_WAY_OUT = "copy it from the camera again, or convert it, such as by ffmpeg -i IN -c:v libx264 OUT.mp4"
_MOST_UNREADABLE = 1000
"""Packets that cannot be decoded after which a video is given up."""


def number_of_frames(file: Path) -> int | None:
    """How many frames the header of a video promises, which may be wrong; None where it says nothing.

    Raises:
        CaptureError: see `frames_of`.
    """
    with _opened(file) as (container, stream):
        if stream.frames:
            return stream.frames
        seconds = container.duration / 1e6 if container.duration else None
        return round(seconds * float(stream.average_rate)) if seconds and stream.average_rate else None


@dataclass
class Reading:
    """How far a video could be read; complete when `frames_of` has ended."""

    frames: int = 0
    """Frames that came."""
    unreadable: int = 0
    """Packets of the file that could not be decoded."""
    seconds: float = 0.0
    """Time of the last frame since the first."""
    promised: int | None = None
    """Frames by the header; None where it says nothing."""
    promised_seconds: float | None = None
    """Length by the header."""

    @property
    def damage(self) -> str | None:
        """What is missing of the video, in words; None where it is whole, as far as can be told.

        Headers may count frames that are not to be shown, such as those that were trimmed away, or all ticks of a
        clock; so their length must be missed as well, by more than a sound may go on.
        """
        is_short = self.promised_seconds is not None and self.seconds < 0.95 * self.promised_seconds - 1
        has_all = self.promised is not None and self.frames >= self.promised
        if not self.unreadable and (not is_short or has_all):
            return None
        of_all = f" of the {self.promised} that it promises" if self.promised else ""
        return (
            f"is damaged or cut off: {self.frames} frame(s){of_all} can be read, the last at {self.seconds:.1f} s; "
            "copy it from the camera again for the rest"
        )


def frames_of(file: Path, reading: Reading | None = None) -> Iterator[Any]:
    """All frames of a video that can be decoded, in order, to be handed to `pixels_of`.

    Args:
        file: a video.
        reading: notes how far it could be read.

    Raises:
        CaptureError: it is no video, or nothing of it can be decoded.
    """
    reading = Reading() if reading is None else reading
    with _opened(file) as (container, stream):
        stream.thread_type = "AUTO"
        reading.promised = stream.frames or None
        reading.promised_seconds = container.duration / 1e6 if container.duration else None
        first = None
        for frame in _decoded(container, stream, reading):
            first = frame.time if first is None else first
            reading.frames += 1
            reading.seconds = max(reading.seconds, (frame.time or 0.0) - (first or 0.0))
            yield frame
    if reading.frames == 0:
        raise CaptureError(f"{file} has no frame that can be decoded; {_WAY_OUT}")


def _decoded(container: Any, stream: Any, reading: Reading) -> Iterator[Any]:
    """The frames of a stream; packets that are damaged are passed over and counted."""
    from av.error import FFmpegError

    packets = container.demux(stream)
    while reading.unreadable < _MOST_UNREADABLE:
        try:
            packet = next(packets, None)
            frames = [] if packet is None else packet.decode()
        except FFmpegError:
            reading.unreadable += 1
            continue
        if packet is None:
            return
        yield from frames


def pixels_of(frame: Any, longest: int | None = None, grey: bool = False) -> UInt8[np.ndarray, "H W *C"]:
    """A frame of `frames_of`, the right way up.

    Args:
        frame: as it came.
        longest: shrink it so that its longer side has at most so many pixels.
        grey: the luma alone.
    """
    width, height = frame.width, frame.height
    if longest is not None and max(width, height) > longest:
        scale = longest / max(width, height)
        width, height = max(2, round(width * scale)), max(2, round(height * scale))
    pixels = frame.to_ndarray(format="gray" if grey else "rgb24", width=width, height=height)
    # Metadata turn counter-clockwise, as numpy does.
    return np.ascontiguousarray(np.rot90(pixels, round(getattr(frame, "rotation", 0) / 90) % 4))


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, Any]]:
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise ImportError(
            "videos are read by PyAV, which is not installed: pip install 'genfusion-ns[capture]'"
        ) from error
    try:
        container = av.open(str(file))
    except (FFmpegError, OSError) as error:
        raise CaptureError(f"{file} is not a video that can be read, or is cut off ({error}); {_WAY_OUT}") from error
    with container:
        if not container.streams.video:
            raise CaptureError(f"{file} has no video stream; give the video itself, or photos")
        yield container, container.streams.video[0]
