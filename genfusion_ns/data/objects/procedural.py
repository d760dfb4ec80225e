"""Objects made by our own code: a few solids, stuck together, under one light; the same ones for every seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator

from genfusion_ns.data.sample_scene.shapes import Shape, Surface
from genfusion_ns.data.sample_scene.tracer import Tracer
from genfusion_ns.geometry.object_views import DISTANCE, FOV_Y, ObjectViews
from genfusion_ns.geometry.pixel_rays import intrinsics, orbit_poses, pixel_rays

_REACH = 0.55
"""Half the diagonal of the box around an object."""
_LIGHT = np.array([0.45, -0.35, 0.82])
_AMBIENT = 0.45
_PARTS = (2, 4)
_SAMPLES = 2
"""Rays along the side of a pixel."""


@dataclass(frozen=True)
class ProceduralObject:
    """Solids with a colour each, one of them striped."""

    shapes: list[Shape]
    """In the middle of the world, z up."""
    colours: Float[np.ndarray, "S 2 3"]
    """Two of each shape, which alternate in stripes; 0..1."""
    stripes: Float[np.ndarray, " S"]
    """How many stripes there are from top to bottom; 0 for none."""

    @classmethod
    def of(cls, seed: int) -> ProceduralObject:
        """The object of a number: a body on or in the middle, and up to three parts that touch it."""
        rng = np.random.default_rng([seed, 20])
        shapes = [_solid(rng, np.zeros(3), 0.22, 0.36)]
        for _ in range(rng.integers(_PARTS[0], _PARTS[1] + 1) - 1):
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            shapes.append(_solid(rng, direction * rng.uniform(0.22, 0.36), 0.09, 0.2))
        shapes = _centred(shapes)
        hues = rng.uniform(0.05, 0.95, size=(len(shapes), 2, 3))
        stripes = np.where(rng.random(len(shapes)) < 0.3, rng.integers(3, 7, len(shapes)), 0)
        return cls(shapes, hues, stripes.astype(np.float64))

    def views(self, c2w: Float[torch.Tensor, "V 4 4"], side: int) -> ObjectViews:
        """Square photographs of `side` pixels, angle of view 40 degrees, with soft edges."""
        tracer, fine = Tracer([self.shapes]), side * _SAMPLES
        origins, directions = pixel_rays(c2w, intrinsics(FOV_Y, (fine, fine)), (fine, fine))
        images = []
        for origin, direction in zip(origins, directions, strict=True):
            rgba = self._shaded(tracer, origin[0, 0].numpy(), direction.reshape(-1, 3).numpy())
            images.append(torch.from_numpy(rgba).view(fine, fine, 4))
        premultiplied = torch.stack(images).view(-1, side, _SAMPLES, side, _SAMPLES, 4).mean((2, 4))
        straight = premultiplied[..., :3] / premultiplied[..., 3:].clamp(min=1e-3)
        rgba = torch.cat([straight.clamp(0, 1), premultiplied[..., 3:]], dim=-1)
        return ObjectViews((rgba * 255).round().to(torch.uint8), c2w, intrinsics(FOV_Y, (side, side)))

    def _shaded(self, tracer: Tracer, origin: np.ndarray, directions: np.ndarray) -> Float[np.ndarray, "N 4"]:
        """Colour over black and alpha of rays."""
        hits = tracer.hits(origin[None], directions)
        found = hits.face >= 0
        shape = np.searchsorted(tracer.first_face, hits.face[found], side="right") - 1
        band = np.floor(hits.v[found] * self.stripes[shape]).astype(np.int64) % 2
        light = _LIGHT / np.linalg.norm(_LIGHT)
        shade = _AMBIENT + (1 - _AMBIENT) * np.clip(hits.normal[found] @ light, 0, 1)
        rgba = np.zeros((len(directions), 4), np.float32)
        rgba[found, :3], rgba[found, 3] = self.colours[shape, band] * shade[:, None], 1.0
        return rgba


def procedural_views(seed: int, count: int, side: int, elevations: tuple[float, float] = (-10.0, 40.0)) -> ObjectViews:
    """Photographs of the object of a number: evenly around it from a random start, at random heights.

    Args:
        seed: of object and cameras.
        count: of views.
        side: pixels along a view.
        elevations: range of the heights, degrees.
    """
    rng = np.random.default_rng([seed, 21])
    azimuths = (np.arange(count) + rng.random()) * (360 / count) + rng.uniform(-0.3, 0.3, count) * (360 / count)
    poses = [
        orbit_poses(torch.tensor([azimuth], dtype=torch.float32), float(rng.uniform(*elevations)), DISTANCE)
        for azimuth in azimuths
    ]
    return ProceduralObject.of(seed).views(torch.cat(poses), side)


def _solid(rng: Generator, centre: np.ndarray, least: float, most: float) -> Shape:
    half = rng.uniform(least, most, size=3) * 0.8
    kind = ("box", "ellipsoid", "frustum")[rng.integers(3)]
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0.0], [np.sin(turn), np.cos(turn), 0.0], [0.0, 0.0, 1.0]])
    surface = Surface(np.ones((1, 1, 3), np.float32))
    return Shape(kind, centre, rotation, half, (surface,))


def _centred(shapes: list[Shape]) -> list[Shape]:
    """The shapes with the middle of their box at the origin, as large as fits: no image tells the size."""
    bounds = np.stack([shape.bounds() for shape in shapes])
    low, high = bounds[:, 0].min(0), bounds[:, 1].max(0)
    scale = _REACH / (np.linalg.norm(high - low) / 2)
    middle = (low + high) / 2
    return [
        Shape(shape.kind, (shape.centre - middle) * scale, shape.rotation, shape.half * scale, shape.surfaces)
        for shape in shapes
    ]
