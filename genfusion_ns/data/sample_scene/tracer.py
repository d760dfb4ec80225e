"""Where rays first meet the sample scene, among groups of shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from genfusion_ns.data.sample_scene.shapes import Points, Rows, Scalars, Shape


@dataclass(frozen=True)
class Hits:
    """Where N rays first meet a scene; rows without a hit have face -1 and t = inf."""

    t: Scalars
    """Ray parameter."""
    face: Int[np.ndarray, " N"]
    """Scene-wide face number."""
    s: Scalars
    """Face coordinate to the right, 0..1."""
    v: Scalars
    """Face coordinate upwards, 0..1."""
    normal: Points
    """Unit world normal, towards the ray origin."""


class Tracer:
    """Nearest hits of many rays among groups of shapes; a group is skipped where its bounding box is missed."""

    def __init__(self, groups: list[list[Shape]]) -> None:
        self.groups = groups
        self.shapes = [shape for group in groups for shape in group]
        counts = [shape.num_faces for shape in self.shapes]
        self.first_face = np.concatenate([[0], np.cumsum(counts)])
        """Scene-wide number of the first face of each shape, and the total at the end."""
        self._bounds = [_hull(group) for group in groups]

    def nearest(self, origins: Points, directions: Points, shadows: bool = False) -> tuple[Scalars, np.ndarray]:
        """Ray parameter (inf if none) and shape index (-1 if none) of the nearest hit.

        Args:
            origins: one per ray, or a single row. [N or 1, 3]
            directions: not necessarily unit. [N, 3]
            shadows: ignore shapes that give off light.
        """
        origins = np.ascontiguousarray(origins.T, np.float32)
        directions = np.ascontiguousarray(directions.T, np.float32)
        best = np.full(directions.shape[1], np.inf, np.float32)
        index = np.full(directions.shape[1], -1, np.int32)
        first = 0
        for group, bounds in zip(self.groups, self._bounds, strict=True):
            shapes = [(first + k, shape) for k, shape in enumerate(group) if not (shadows and shape.emits)]
            first += len(group)
            rows = None if len(group) == 1 else _reaches(bounds, origins, directions, best)
            if rows is not None and len(rows) == 0:
                continue
            o = origins if rows is None or origins.shape[1] == 1 else origins[:, rows]
            d = directions if rows is None else directions[:, rows]
            near, which = (best, index) if rows is None else (best[rows], index[rows])
            for number, shape in shapes:
                t = shape.intersect(o, d)
                closer = t < near
                np.copyto(near, t, where=closer)
                np.copyto(which, number, where=closer)
            if rows is not None:
                best[rows], index[rows] = near, which
        return best, index

    def hits(self, origins: Points, directions: Points) -> Hits:
        """The nearest hits with face, face coordinates and normals."""
        directions = directions.astype(np.float32)
        t, index = self.nearest(origins, directions)
        n = len(t)
        face, s, v = np.full(n, -1, np.int32), np.zeros(n, np.float32), np.zeros(n, np.float32)
        normal = np.zeros((n, 3), np.float32)
        order = np.argsort(index, kind="stable")
        starts = np.searchsorted(index[order], np.arange(len(self.shapes) + 1))
        for number in np.unique(index[index >= 0]):
            rows = order[starts[number] : starts[number + 1]]
            o = origins if len(origins) == 1 else origins[rows]
            points = o.astype(np.float32) + t[rows, None] * directions[rows]
            local_face, s[rows], v[rows], normal[rows] = self.shapes[number].locate(points)
            face[rows] = self.first_face[number] + local_face
        away = (normal * directions).sum(1) > 0
        normal[away] *= -1
        return Hits(t, face, s, v, normal)


def _hull(group: list[Shape]) -> Float[np.ndarray, "2 3"]:
    boxes = np.stack([shape.bounds() for shape in group])
    return np.stack([boxes[:, 0].min(0) - 1e-3, boxes[:, 1].max(0) + 1e-3]).astype(np.float32)


def _reaches(bounds: np.ndarray, origins: Rows, directions: Rows, limit: Scalars) -> np.ndarray:
    enter, leave = np.float32(0.0), limit
    with np.errstate(divide="ignore", invalid="ignore"):
        for k in range(3):
            inverse = 1.0 / directions[k]
            a, b = (bounds[0, k] - origins[k]) * inverse, (bounds[1, k] - origins[k]) * inverse
            enter, leave = np.fmax(enter, np.minimum(a, b)), np.fmin(leave, np.maximum(a, b))
    return np.flatnonzero(enter <= leave)
