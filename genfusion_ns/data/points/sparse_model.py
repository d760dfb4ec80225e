"""Sparse points on disk: COLMAP models with tracks, and point clouds in PLY files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from plyfile import PlyData, PlyParseError

from genfusion_ns.data.captures.checks.colmap import RegisteredImage, read_image_headers, read_images_text
from genfusion_ns.data.captures.checks.transforms import read_frames, read_json_object
from genfusion_ns.data.captures.image_files import CaptureError

_NO_COLOUR = 128
_LARGEST = 1e12
"""Largest coordinate of a point, in units of the file; beyond, products of coordinates overflow single precision."""
_READING_ERRORS = (OSError, ValueError, IndexError, KeyError, struct.error, AssertionError, MemoryError, OverflowError)
"""What nerfstudio's readers raise on files that are cut off or hold something else."""


class SparseModelError(ValueError):
    """A sparse point file that cannot be read; the message names the file and what is wrong."""


@dataclass(frozen=True)
class SparseSources:
    """Where to look for sparse points."""

    data_dir: Path
    """Folder of the capture."""
    pose_files: tuple[Path, ...] = ()
    """Files with the poses that go with a point cloud: transforms.json or Blender's."""
    colmap_path: Path | None = None
    """COLMAP model to prefer, relative to `data_dir`."""
    ply_path: Path | None = None
    """Point cloud that the capture or the user names, relative to `data_dir`."""
    prefer_ply: bool = False
    """Take `ply_path` even when there is a COLMAP model."""


@dataclass(frozen=True)
class SparseModel:
    """Points in the world of their file, and the cameras of the same world."""

    path: Path
    xyz: Float[np.ndarray, "M 3"]
    """Positions in the file's world."""
    rgb: UInt8[np.ndarray, "M 3"]
    """Colours; mid grey where the file has none."""
    names: tuple[str, ...]
    """Image names of the cameras."""
    c2w: Float[np.ndarray, "V 3 4"]
    """Camera-to-world poses in the file's world, OpenGL axes."""
    tracks: Int[np.ndarray, "L 2"] | None
    """Observations as (point, camera) positions in the arrays above; None when the file does not record them."""
    normals: Float[np.ndarray, "M 3"] | None = None
    """Directions of the surfaces that the points lie on, where the file has them; of any length."""


def read_colmap_model(folder: Path) -> SparseModel:
    """Read a COLMAP model, text or binary, with its tracks.

    Raises:
        SparseModelError: a file is missing or truncated.
    """
    images: dict[int, RegisteredImage] = _read_colmap(folder, "images", read_image_headers, read_images_text)
    points = _read_colmap(folder, "points3D", colmap.read_points3D_binary, colmap.read_points3D_text)
    return SparseModel(
        path=folder,
        xyz=np.array([point.xyz for point in points.values()], dtype=np.float64).reshape(-1, 3),
        rgb=np.array([point.rgb for point in points.values()], dtype=np.uint8).reshape(-1, 3),
        names=tuple(image.name for image in images.values()),
        c2w=np.array([image.pose()[:3] for image in images.values()]).reshape(-1, 3, 4),
        tracks=_tracks(list(images), [point.image_ids for point in points.values()]),
    )


def read_ply_model(path: Path, pose_files: Sequence[Path]) -> SparseModel:
    """Read a point cloud whose world is that of the poses in `pose_files` (transforms.json or Blender's files).

    Raises:
        SparseModelError: not a PLY file, no x, y, z, or a transforms file without usable frames.
    """
    frames = [frame for file in pose_files for frame in _read_frames(file)]
    try:
        vertices = PlyData.read(str(path))["vertex"].data
    except (PlyParseError, *_READING_ERRORS) as error:
        raise SparseModelError(f"{path} cannot be read as a PLY point cloud: {error}. Export it again.") from error
    columns = vertices.dtype.names or ()
    if not {"x", "y", "z"} <= set(columns):
        raise SparseModelError(f"{path}: vertices have the properties {list(columns)}; x, y and z are needed.")
    if any(vertices[axis].dtype.kind not in "fiu" for axis in "xyz"):
        raise SparseModelError(f"{path}: x, y and z must be numbers, one per vertex. Export it again.")
    poses = np.array([frame["transform_matrix"][:3] for frame in frames], dtype=np.float64)
    return SparseModel(
        path=path,
        xyz=np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(np.float64),
        rgb=_colours(vertices, columns),
        names=tuple(str(frame["file_path"]).removeprefix("./") for frame in frames),
        c2w=poses,
        tracks=None,
        normals=_normals(vertices, columns),
    )


def without_invalid_points(model: SparseModel) -> SparseModel:
    """The model without the points whose positions are NaN or too large for single precision."""
    valid = np.all(np.abs(model.xyz) < _LARGEST, axis=1)
    if valid.all():
        return model
    tracks = model.tracks
    if tracks is not None:
        kept = tracks[valid[tracks[:, 0]]]
        tracks = np.stack([np.cumsum(valid)[kept[:, 0]] - 1, kept[:, 1]], axis=1)
    normals = None if model.normals is None else model.normals[valid]
    return replace(model, xyz=model.xyz[valid], rgb=model.rgb[valid], tracks=tracks, normals=normals)


def _tracks(image_ids: list[int], seen_by: list[np.ndarray]) -> Int[np.ndarray, "L 2"]:
    """(point, camera) pairs from the image ids of every point's track; ids that are no image are left out."""
    point = np.repeat(np.arange(len(seen_by)), [len(ids) for ids in seen_by])
    image = np.concatenate([*seen_by, np.zeros(0, dtype=np.int64)])
    order = np.argsort(image_ids)
    known = np.asarray(image_ids, dtype=np.int64)[order]
    is_known = np.isin(image, known)
    return np.stack([point[is_known], order[np.searchsorted(known, image[is_known])]], axis=1)


def _read_colmap(folder: Path, stem: str, binary: Callable[..., dict], text: Callable[..., dict]) -> dict[int, Any]:
    for path, read in ((folder / f"{stem}.bin", binary), (folder / f"{stem}.txt", text)):
        if path.exists():
            try:
                return read(path)
            except _READING_ERRORS as error:
                raise SparseModelError(
                    f"{path} cannot be read as a COLMAP model: {error}. It may be cut off: copy it again, or remove it "
                    "and its folder from the capture to start from random points."
                ) from error
    raise SparseModelError(f"{folder} has neither {stem}.bin nor {stem}.txt.")


def _read_frames(path: Path) -> list[dict[str, Any]]:
    try:
        return read_frames(path, read_json_object(path), rows=(3, 4))
    except CaptureError as error:
        raise SparseModelError(str(error)) from error


def _normals(vertices: np.ndarray, columns: tuple[str, ...]) -> Float[np.ndarray, "M 3"] | None:
    names = ("nx", "ny", "nz")
    if not set(names) <= set(columns) or any(vertices[name].dtype.kind != "f" for name in names):
        return None
    return np.stack([vertices[name] for name in names], axis=1).astype(np.float64)


def _colours(vertices: np.ndarray, columns: tuple[str, ...]) -> UInt8[np.ndarray, "M 3"]:
    if not {"red", "green", "blue"} <= set(columns):
        return np.full((len(vertices), 3), _NO_COLOUR, dtype=np.uint8)
    rgb = np.stack([vertices[channel] for channel in ("red", "green", "blue")], axis=1)
    if np.issubdtype(rgb.dtype, np.floating):
        rgb = np.round(255 * rgb)
    return np.clip(rgb, 0, 255).astype(np.uint8)
