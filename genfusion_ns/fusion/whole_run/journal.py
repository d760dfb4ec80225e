"""Which stages of a run are done, for which settings and inputs: a rerun goes on where the last one ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from genfusion_ns.files import LockedError, locked, write_atomically, write_error
from genfusion_ns.json_files import JsonValue, read_json

RECORD = "run.json"
_FORMAT = 1
FORGOTTEN = "forgotten"
"""Key of a stage that is to be done again whatever its settings."""
_LOCK = ".lock"
_WAY_OUT = "Delete it to do all stages again."


class Journal:
    """The record of one run, on disk after every change."""

    def __init__(self, out: Path, inputs: Sequence[str]) -> None:
        """Read or begin the record in `out`.

        Args:
            out: folder of the run; new, empty, or of an earlier run of the same inputs.
            inputs: what the run is made from, absolute.

        Raises:
            ValueError: the folder holds something else, or a record that cannot be read.
        """
        self.file = out / RECORD
        self._content: dict[str, Any] = {"format": _FORMAT, "inputs": list(inputs), "stages": {}}
        if out.exists() and not out.is_dir():
            raise ValueError(f"--output {out} is a file; give the name of a folder, which may be new")
        if self.file.is_file():
            self._content = self._read(list(inputs))
        elif out.is_dir() and any(path.name != _LOCK for path in out.iterdir()):
            raise ValueError(
                f"--output {out} is not empty and was not written by gf-run (it has no {RECORD}); give a new folder"
            )

    def _read(self, inputs: list[str]) -> dict[str, Any]:
        content = read_json(self.file, _WAY_OUT)
        if content["format"].value != _FORMAT:
            content["format"].refuse(str(_FORMAT))
        found = content["inputs"].value
        if found != inputs:
            before = ", ".join(map(str, found)) if isinstance(found, list) else str(found)
            raise ValueError(
                f"--output {self.file.parent} holds a run of {before}, not of {', '.join(inputs)}; give another folder"
            )
        for name, record in content["stages"].fields().items():
            _check(name, record)
        if content["plan"].is_given:
            content["plan"].fields()
        return content.value

    def stage(self, name: str) -> dict[str, Any] | None:
        """What is written down of a stage: key, words of its commands, seconds, how many times it was made."""
        return self._content["stages"].get(name)

    def is_done(self, name: str) -> bool:
        """The stage was ended, for whatever settings."""
        record = self.stage(name)
        return record is not None and record["done"]

    def forget(self, name: str) -> None:
        """A stage is to be done again from its beginning."""
        record = self.stage(name)
        if record is not None:
            record.update(key=FORGOTTEN, done=False, seconds=0.0)
            self._write()

    def begin(self, name: str, key: str, words: Sequence[str]) -> None:
        """A stage begins, or goes on; `is_done` is False from now on."""
        made = self.made(name)
        before = self.stage(name)
        seconds = before["seconds"] if before is not None and before["key"] == key and not before["done"] else 0.0
        self._content["stages"][name] = {
            "key": key,
            "words": list(words),
            "done": False,
            "seconds": seconds,
            "made": made,
        }
        self._write()

    def finish(self, name: str, seconds: float) -> None:
        """The stage that was begun is done."""
        record = self._content["stages"][name]
        record.update(done=True, seconds=round(record["seconds"] + seconds, 1), made=record["made"] + 1)
        self._write()

    def stop(self, name: str, seconds: float) -> None:
        """The stage that was begun has stopped before its end."""
        record = self._content["stages"][name]
        record["seconds"] = round(record["seconds"] + seconds, 1)
        self._write()

    def seconds(self, name: str) -> float:
        """Time that a stage took, all tries together; 0 where it was never begun."""
        record = self.stage(name)
        return 0.0 if record is None else record["seconds"]

    def made(self, name: str) -> int:
        """How many times a stage was done; what rests on it is done again when this changes."""
        record = self.stage(name)
        return 0 if record is None else record["made"]

    @property
    def plan(self) -> dict[str, Any] | None:
        """What was chosen, and for what; see `keep_plan`."""
        return self._content.get("plan")

    def keep_plan(self, plan: dict[str, Any]) -> None:
        """Write down what was chosen, so that a rerun, on a machine that is more or less busy, chooses the same."""
        self._content["plan"] = plan
        self._write()

    def _write(self) -> None:
        content = json.dumps(self._content, indent=1) + "\n"
        write_atomically(self.file, content.encode(), "the record of the run", "rerun; finished stages are kept")


def _check(name: str, record: JsonValue) -> None:
    record["key"].text()
    record["done"].flag()
    record["seconds"].number("seconds", lambda value: 0 <= value < 1e12)
    record["made"].whole("a count", 0)
    for word in record["words"].entries("a list of words"):
        if not isinstance(word.value, str):
            word.refuse("text")


class Lock:
    """Context manager: nobody else works in a folder. What it starts holds on to it, too."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._held = ExitStack()
        self.descriptor = -1

    def __enter__(self) -> Lock:
        """Take it.

        Raises:
            WriteError: the folder cannot be written.
            ValueError: somebody else has it.
        """
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            self.descriptor = self._held.enter_context(locked(self._out / _LOCK))
        except LockedError as error:
            raise ValueError(
                f"another gf-run, or a command that it has started and that goes on, works in {self._out} "
                f"({error}); wait for it, or end it"
            ) from error
        except OSError as error:
            raise write_error(self._out, error, "into", "give another --output") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()  # what was started may hold it still
