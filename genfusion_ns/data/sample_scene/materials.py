"""Textures with mip levels in one flat table, and what every face of the sample scene is made of."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator

from genfusion_ns.data.sample_scene.shapes import Points, Scalars, Surface
from genfusion_ns.data.sample_scene.textures import Image
from genfusion_ns.data.sample_scene.tracer import Tracer

_LEVELS = 10


def srgb_to_linear(x: np.ndarray) -> np.ndarray:
    """The sRGB transfer function undone; 0..1 to 0..1."""
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(x: np.ndarray) -> np.ndarray:
    """The sRGB transfer function; 0..1 to 0..1."""
    x = np.maximum(x, 0.0)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055).astype(np.float32)


class Atlas:
    """All textures at all mip levels, linear light, in one array, so that any mix of faces is read at once."""

    def __init__(self, images: list[Image]) -> None:
        self.offset = np.zeros((len(images), _LEVELS), np.int64)
        self.height = np.ones((len(images), _LEVELS), np.int64)
        self.width = np.ones((len(images), _LEVELS), np.int64)
        self.mean = np.stack([srgb_to_linear(image).mean((0, 1)) for image in images])
        """Mean linear colour. [textures, 3]"""
        pixels, total = [], 0
        for i, image in enumerate(images):
            level_image = srgb_to_linear(image)
            for level in range(_LEVELS):
                self.offset[i, level], (self.height[i, level], self.width[i, level]) = total, level_image.shape[:2]
                pixels.append(level_image.reshape(-1, 3))
                total += len(pixels[-1])
                level_image = _halve(level_image)
        self.pixels = np.concatenate(pixels)

    def sample(self, texture: Int[np.ndarray, " N"], u: Scalars, v: Scalars, level: Scalars) -> Points:
        """Trilinear, repeating lookup; u to the right, v down, in texture widths and heights. [N, 3] linear"""
        level = np.clip(level, 0.0, _LEVELS - 1.001)
        lower = level.astype(np.int64)
        blend = (level - lower)[:, None].astype(np.float32)
        return self._bilinear(texture, u, v, lower) * (1 - blend) + self._bilinear(texture, u, v, lower + 1) * blend

    def _bilinear(self, texture: np.ndarray, u: Scalars, v: Scalars, level: np.ndarray) -> Points:
        offset, height, width = (table[texture, level] for table in (self.offset, self.height, self.width))
        x, y = u * width - 0.5, v * height - 0.5
        x0, y0 = np.floor(x), np.floor(y)
        fx, fy = (x - x0)[:, None].astype(np.float32), (y - y0)[:, None].astype(np.float32)
        column, row = x0.astype(np.int64) % width, y0.astype(np.int64) % height
        right, below = (column + 1) % width, (row + 1) % height
        row, below = offset + row * width, offset + below * width
        top = self.pixels[row + column] * (1 - fx) + self.pixels[row + right] * fx
        bottom = self.pixels[below + column] * (1 - fx) + self.pixels[below + right] * fx
        return top * (1 - fy) + bottom * fy


def _halve(image: Image) -> Image:
    if image.shape[0] > 1:
        image = 0.5 * (image[0::2] + image[1::2])
    if image.shape[1] > 1:
        image = 0.5 * (image[:, 0::2] + image[:, 1::2])
    return image


class FaceTable:
    """Per face of a tracer: texture and its placement, gloss, emission, size in metres."""

    def __init__(self, tracer: Tracer, rng: Generator) -> None:
        surfaces = [shape.surface(k) for shape in tracer.shapes for k in range(shape.num_faces)]
        lengths = [shape.face_lengths(k) for shape in tracer.shapes for k in range(shape.num_faces)]
        images = list({id(surface.image): surface.image for surface in surfaces}.values())
        numbers = {id(image): i for i, image in enumerate(images)}
        self.atlas = Atlas(images)
        self.texture = np.array([numbers[id(surface.image)] for surface in surfaces])
        self.length = np.array(lengths, np.float32)
        """Metres along s and t. [F, 2]"""
        self.turned = np.array([s.grain and b > a for s, (a, b) in zip(surfaces, lengths, strict=True)])
        self.gloss = np.array([surface.gloss for surface in surfaces], np.float32)
        self.shininess = np.array([surface.shininess for surface in surfaces], np.float32)
        self.emission = np.array([surface.emission for surface in surfaces], np.float32)
        self.albedo = self.atlas.mean[self.texture]
        """Mean linear reflectance. [F, 3]"""
        self.repeats = np.stack([_repeats(*pair) for pair in zip(surfaces, lengths, strict=True)])
        tiled = np.array([surface.tile is not None for surface in surfaces])
        self.offset = np.where(tiled[:, None], rng.uniform(size=(len(surfaces), 2)), 0.0).astype(np.float32)
        size = np.stack([self.atlas.width[:, 0], self.atlas.height[:, 0]], -1)[self.texture]
        self.texels_per_metre = (size * self.repeats / np.maximum(self.length, 1e-4)).max(1).astype(np.float32)

    def colour(self, face: Int[np.ndarray, " N"], s: Scalars, t: Scalars, footprint: Scalars) -> Points:
        """Linear reflectance at (s, t) of faces, averaged over `footprint` metres. [N, 3]"""
        turned = self.turned[face]
        u = np.where(turned, t, s) * self.repeats[face, 0] + self.offset[face, 0]
        v = np.where(turned, s, 1.0 - t) * self.repeats[face, 1] + self.offset[face, 1]
        level = np.log2(np.maximum(footprint * self.texels_per_metre[face], 1e-3))
        return self.atlas.sample(self.texture[face], u, v, level)


def _repeats(surface: Surface, lengths: tuple[float, float]) -> Float[np.ndarray, "2"]:
    if surface.tile is None:
        return np.ones(2, np.float32)
    along, across = lengths[::-1] if surface.grain and lengths[1] > lengths[0] else lengths
    return np.array([along, across], np.float32) / surface.tile
