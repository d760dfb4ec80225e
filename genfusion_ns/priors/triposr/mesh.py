"""The surface of a field as triangles: marching cubes, colours of its vertices, points on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.meshes import Mesh
from genfusion_ns.priors.triposr.field import CHUNK, TriplaneField
from genfusion_ns.priors.triposr.occupancy import Occupancy

THRESHOLD = 25.0
"""Density of the published network's surfaces."""
_PIECES = 64
"""Slices of the grid that are asked for at once, at a resolution of 64."""


class EmptySurfaceError(ValueError):
    """A field that nowhere crosses the threshold."""


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
    xyz, faces = mesh.points_on(count, generator)
    return SurfacePoints(xyz, mesh.face_normals()[faces].astype(np.float64), colours_at(field, xyz, chunk))
