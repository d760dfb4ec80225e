"""Files that a camera file names otherwise than the disk does."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from genfusion_ns.data.captures.image_files import PHOTO_ENDINGS


class FileLookup:
    """Finds image files by the names in a camera file, forgiving what exporters and copying change.

    That is: backslashes, upper and lower case, umlauts in two letters, an ending that is missing (Blender) or another
    (converted photos), and the folders of the machine on which the file was written. Folders are listed once each.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: that names are relative to.
        """
        self._folder = folder
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path:
        """The file that `name` means; where there is none, or more than one, the path as it is written."""
        name = os.fsdecode(name.encode("utf-8", "surrogateescape"))  # names on disk are UTF-8 whatever the locale
        written = self._folder / name
        if os.path.isfile(written):  # unlike Path.is_file, False for names that are too long for the system
            return written
        for parts in _readings(name):
            folder: Path | None = self._folder
            for part in parts[:-1]:
                folder = self._inner_folder(folder, part) if folder is not None else None
            found = self._file(folder, parts[-1]) if folder is not None else []
            if found:
                return found[0] if len(found) == 1 else written
        return written

    def _inner_folder(self, folder: Path, part: str) -> Path | None:
        if os.path.isdir(folder / part):
            return folder / part
        alike = [name for name in self._names(folder).get(_key(part), []) if (folder / name).is_dir()]
        return folder / alike[0] if len(alike) == 1 else None

    def _file(self, folder: Path, name: str) -> list[Path]:
        """Files in `folder` that `name` may mean: of the name itself, else of its case, else of any ending."""
        if os.path.isfile(folder / name):
            return [folder / name]
        names = self._names(folder)
        # "frame.001" has no ending to strip although it looks like one, hence both stems.
        stems = dict.fromkeys([_key(name), _key(PurePosixPath(name).stem)])
        groups = [[_key(name)], *([stem + ending for ending in PHOTO_ENDINGS] for stem in stems)]
        for group in groups:
            files = [folder / there for alike in group for there in names.get(alike, []) if (folder / there).is_file()]
            if files:
                return files
        return []

    def _names(self, folder: Path) -> dict[str, list[str]]:
        """What is in a folder, by `_key`."""
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                names.setdefault(_key(path.name), []).append(path.name)
            self._listed[folder] = names
        return self._listed[folder]


def _key(name: str) -> str:
    """What names that mean the same file have in common; macOS writes umlauts as two letters."""
    return unicodedata.normalize("NFC", name).casefold()


def _readings(name: str) -> Iterator[tuple[str, ...]]:
    """The parts of a relative name; of an absolute one its trailing parts, the longest first."""
    parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    is_absolute = name.startswith(("/", "\\")) or name[1:2] == ":"
    for start in range(1 if name[1:2] == ":" else 0, len(parts) if is_absolute else min(1, len(parts))):
        yield parts[start:]
