"""Checkpoints that trainings resume from: there whole or not at all, and the same as when they were written."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from pickle import UnpicklingError

from accelerate import Accelerator
from safetensors import SafetensorError

from genfusion_ns.errors import CheckpointError
from genfusion_ns.files import digest_of_file, files_of, folder_to_disk, write_atomically, write_error
from genfusion_ns.json_files import JsonValue, path_inside, read_json, sentence

MARKER = "checkpoint.json"
"""Names the step of the checkpoint that counts, with the checksums of its files; others are incomplete or old."""
_WAY_OUT = "repeat the command to go on from the checkpoint before"


def save_checkpoint(accelerator: Accelerator, output: Path, step: int) -> None:
    """Replace the checkpoint; the old one counts until the new one is complete. Called by all processes.

    A kill at any moment leaves one of the two.

    Raises:
        WriteError: the disk is full or not writable; the old one stays.
    """
    folder = output / f"checkpoint-{step}"
    try:
        accelerator.save_state(str(folder))
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return
        folder_to_disk(folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two are what libraries make of a full disk
        shutil.rmtree(folder, ignore_errors=True)
        raise write_error(folder, error, "the checkpoint", _WAY_OUT) from error
    files = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in files_of(folder)}
    content = json.dumps({"step": step, "files": files}, indent=1)
    write_atomically(output / MARKER, content.encode(), "the mark of the checkpoint", _WAY_OUT)
    for old in output.glob("checkpoint-*"):
        if old.name != f"checkpoint-{step}":
            shutil.rmtree(old)


def load_checkpoint(accelerator: Accelerator, output: Path) -> int:
    """Load the checkpoint, if there is one; the number of steps it has seen, 0 without one.

    Raises:
        CheckpointError: it is damaged, incomplete, or of another network.
    """
    marker = _marker(output)
    step = _step_of(marker)
    if marker is None or step == 0:
        return 0
    folder = output / f"checkpoint-{step}"
    if accelerator.is_main_process:
        _check_files(folder, marker["files"], output)
    try:
        accelerator.load_state(str(folder))
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
        # torch lists every tensor that does not fit
        said = textwrap.shorten(str(error), 300)
        raise CheckpointError(f"{folder} cannot be resumed from: {said}; {_afresh(output)}") from error
    return step


def checkpoint_step(output: Path) -> int:
    """Steps that the checkpoint of a folder has seen; 0 without one.

    Raises:
        CheckpointError: the file that names it is damaged.
    """
    return _step_of(_marker(output))


def _marker(output: Path) -> JsonValue | None:
    """The mark of the checkpoint in a folder; None without one."""
    file = output / MARKER
    return read_json(file, sentence(_afresh(output)), CheckpointError) if file.is_file() else None


def _step_of(marker: JsonValue | None) -> int:
    return 0 if marker is None else marker["step"].whole("a number of steps", 0)


def _check_files(folder: Path, digests: JsonValue, output: Path) -> None:
    if not digests.is_given:
        print(f"{folder} is of a version without checksums: damage to its numbers cannot be seen")
        return
    for name, digest in digests.fields().items():
        path = path_inside(folder, name)
        if path is None:
            digests.refuse(f"checksums of files inside {folder}")
        if not path.is_file():
            raise CheckpointError(f"{folder} cannot be resumed from: {name} is missing; {_afresh(output)}")
        if digest_of_file(path) != digest.value:
            raise CheckpointError(
                f"{folder} cannot be resumed from: {name} is damaged, it does not fit its checksum; {_afresh(output)}"
            )


def _afresh(output: Path) -> str:
    return f"delete {output / MARKER} to train afresh, or restore the folder"
