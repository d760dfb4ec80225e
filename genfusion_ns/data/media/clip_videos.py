"""A clip as a video."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.media.video_writer import VideoWriter

_FRAMES_PER_SECOND = 8


def write_video(path: Path, frames: Float[Tensor, "T H W 3"], frames_per_second: int = _FRAMES_PER_SECOND) -> None:
    """Write an H.264 (yuv420p) mp4 with the ffmpeg that comes with imageio-ffmpeg.

    Args:
        path: ends in .mp4; written completely or not at all.
        frames: colours in 0..1; odd sides are extended by one repeated row or column, as yuv420p needs even ones.
        frames_per_second: playing speed.

    Raises:
        RuntimeError: ffmpeg failed; the message carries its output.
    """
    size = (frames.shape[2], frames.shape[1])
    with VideoWriter(path, size, frames_per_second, preset="veryfast") as writer:  # of the same size at half the cost
        writer.append(frames)
