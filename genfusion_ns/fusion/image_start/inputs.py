"""Which images a command is given: files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from genfusion_ns.data.media.frame_sequences import natural_order

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")


def find_images(given: Sequence[str]) -> list[Path]:
    """The image files that a user names, each once, in the order given; those of a folder in natural order.

    Args:
        given: files, folders of images, or patterns with * ? [] ** that the shell left alone.

    Raises:
        FileNotFoundError: something names no image.
    """
    found: list[Path] = []
    for text in given:
        found += _images_of(text)
    return list(dict.fromkeys(found))


def _images_of(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file() and file.suffix.lower() in ENDINGS]
        if not files:
            raise FileNotFoundError(f"the folder {path} holds no images; their names end in {' '.join(ENDINGS)}")
        return natural_order(files)
    if glob.has_magic(text):
        matched = [Path(name) for name in glob.glob(str(path), recursive=True)]
        files = [file for file in matched if file.is_file() and file.suffix.lower() in ENDINGS]
        if not files:
            raise FileNotFoundError(f"no image matches {text}; names of images end in {' '.join(ENDINGS)}")
        return natural_order(files)
    raise FileNotFoundError(f"there is no image {text}; give image files, folders of them, or patterns in quotes")
