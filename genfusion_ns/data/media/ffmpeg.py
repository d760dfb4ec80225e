"""nerfstudio's renderer insists on an ffmpeg on PATH; one comes with imageio-ffmpeg."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def ensure_ffmpeg() -> None:
    """Put a bundled ffmpeg on the PATH of this process, unless the system has one.

    The bundled program carries a version in its name, so it is linked under the name that callers look for, in a folder
    of this user's own.
    """
    if shutil.which("ffmpeg") is not None:
        return
    import imageio_ffmpeg

    folder = Path.home() / ".cache" / "genfusion_ns" / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / ("ffmpeg.exe" if os.name == "nt" else "ffmpeg")
    if not link.exists():
        fresh = folder / f"{link.name}.{os.getpid()}"
        shutil.copy2(imageio_ffmpeg.get_ffmpeg_exe(), fresh)
        fresh.replace(link)
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), str(folder)])
