"""The surface of a field as triangles: marching cubes, colours of its vertices, points on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from genfusion_ns.priors.triposr.field import CHUNK, TriplaneField
from genfusion_ns.priors.triposr.occupancy import Occupancy

THRESHOLD = 25.0
"""Density of the published network's surfaces."""
_PIECES = 64
"""Slices of the grid that are asked for at once, at a resolution of 64."""


class EmptySurfaceError(ValueError):
    """A field that nowhere crosses the threshold."""


@dataclass(frozen=True)
class Mesh:
    """Triangles in the frame of the field, z up, wound counter-clockwise when seen from outside."""

    vertices: Float[np.ndarray, "V 3"]
    """Positions within the cube of the field."""
    faces: Int[np.ndarray, "F 3"]
    """Indices of vertices."""
    colours: Float[np.ndarray, "V 3"] | None = None
    """0..1, of the vertices."""

    def volume(self) -> float:
        """Signed volume that is enclosed; of a closed surface positive."""
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)

    def areas(self) -> Float[np.ndarray, " F"]:
        """Areas of the triangles."""
        return np.linalg.norm(self._crossed(), axis=1) / 2

    def face_normals(self) -> Float[np.ndarray, "F 3"]:
        """Unit normals of the triangles, outwards; zero for those without an area."""
        crossed = self._crossed()
        length = np.linalg.norm(crossed, axis=1, keepdims=True)
        return np.divide(crossed, length, out=np.zeros_like(crossed), where=length > 0)

    def _crossed(self) -> Float[np.ndarray, "F 3"]:
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        return np.cross(b - a, c - a)


def density_grid(
    field: TriplaneField, resolution: int, occupancy: Occupancy | None = None, chunk: int = CHUNK
) -> Float[Tensor, "n n n"]:
    """Density at the corners of a grid over the cube of a field, by x, y, z; on the CPU.

    Args:
        field: of one object.
        resolution: points along a side.
        occupancy: of the field: 0 stands where it is empty; None asks everywhere.
        chunk: see `TriplaneField.query`.
    """
    along = torch.linspace(-field.radius, field.radius, resolution, device=field.code.device)
    slices = []
    with torch.no_grad():
        for part in along.split(max(1, _PIECES * 64**2 // resolution**2)):
            points = torch.stack(torch.meshgrid(part, along, along, indexing="ij"), dim=-1)
            if occupancy is None:
                slices.append(field.density(points.view(-1, 3), chunk).view(points.shape[:3]).cpu())
                continue
            wanted = occupancy.holds(points)
            density = points.new_zeros(points.shape[:3])
            density[wanted] = field.density(points[wanted], chunk)
            slices.append(density.cpu())
    return torch.cat(slices)


def extract_mesh(
    field: TriplaneField,
    resolution: int = 256,
    threshold: float = THRESHOLD,
    occupancy: Occupancy | None = None,
    chunk: int = CHUNK,
) -> Mesh:
    """The surface of a field at a density, with its colours; arguments as in `density_grid`.

    Raises:
        EmptySurfaceError: the density is nowhere above, or nowhere below the threshold.
    """
    grid = density_grid(field, resolution, occupancy, chunk)
    mesh = surface_of(grid, threshold, field.radius)
    return with_colours(mesh, field, chunk)


def surface_of(grid: Float[Tensor, "n n n"], threshold: float, radius: float) -> Mesh:
    """The surface in a grid of densities over the cube -radius..radius, closed also where it meets the cube.

    Raises:
        EmptySurfaceError: see `extract_mesh`.
    """
    from skimage.measure import marching_cubes

    least, most = float(grid.min()), float(grid.max())
    if not least < threshold < most:
        raise EmptySurfaceError(
            f"there is no surface at --threshold {threshold:g}: densities are {least:.3g}..{most:.3g}. Give a value "
            "between them, or an image that shows one object as a whole"
        )
    count = len(grid)
    # A layer of nothing around the cube closes what would be cut off by it.
    padded = np.pad(grid.numpy().astype(np.float32), 1)
    places, faces, _, _ = marching_cubes(padded, threshold)
    vertices = (places - 1) / (count - 1) * (2 * radius) - radius
    # The library winds triangles for densities that grow outwards.
    vertices = np.clip(vertices, -radius, radius).astype(np.float32)
    return without_degenerate(Mesh(vertices, faces[:, ::-1].astype(np.int64)))


def without_degenerate(mesh: Mesh) -> Mesh:
    """The same surface without triangles of which two corners are one vertex."""
    a, b, c = mesh.faces.T
    return replace(mesh, faces=np.ascontiguousarray(mesh.faces[(a != b) & (b != c) & (c != a)]))


def with_colours(mesh: Mesh, field: TriplaneField, chunk: int = CHUNK) -> Mesh:
    """The mesh with the colours that the field has at its vertices."""
    return replace(mesh, colours=colours_at(field, mesh.vertices, chunk))


@torch.no_grad()
def colours_at(field: TriplaneField, points: Float[np.ndarray, "P 3"], chunk: int = CHUNK) -> Float[np.ndarray, "P 3"]:
    """Colours of a field at points, 0..1."""
    places = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32)).to(field.code.device)
    return field.query(places, chunk).colours.cpu().numpy()


@dataclass(frozen=True)
class SurfacePoints:
    """Points on a surface."""

    xyz: Float[np.ndarray, "P 3"]
    """Positions."""
    normals: Float[np.ndarray, "P 3"]
    """Of length 1, outwards."""
    rgb: Float[np.ndarray, "P 3"]
    """0..1."""


def surface_points(
    mesh: Mesh, field: TriplaneField, count: int, generator: torch.Generator, chunk: int = CHUNK
) -> SurfacePoints:
    """Points spread evenly over the area of a mesh, with the normals of its triangles and the colours of the field."""
    areas = torch.from_numpy(mesh.areas())
    # Not multinomial, which takes at most 2^24 weights.
    drawn = torch.rand(count, generator=generator, dtype=torch.float64) * float(areas.sum())
    faces = torch.searchsorted(areas.double().cumsum(0), drawn).clamp(max=len(areas) - 1).numpy()
    u, v = torch.rand(2, count, generator=generator, dtype=torch.float64).numpy()
    flipped = u + v > 1
    u, v = np.where(flipped, 1 - u, u), np.where(flipped, 1 - v, v)
    a, b, c = (mesh.vertices[mesh.faces[faces, corner]].astype(np.float64) for corner in range(3))
    xyz = a + u[:, None] * (b - a) + v[:, None] * (c - a)
    return SurfacePoints(xyz, mesh.face_normals()[faces].astype(np.float64), colours_at(field, xyz, chunk))
