"""Points to start from on the surfaces between sparse points: few photos say where these are, but thinly.

Structure from motion leaves some thousand points. Between those that a photo shows near each other and about as far
away, the surface is nearly a plane, and along a plane inverse depth is linear in the image. So each photo is covered
with triangles between the points that it sees (Delaunay), and those triangles that are small and not torn between near
and far get points with the photo's colours and the triangle's normal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial import Delaunay, KDTree, QhullError
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes, cameras_to_viewmats
from genfusion_ns.data.points.photo_cells import photo_cells
from genfusion_ns.geometry.cameras import project
from genfusion_ns.geometry.images import to_bytes

_CELLS = 160
"""Cells along the longer side of a photo, each of which gives one point at most."""
_LEAST_SIDE = 3
"""Pixels along a cell at least."""
_LONGEST = 0.12
"""Longest side of a triangle, as a share of the longer side of the photo."""
_STEEPEST = 1.15
"""Depth of the farthest corner of a triangle over that of the nearest; beyond it something may end between them."""
_AROUND, _HIDDEN = 0.03, 1.1
"""Without tracks, points within this share of the longer side hide one that is by this factor farther away."""
_FINER = 3
"""Cells along that share, by which points around one are found."""
_SAME = 1.1
"""Ratio of depths up to which two points in one cell are taken to be of one surface."""
_CROWD = 2
"""Points in a cell, in the mean of those that have any, up to which all are taken."""
_FEWEST = 3
"""Points that make a triangle."""


@dataclass(frozen=True)
class SurfacePoints:
    """M points on surfaces, in the frame of the cameras."""

    xyz: Float[Tensor, "M 3"]
    """Positions, scene units."""
    rgb: UInt8[Tensor, "M 3"]
    """Colours, 0..255."""
    normals: Float[Tensor, "M 3"]
    """Of length 1; of either sign, as those of surfels."""
    radius: Float[Tensor, " M"]
    """Half of the distance to the next along the photo, scene units."""

    def __len__(self) -> int:
        return len(self.xyz)

    @classmethod
    def joined(cls, parts: Sequence[SurfacePoints]) -> SurfacePoints:
        """All of them, in their order; of none at all there are none."""
        nothing = cls(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8), torch.zeros(0, 3), torch.zeros(0))
        names = ("xyz", "rgb", "normals", "radius")
        return cls(*(torch.cat([getattr(part, name) for part in (nothing, *parts)]) for name in names))


def find_surface_points(
    cameras: Cameras,
    photos: Sequence[Mapping[str, Any]],
    points: Float[Tensor, "M 3"],
    seen_by: Bool[Tensor, "V M"] | None,
) -> SurfacePoints:
    """Points on the surfaces between sparse points, cell by cell of each photo.

    A photo gives none where those of the photos before it lie in its cell at about the same depth: many photos of one
    thing shall not multiply it.

    Args:
        cameras: of the photos as they are given here: undistorted and cropped. [V]
        photos: see `photo_cells`; hidden and transparent places get no points.
        points: sparse points in the frame of the cameras. [M, 3]
        seen_by: which photo sees which of them; by default those that project into it and that none around them hides.
    """
    viewmats, Ks = cameras_to_viewmats(cameras)
    found: list[SurfacePoints] = []
    for i, (photo, size) in enumerate(zip(photos, camera_sizes(cameras), strict=True)):
        view = _PhotoView(viewmats[i].double().numpy(), Ks[i].double().numpy(), np.array(size, dtype=np.float64))
        pixels, depth = view.project(points)
        colours, known = photo_cells(photo, _CELLS, _LEAST_SIDE)
        whole = known.numpy()
        if seen_by is not None:
            chosen = (seen_by[i].numpy() & view.inside(pixels, depth)).nonzero()[0]
        else:
            chosen = _thinned(pixels, depth, view.unhidden(pixels, depth).nonzero()[0], view.cell(whole))
        surface = _Triangles.between(pixels[chosen], depth[chosen], view)
        if surface is not None:
            found.append(_on_cells(view, surface, colours, whole, SurfacePoints.joined(found)))
    return SurfacePoints.joined(found)


@dataclass(frozen=True)
class _PhotoView:
    """The camera of a photo, in double precision."""

    viewmat: Float[np.ndarray, "4 4"]
    K: Float[np.ndarray, "3 3"]
    size: Float[np.ndarray, "2"]
    """Width and height in pixels."""

    def project(self, points: Float[Tensor, "M 3"]) -> tuple[Float[np.ndarray, "M 2"], Float[np.ndarray, " M"]]:
        """Pixels and depths; pixels of points behind the camera mean nothing."""
        pixels, depth = project(points.double(), torch.from_numpy(self.viewmat), torch.from_numpy(self.K))
        return pixels.numpy(), depth[:, 0].numpy()

    def lift(self, pixels: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points in the world at pixels and depths, and in the camera's frame."""
        rays = np.concatenate([(pixels - self.K[:2, 2]) / self.K[[0, 1], [0, 1]], np.ones((len(pixels), 1))], axis=1)
        local = rays * depth[:, None]
        return (local - self.viewmat[:3, 3]) @ self.viewmat[:3, :3], local

    def cell(self, cells: Bool[np.ndarray, "r c"]) -> Float[np.ndarray, "2"]:
        """Width and height in pixels of each of the cells of the photo."""
        return self.size / np.array(cells.shape[::-1])

    def inside(self, pixels: np.ndarray, depth: np.ndarray) -> Bool[np.ndarray, " M"]:
        """Which are before the camera and within the image."""
        return (depth > 0) & (pixels >= 0).all(axis=1) & (pixels < self.size).all(axis=1)

    def unhidden(self, pixels: np.ndarray, depth: np.ndarray) -> Bool[np.ndarray, " M"]:
        """Those inside before which no other lies."""
        from scipy.ndimage import minimum_filter  # twenty modules that importing the plugin does without

        seen = self.inside(pixels, depth)
        index = seen.nonzero()[0]
        # By cells: point clouds may have millions of points, each with thousands around it.
        column, row = (pixels[index] / (_AROUND * self.size.max()) * _FINER).astype(np.int64).T
        nearest = np.full((row.max(initial=0) + 1, column.max(initial=0) + 1), np.inf)
        np.minimum.at(nearest, (row, column), depth[index])
        offsets = np.arange(-_FINER, _FINER + 1)
        nearest = minimum_filter(nearest, footprint=np.hypot(*np.meshgrid(offsets, offsets)) <= _FINER, mode="nearest")
        seen[index] = depth[index] <= _HIDDEN * nearest[row, column]
        return seen


def _thinned(
    pixels: np.ndarray, depth: np.ndarray, seen: Int64[np.ndarray, " S"], cell: np.ndarray
) -> Int64[np.ndarray, " T"]:
    """Those of the seen points that triangles are made of: of a crowd the nearest in each cell.

    Scanners leave a million points, between which there is nothing to be found, and triangles take long.
    """
    place = (pixels[seen] / cell).astype(np.int64)
    number = place[:, 1] * (place[:, 0].max(initial=0) + 1) + place[:, 0]
    order = np.lexsort((depth[seen], number))
    _, first = np.unique(number[order], return_index=True)
    return seen if len(seen) <= _CROWD * len(first) else np.sort(seen[order[first]])


@dataclass(frozen=True)
class _Triangles:
    """Those between points of one photo that are taken for surfaces."""

    mesh: Delaunay
    corners: Float[np.ndarray, "P 3"]
    """Points in the camera's frame."""
    usable: Bool[np.ndarray, " S"]

    @classmethod
    def between(cls, pixels: np.ndarray, depth: np.ndarray, view: _PhotoView) -> _Triangles | None:
        """None where there is no triangle, as of points in one line."""
        if len(pixels) < _FEWEST:
            return None
        try:
            mesh = Delaunay(pixels)
        except QhullError:
            return None
        places, depths = pixels[mesh.simplices], depth[mesh.simplices]
        sides = np.linalg.norm(places - np.roll(places, 1, axis=1), axis=-1).max(axis=1)
        usable = (sides <= _LONGEST * view.size.max()) & (depths.max(axis=1) <= _STEEPEST * depths.min(axis=1))
        return cls(mesh, view.lift(pixels, depth)[1], usable)

    def at(self, pixels: np.ndarray) -> tuple[Int64[np.ndarray, " C"], np.ndarray, np.ndarray]:
        """Which pixels lie in a triangle, the depth there, and the normal in the camera's frame."""
        triangle = self.mesh.find_simplex(pixels)
        hit = ((triangle >= 0) & self.usable[triangle]).nonzero()[0]
        triangle = triangle[hit]
        to_barycentric = self.mesh.transform[triangle]
        first = np.einsum("nij,nj->ni", to_barycentric[:, :2], pixels[hit] - to_barycentric[:, 2])
        shares = np.concatenate([first, 1 - first.sum(axis=1, keepdims=True)], axis=1)
        corners = self.corners[self.mesh.simplices[triangle]]
        depth = 1 / (shares / corners[..., 2]).sum(axis=1)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normals, axis=1)
        solid = np.isfinite(depth) & (length > 0)  # of three points in a line qhull may make a triangle without area
        return hit[solid], depth[solid], normals[solid] / length[solid, None]


def _on_cells(
    view: _PhotoView,
    surface: _Triangles,
    colours: Float[Tensor, "r c 3"],
    whole: Bool[np.ndarray, "r c"],
    earlier: SurfacePoints,
) -> SurfacePoints:
    """The points of one photo."""
    cell = view.cell(whole)
    rows, columns = whole.nonzero()
    hit, depth, normals = surface.at((np.stack([columns, rows], axis=1) + 0.5) * cell)
    rows, columns = rows[hit], columns[hit]
    new = ~_known(view, earlier.xyz, cell, np.stack([columns, rows], axis=1), depth)
    rows, columns, depth, normals = rows[new], columns[new], depth[new], normals[new]
    world, _ = view.lift((np.stack([columns, rows], axis=1) + 0.5) * cell, depth)
    radius = depth * (cell / view.K[[0, 1], [0, 1]]).mean() / 2
    return SurfacePoints(
        torch.from_numpy(world).float(),
        to_bytes(colours[rows, columns]),
        torch.from_numpy(normals @ view.viewmat[:3, :3]).float(),
        torch.from_numpy(radius).float(),
    )


def _known(
    view: _PhotoView, points: Float[Tensor, "E 3"], cell: np.ndarray, cells: Int64[np.ndarray, "C 2"], depth: np.ndarray
) -> Bool[np.ndarray, " C"]:
    """Cells, of which there is a depth each, that hold some of these points at about that depth."""
    pixels, depths = view.project(points)
    inside = view.inside(pixels, depths)
    if not inside.any():
        return np.zeros(len(cells), dtype=bool)

    def places(columns_rows: np.ndarray, depth: np.ndarray) -> np.ndarray:
        # In the largest-coordinate norm 0.5 is half a cell from its middle, or a ratio of depths of `_SAME`.
        return np.concatenate([columns_rows, np.log(depth)[:, None] / (2 * np.log(_SAME))], axis=1)

    tree = KDTree(places(pixels[inside] / cell, depths[inside]))
    distance, _ = tree.query(places(cells + 0.5, depth), p=np.inf, distance_upper_bound=0.5)
    return np.isfinite(distance)
