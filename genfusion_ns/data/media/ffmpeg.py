"""nerfstudio's renderer insists on an ffmpeg on PATH; one comes with imageio-ffmpeg."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from genfusion_ns.files import replacing


def ensure_ffmpeg() -> None:
    """Put a bundled ffmpeg on the PATH of this process, unless the system has one.

    The bundled program carries a version in its name, so it is copied to the name that callers look for, in a folder
    of this user's own.
    """
    if shutil.which("ffmpeg") is not None:
        return
    import imageio_ffmpeg

    program = Path.home() / ".cache" / "genfusion_ns" / "bin" / ("ffmpeg.exe" if os.name == "nt" else "ffmpeg")
    if not program.exists():
        with replacing(program) as unfinished:
            shutil.copy2(imageio_ffmpeg.get_ffmpeg_exe(), unfinished)  # it stays executable
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), str(program.parent)])
