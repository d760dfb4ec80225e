"""Blender objects as the published multi-scale conversion reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from genfusion_ns.data.captures.checks.transforms import check_blender
from genfusion_ns.data.captures.file_lookup import FileLookup
from genfusion_ns.data.captures.image_files import CaptureError, load_pixels
from genfusion_ns.data.captures.image_sizes import shrink
from genfusion_ns.data.multiscale.metadata import BLENDER_DEPTHS, SPLITS, StoredImage
from genfusion_ns.data.multiscale.pyramid import cut_evenly, published_levels


class BlenderSource:
    """Images and cameras of transforms_{train,val,test}.json."""

    def __init__(self, folder: Path, downscale: int = 1) -> None:
        """
        Args:
            folder: of the object.
            downscale: images are first averaged over squares of this many pixels a side, and cut evenly to sides that
                divide; at 1 nothing is cut.

        Raises:
            CaptureError: the files cannot be used.
        """
        found = check_blender(folder)
        self._frames: dict[str, list[dict[str, Any]]] = {split: found[split] for split in SPLITS if split in found}
        self._lookup = FileLookup(folder)
        self._downscale = downscale

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that the object has."""
        return tuple(self._frames)

    def __len__(self) -> int:
        return sum(map(len, self._frames.values()))

    def images(self, split: str, levels: int) -> Iterator[tuple[StoredImage, list[UInt8[np.ndarray, "h w C"]]]]:
        """Each image of a split with its levels, in the order of the file."""
        for frame in self._frames[split]:
            file = self._lookup.find(frame["file_path"])
            pixels = load_pixels(file)
            if self._downscale > 1:
                pixels = cut_evenly(shrink(pixels, self._downscale), 2 ** (levels - 1))
            height, width = pixels.shape[:2]
            if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
                raise CaptureError(
                    f"{file} has {width} x {height} pixels, which cannot be halved {levels - 1} times; give a smaller "
                    "--n-down"
                )
            focal = float(frame["fl_x"]) / self._downscale
            intrinsics = (focal, focal, width / 2, height / 2)
            pose = (*frame["transform_matrix"][:3], [0.0, 0.0, 0.0, 1.0])
            stored = StoredImage(
                "", tuple(tuple(map(float, row)) for row in pose), (width, height), intrinsics, *BLENDER_DEPTHS, 0
            )
            yield stored, published_levels(pixels, levels)

    def write_points(self, folder: Path) -> None:
        """Nothing: Blender's objects come without points."""
