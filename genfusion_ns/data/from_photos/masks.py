"""Masks that a user gives for the photos of a capture to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from genfusion_ns.data.captures.image_files import PHOTO_ENDINGS, read_header
from genfusion_ns.data.captures.mask_files import MaskError, read_mask
from genfusion_ns.data.view_selection import NameIndex


@dataclass(frozen=True)
class MaskSource:
    """None, one image for all photos, or a folder with one for each."""

    path: Path | None
    names: tuple[str, ...] = ()
    """Of the masks in the folder."""

    @staticmethod
    def of(path: Path | None, has_videos: bool) -> MaskSource:
        """The masks that --masks names.

        Raises:
            MaskError: a folder without masks, or one for a video.
        """
        if path is None or not path.is_dir():
            return MaskSource(path)
        if has_videos:
            raise MaskError(
                f"--masks {path} is a folder, but which frames of a video are taken is not known before; give one mask "
                "image for all frames, or make a folder of photos of the video first"
            )
        names = tuple(sorted(file.name for file in path.iterdir() if file.suffix.lower() in PHOTO_ENDINGS))
        if not names:
            raise MaskError(f"--masks {path} has no masks ({', '.join(PHOTO_ENDINGS)}); each is named like its photo")
        return MaskSource(path, names)

    def seen(self, photo: Path, size: tuple[int, int]) -> Bool[np.ndarray, "H W"] | None:
        """What is seen of a photo of (width, height) `size`; None where there are no masks.

        Raises:
            MaskError: it has no mask, or one that cannot be used.
        """
        if self.path is None:
            return None
        file = self._file_of(self.path, photo) if self.names else self.path
        header = read_header(file)
        if header.is_turned and header.size == size[::-1]:
            raise MaskError(f"{file} is turned by its EXIF orientation; save it the right way up")
        return read_mask(file, size)

    def identity(self) -> list[list[object]]:
        """Name, size and time of change of each file."""
        if self.path is None:
            return []
        files = [self.path / name for name in self.names] or [self.path]
        return [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]

    def _file_of(self, folder: Path, photo: Path) -> Path:
        exact = [i for i, name in enumerate(self.names) if name.rsplit(".", 1)[0] == photo.name]
        found = exact or NameIndex(self.names).find(photo.name)
        if len(found) != 1:
            which = "no mask" if not found else f"{len(found)} masks, {', '.join(self.names[i] for i in found)},"
            raise MaskError(
                f"--masks {folder} has {which} for {photo.name}; it holds {self.names[0]} .. {self.names[-1]}. Each "
                "photo needs one, named like it, with any ending"
            )
        return folder / self.names[found[0]]
