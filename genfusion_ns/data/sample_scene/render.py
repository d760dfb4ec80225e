"""A lit room that can be photographed from anywhere: the `Scene` of the generated sample capture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.random import Generator
from scipy.ndimage import maximum_filter, minimum_filter

from genfusion_ns.data.sample_scene.lighting import Light, LightMap
from genfusion_ns.data.sample_scene.materials import FaceTable, linear_to_srgb
from genfusion_ns.data.sample_scene.paths import HandHeldPath
from genfusion_ns.data.sample_scene.shapes import Points, Scalars, Shape
from genfusion_ns.data.sample_scene.tracer import Hits, Tracer


@dataclass(frozen=True)
class SceneRender:
    """One photograph of a scene."""

    rgb: Float[np.ndarray, "H W 3"]
    """sRGB colours in 0..1, anti-aliased."""
    depth: Float[np.ndarray, "H W"]
    """z depth in metres of the surface at the pixel centre."""
    normals: Float[np.ndarray, "H W 3"]
    """Unit world normals at the pixel centre, towards the camera."""
    face: Int[np.ndarray, "H W"]
    """Scene-wide number of the face at the pixel centre, an index into `Scene.faces`."""


@dataclass(frozen=True)
class RoomBox:
    """The walkable inside of the main room, axis-aligned, in metres."""

    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]


class Scene:
    """Shapes, materials and stored light of one room, with a camera path fit for it."""

    def __init__(
        self,
        groups: list[list[Shape]],
        lights: list[Light],
        room: RoomBox,
        path: HandHeldPath,
        rng: Generator,
        light_spacing: float,
    ) -> None:
        self.tracer = Tracer(groups)
        self.faces = FaceTable(self.tracer, rng)
        """Materials; `faces.gloss[k] == 0` says that face k looks the same from everywhere."""
        self.light_map = LightMap(self.tracer, self.faces, lights, rng, light_spacing)
        self.room = room
        self.path = path
        self.exposure = self._expose()
        """Film speed: multiplies radiance so that the room is bright on average, whatever its lamps."""
        typical = 6.0 * float(self.light_map.values[:, :3].mean())
        self._highlight = [light.colour / light.colour.max() * typical for light in lights]

    def render(
        self, c2w: Float[np.ndarray, "4 4"], K: Float[np.ndarray, "3 3"], width: int, height: int, samples: int = 2
    ) -> SceneRender:
        """Photograph the scene.

        Args:
            c2w: pose, OpenGL axes (x right, y up, z backward), metres. [4, 4]
            K: intrinsics in pixels; the centre of pixel (i, j) is (j + 0.5, i + 0.5). [3, 3]
            width: pixels.
            height: pixels.
            samples: rays per pixel side where a pixel holds an edge or a slanted texture; 1 does not anti-alias edges.

        Raises:
            ValueError: if `samples` is below 1 or a ray leaves the scene (a camera outside it).
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
        directions = _rays(c2w, K, x.ravel(), y.ravel())
        origin = c2w[None, :3, 3].astype(np.float32)
        hits = self.tracer.hits(origin, directions)
        if not (hits.face >= 0).all():
            raise ValueError(f"{(hits.face < 0).sum()} rays leave the scene: the camera at {c2w[:3, 3]} is outside it")
        pixel = 1.0 / float(K[0, 0])
        rgb = self._shade(origin, directions, hits, pixel)
        if samples > 1:
            rough = np.flatnonzero(_rough(hits, directions, height, width))
            total = np.zeros((len(rough), 3), np.float32)
            for k in range(samples**2):
                dx, dy = ((k % samples) + 0.5) / samples - 0.5, ((k // samples) + 0.5) / samples - 0.5
                d = _rays(c2w, K, x.ravel()[rough] + dx, y.ravel()[rough] + dy)
                total += self._shade(origin, d, self.tracer.hits(origin, d), pixel / samples)
            rgb[rough] = total / samples**2
        shape = (height, width)
        return SceneRender(
            rgb.reshape(*shape, 3), hits.t.reshape(shape), hits.normal.reshape(*shape, 3), hits.face.reshape(shape)
        )

    def cameras(self, num_views: int, path_seed: int = 0) -> Float[np.ndarray, "N 4 4"]:
        """Poses along the capture path, in order, all in free space. c2w, OpenGL axes. [N, 4, 4]

        Args:
            num_views: at least 1.
            path_seed: another walk through the same room for each value.
        """
        return self.path.poses(num_views, path_seed, lambda points: self.is_free(points, 0.12))

    def is_free(self, points: Float[np.ndarray, "N 3"], margin: float) -> Bool[np.ndarray, " N"]:
        """Whether points are inside the main room and outside every object, at least `margin` metres away. [N]"""
        free = np.all((points > self.room.low + margin) & (points < self.room.high - margin), axis=1)
        for shape in self.tracer.shapes:
            if shape.kind != "panel":
                free = np.logical_and(free, shape.distance(points) >= margin)
        return free

    def visible(self, points: Points, centre: Float[np.ndarray, "3"]) -> Bool[np.ndarray, " N"]:
        """Whether nothing lies between a camera centre and points on surfaces (to 0.2 % of the distance). [N]"""
        t, _ = self.tracer.nearest(centre[None], points - centre)
        return t > 0.998

    def _shade(self, origin: Points, directions: Points, hits: Hits, pixel: float) -> Points:
        length = np.linalg.norm(directions, axis=1)
        view = -directions / length[:, None]
        cosine = np.abs((view * hits.normal).sum(1))
        footprint = 0.75 * pixel * hits.t * length / np.sqrt(np.maximum(cosine, 0.03))
        albedo = self.faces.colour(hits.face, hits.s, hits.v, footprint)
        light = self.light_map.lookup(hits.face, hits.s, hits.v)
        radiance = albedo * (light[:, :3] + self.faces.emission[hits.face][:, None])
        shiny = np.flatnonzero(self.faces.gloss[hits.face] > 0)
        if len(shiny):
            points = origin + hits.t[shiny, None] * directions[shiny]
            radiance[shiny] += self._gloss(points, view[shiny], hits.normal[shiny], hits.face[shiny], light[shiny])
        exposed = 1.0 - np.exp(-self.exposure * radiance)
        return linear_to_srgb(exposed)

    def _gloss(self, points: Points, view: Points, normal: Points, face: np.ndarray, light: np.ndarray) -> Points:
        cosine = (view * normal).sum(1, keepdims=True)
        mirrored = 2 * cosine * normal - view
        fresnel = 0.25 + 0.75 * (1 - np.clip(cosine[:, 0], 0, 1)) ** 5
        power = self.faces.shininess[face]
        total = 0.35 * light[:, :3] * np.clip(0.6 + 0.4 * mirrored[:, 2:], 0, 1)
        for number, source in enumerate(self.light_map.lights):
            aim = source.aim(points).astype(np.float32)
            lobe = np.clip((mirrored * aim).sum(1), 0, 1) ** power * light[:, 3 + number]
            total = total + lobe[:, None] * self._highlight[number]
        return (self.faces.gloss[face] * fresnel)[:, None] * total

    def _expose(self) -> float:
        light, texels = self.light_map.values[:, :3], self.light_map.size.prod(1)
        weight = np.repeat(self._face_in_room() * self.faces.length.prod(1) / texels, texels)
        reflected = np.repeat(self.faces.albedo, texels, axis=0) * light
        return 0.27 / float(np.average(reflected.mean(1), weights=weight))

    def _face_in_room(self) -> Bool[np.ndarray, " F"]:
        inside = [
            ((shape.centre > self.room.low - 0.2) & (shape.centre < self.room.high + 0.2)).all() and not shape.emits
            for shape in self.tracer.shapes
        ]
        return np.repeat(np.array(inside), np.diff(self.tracer.first_face))


def _rays(c2w: np.ndarray, K: np.ndarray, x: Scalars, y: Scalars) -> Points:
    camera = np.stack([(x - K[0, 2]) / K[0, 0], -(y - K[1, 2]) / K[1, 1], -np.ones_like(x)], -1)
    return (camera @ c2w[:3, :3].T).astype(np.float32)


def _rough(hits: Hits, directions: Points, height: int, width: int) -> Bool[np.ndarray, " N"]:
    face = hits.face.reshape(height, width)
    edge = maximum_filter(face, 3) != minimum_filter(face, 3)
    cosine = np.abs((directions * hits.normal).sum(1)) / np.linalg.norm(directions, axis=1)
    return edge.ravel() | (cosine < 0.35)
