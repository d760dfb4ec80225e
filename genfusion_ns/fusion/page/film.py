"""A video of the scene, as it is or smaller."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from genfusion_ns.data.media.video_writer import is_whole


@dataclass(frozen=True)
class Smaller:
    """How a video is encoded again."""

    lines: int
    """Height in pixels at most."""
    rate_factor: int
    """Of x264; more is coarser."""


SMALLER = (Smaller(480, 28), Smaller(360, 33))


def find_film(run: Path) -> Path | None:
    """The newest whole video in the folder of a run."""
    files = sorted(run.glob("*.mp4"), key=lambda file: file.stat().st_mtime, reverse=True)
    return next((file for file in files if is_whole(file)), None)


def read_film(file: Path) -> bytes:
    """An mp4.

    Raises:
        ValueError: it is something else, or not whole.
    """
    if not is_whole(file):
        raise ValueError(f"--video {file} is no whole mp4; give one, such as ns-render writes")
    return file.read_bytes()


def encoded_again(film: bytes, how: Smaller) -> bytes:
    """A video (H.264) with fewer pixels and bits, and without sound.

    Raises:
        ValueError: ffmpeg cannot read it; the message carries what it said.
    """
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        source.write_bytes(film)
        size = f"scale=-2:'2*trunc(min({how.lines},ih)/2)'"
        words = [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(source), "-an", "-vf", size),
            *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(how.rate_factor), "-preset", "medium"),
            *("-movflags", "+faststart", str(target)),
        ]
        ended = subprocess.run(words, capture_output=True, text=True)
        if ended.returncode != 0 or not target.is_file():
            raise ValueError(f"the video cannot be encoded again, ffmpeg says: {ended.stderr.strip()[-300:]}")
        return target.read_bytes()
