"""The surface in a field of voxel blocks as triangles: marching cubes piece by piece, welded together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from genfusion_ns.geometry.meshes import Mesh
from genfusion_ns.geometry.voxel_blocks import SIDE, VoxelBlocks

_PIECE = 12
"""Blocks along the side of what is turned into triangles at once."""
_WELD = 4096
"""Vertices of neighbouring pieces are one where they agree to this part of a voxel."""


def surface_of_blocks(
    field: VoxelBlocks, least_weight: float = 0.0, advance: Callable[[int, int], None] = lambda done, of: None
) -> Mesh:
    """The zero level of a field, with its colours and with normals towards where the cameras were.

    Nothing is made up: where one of the eight voxels around was never seen, the surface has a border.

    Args:
        field: distances and colours.
        least_weight: voxels that gathered no more weight than this count as never seen.
        advance: called after each piece with how many are done, of how many.
    """
    from skimage.measure import marching_cubes

    pieces = torch.div(field.coordinates(), _PIECE, rounding_mode="floor").unique(dim=0).tolist()
    vertices, faces, colours, first = [], [], [], 0
    for done, piece in enumerate(pieces, start=1):
        start = tuple(_PIECE * along for along in piece)
        distance, weight, rgb = (part.cpu().numpy() for part in field.dense(start, _PIECE))  # type: ignore[arg-type]
        cubes = _whole_cubes(weight > least_weight)
        if _crossed(distance, cubes):
            places, triangles, _, _ = marching_cubes(distance, 0.0, mask=cubes)
            vertices.append(places.astype(np.float64) + SIDE * np.array(start))
            faces.append(triangles.astype(np.int64) + first)
            colours.append(_colours_at(places, rgb, weight))
            first += len(places)
        advance(done, len(pieces))
    if not first:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32))
    mesh = _welded(np.concatenate(vertices), np.concatenate(faces), np.concatenate(colours))
    return replace(mesh, vertices=(mesh.vertices * field.voxel).astype(np.float32))


def _whole_cubes(known: Bool[np.ndarray, "n n n"]) -> Bool[np.ndarray, "n n n"]:
    """Cubes all of whose corners are known, marked at their far corner, where the library looks."""
    whole = np.zeros_like(known)
    inner = known[1:, 1:, 1:].copy()
    for corner in range(1, 8):
        near = tuple(slice(None, -1) if corner >> axis & 1 else slice(1, None) for axis in range(3))
        inner &= known[near]
    whole[1:, 1:, 1:] = inner
    return whole


def _crossed(distance: Float[np.ndarray, "n n n"], cubes: Bool[np.ndarray, "n n n"]) -> bool:
    """Whether a surface goes through any of the cubes; the library refuses to look for one where there is none."""
    inside = distance < 0
    mixed = np.zeros_like(cubes)
    corners = []
    for corner in range(8):
        part = tuple(slice(None, -1) if corner >> axis & 1 else slice(1, None) for axis in range(3))
        corners.append(inside[part])
    some, every = np.logical_or.reduce(corners), np.logical_and.reduce(corners)
    mixed[1:, 1:, 1:] = some & ~every
    return bool((mixed & cubes).any())


def _colours_at(
    places: Float[np.ndarray, "V 3"], rgb: Float[np.ndarray, "n n n 3"], weight: Float[np.ndarray, "n n n"]
) -> Float[np.ndarray, "V 3"]:
    """Colours between voxels, of those that were seen."""
    low = np.minimum(places.astype(np.int64), len(weight) - 2)
    share = places - low
    summed, total = np.zeros((len(places), 3)), np.zeros((len(places), 1))
    for corner in range(8):
        step = np.array([corner >> axis & 1 for axis in range(3)])
        at = tuple((low + step).T)
        part = np.where(step, share, 1 - share).prod(1, keepdims=True) * (weight[at] > 0)[:, None]
        summed += part * rgb[at]
        total += part
    return (summed / np.maximum(total, 1e-12)).clip(0, 1).astype(np.float32)


def _welded(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], colours: Float[np.ndarray, "V 3"]
) -> Mesh:
    """One vertex where pieces meet, and no triangle that has collapsed."""
    rows = np.round(vertices * _WELD).astype(np.int64)
    order = np.lexsort(rows.T)
    new = np.any(np.diff(rows[order], axis=0), axis=1)
    group = np.concatenate([[0], np.cumsum(new)])
    of_vertex = np.empty(len(vertices), dtype=np.int64)
    of_vertex[order] = group
    firsts = order[np.concatenate([[True], new])]
    a, b, c = joined = of_vertex[faces].T
    whole = (a != b) & (b != c) & (c != a)
    return Mesh(vertices[firsts], np.ascontiguousarray(joined.T[whole]), colours[firsts])


@dataclass(frozen=True)
class Cleaned:
    """A mesh without its small parts."""

    mesh: Mesh
    parts: int
    """That there were."""
    removed_parts: int
    removed_area: float
    """Share of the whole area, 0..1."""


def without_small_parts(mesh: Mesh, least_share: float, most: int = 0) -> Cleaned:
    """The mesh without parts that are small beside the largest.

    Args:
        mesh: any.
        least_share: parts with less than this share of the area of the largest go, 0..1.
        most: keep no more than this many of the largest; 0: no limit.
    """
    if not len(mesh.faces):
        return Cleaned(mesh, 0, 0, 0.0)
    part, areas = mesh.parts(), mesh.areas().astype(np.float64)
    area = np.bincount(part, areas)
    kept = area >= least_share * area.max()
    if most:
        kept[np.argsort(-area, kind="stable")[most:]] = False
    removed = float(area[~kept].sum() / max(area.sum(), 1e-30))
    return Cleaned(mesh.only(kept[part]), len(area), int((~kept).sum()), removed)


def decimated(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with about as many triangles, by quadric errors; colours are those of the nearest vertex before.

    Raises:
        ImportError: fast-simplification is not installed.
    """
    if len(mesh.faces) <= faces:
        return mesh
    try:
        from fast_simplification import simplify
    except ImportError as error:
        raise ImportError(
            "--max-faces needs fast-simplification: pip install 'genfusion-ns[export]', or leave it out"
        ) from error
    from scipy.spatial import KDTree

    points, triangles = simplify(mesh.vertices.astype(np.float64), mesh.faces.astype(np.int32), target_count=faces)[:2]
    colours = None if mesh.colours is None else mesh.colours[KDTree(mesh.vertices).query(points)[1]]
    return Mesh(points.astype(np.float32), triangles.astype(np.int64), colours)
