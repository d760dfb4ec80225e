"""metadata.json of a multi-scale data set, with the keys of the published one, so that other programs read it.

Three splits, each a table of columns with one entry per stored image: file_path, cam2world (4x4, OpenGL axes), width,
height, focal and pix2cam (inverse intrinsics, y and z axes turned round) in pixels, near, far, label (level, 0 is the
full size), lossmult (4^level).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.json_files import JsonValue, read_json

FILE = "metadata.json"
SPLITS = ("train", "val", "test")
BLENDER_DEPTHS = (2.0, 6.0)
"""Near and far: depths between which Blender's objects lie."""
_WAY_OUT = "Make the data set again with gf-make-multiscale."


@dataclass(frozen=True)
class StoredImage:
    """One image of a multi-scale data set."""

    file_path: str
    """Relative to the folder of the data set."""
    cam2world: tuple[tuple[float, ...], ...]
    """[4, 4], OpenGL axes."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    intrinsics: tuple[float, float, float, float]
    """fx, fy, cx, cy in pixels."""
    near: float
    far: float
    level: int
    """0 is the full size, each level halves it."""

    @property
    def loss_multiplier(self) -> float:
        """Weight of its pixels: each image counts as much as all others, whatever its size."""
        return 4.0**self.level

    def pix2cam(self) -> list[list[float]]:
        """From homogeneous pixels to directions in the camera, OpenGL axes."""
        fx, fy, cx, cy = self.intrinsics
        return [[1 / fx, 0.0, -cx / fx], [0.0, -1 / fy, cy / fy], [0.0, 0.0, -1.0]]


def encoded(splits: Mapping[str, Sequence[StoredImage]]) -> bytes:
    """The content of metadata.json."""
    return json.dumps({split: _columns(images) for split, images in splits.items()}).encode()


def _columns(images: Sequence[StoredImage]) -> dict[str, list[Any]]:
    return {
        "file_path": [image.file_path for image in images],
        "cam2world": [[list(row) for row in image.cam2world] for image in images],
        "width": [image.size[0] for image in images],
        "height": [image.size[1] for image in images],
        "focal": [image.intrinsics[0] for image in images],
        "label": [image.level for image in images],
        "near": [image.near for image in images],
        "far": [image.far for image in images],
        "lossmult": [image.loss_multiplier for image in images],
        "pix2cam": [image.pix2cam() for image in images],
    }


def read_metadata(folder: Path) -> dict[str, list[StoredImage]]:
    """The stored images of each split; a split that the file lacks is empty.

    Raises:
        CaptureError: the file is missing or has a value that cannot be used.
    """
    path = folder / FILE
    if not path.is_file():
        raise CaptureError(
            f"--data {folder} has no {FILE}, which the multiscale-blender dataparser needs; gf-make-multiscale makes "
            "such a data set of any capture"
        )
    content = read_json(path, _WAY_OUT, CaptureError)
    return {split: _images(content[split], folder) if content[split].is_given else [] for split in SPLITS}


def _images(columns: JsonValue, folder: Path) -> list[StoredImage]:
    names = columns["file_path"].entries("a list of files")
    count = len(names)

    def column(name: str) -> list[JsonValue]:
        entries = columns[name].entries(f"a list of {count} entries, as file_path has")
        if len(entries) != count:
            columns[name].refuse(f"a list of {count} entries, as file_path has")
        return entries

    parts = [column(name) for name in ("cam2world", "width", "height", "pix2cam", "near", "far", "label")]
    return [_image(name, folder, *values) for name, *values in zip(names, *parts, strict=True)]


def _image(
    name: JsonValue,
    folder: Path,
    cam2world: JsonValue,
    width: JsonValue,
    height: JsonValue,
    pix2cam: JsonValue,
    near: JsonValue,
    far: JsonValue,
    label: JsonValue,
) -> StoredImage:
    name.path_in(folder)
    pose = _matrix(cam2world, 4, rows=(3, 4))
    inverse = np.asarray(_matrix(pix2cam, 3, rows=(3,)))
    if not (inverse[0, 0] > 0 and inverse[1, 1] < 0):
        pix2cam.refuse(
            "inverse intrinsics with the y axis turned round: [[1/f, 0, -cx/f], [0, -1/f, cy/f], [0, 0, -1]]"
        )
    fx, fy = float(1 / inverse[0, 0]), float(-1 / inverse[1, 1])
    closest = near.number("a depth of 0 or more", lambda value: value >= 0)
    return StoredImage(
        file_path=name.text(),
        cam2world=tuple(tuple(row) for row in pose),
        size=(width.whole("1 or more pixels", 1), height.whole("1 or more pixels", 1)),
        intrinsics=(fx, fy, float(-inverse[0, 2] * fx), float(inverse[1, 2] * fy)),
        near=closest,
        far=far.number("a depth beyond near", lambda value: value > closest),
        level=label.whole("a level of 0..15", 0, 15),
    )


def _matrix(value: JsonValue, columns: int, rows: Sequence[int]) -> list[list[float]]:
    found = [[entry.number() for entry in row.entries()] for row in value.entries()]
    if len(found) not in rows or any(len(row) != columns for row in found):
        value.refuse(f"{' or '.join(map(str, rows))} rows of {columns} numbers")
    return found
