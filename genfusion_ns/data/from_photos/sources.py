"""What a capture is made from: videos, photos, folders of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genfusion_ns.data.captures.checks.colmap import usual_colmap_folder
from genfusion_ns.data.captures.image_files import PHOTO_ENDINGS, CaptureError
from genfusion_ns.data.media.frame_sequences import natural_order

VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".3gp", ".mts", ".insv")
"""Endings of files that are read as videos."""
_UNREADABLE = {
    **dict.fromkeys(
        (".heic", ".heif", ".avif"), "save it as JPEG (on an iPhone: Settings, Camera, Formats, Most Compatible)"
    ),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"), "develop it to JPEG or TIFF"),
}
_POSE_FILES = ("transforms.json", "transforms_train.json")


@dataclass(frozen=True)
class Source:
    """One input: a video, or photos that belong together."""

    path: Path
    """As the user named it."""
    files: tuple[Path, ...]
    """The photos in natural order; the video alone."""
    is_video: bool
    prefix: str = ""
    """What names of its images begin with, so that those of several inputs differ."""

    def identity(self) -> list[list[Any]]:
        """Name, size and time of change of each file: what changes when it does."""
        return [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns] for file in self.files]


def find_sources(given: Sequence[Path]) -> list[Source]:
    """The inputs that a user names, in the order given; photos that are named one by one are one input.

    Raises:
        CaptureError: something is missing, of a kind that is not read, has no photos, or has poses already.
    """
    if not given:
        raise CaptureError(
            "no input is given; name a video, a folder of photos, or several of them, and the folder to write"
        )
    sources: list[Source] = []
    single: list[Path] = []
    for path in dict.fromkeys(given):
        if path.is_dir():
            sources.append(Source(path, tuple(_photos_in(path)), False))
        elif not path.exists():
            raise CaptureError(f"{path} does not exist; give a video, or a folder of photos")
        elif path.suffix.lower() in VIDEO_ENDINGS:
            sources.append(Source(path, (path,), True))
        elif path.suffix.lower() in PHOTO_ENDINGS:
            single.append(path)
        else:
            raise CaptureError(_unknown(path))
    if single:
        sources.append(Source(single[0].parent, tuple(single), False))
    return _with_prefixes(sources)


def _photos_in(folder: Path) -> list[Path]:
    poses = next((Path(name) for name in _POSE_FILES if (folder / name).is_file()), usual_colmap_folder(folder))
    if poses is not None:
        raise CaptureError(
            f"{folder} has poses already, in {poses}; they are left as they are: ns-train genfusion --data "
            f"{folder}. To find them anew give its photos alone, such as {folder / 'images'}"
        )
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    photos = [path for path in files if path.suffix.lower() in PHOTO_ENDINGS]
    if photos:
        return natural_order(photos)
    if (folder / "images").is_dir():
        raise CaptureError(f"{folder} has no photos itself; give {folder / 'images'}")
    videos = [path for path in files if path.suffix.lower() in VIDEO_ENDINGS]
    if videos:
        raise CaptureError(f"{folder} has videos but no photos; name the videos, such as {natural_order(videos)[0]}")
    other = next((path for path in files if path.suffix.lower() in _UNREADABLE), None)
    if other is not None:
        raise CaptureError(_unknown(other))
    raise CaptureError(
        f"{folder} has no photos ({', '.join(PHOTO_ENDINGS)}); files in folders below it are not looked for, name "
        "these folders instead"
    )


def _unknown(path: Path) -> str:
    ending = path.suffix.lower()
    if ending in _UNREADABLE:
        return f"{path} is of a kind that is not read; {_UNREADABLE[ending]}"
    return (
        f"{path} is neither a photo ({', '.join(PHOTO_ENDINGS)}) nor a video ({', '.join(VIDEO_ENDINGS)}), by its "
        "ending; rename or convert it"
    )


def _with_prefixes(sources: list[Source]) -> list[Source]:
    if len(sources) == 1:
        return sources
    taken: set[str] = set()
    named = []
    for source in sources:
        prefix = unused(f"{plain(source.path.resolve().stem)}_", taken)
        named.append(Source(source.path, source.files, source.is_video, prefix))
    return named


def plain(name: str) -> str:
    """A name with the letters that all programs take: COLMAP's lists of pairs are divided by spaces."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "photo"


def unused(name: str, taken: set[str]) -> str:
    """`name`, with a number before its end where it is taken, upper and lower case alike; it is taken then."""
    candidate, number = name, 2
    while candidate.casefold() in taken:
        candidate = f"{name}{number}" if not name.endswith("_") else f"{name}{number}_"
        number += 1
    taken.add(candidate.casefold())
    return candidate
