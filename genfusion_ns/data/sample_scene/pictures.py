"""Pictures of the sample scene: paintings, posters, rugs, book spines, glazes and the view from the window.

Unlike the materials in `sample_scene_textures` these are shown once, stretched over a face. All are sRGB in 0..1.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from genfusion_ns.data.sample_scene.textures import Image, Plane, colour, fractal, grid, hsv, mix, step


def painting(rng: Generator, size: int = 256) -> Image:
    """A canvas: a landscape, an arrangement of shapes, or a still life of blots; painted with visible strokes."""
    kind = rng.integers(3)
    image = (_landscape, _shapes, _blots)[kind](rng, size)
    strokes = 0.05 * fractal(rng, (size, size), 0.6, 5.0) + 0.04 * fractal(rng, (size, size), 0.2)
    return np.clip(image * (1 + strokes[..., None]), 0, 1).astype(np.float32)


def _ridge(rng: Generator, size: int, level: float, height: float) -> Plane:
    profile = fractal(rng, (size, size), 1.5)[0]
    return (level + height * profile)[None, :].astype(np.float32)


def _landscape(rng: Generator, size: int) -> Image:
    u, v = grid(size, size)
    sky = colour(rng, (0.2, 0.7), (0.6, 0.95))
    image = mix(sky, colour(rng, (0.1, 0.6), (0.8, 1.0)), v * 1.6)
    sun = np.hypot(u - rng.uniform(0.2, 0.8), v - rng.uniform(0.15, 0.4))
    image = mix(image, hsv(rng.uniform(0.02, 0.16), 0.5, 1.0), step(-sun, -rng.uniform(0.05, 0.11), 0.02))
    image = mix(image, np.ones(3), 0.5 * step(fractal(rng, (size, size), 1.4, 3.0), 0.9, 0.6))
    hue = rng.uniform(0.15, 0.7)
    for k in range(4):
        land = hsv(hue + 0.05 * k, 0.25 + 0.12 * k, 0.75 - 0.15 * k)
        image = mix(image, land, step(v, _ridge(rng, size, 0.45 + 0.13 * k, 0.05), 0.004))
    return image


def _shapes(rng: Generator, size: int) -> Image:
    u, v = grid(size, size)
    image = mix(colour(rng, (0.1, 0.5), (0.6, 0.95)), colour(rng, (0.1, 0.5), (0.5, 0.9)), (u + v) / 2)
    for _ in range(int(rng.integers(8, 18))):
        cu, cv, angle = rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95), rng.uniform(0, np.pi)
        x = (u - cu) * np.cos(angle) + (v - cv) * np.sin(angle)
        y = -(u - cu) * np.sin(angle) + (v - cv) * np.cos(angle)
        a, b = rng.uniform(0.04, 0.25, 2)
        distance = np.hypot(x / a, y / b) if rng.uniform() < 0.5 else np.maximum(abs(x) / a, abs(y) / b)
        if rng.uniform() < 0.25:
            distance = 1 + abs(distance - 1) * 4 - 0.4
        image = mix(image, colour(rng, (0.3, 0.9), (0.15, 0.95)), step(-distance, -1.0, 0.04) * rng.uniform(0.7, 1))
    return image


def _blots(rng: Generator, size: int) -> Image:
    image = np.broadcast_to(colour(rng, (0.05, 0.5), (0.15, 0.9)), (size, size, 3))
    for _ in range(7):
        field = fractal(rng, (size, size), rng.uniform(1.3, 2.0), rng.uniform(0.5, 2.0))
        image = mix(image, colour(rng, (0.3, 0.9), (0.2, 0.95)), step(field, rng.uniform(0.5, 1.3), 0.08))
    return image


def poster(rng: Generator, size: int = 256) -> Image:
    """A printed sheet: a headline, a picture and columns of letter-like marks."""
    u, v = grid(size, size)
    paper, ink = colour(rng, (0.02, 0.2), (0.85, 0.97)), colour(rng, (0.3, 0.9), (0.05, 0.4))
    image = np.array(np.broadcast_to(paper, (size, size, 3)))
    top, bottom = int(size * 0.22), int(size * rng.uniform(0.5, 0.65))
    margin = size // 12
    art = painting(rng, size)
    image[top:bottom, margin:-margin] = art[top:bottom, margin:-margin]
    marks = (fractal(rng, (size, size), 0.4) > 0.1).astype(np.float32)
    text = (
        ((v * 34) % 1 > 0.45) & (v > bottom / size + 0.04) & (v < 0.94) & (abs(u - 0.5) < 0.40) & (abs(u - 0.5) > 0.015)
    )
    image = mix(image, ink, marks * text)
    title = (abs(v - 0.12) < 0.05) & (abs(u - 0.5) < rng.uniform(0.25, 0.4)) & ((u * 17) % 1 > 0.22)
    bars = fractal(rng, (size, size), 1.0) > -0.4
    return mix(image, ink, (title & bars).astype(np.float32)).astype(np.float32)


def rug(rng: Generator, size: int = 512) -> Image:
    """A carpet with nested borders, repeating ornaments and a mirrored field."""
    u, v = grid(size, size)
    ground, second = colour(rng, (0.3, 0.65), (0.3, 0.65)), colour(rng, (0.2, 0.6), (0.15, 0.45))
    third = colour(rng, (0.1, 0.5), (0.75, 0.95))
    field = fractal(rng, (size, size), 1.5)
    field = field + field[::-1] + (field + field[::-1])[:, ::-1]
    image = mix(ground, second, step(field, 0.7, 0.15))
    image = mix(image, third, step(-abs(field - 0.7), -0.14, 0.05))
    medallion = np.hypot(u - 0.5, v - 0.5) + 0.02 * np.cos(12 * np.arctan2(v - 0.5, u - 0.5))
    image = mix(image, third, step(-abs(medallion - 0.2), -0.012, 0.003))
    image = mix(image, second, 0.6 * step(-medallion, -0.1, 0.004))
    edge = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    n = int(rng.integers(12, 22))
    along = np.where(np.minimum(u, 1 - u) < np.minimum(v, 1 - v), v, u)
    beads = step(-np.hypot((along * n) % 1 - 0.5, (edge - 0.06) * n), -0.32, 0.05)
    image = mix(image, second, step(-edge, -0.11, 0.002))
    image = mix(image, third, np.maximum(beads * step(-edge, -0.1), step(-abs(edge - 0.105), -0.006, 0.002)))
    image = mix(image, ground, step(-edge, -0.018, 0.002))
    pile = 0.06 * np.sin(2 * np.pi * 90 * v) + 0.10 * fractal(rng, (size, size), 0.3)
    return np.clip(image * (1 + pile[..., None]), 0, 1).astype(np.float32)


def book_spine(rng: Generator) -> Image:
    """The back of a book: cloth, bands, a title in letter-like marks along its length. [256, 64, 3]"""
    height, width = 256, 64
    u, v = grid(height, width)
    base = colour(rng, (0.15, 0.9), (0.15, 0.85))
    ink = colour(rng, (0.05, 0.5), (0.75, 0.98)) if base.max() < 0.6 else colour(rng, (0.3, 0.9), (0.05, 0.3))
    image = np.broadcast_to(base, (height, width, 3))
    for _ in range(int(rng.integers(1, 4))):
        centre, half = rng.uniform(0.05, 0.95), rng.uniform(0.006, 0.03)
        image = mix(
            image,
            ink if rng.uniform() < 0.6 else colour(rng, (0.3, 0.9), (0.2, 0.9)),
            step(-abs(v - centre), -half, 0.002),
        )
    letters = fractal(rng, (height, width), 0.7, 0.5) > 0.0
    lines = (abs(u - 0.5) < rng.uniform(0.12, 0.28)) & (abs(v - rng.uniform(0.4, 0.6)) < rng.uniform(0.15, 0.3))
    image = mix(image, ink, (letters & lines & ((v * 30) % 1 > 0.2)).astype(np.float32))
    shade = (0.75 + 0.25 * np.sin(np.pi * u)) * (1 + 0.06 * fractal(rng, (height, width), 0.5))
    return np.clip(image * shade[..., None], 0, 1).astype(np.float32)


def glaze(rng: Generator, size: int = 256) -> Image:
    """Pottery or a ball, to wrap around: bands, drips, spots, or the patches of a globe."""
    u, v = grid(size, size)
    base, second = colour(rng, (0.1, 0.8), (0.3, 0.95)), colour(rng, (0.3, 0.9), (0.15, 0.9))
    kind = rng.integers(4)
    image = np.broadcast_to(base, (size, size, 3))
    if kind == 0:
        for _ in range(int(rng.integers(3, 7))):
            image = mix(
                image, colour(rng, (0.3, 0.9), (0.2, 0.95)), step(-abs(v - rng.uniform()), -rng.uniform(0.01, 0.08))
            )
        wave = abs(v - 0.5 - 0.06 * np.sin(2 * np.pi * int(rng.integers(5, 12)) * u))
        image = mix(image, second, step(-wave, -0.025))
    elif kind == 1:
        image = mix(image, second, step(0.35 + 0.12 * fractal(rng, (size, size), 1.2)[:1] - v, 0.0, 0.01))
    elif kind == 2:
        n = int(rng.integers(5, 9))
        spots = np.hypot((u * 2 * n) % 1 - 0.5, (v * n + 0.5 * (np.floor(u * 2 * n) % 2)) % 1 - 0.5)
        image = mix(image, second, step(-spots, -rng.uniform(0.22, 0.38), 0.03))
    else:
        land = fractal(rng, (size, size), 1.5)
        image = mix(
            image, mix(second, colour(rng, (0.2, 0.6), (0.5, 0.9)), step(land, 1.2, 0.4)), step(land, 0.2, 0.03)
        )
        lines = np.minimum(abs((u * 12) % 1 - 0.5), abs((v * 8) % 1 - 0.5))
        image = mix(image, np.zeros(3), 0.35 * step(-lines, -0.02, 0.01))
    crackle = 1 + 0.05 * fractal(rng, (size, size), 0.5) + 0.05 * fractal(rng, (size, size), 1.2)
    return np.clip(image * crackle[..., None], 0, 1).astype(np.float32)


def outdoors(rng: Generator, size: int = 512) -> Image:
    """What lies beyond the window: sky with clouds, hills, a row of houses or trees, a lawn. [size, 2 size, 3]"""
    u, v = grid(size, 2 * size)
    image = mix(hsv(rng.uniform(0.54, 0.62), 0.5, 0.85), hsv(0.1, rng.uniform(0.02, 0.2), 0.98), v * 1.8)
    image = mix(image, np.ones(3), 0.8 * step(fractal(rng, u.shape, 1.5, 2.5), 0.5, 0.8))
    for k in range(3):
        hill = hsv(rng.uniform(0.2, 0.42) + 0.1 * (2 - k), 0.25 + 0.15 * k, 0.7 - 0.12 * k)
        image = mix(image, hill, step(v, _ridge(rng, 2 * size, 0.40 + 0.05 * k, 0.03), 0.003))
    if rng.uniform() < 0.6:
        for _ in range(int(rng.integers(5, 10))):
            left, wide, top = rng.uniform(0, 0.95), rng.uniform(0.05, 0.14), rng.uniform(0.3, 0.5)
            house = (abs(u - left) < wide / 2) & (v > top)
            image = mix(image, colour(rng, (0.1, 0.5), (0.4, 0.9)), house.astype(np.float32))
            panes = house & ((u * 60) % 1 > 0.45) & ((v * 40) % 1 > 0.5) & (v > top + 0.02)
            image = mix(image, hsv(0.6, 0.3, rng.uniform(0.15, 0.4)), 0.8 * panes.astype(np.float32))
    for _ in range(int(rng.integers(6, 14))):
        cu, cv, radius = rng.uniform(0, 1), rng.uniform(0.45, 0.6), rng.uniform(0.03, 0.09)
        bumps = fractal(rng, u.shape, 1.0)
        crown = np.hypot(2 * (u - cu), (v - cv) * 0.8) + 0.012 * bumps
        green = hsv(rng.uniform(0.18, 0.36), rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.45))
        leaves = green * (1 + 0.25 * bumps + 0.6 * (cv - v) / radius)[..., None]
        image = mix(image, np.clip(leaves, 0, 1), step(-crown, -radius, 0.004))
    grass = hsv(rng.uniform(0.2, 0.36), 0.5, 0.5) * (1 + 0.25 * fractal(rng, u.shape, 0.6))[..., None]
    return np.clip(mix(image, grass, step(v, _ridge(rng, 2 * size, 0.62, 0.008), 0.002)), 0, 1).astype(np.float32)
