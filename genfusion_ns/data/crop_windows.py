"""Crop windows: the part of each photo that a masked reconstruction may see.

Row i of a set of windows belongs to view id i (position among the registered views sorted by name), whatever the split.
The walk is like that of GenFusion's masked protocol: a window moves diagonally at constant speed and bounces off
borders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch

from genfusion_ns.data.array_files import ArrayFileError, read_array
from genfusion_ns.data.view_selection import NameIndex
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.json_files import read_json
from genfusion_ns.seeds import seeded_generator

PUBLISHED_AREA = 0.25
"""480 x 270 of 960 x 540 pixels."""
PUBLISHED_SPEED = 5 / 960
"""5 pixels per image along each axis, as a share of the longer image side."""
_START = (102 / 480, 106 / 270)
"""Where the published walk begins, as shares of the free range of each axis."""

_MIN_SIDE = 2
"""Rows and columns of a window at least: a line has no structure to learn from."""
_FORMAT = "[x, y, width, height], whole numbers of pixels"
_WAY_OUT = f"Give the protocol of a masked run, whose key windows has {_FORMAT}, per image name."

Size = tuple[int, int]


class CropWindowError(ValueError):
    """Windows that cannot be used; the message names the file or flag, the value found, and what is allowed."""


@dataclass(frozen=True)
class CropWindow:
    """A rectangle of whole pixels."""

    x: int
    """Left column."""
    y: int
    """Top row."""
    width: int
    height: int

    def fits(self, size: Size) -> bool:
        """Whether it lies completely inside an image of (width, height) `size`."""
        right, bottom = self.x + self.width, self.y + self.height
        return min(self.x, self.y) >= 0 and min(self.width, self.height) >= 1 and right <= size[0] and bottom <= size[1]

    def shows_nothing_of(self, size: Size) -> bool:
        """Whether it has a single row or column of an image of (width, height) `size` that has more."""
        return self.width < min(_MIN_SIDE, size[0]) or self.height < min(_MIN_SIDE, size[1])


def walk_crop_windows(
    sizes: Sequence[Size], area: float = PUBLISHED_AREA, speed: float = PUBLISHED_SPEED, seed: int = 0
) -> list[CropWindow]:
    """One window per view along a seeded walk.

    With the defaults, images of 960 x 540 start and move as in the published protocol and have the same windows for 33
    views; then the walks turn differently. To compare with published figures, give the published file of windows.

    From one view to the next the window moves by `speed` along both axes; where it would leave the image, that axis
    turns round and the other one goes on in a random direction.

    Args:
        sizes: (width, height) of each view's image in pixels; the walk is made for the commonest and scaled for others.
        area: share of the image that a window shows, in (0, 1]; window and image have the same shape.
        speed: distance moved per view along each axis, as a share of the longer side of the image.
        seed: decides the directions.

    Raises:
        CropWindowError: an argument out of range, or windows of less than two rows or columns.

    >>> [(window.x, window.y, window.width, window.height) for window in walk_crop_windows([(960, 540)] * 2)]
    [(102, 106, 480, 270), (107, 111, 480, 270)]
    """
    if not 0 < area <= 1:
        raise CropWindowError(f"--pipeline.datamanager.masking.area is {area}; it must be above 0 and at most 1")
    if not (0 <= speed < 1):
        raise CropWindowError(f"--pipeline.datamanager.masking.speed is {speed}; it must be at least 0 and below 1")
    common = commonest_size(sizes)
    positions = _bouncing_walk(len(sizes), _free_range(common, area), speed * max(common), seed)
    windows = []
    for size, share in zip(sizes, positions, strict=True):
        free = _free_range(size, area)
        width, height = size[0] - free[0], size[1] - free[1]
        window = CropWindow(round(share[0] * free[0]), round(share[1] * free[1]), width, height)
        if window.shows_nothing_of(size):
            raise CropWindowError(
                f"--pipeline.datamanager.masking.area {area} leaves {width} x {height} pixels of an image of "
                f"{size[0]} x {size[1]}; {_MIN_SIDE} rows and columns are needed"
            )
        windows.append(window)
    return windows


def load_crop_windows(path: Path, names: Sequence[str], sizes: Sequence[Size], area: float) -> list[CropWindow]:
    """Read windows from a file.

    Args:
        path: a .npy array with one row per registered view, of 2 columns (x, y; the window size follows from `area`) or
            4 (x, y, width, height), in pixels; or the protocol.json of an earlier run, whose windows have view names.
        names: registered image names sorted as text; index = view id.
        sizes: (width, height) of each view's image.
        area: share of the image that a window of a 2-column file shows.

    Returns:
        One window per view; a view that a protocol does not name gets its whole image.

    Raises:
        CropWindowError: unreadable file, wrong shape, too few rows, a value that is no whole number of pixels, a window
            outside its image or of less than two rows or columns.
    """
    if not path.is_file():
        raise CropWindowError(
            f"--pipeline.datamanager.masking.file {path} does not exist; give a .npy or protocol.json file"
        )
    windows = _from_protocol(path, names, sizes) if path.suffix == ".json" else _from_array(path, names, sizes, area)
    for view, (window, size) in enumerate(zip(windows, sizes, strict=True)):
        if not window.fits(size):
            raise CropWindowError(
                f"{path}: the window of view {view} ({names[view]}), x y width height {astuple(window)}, does not lie "
                f"inside its image of {size[0]} x {size[1]} pixels; was the file made for another image size?"
            )
        if window.shows_nothing_of(size):
            raise CropWindowError(
                f"{path}: the window of view {view} ({names[view]}) has {window.width} x {window.height} pixels; "
                f"{_MIN_SIDE} rows and columns are needed"
            )
    return windows


def _free_range(size: Size, area: float) -> Size:
    share = math.sqrt(area)
    return size[0] - round(size[0] * share), size[1] - round(size[1] * share)


def _bouncing_walk(count: int, free: Size, step: float, seed: int) -> list[tuple[float, float]]:
    """Positions as shares of the free range of each axis, in 0..1."""
    generator = seeded_generator(seed)
    position = [start * room for start, room in zip(_START, free, strict=True)]
    direction = [1.0, 1.0]
    walk = []
    for _ in range(count):
        walk.append(tuple(p / room if room else 0.0 for p, room in zip(position, free, strict=True)))
        step_in = [min(step, room / 2) for room in free]  # a step that always finds room on one side or the other
        outside = [not 0 <= p + d * s <= room for p, d, s, room in zip(position, direction, step_in, free, strict=True)]
        if any(outside):
            flip = float(torch.randint(2, (1,), generator=generator)) * 2 - 1
            direction = [-d if out else flip for d, out in zip(direction, outside, strict=True)]
            # The axis that goes on may have been sent against its own border.
            direction = [
                d if 0 <= p + d * s <= room else -d
                for p, d, s, room in zip(position, direction, step_in, free, strict=True)
            ]
        position = [p + d * s for p, d, s in zip(position, direction, step_in, strict=True)]
    return walk


def _from_array(path: Path, names: Sequence[str], sizes: Sequence[Size], area: float) -> list[CropWindow]:
    try:
        rows = read_array(path)
    except ArrayFileError as error:
        raise CropWindowError(f"{path} cannot be read as a .npy array of windows: {error}") from error
    if rows.ndim != 2 or rows.shape[1] not in (2, 4):
        raise CropWindowError(
            f"{path}: the array has shape {rows.shape}; needed: 2 columns (x, y) or 4 (x, y, width, height)"
        )
    if rows.dtype.kind not in "iuf" or not np.isfinite(rows).all():
        raise CropWindowError(f"{path}: the array of {rows.dtype} holds values that are no finite numbers of pixels")
    if len(rows) < len(names):
        raise CropWindowError(
            f"{path} has {len(rows)} rows, the capture {len(names)} registered views; row i belongs to view i in name "
            "order, so there must be at least as many rows as views"
        )
    windows = []
    for row, size in zip(_whole(rows[: len(names)]), sizes, strict=True):
        free = _free_range(size, area)
        x, y, width, height = row if len(row) == 4 else (*row, size[0] - free[0], size[1] - free[1])
        windows.append(CropWindow(x, y, width, height))
    return windows


def _whole(rows: np.ndarray) -> list[list[int]]:
    """Numbers rounded to integers; Python's, which do not wrap around."""
    return [[round(value) for value in row] for row in rows.tolist()]


def _from_protocol(path: Path, names: Sequence[str], sizes: Sequence[Size]) -> list[CropWindow]:
    content = read_json(path, _WAY_OUT, CropWindowError)
    windows = [CropWindow(0, 0, *size) for size in sizes]
    index = NameIndex(names)
    for name, entry in content["windows"].fields().items():
        views = index.find(name)
        if len(views) != 1:
            raise CropWindowError(
                f"{path}: window of {name!r}, which is {'no' if not views else 'more than one'} registered image"
            )
        sides = entry.entries(_FORMAT)
        if len(sides) != 4:
            entry.refuse(_FORMAT)
        windows[views[0]] = CropWindow(*(side.whole(f"a whole number of pixels, of {_FORMAT}", 0) for side in sides))
    return windows
