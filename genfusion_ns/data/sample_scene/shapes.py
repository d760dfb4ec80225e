"""Solid shapes of the sample scene and how rays meet them.

Conventions: metres, z up. A shape lives in its own frame (columns of `rotation` in world axes, origin `centre`):

- ``panel``      rectangle ``|x| <= half[0], |y| <= half[1]`` in z = 0, with rectangular holes; one face
- ``box``        ``|x|, |y|, |z| <= half``; faces -x, +x, -y, +y, -z, +z
- ``ellipsoid``  half-axes `half`; one face, longitude and latitude
- ``frustum``    axis z, ``|z| <= half[2]``, radius half[0] at the bottom and half[1] at the top; faces side, bottom,
  top

Each face has coordinates (s, t) in 0..1: to the right and up as seen from outside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from genfusion_ns.data.sample_scene.textures import Image

Points = Float[np.ndarray, "N 3"]
Rows = Float[np.ndarray, "3 N"]
Scalars = Float[np.ndarray, " N"]
Hole = tuple[float, float, float, float]

NEAR = 1e-4
"""Hits closer than this to the ray origin are ignored, in metres."""
_FACES = {"panel": 1, "box": 6, "ellipsoid": 1, "frustum": 3}


@dataclass(frozen=True, eq=False)
class Surface:
    """What a face is made of."""

    image: Image
    """Texture, sRGB in 0..1, row 0 at the top."""
    tile: float | None = None
    """Metres per repeat; None stretches the image once over the face."""
    gloss: float = 0.0
    """Strength of the view-dependent highlight, 0 (Lambertian) to 1."""
    shininess: float = 30.0
    """Exponent of the highlight."""
    emission: float = 0.0
    """Light given off, as a multiple of the texture; such shapes cast no shadow."""
    grain: bool = False
    """The texture runs along u and should follow the longer side of the face."""


@dataclass(frozen=True, eq=False)
class Shape:
    """One primitive; see the module docstring for the kinds."""

    kind: Literal["panel", "box", "ellipsoid", "frustum"]
    centre: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    half: Float[np.ndarray, "3"]
    surfaces: tuple[Surface, ...]
    """One per face, or one for all."""
    holes: tuple[Hole, ...] = ()
    """Openings of a panel: (x0, x1, y0, y1) in its own frame."""

    @property
    def num_faces(self) -> int:
        """How many faces this kind has."""
        return _FACES[self.kind]

    def surface(self, face: int) -> Surface:
        """The surface of face number `face`."""
        return self.surfaces[face if len(self.surfaces) > 1 else 0]

    @property
    def emits(self) -> bool:
        """Whether any face gives off light."""
        return any(surface.emission > 0 for surface in self.surfaces)

    def moved(self, rotation: Float[np.ndarray, "3 3"], offset: Float[np.ndarray, "3"]) -> Shape:
        """The shape after a rotation about the world origin and then a translation."""
        return replace(self, centre=rotation @ self.centre + offset, rotation=rotation @ self.rotation)

    def extent(self) -> Float[np.ndarray, "3"]:
        """Half-sizes of the axis-aligned bounding box in the shape's own frame."""
        if self.kind == "frustum":
            radius = max(self.half[0], self.half[1])
            return np.array([radius, radius, self.half[2]])
        return self.half * np.array([1.0, 1.0, 0.0 if self.kind == "panel" else 1.0])

    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Lower and upper corner of the world-axis bounding box."""
        reach = np.abs(self.rotation) @ self.extent()
        return np.stack([self.centre - reach, self.centre + reach])

    def distance(self, points: Points) -> Scalars:
        """Signed distance bound: at most the true distance outside, negative inside. Panels: unsigned. [N]"""
        local = (points - self.centre) @ self.rotation
        if self.kind == "frustum":
            bottom, top, height = self.half
            slope = (top - bottom) / (2 * height)
            outside = np.hypot(local[:, 0], local[:, 1]) - (top + bottom) / 2 - slope * local[:, 2]
            return np.maximum(outside / np.hypot(1.0, slope), np.abs(local[:, 2]) - height)
        local = np.abs(local)
        around = (local - self.extent()).max(-1)
        if self.kind == "ellipsoid":
            return np.maximum((np.linalg.norm(local / self.half, axis=-1) - 1.0) * self.half.min(), around)
        return around

    def intersect(self, origins: Rows, directions: Rows) -> Scalars:
        """Ray parameter of the nearest hit beyond `NEAR` from outside, inf where there is none.

        Args:
            origins: ray origins in the world, one per ray or a single one for all. [3, N or 1]
            directions: ray directions, any length. [3, N]
        """
        origin = _into_frame(self.rotation, origins - self.centre.astype(np.float32)[:, None])
        direction = _into_frame(self.rotation, directions)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return _HITS[self.kind](self, origin, direction)

    def _hit_panel(self, o: list[Scalars], d: list[Scalars]) -> Scalars:
        t = -o[2] / d[2]
        x, y = o[0] + t * d[0], o[1] + t * d[1]
        hit = (t > NEAR) & (np.abs(x) <= self.half[0]) & (np.abs(y) <= self.half[1])
        for x0, x1, y0, y1 in self.holes:
            hit &= ~((x > x0) & (x < x1) & (y > y0) & (y < y1))
        return np.where(hit, t, np.float32(np.inf))

    def _hit_box(self, o: list[Scalars], d: list[Scalars]) -> Scalars:
        enter, leave = np.float32(-np.inf), np.float32(np.inf)
        for k in range(3):
            inverse = 1.0 / d[k]
            middle, reach = -o[k] * inverse, np.float32(self.half[k]) * np.abs(inverse)
            enter, leave = np.maximum(enter, middle - reach), np.minimum(leave, middle + reach)
        return np.where((enter <= leave) & (enter > NEAR), enter, np.float32(np.inf))

    def _hit_ellipsoid(self, o: list[Scalars], d: list[Scalars]) -> Scalars:
        scale = (1.0 / self.half).astype(np.float32)
        o, d = [x * k for x, k in zip(o, scale, strict=True)], [x * k for x, k in zip(d, scale, strict=True)]
        a, b, c = _dot(d, d), _dot(o, d), _dot(o, o) - 1.0
        t = (-b - np.sqrt(b * b - a * c)) / a
        return np.where(t > NEAR, t, np.float32(np.inf))

    def _hit_frustum(self, o: list[Scalars], d: list[Scalars]) -> Scalars:
        bottom, top, height = (np.float32(x) for x in self.half)
        slope, middle = (top - bottom) / (2 * height), (top + bottom) / 2
        r_o, r_d = middle + slope * o[2], slope * d[2]
        a = d[0] ** 2 + d[1] ** 2 - r_d**2
        b = o[0] * d[0] + o[1] * d[1] - r_o * r_d
        root = np.sqrt(b * b - a * (o[0] ** 2 + o[1] ** 2 - r_o**2))
        best = np.full(np.broadcast_shapes(o[0].shape, d[0].shape), np.inf, np.float32)
        for t in ((-b - root) / a, (-b + root) / a):
            z = o[2] + t * d[2]
            hit = (t > NEAR) & (np.abs(z) <= height) & (middle + slope * z >= 0)
            best = np.where(hit & (t < best), t, best)
        for z, radius in ((-height, bottom), (height, top)):
            t = (z - o[2]) / d[2]
            hit = (t > NEAR) & ((o[0] + t * d[0]) ** 2 + (o[1] + t * d[1]) ** 2 <= radius**2)
            best = np.where(hit & (t < best), t, best)
        return best

    def face_lengths(self, face: int) -> tuple[float, float]:
        """Length of a face along s and t, in metres."""
        x, y, z = (float(2 * value) for value in self.half)
        if self.kind == "panel":
            return x, y
        if self.kind == "box":
            return ((y, z), (y, z), (x, z), (x, z), (x, y), (x, y))[face]
        if self.kind == "ellipsoid":
            return np.pi * (x + y) / 2, np.pi * (x + z) / 4
        radius = (x + y) / 4
        return (2 * np.pi * radius, z) if face == 0 else ((x, x) if face == 1 else (y, y))

    def locate(self, points: Points) -> tuple[Int[np.ndarray, " N"], Scalars, Scalars, Points]:
        """Face number, (s, t) and outward world normal of points on the surface."""
        p = ((points - self.centre.astype(np.float32)) @ self.rotation.astype(np.float32)).astype(np.float32)
        face = np.zeros(len(p), np.int64)
        normal = np.zeros_like(p)
        half = self.half.astype(np.float32)
        if self.kind == "panel":
            normal[:, 2] = 1.0
            s, t = p[:, 0] / (2 * half[0]) + 0.5, p[:, 1] / (2 * half[1]) + 0.5
        elif self.kind == "box":
            axis = np.argmax(np.abs(p) - half, axis=1)
            rows = np.arange(len(p))
            sign = np.where(p[rows, axis] > 0, 1.0, -1.0).astype(np.float32)
            face, normal[rows, axis] = 2 * axis + (sign > 0), sign
            q = p / (2 * half)
            s = np.choose(axis, [sign * q[:, 1], -sign * q[:, 0], q[:, 0]]) + 0.5
            t = np.where(axis == 2, sign * q[:, 1], q[:, 2]) + 0.5
        elif self.kind == "ellipsoid":
            q = p / half
            normal = q / half
            s = np.arctan2(q[:, 1], q[:, 0]) / (2 * np.pi) + 0.5
            t = np.arcsin(np.clip(q[:, 2], -1, 1)) / np.pi + 0.5
        else:
            face, s, t, normal = _locate_frustum(p, half)
        normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        return face, np.clip(s, 0, 1), np.clip(t, 0, 1), normal @ self.rotation.T.astype(np.float32)

    def place(self, face: int, s: Scalars, t: Scalars) -> Points:
        """World points at (s, t) of a face; inverse of `locate`. [N, 3]"""
        x, y, z = self.half
        a, b, o = 2 * s - 1, 2 * t - 1, np.ones_like(s)
        if self.kind == "panel":
            p = np.stack([a * x, b * y, 0 * o], -1)
        elif self.kind == "box":
            axis, sign = face // 2, 2.0 * (face % 2) - 1
            p = (
                np.stack(((o * sign, sign * a, b), (-sign * a, o * sign, b), (a, sign * b, o * sign))[axis], -1)
                * self.half
            )
        elif self.kind == "ellipsoid":
            lon, lat = np.pi * a, np.pi / 2 * b
            p = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1) * self.half
        elif face == 0:
            radius = x + (y - x) * t
            p = np.stack([radius * np.cos(np.pi * a), radius * np.sin(np.pi * a), b * z], -1)
        else:
            radius = x if face == 1 else y
            p = np.stack([a * radius, b * radius, o * (z if face == 2 else -z)], -1)
        return p @ self.rotation.T + self.centre


_HITS = {
    "panel": Shape._hit_panel,
    "box": Shape._hit_box,
    "ellipsoid": Shape._hit_ellipsoid,
    "frustum": Shape._hit_frustum,
}


def _into_frame(rotation: Float[np.ndarray, "3 3"], vectors: Rows) -> list[Scalars]:
    # Written out, since a BLAS call on so thin a product costs more than it does.
    columns = rotation.T.astype(np.float32)
    return [reduce(np.add, [r * x for r, x in zip(c, vectors, strict=True) if r != 0.0]) for c in columns]


def _dot(a: list[Scalars], b: list[Scalars]) -> Scalars:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _locate_frustum(p: Points, half: Float[np.ndarray, "3"]) -> tuple[Int[np.ndarray, " N"], Scalars, Scalars, Points]:
    bottom, top, height = half
    slope = (top - bottom) / (2 * height)
    around = np.hypot(p[:, 0], p[:, 1])
    to_side = np.abs(around - ((top + bottom) / 2 + slope * p[:, 2]))
    to_cap = height - np.abs(p[:, 2])
    face = np.where(to_side <= np.abs(to_cap), 0, np.where(p[:, 2] > 0, 2, 1))
    side = face == 0
    radius = np.where(face == 2, max(top, 1e-6), max(bottom, 1e-6))
    s = np.where(side, np.arctan2(p[:, 1], p[:, 0]) / (2 * np.pi), p[:, 0] / (2 * radius)) + 0.5
    t = np.where(side, p[:, 2] / (2 * height), p[:, 1] / (2 * radius)) + 0.5
    flat = np.stack([0 * around, 0 * around, np.sign(p[:, 2])], -1)
    slanted = np.stack([p[:, 0], p[:, 1], -slope * around], -1)
    return face, s, t, np.where(side[:, None], slanted, flat).astype(np.float32)
