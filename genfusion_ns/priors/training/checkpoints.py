"""Checkpoints that trainings resume from, and files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

from accelerate import Accelerator
from safetensors import SafetensorError

MARKER = "checkpoint.json"
"""Names the step of the checkpoint that counts; others are incomplete or old."""


def save_checkpoint(accelerator: Accelerator, output: Path, step: int) -> None:
    """Replace the checkpoint; the old one counts until the new one is complete. Called by all processes.

    A kill at any moment leaves one of the two.
    """
    accelerator.save_state(str(output / f"checkpoint-{step}"))
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    for path in (output / f"checkpoint-{step}").rglob("*"):
        if path.is_file():
            _to_disk(path)
    replace_file(output / MARKER, json.dumps({"step": step}))
    for old in output.glob("checkpoint-*"):
        if old.name != f"checkpoint-{step}":
            shutil.rmtree(old)


def load_checkpoint(accelerator: Accelerator, output: Path) -> int:
    """Load the checkpoint, if there is one; the number of steps it has seen, 0 without one.

    Raises:
        ValueError: it is damaged, incomplete, or of another network.
    """
    step = checkpoint_step(output)
    if step == 0:
        return 0
    folder = output / f"checkpoint-{step}"
    try:
        accelerator.load_state(str(folder))
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
        # torch lists every tensor that does not fit
        said = textwrap.shorten(str(error), 300)
        raise ValueError(f"{folder} cannot be resumed from: {said}; {_afresh(output)}") from error
    return step


def checkpoint_step(output: Path) -> int:
    """Steps that the checkpoint of a folder has seen; 0 without one.

    Raises:
        ValueError: the file that names it is damaged.
    """
    marker = output / MARKER
    if not marker.is_file():
        return 0
    try:
        return int(json.loads(marker.read_text(encoding="utf-8"))["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{marker} names no step ({error!r}); {_afresh(output)}") from error


def _afresh(output: Path) -> str:
    return f"delete {output / MARKER} to train afresh, or restore the folder"


def replace_file(path: Path, content: str) -> None:
    """Write a text file so that a kill at any moment leaves the old one or the new one."""
    staging = path.with_name(f".{path.name}.part")
    staging.write_text(content, encoding="utf-8")
    _to_disk(staging)
    os.replace(staging, path)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside its place, then move its files there one by one.

    Other files of the folder stay. Folders that are written anew never hold a part of a file.
    """
    staging = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        write(staging)
        for source in sorted(path for path in staging.rglob("*") if path.is_file()):
            target = folder / source.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
