"""A texture for a mesh: its surface laid out flat, and the colour of the field at every texel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt

from genfusion_ns.priors.triposr.field import CHUNK, TriplaneField
from genfusion_ns.priors.triposr.mesh import Mesh, colours_at

_PADDING = 4
"""Texels around each piece that take its colours, so that none of another shows at a seam."""
_PIECE = 200_000
"""Texels that are drawn at once."""


@dataclass(frozen=True)
class TexturedMesh:
    """Triangles with a texture; vertices at seams are there once for each side."""

    vertices: Float[np.ndarray, "V 3"]
    """Positions."""
    faces: Int[np.ndarray, "F 3"]
    """Indices of vertices."""
    uv: Float[np.ndarray, "V 2"]
    """Places in the texture, 0..1 from the left and from below."""
    texture: Float[np.ndarray, "S S 3"]
    """Colours, 0..1, from above."""


def bake_texture(mesh: Mesh, field: TriplaneField, size: int = 1024, chunk: int = CHUNK) -> TexturedMesh:
    """Lay a mesh out flat and colour every texel by the field, on the CPU.

    Args:
        mesh: of the field.
        field: asked for the colours.
        size: texels along a side.
        chunk: see `TriplaneField.query`.
    """
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding, options.bilinear = size, _PADDING, True
    atlas.generate(pack_options=options)
    origin, faces, uv = atlas[0]
    vertices = mesh.vertices[origin]
    faces = faces.astype(np.int64)
    texels, places = _surface_of_texels(vertices, faces, uv, size)
    texture = np.zeros((size, size, 3), np.float32)
    texture[texels] = colours_at(field, places, chunk)
    return TexturedMesh(vertices, faces, uv.astype(np.float32), _padded(texture, texels)[::-1].copy())


def _surface_of_texels(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], uv: Float[np.ndarray, "V 2"], size: int
) -> tuple[Bool[np.ndarray, "S S"], Float[np.ndarray, "P 3"]]:
    """Which texels show the surface, from below, and where on it each of them lies, in their order."""
    corners = uv[faces] * size - 0.5  # of texels whose centres are whole numbers
    low = np.ceil(corners.min(1) - 1e-6).astype(np.int64)
    high = np.floor(corners.max(1) + 1e-6).astype(np.int64)
    low, high = np.clip(low, 0, size - 1), np.clip(high, -1, size - 1)
    extent = np.maximum(high - low + 1, 0)
    counts = extent[:, 0] * extent[:, 1]
    position = np.zeros((size, size, 3))
    covered = np.zeros((size, size), bool)
    ends = np.cumsum(counts)
    start = 0
    while start < len(faces):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] - counts[start] + _PIECE)))
        texels, places = _drawn(vertices, faces, corners, low, extent, np.arange(start, min(stop, len(faces))))
        position[texels[:, 1], texels[:, 0]], covered[texels[:, 1], texels[:, 0]] = places, True
        start = stop
    return covered, position[covered]


def _drawn(
    vertices: np.ndarray,
    faces: np.ndarray,
    corners: np.ndarray,
    low: np.ndarray,
    extent: np.ndarray,
    chosen: np.ndarray,
) -> tuple[Int[np.ndarray, "P 2"], Float[np.ndarray, "P 3"]]:
    """Texels (column, row) whose centres lie in triangles, with the places on them."""
    counts = extent[chosen, 0] * extent[chosen, 1]
    face = np.repeat(chosen, counts)
    within = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = extent[face, 0]
    texels = low[face] + np.stack([within % np.maximum(width, 1), within // np.maximum(width, 1)], axis=1)
    a, b, c = (corners[face, corner] for corner in range(3))
    area = _cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        v, w = _cross(texels - a, c - a) / area, _cross(b - a, texels - a) / area
    inside = (np.abs(area) > 1e-12) & (v >= -1e-6) & (w >= -1e-6) & (v + w <= 1 + 1e-6)
    face, v, w = face[inside], v[inside, None], w[inside, None]
    first, second, third = (vertices[faces[face, corner]] for corner in range(3))
    return texels[inside], first * (1 - v - w) + second * v + third * w


def _cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]


def _padded(texture: Float[np.ndarray, "S S 3"], covered: Bool[np.ndarray, "S S"]) -> Float[np.ndarray, "S S 3"]:
    """The texture with the colour of the nearest covered texel where nothing is covered."""
    if not covered.any():
        return texture
    nearest: Any = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    rows, columns = nearest
    return texture[rows, columns]
