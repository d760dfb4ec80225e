"""What there is to say where nothing is left to write, or where it may not be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class EmptyExportError(ValueError):
    """Nothing is left to write; the message says what was removed, and by what."""


def refuse_empty(what: str, before: int, removed: Mapping[str, int]) -> None:
    """Raise an `EmptyExportError` where all of `before` things were removed.

    Args:
        what: the things in words.
        before: how many there were.
        removed: reasons, with how many things went for each.
    """
    if before > sum(removed.values()):
        return
    reasons = "; ".join(f"{count} {reason}" for reason, count in removed.items() if count)
    raise EmptyExportError(f"the export is empty: of {before} {what} none is left ({reasons or 'there were none'})")


def check_output(path: Path, endings: tuple[str, ...], overwrite: bool) -> str:
    """The ending of a file to write, of those allowed.

    Raises:
        ValueError: another ending, or a folder.
        FileExistsError: the file is there and may not be replaced.
    """
    name = path.name.lower()
    found = [ending for ending in endings if name.endswith(ending) and name != ending]
    if not found or path.is_dir():
        what = "is a folder" if path.is_dir() else "has another ending"
        raise ValueError(f"--output {path} {what}; name a file that ends with {', '.join(endings)}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"--output {path} exists; name another file, or add --overwrite")
    return max(found, key=len)
