"""Recorded numbers and real captures: with the tests or in a folder `shared` beside the checkout; else tests skip."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BESIDE = HERE.parents[1] / "shared"


def recorded(name: str) -> Path:
    """A file of recorded numbers, such as `raster/oracle_small.npz`."""
    for folder in (HERE / "fixtures", BESIDE / "fixtures"):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"the recording {name} is too large for the repository, and is not at {BESIDE / 'fixtures' / name}")


def real_capture(scene: str) -> Path:
    """The folder of a real capture, such as `fox`; none belongs to the repository."""
    folder = BESIDE / "data" / "open" / scene
    if not folder.is_dir():
        pytest.skip(f"the capture {scene} is not part of the repository, and there is none at {folder}")
    return folder
