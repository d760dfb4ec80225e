"""Values of JSON files that others wrote, read by type and range; errors name the file, the key and what is allowed."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

_MISSING = object()


class JsonFileError(ValueError):
    """A JSON file that cannot be read, or a value in it that cannot be used."""


@dataclass(frozen=True)
class JsonValue:
    """A value that stands somewhere in a file, or is missing there."""

    value: Any
    """As the json module gives it."""
    file: str
    """For messages."""
    key: str = ""
    """Where it stands, such as ``shards[2].file``; empty for all of the file."""
    way_out: str = ""
    """A sentence for messages: what the user can do."""
    error: type[ValueError] = JsonFileError
    """What is raised."""

    @property
    def is_given(self) -> bool:
        """Whether there is such a key, with another value than null."""
        return self.value is not _MISSING and self.value is not None

    def __getitem__(self, name: str) -> JsonValue:
        """The value of a key of this object, which may be missing; raises `error` where this is no object."""
        if not isinstance(self.value, dict):
            self.refuse("an object")
        key = f"{self.key}.{name}" if self.key else name
        return replace(self, value=self.value.get(name, _MISSING), key=key)

    def fields(self) -> dict[str, JsonValue]:
        """All keys of this object."""
        if not isinstance(self.value, dict):
            self.refuse("an object")
        return {name: self[name] for name in self.value}

    def entries(self, allowed: str = "a list") -> list[JsonValue]:
        """The entries of this list."""
        if not isinstance(self.value, list):
            self.refuse(allowed)
        return [replace(self, value=entry, key=f"{self.key}[{i}]") for i, entry in enumerate(self.value)]

    def text(self, allowed: str = "text") -> str:
        """This text, which can be printed and is not empty."""
        if not isinstance(self.value, str) or not self.value or not self.value.isprintable():
            self.refuse(allowed)
        return self.value

    def choice(self, choices: Collection[str]) -> str:
        """This text, one of several."""
        if not isinstance(self.value, str) or self.value not in choices:
            self.refuse(" or ".join(choices))
        return self.value

    def flag(self) -> bool:
        """This truth value."""
        if not isinstance(self.value, bool):
            self.refuse("true or false")
        return self.value

    def number(self, allowed: str = "a number", accepts: Callable[[float], bool] = math.isfinite) -> float:
        """This number, which is finite.

        Args:
            allowed: range in words, for the message.
            accepts: whether a number is in range.
        """
        number = _number(self.value)
        if not math.isfinite(number) or not accepts(number):
            self.refuse(allowed)
        return number

    def whole(self, allowed: str, least: int, most: int = 2**53) -> int:
        """This whole number in least..most, 3.0 as well; `allowed` is for the message."""
        number = _number(self.value)
        if not (least <= number <= most and number.is_integer()):  # comparisons with NaN are false
            self.refuse(allowed)
        return int(self.value)

    def path_in(self, folder: Path) -> Path:
        """The path below `folder` that this text names; see `path_inside`."""
        path = path_inside(folder, self.text("a path"))
        if path is None:
            self.refuse(f"a path that stays inside {folder}: relative, without .., and no link that leads out of it")
        return path

    def refuse(self, allowed: str, way_out: str | None = None) -> NoReturn:
        """Raise `error`: this value is none of what is allowed."""
        shown = "is missing" if self.value is _MISSING else f"is {reprlib.repr(self.value)}"
        where = f"{self.file}: {self.key}" if self.key else self.file
        help_ = self.way_out if way_out is None else way_out
        raise self.error(f"{where} {shown}; allowed: {allowed}. {help_}".rstrip())


def read_json(file: Path, way_out: str = "", error: type[ValueError] = JsonFileError, what: str = "") -> JsonValue:
    """The content of a JSON file in UTF-8.

    Args:
        file: to be read.
        way_out: a sentence for messages: what the user can do.
        error: what is raised.
        what: the kind of file, for messages.

    Raises:
        error: it cannot be read, or is no JSON.
    """
    name = f"{what} {file}".strip()
    try:
        content = file.read_bytes()
    except OSError as reason:
        raise error(f"{name} cannot be read: {reason.strerror}. {way_out}".rstrip()) from reason
    return parse_json(content, name, way_out, error)


def parse_json(
    content: str | bytes, file: str, way_out: str = "", error: type[ValueError] = JsonFileError
) -> JsonValue:
    """Text as the content of a JSON file; other arguments and errors as in `read_json`."""
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as reason:  # not UTF-8, not JSON, absurdly long numbers, deep nesting
        raise error(f"{file} cannot be read as JSON: {reason}. {way_out}".rstrip()) from reason
    return JsonValue(value, file, way_out=way_out, error=error)


def sentence(way_out: str) -> str:
    """A way out that other messages have after a semicolon, as a sentence of its own."""
    return f"{way_out[0].upper()}{way_out[1:]}."


def path_inside(folder: Path, name: str) -> Path | None:
    """The path of a name that a file gives, below a folder; None where it leads out of it.

    Absolute names (of Windows as well), ``..`` and links to places outside of the folder lead out.
    """
    parts = PureWindowsPath(name)
    if "\0" in name or PurePosixPath(name).is_absolute() or parts.anchor or ".." in parts.parts:
        return None
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return None
    return path if inside else None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {reprlib.repr(twice)} stands twice in one object")
    return found


def _number(value: Any) -> float:
    """The number in a JSON value, nan where there is none or it is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
