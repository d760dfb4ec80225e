"""The command line programs that other programs of ours start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def program_path(name: str) -> str:
    """Where a program such as ns-train is: on the PATH, else beside the Python that runs this."""
    return shutil.which(name) or str(Path(sys.executable).parent / name)


def run_to_end(words: Sequence[str], **settings: Any) -> int:
    """Run a program and return its exit status.

    On Ctrl-C, which a terminal sends to both, it is given the time to save what it has; then the error is passed on.

    Args:
        words: program and arguments.
        settings: as in `subprocess.Popen`.
    """
    process = subprocess.Popen(words, **settings)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
