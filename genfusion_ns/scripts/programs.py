"""The command line programs that other programs of ours start."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def program_path(name: str) -> str:
    """Where a program such as ns-train is: on the PATH, else beside the Python that runs this."""
    return shutil.which(name) or str(Path(sys.executable).parent / name)
