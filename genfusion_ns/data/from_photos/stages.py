"""Which parts of the work on a capture are done, and for what: a rerun goes on where the last one ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.digests import digest_of
from genfusion_ns.files import LockedError, locked, write_atomically
from genfusion_ns.json_files import JsonFileError, read_json

STAGES = ("photos", "features", "matches", "model", "files")
"""In order; each rests on those before it."""
WORK = ".capture"
"""Folder inside the capture with everything that only `gf-capture` needs."""
_LOCK = "lock"
"""File in it that the process holds which works on the capture."""


class CaptureJournal:
    """Records of the stages of one capture.

    A stage is done for a key, which stands for its settings and, by a chain, for everything before it.
    """

    def __init__(self, out: Path) -> None:
        self.work = out / WORK

    def record(self, stage: str, key: str) -> Any | None:
        """What a stage left for this key; None where it is to be done."""
        try:
            content = read_json(self._file(stage)).value
        except JsonFileError:
            return None
        if not isinstance(content, dict) or content.get("key") != key:
            return None
        return content.get("result")

    def finish(self, stage: str, key: str, result: Any) -> None:
        """A stage is done; `result` is what can be written as JSON, and is not None."""
        content = json.dumps({"key": key, "result": result}, indent=1).encode()
        write_atomically(self._file(stage), content, "the record", "start again; what is done is kept")

    def forget_from(self, stage: str) -> None:
        """This stage and all that rest on it are to be done again."""
        for name in STAGES[STAGES.index(stage) :]:
            self._file(name).unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Nothing is done, of any inputs; the lock stays."""
        for path in self.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def started_from(self) -> Any | None:
        """The inputs of the capture that was begun here."""
        try:
            return read_json(self.work / "inputs.json").value
        except JsonFileError:
            return None

    def start(self, inputs: Any) -> None:
        """A capture of these inputs is begun."""
        write_atomically(self.work / "inputs.json", json.dumps(inputs, indent=1).encode(), "the record")

    def empty(self, name: str) -> Path:
        """An empty folder for unfinished work."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _file(self, stage: str) -> Path:
        return self.work / f"{stage}.json"


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Context manager: no other process works on the capture in `out` meanwhile.

    A folder that `open_journal` refuses is left as it is.

    Raises:
        CaptureError: another process does.
        OSError: the folder cannot be made.
    """
    work = out / WORK
    is_foreign = out.exists() and (not out.is_dir() or (not work.is_dir() and any(out.iterdir())))
    if is_foreign:
        yield
        return
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(work / _LOCK))
        except LockedError as error:
            raise CaptureError(
                f"{out} is being written by another gf-capture ({error.holder}); wait until it ends, or give another "
                "folder"
            ) from error
        yield


def open_journal(out: Path, inputs: list[str], overwrite: bool) -> CaptureJournal:
    """The journal of the capture in `out`, which is begun where there is none.

    Args:
        out: folder of the capture.
        inputs: what it is made from, as the user named it, absolute.
        overwrite: begin anew where it holds a capture of other inputs.

    Raises:
        CaptureError: it holds something else that is not to be touched.
    """
    journal = CaptureJournal(out)
    if out.exists() and not out.is_dir():
        raise CaptureError(f"{out} is a file; the last argument is the folder to write, which may be new")
    if out.is_dir() and any(out.iterdir()):
        found = journal.started_from()
        if found is None and any(path.name != WORK for path in out.iterdir()):
            has_poses = (out / "transforms.json").is_file()
            raise CaptureError(
                f"{out} is not empty and was not written by gf-capture"
                + (": it has poses from elsewhere (transforms.json), which are left as they are" if has_poses else "")
                + "; the last argument is the folder to write, give a new one"
            )
        if found == inputs and not overwrite:
            return journal
        if found is not None and not overwrite:
            before = ", ".join(map(str, found)) if isinstance(found, list) else str(found)
            raise CaptureError(
                f"{out} holds a capture of {before}, not of {', '.join(inputs)}; give another folder, or --overwrite "
                "to make it anew"
            )
        journal.forget_all()
        (out / "transforms.json").unlink(missing_ok=True)
    journal.start(inputs)
    return journal


def key_of(before: str, *settings: object) -> str:
    """The key of a stage by that of the stage before and the settings that it depends on."""
    return digest_of([before, *settings])
