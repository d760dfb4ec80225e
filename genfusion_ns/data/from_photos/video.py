"""Frames of a video as they are to be seen: turned as its metadata say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from genfusion_ns.data.captures.image_files import CaptureError

_WAY_OUT = "convert it first, such as by ffmpeg -i IN -c:v libx264 OUT.mp4"


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


def frames_of(file: Path) -> Iterator[Any]:
    """All frames of a video in order, to be handed to `pixels_of`; a damaged end ends them.

    Raises:
        CaptureError: it is no video, or nothing of it can be decoded.
    """
    import av

    count = 0
    with _opened(file) as (container, stream):
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                yield frame
                count += 1
        except av.error.FFmpegError as error:
            if count == 0:
                raise CaptureError(f"{file} cannot be decoded ({error}); {_WAY_OUT}") from error
    if count == 0:
        raise CaptureError(f"{file} has no frame that can be decoded; {_WAY_OUT}")


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
    except ImportError as error:
        raise ImportError(
            "videos are read by PyAV, which is not installed: pip install 'genfusion-ns[capture]'"
        ) from error
    try:
        container = av.open(str(file))
    except (av.error.FFmpegError, OSError) as error:
        raise CaptureError(f"{file} is not a video that can be read ({error}); {_WAY_OUT}") from error
    with container:
        if not container.streams.video:
            raise CaptureError(f"{file} has no video stream; give the video itself, or photos")
        yield container, container.streams.video[0]
