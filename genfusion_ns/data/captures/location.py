"""Where the data of a run are, today: config.yml says where they were when the run was started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.messages import say

_FLAG = "--load-config"
_AROUND = 8
"""Folders around config.yml in which data are looked for; nerfstudio puts it four folders deep."""


def config_file() -> Path | None:
    """The config.yml that this command was given, as nerfstudio's commands name it; they hand on only what is in it."""
    for before, argument in zip(["", *sys.argv], sys.argv, strict=False):
        if before == _FLAG or argument.startswith(f"{_FLAG}="):
            return Path(argument.removeprefix(f"{_FLAG}="))
    return None


def located(data: Path, config: Path | None) -> Path:
    """Absolute path of a capture that a run names.

    Args:
        data: as the run names it.
        config: config.yml of the run, where it is read from one; data that are gone are looked for beside it and beside
            the folders around it, by the trailing parts of their path, the longest first.

    Raises:
        CaptureError: a run whose data are neither where it says nor near its config.yml.
    """
    if data.exists() or config is None:
        return Path(os.path.abspath(data))
    for candidate in _near(data, Path(os.path.abspath(config)).parent):
        if candidate.exists():
            say(f"{data} is not there any more; the run's data are read from {candidate}.")
            return candidate
    raise CaptureError(
        f"{config}: its key pipeline.datamanager.data names {data}, which does not exist, nor is there anything of "
        "that name near config.yml. Correct the key to where the capture is now (ns-render dataset also takes --data), "
        "or move it back."
    )


def absolute_if_there(path: Path | None) -> Path | None:
    """A path that is relative to the working directory made absolute; others, such as those inside the data, stay."""
    return path if path is None or not path.exists() else Path(os.path.abspath(path))


def _near(data: Path, folder: Path) -> Iterator[Path]:
    parts = [part for part in data.parts if part not in (data.anchor, ".", "..")]
    for start in range(len(parts)):
        for around in (folder, *folder.parents)[:_AROUND]:
            candidate = around.joinpath(*parts[start:])
            if candidate not in (folder, *folder.parents):  # nerfstudio names a folder of runs after the data
                yield candidate
