"""Triangle meshes: their area, normals, parts, and points spread over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Mesh:
    """Triangles, wound counter-clockwise when seen from outside."""

    vertices: Float[np.ndarray, "V 3"]
    """Positions."""
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
        return _unit(self._crossed())

    def vertex_normals(self) -> Float[np.ndarray, "V 3"]:
        """Unit normals of the vertices, outwards: of their triangles by area; zero for vertices of none."""
        crossed = self._crossed().astype(np.float64)
        corners = self.faces.ravel()
        summed = [np.bincount(corners, np.repeat(crossed[:, axis], 3), len(self.vertices)) for axis in range(3)]
        return _unit(np.stack(summed, axis=-1))

    def points_on(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[np.ndarray, "P 3"], Int[np.ndarray, " P"]]:
        """Random points, evenly by area, and the triangle that each lies in."""
        areas = torch.from_numpy(self.areas())
        # Not multinomial, which takes at most 2^24 weights.
        drawn = torch.rand(count, generator=generator, dtype=torch.float64) * float(areas.sum())
        faces = torch.searchsorted(areas.double().cumsum(0), drawn).clamp(max=len(areas) - 1).numpy()
        u, v = torch.rand(2, count, generator=generator, dtype=torch.float64).numpy()
        flipped = u + v > 1
        u, v = np.where(flipped, 1 - u, u), np.where(flipped, 1 - v, v)
        a, b, c = (self.vertices[self.faces[faces, corner]].astype(np.float64) for corner in range(3))
        return a + u[:, None] * (b - a) + v[:, None] * (c - a), faces

    def parts(self) -> Int[np.ndarray, " F"]:
        """For each triangle the number of its part, from 0 on; parts share no vertex."""
        if not len(self.faces):
            return np.zeros(0, dtype=np.int64)
        ends = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]]])
        joined = coo_matrix((np.ones(len(ends), dtype=bool), ends.T), shape=(len(self.vertices),) * 2)
        _, of_vertex = connected_components(joined, directed=False)
        return np.unique(of_vertex[self.faces[:, 0]], return_inverse=True)[1]

    def only(self, faces: Bool[np.ndarray, " F"]) -> Mesh:
        """Some of the triangles, and the vertices that they need."""
        kept, corners = np.unique(self.faces[faces], return_inverse=True)
        colours = None if self.colours is None else self.colours[kept]
        return Mesh(self.vertices[kept], corners.reshape(-1, 3), colours)

    def _crossed(self) -> Float[np.ndarray, "F 3"]:
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        return np.cross(b - a, c - a)


def _unit(vectors: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, "M 3"]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
