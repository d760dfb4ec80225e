"""Light of the sample scene, computed once per scene and stored per face: it does not depend on the view.

Every face carries a grid of texels. Each texel receives the area lights through shadow rays, then light reflected by
other surfaces: one set of cosine-distributed rays per texel is traced, the texels they meet are remembered, and the
reflected light is summed over a few bounces (a gathering form of radiosity). Stored is irradiance / pi, so that
reflectance times the stored value is radiance, and the visible share of each light, for highlights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.random import Generator

from genfusion_ns.data.sample_scene.materials import FaceTable
from genfusion_ns.data.sample_scene.shapes import Points, Scalars, Shape
from genfusion_ns.data.sample_scene.tracer import Tracer

_CHUNK = 1 << 18
_OFFSET = 2e-3
_LIGHT_GRID = 3
"""Shadow rays per light and texel, along either side of the light."""
_BOUNCE_RAYS = 20
_WRAPS = {"panel": [False], "box": [False] * 6, "ellipsoid": [True], "frustum": [True, False, False]}
"""Which faces of a kind close upon themselves along s."""


@dataclass(frozen=True)
class Light:
    """A glowing ball, a glowing rectangle, or (without `position`) the sun."""

    colour: Float[np.ndarray, "3"]
    """Ball: radiant intensity; rectangle: radiance; sun: irradiance / pi. Linear, in arbitrary common units."""
    position: Float[np.ndarray, "3"] | None
    """Centre in metres; None for the sun."""
    axes: Float[np.ndarray, "2 3"]
    """Half-edges of the rectangle, its light leaving along their cross product; the radius of a ball is the first."""
    direction: Float[np.ndarray, "3"] | None = None
    """Unit vector towards the sun, or the normal of the rectangle; None for a ball."""

    def towards(self, points: Points, jitter: Float[np.ndarray, "N 2"]) -> tuple[Points, Scalars]:
        """Vectors from points to a random place of the light, and unshadowed irradiance / pi per unit cosine."""
        a, b = 2 * jitter[:, :1] - 1, 2 * jitter[:, 1:] - 1
        if self.position is None and self.direction is not None:
            ray = self.direction + 0.012 * (a * self.axes[0] + b * self.axes[1])
            return 60.0 * ray, np.ones(len(points), np.float32)
        target = self.position + a * self.axes[0] + b * self.axes[1]
        ray = target - points
        square = np.maximum((ray**2).sum(1), 0.01)
        if self.direction is None:
            return ray, 1.0 / (np.pi * square)
        area = 4 * np.linalg.norm(self.axes[0]) * np.linalg.norm(self.axes[1])
        cosine = np.maximum(-(ray @ self.direction), 0.0) / np.sqrt(square)
        return ray, area * cosine / (np.pi * square)

    def aim(self, points: Points) -> Points:
        """Unit vectors from points to the middle of the light. [N, 3]"""
        if self.position is None and self.direction is not None:
            return np.broadcast_to(self.direction, points.shape)
        ray = self.position - points
        return ray / np.linalg.norm(ray, axis=1, keepdims=True)


class LightMap:
    """Stored light of all faces of a tracer: irradiance / pi [T, 3] and share of each light seen [T, lights]."""

    def __init__(self, tracer: Tracer, faces: FaceTable, lights: list[Light], rng: Generator, spacing: float) -> None:
        """Trace and store the light.

        Args:
            tracer: the shapes.
            faces: their materials.
            lights: at least one.
            rng: source of the sample positions.
            spacing: metres between texels; 0.05 shows contact shadows, 0.2 is quick.
        """
        self.lights = lights
        limits = np.where(faces.emission[:, None] > 0, 2, 160)
        self.size = np.clip(np.ceil(faces.length / spacing), 3, limits).astype(np.int64)
        counts = self.size.prod(1)
        self.first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self.wraps = np.array([wrap for shape in tracer.shapes for wrap in _WRAPS[shape.kind]])
        self._face = np.repeat(np.arange(len(counts)), counts)
        points, normals = self._texels(tracer)
        inside = _inside(tracer, points)
        direct, seen = _direct(tracer, lights, points, normals, rng)
        direct = self._smooth(np.concatenate([direct, seen], 1), inside, 1)
        bounced = self._bounces(tracer, faces, points, normals, direct[:, :3], rng)
        total = direct.copy()
        total[:, :3] += self._smooth(bounced, inside, 2)
        self.values = total.astype(np.float32)

    def lookup(self, face: Int[np.ndarray, " N"], s: Scalars, t: Scalars) -> Float[np.ndarray, "N C"]:
        """Irradiance / pi (3 channels) and the visible share of each light, interpolated. [N, 3 + lights]"""
        columns, rows, first, wraps = self.size[face, 0], self.size[face, 1], self.first[face], self.wraps[face]
        x, y = s * columns - 0.5, np.clip(t * rows - 0.5, 0, rows - 1)
        x = np.where(wraps, x, np.clip(x, 0, columns - 1))
        x0, y0 = np.floor(x), np.floor(y)
        fx, fy = (x - x0)[:, None].astype(np.float32), (y - y0)[:, None].astype(np.float32)
        left = x0.astype(np.int64)
        right = np.where(wraps, (left + 1) % columns, np.minimum(left + 1, columns - 1))
        left = left % columns
        low = first + y0.astype(np.int64) * columns
        high = first + np.minimum(y0.astype(np.int64) + 1, rows - 1) * columns
        bottom = self.values[low + left] * (1 - fx) + self.values[low + right] * fx
        top = self.values[high + left] * (1 - fx) + self.values[high + right] * fx
        return bottom * (1 - fy) + top * fy

    def nearest_texel(self, face: Int[np.ndarray, " N"], s: Scalars, t: Scalars) -> Int[np.ndarray, " N"]:
        """Index of the texel at (s, t) of faces. [N]"""
        columns, rows = self.size[face, 0], self.size[face, 1]
        column = np.minimum((s * columns).astype(np.int64), columns - 1)
        return self.first[face] + np.minimum((t * rows).astype(np.int64), rows - 1) * columns + column

    def _texels(self, tracer: Tracer) -> tuple[Points, Points]:
        points, normals = [], []
        number = 0
        for shape in tracer.shapes:
            for face in range(shape.num_faces):
                columns, rows = self.size[number]
                t, s = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
                place = shape.place(face, s.ravel(), t.ravel())
                points.append(place)
                normals.append(_face_normals(shape, face, place))
                number += 1
        return np.concatenate(points).astype(np.float32), np.concatenate(normals).astype(np.float32)

    def _bounces(
        self, tracer: Tracer, faces: FaceTable, points: Points, normals: Points, direct: Points, rng: Generator
    ) -> Points:
        count, shift = len(points), rng.uniform(size=(len(points), 2))
        hit = np.full(_BOUNCE_RAYS * count, -1, np.int64)
        for part in _chunks(len(hit)):
            k, texel = np.divmod(np.arange(part.start, part.stop), count)
            jitter = (shift[texel] + np.stack([k / _BOUNCE_RAYS, k * 0.618034], -1)) % 1.0
            found = tracer.hits(points[texel] + _OFFSET * normals[texel], _cosine(normals[texel], jitter))
            met = np.flatnonzero(found.face >= 0)
            hit[part.start + met] = self.nearest_texel(found.face[met], found.s[met], found.v[met])
        hit = hit.reshape(_BOUNCE_RAYS, count)
        reflectance = faces.albedo[self._face] * (faces.emission[self._face] == 0)[:, None]
        total, light = np.zeros_like(direct), direct
        for _ in range(4):
            radiance = np.concatenate([reflectance * light, np.zeros((1, 3), np.float32)])
            light = radiance[hit].mean(0)
            total = total + light
        return total

    def _neighbours(self) -> tuple[Int[np.ndarray, " T"], ...]:
        columns, rows = self.size[self._face, 0], self.size[self._face, 1]
        first, wraps = self.first[self._face], self.wraps[self._face]
        column, row = (np.arange(len(first)) - first) % columns, (np.arange(len(first)) - first) // columns
        left = np.where(wraps, (column - 1) % columns, np.maximum(column - 1, 0))
        right = np.where(wraps, (column + 1) % columns, np.minimum(column + 1, columns - 1))
        below, above = np.maximum(row - 1, 0), np.minimum(row + 1, rows - 1)
        here = first + row * columns
        return here + left, here + right, first + below * columns + column, first + above * columns + column

    def _smooth(self, values: np.ndarray, inside: Bool[np.ndarray, " T"], times: int) -> np.ndarray:
        # Texels inside an object hold no light of their own: they take that of the nearest texels outside.
        values, known = values.astype(np.float32), (~inside).astype(np.float32)[:, None]
        left, right, below, above = self._neighbours()

        def spread(x: np.ndarray) -> np.ndarray:
            x = 2 * x + x[left] + x[right]
            return 2 * x + x[below] + x[above]

        for step in range(times + 8):
            weight = spread(known)
            mean = spread(values * known) / np.maximum(weight, 1e-6)
            values = np.where(weight > 0, mean, values) if step < times else np.where(known > 0, values, mean)
            known = (weight > 0).astype(np.float32)
        return values


def _face_normals(shape: Shape, face: int, points: Points) -> Points:
    if shape.kind == "box" or (shape.kind == "frustum" and face > 0):
        axis, sign = (face // 2, 2 * (face % 2) - 1) if shape.kind == "box" else (2, 2 * face - 3)
        return np.broadcast_to(sign * shape.rotation[:, axis], points.shape)
    return shape.locate(points)[3]


def _inside(tracer: Tracer, points: Points) -> Bool[np.ndarray, " N"]:
    inside = np.zeros(len(points), bool)
    for group in tracer.groups:
        solids = [shape for shape in group if shape.kind != "panel" and not shape.emits]
        if not solids:
            continue
        boxes = np.stack([shape.bounds() for shape in solids])
        near = np.flatnonzero(((points > boxes[:, 0].min(0)) & (points < boxes[:, 1].max(0))).all(1))
        for shape, (low, high) in zip(solids, boxes, strict=True):
            rows = near[((points[near] > low) & (points[near] < high)).all(1)]
            inside[rows] |= shape.distance(points[rows]) < -1e-3
    return inside


def _direct(
    tracer: Tracer, lights: list[Light], points: Points, normals: Points, rng: Generator
) -> tuple[Points, Float[np.ndarray, "N L"]]:
    count = len(points)
    total, seen = np.zeros((count, 3), np.float32), np.zeros((count, len(lights)), np.float32)
    for number, light in enumerate(lights):
        shift = rng.uniform(size=(count, 2))
        for part in _chunks(_LIGHT_GRID**2 * count):
            k, texel = np.divmod(np.arange(part.start, part.stop), count)
            jitter = (np.stack([k % _LIGHT_GRID, k // _LIGHT_GRID], -1) + shift[texel]) / _LIGHT_GRID
            ray, strength = light.towards(points[texel], jitter)
            normal = normals[texel]
            received = np.maximum((ray * normal).sum(1) / np.linalg.norm(ray, axis=1), 0.0) * strength
            facing = np.flatnonzero(received > 1e-5)
            origins = points[texel[facing]] + _OFFSET * normal[facing]
            lit = facing[tracer.nearest(origins, ray[facing], shadows=True)[0] >= 0.995]
            amount = np.bincount(texel[lit], received[lit], count) / _LIGHT_GRID**2
            total += (amount[:, None] * light.colour).astype(np.float32)
            seen[:, number] += np.bincount(texel[lit], minlength=count) / _LIGHT_GRID**2
    return total, seen


def _cosine(normals: Points, jitter: Float[np.ndarray, "N 2"]) -> Points:
    angle, height = 2 * np.pi * jitter[:, :1], 1 - 2 * jitter[:, 1:]
    radius = np.sqrt(np.maximum(1 - height**2, 0.0))
    ball = np.concatenate([radius * np.cos(angle), radius * np.sin(angle), height], 1)
    return (normals * 1.0001 + ball).astype(np.float32)


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
