"""Procedural surface textures of the sample scene: noise, wood, tiles, bricks, fabrics.

Every texture is a square or oblong sRGB image in 0..1 that repeats seamlessly (row 0 is the top), drawn from the
generator it is given. Patterns are laid out on the unit square with ``u`` to the right and ``v`` downwards.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from scipy.spatial import KDTree

Image = Float[np.ndarray, "H W 3"]
Plane = Float[np.ndarray, "H W"]
Colour = Float[np.ndarray, "3"]


def colour(rng: Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A random sRGB colour of any hue with saturation and value in the given ranges. [3]"""
    return hsv(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """The sRGB colour of a hue (in turns), saturation and value, each in 0..1. [3]"""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32)


def grid(height: int, width: int) -> tuple[Plane, Plane]:
    """Pixel centres (u, v) on the unit square, v growing downwards. [H, W] each"""
    v, u = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    return u.astype(np.float32), v.astype(np.float32)


def fractal(rng: Generator, shape: tuple[int, ...], slope: float = 1.2, stretch: float = 1.0) -> Plane:
    """Periodic noise with amplitude falling as 1 / frequency**slope, zero mean and unit variance.

    Args:
        rng: source of the phases.
        shape: (height, width) in pixels.
        slope: 0 is white noise; larger is smoother.
        stretch: how many times longer features are along u than along v.

    Returns:
        The noise. [H, W]
    """
    height, width = shape
    fv = np.fft.fftfreq(height, 1.0 / height)[:, None]
    fu = np.fft.rfftfreq(width, 1.0 / width)[None, :] * stretch
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / (1.0 + np.hypot(fu, fv)) ** slope
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, s=shape)
    return (noise / noise.std()).astype(np.float32)


def mix(a: np.ndarray, b: np.ndarray, weight: Plane) -> Image:
    """Linear blend of two colours or images by a weight plane: a where 0, b where 1."""
    return a + (b - a) * np.clip(weight, 0.0, 1.0)[..., None]


def step(x: Plane, edge: float | Plane, soft: float = 0.01) -> Plane:
    """Smooth step from 0 to 1 as x passes `edge`, `soft` wide on either side."""
    return np.clip((x - edge) / (2.0 * soft) + 0.5, 0.0, 1.0)


def _grime(rng: Generator, image: Image, amount: float) -> Image:
    shape = image.shape[:2]
    shade = 1.0 + amount * (0.7 * fractal(rng, shape, 1.1) + 0.5 * fractal(rng, shape, 0.3))
    return np.clip(image * shade[..., None], 0.0, 1.0).astype(np.float32)


def plaster(rng: Generator, base: Colour, size: int = 512) -> Image:
    """Painted plaster: mottled, with fine grain and a few scuffs."""
    scuffs = step(fractal(rng, (size, size), 0.9, rng.uniform(2, 6)), 2.3, 0.4)
    image = mix(base, base * np.float32(rng.uniform(0.55, 0.8)), 0.6 * scuffs)
    return _grime(rng, image, 0.05)


def _motif(rng: Generator, size: int) -> Plane:
    noise = fractal(rng, (size, size), rng.uniform(1.6, 2.2))
    noise = noise + noise[:, ::-1]
    if rng.uniform() < 0.6:
        noise = noise + noise[::-1]
    u, v = grid(size, size)
    window = np.sin(np.pi * u) * np.sin(np.pi * v)
    return step(noise + 1.3 * window, 0.9, 0.12)


def wallpaper(rng: Generator, base: Colour, size: int = 512) -> Image:
    """Wallpaper: damask, stripes, dots or a lattice over `base`."""
    u, v = grid(size, size)
    ink = np.clip(base * rng.uniform(0.45, 0.85) + 0.15 * colour(rng, (0.3, 0.7), (0.3, 0.9)), 0, 1)
    kind = rng.integers(4)
    if kind == 0:
        cell = _motif(rng, size // 4)
        rows = np.concatenate([np.tile(cell, (1, 4)), np.roll(np.tile(cell, (1, 4)), size // 8, 1)])
        mask = np.tile(rows, (2, 1))
    elif kind == 1:
        n = int(rng.integers(4, 9))
        mask = step(np.cos(2 * np.pi * n * u), rng.uniform(-0.4, 0.5), 0.08)
        mask = np.maximum(mask, 0.6 * step(np.cos(2 * np.pi * (n * u + 0.5)), 0.97, 0.02))
    elif kind == 2:
        n = int(rng.integers(5, 9))
        offset = 0.5 * (np.floor(v * 2 * n) % 2)
        mask = step(
            -np.hypot((u * n + offset) % 1 - 0.5, ((v * 2 * n) % 1 - 0.5) * 0.5), -rng.uniform(0.14, 0.24), 0.03
        )
    else:
        n = int(rng.integers(4, 8))
        diagonal = np.minimum(abs((n * (u + v)) % 1 - 0.5), abs((n * (u - v)) % 1 - 0.5))
        mask = step(-diagonal, -rng.uniform(0.04, 0.1), 0.02)
    return _grime(rng, mix(base, ink, mask), 0.04)


def wood(rng: Generator, base: Colour, size: int = 256) -> Image:
    """Wood with grain along u, bent growth rings and pores."""
    shape = (size, size)
    u, v = grid(*shape)
    warp = 0.035 * fractal(rng, shape, 1.6, 4.0)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * int(rng.integers(5, 12)) * (v + warp) + 2.0 * np.sin(2 * np.pi * u))
    pores = fractal(rng, shape, 0.5, 14.0)
    shade = 0.30 * rings**2 - 0.10 * pores + 0.06 * fractal(rng, shape, 1.3)
    return np.clip(mix(base, base * 0.42, 0.1 + shade), 0, 1).astype(np.float32)


def planks(rng: Generator, base: Colour, size: int = 512) -> Image:
    """A floor of staggered boards along u."""
    rows = int(rng.integers(6, 11))
    u, v = grid(size, size)
    row = np.floor(v * rows).astype(int)
    shift = rng.uniform(size=rows).astype(np.float32)[row]
    board = np.floor((u + shift) % 1.0 * 2).astype(int)
    tone = rng.uniform(0.72, 1.15, (rows, 2)).astype(np.float32)[row, board]
    grain = wood(rng, base, size)
    cols = (np.arange(size) + (shift * size).astype(int)) % size
    grain = grain[(np.arange(size)[:, None] * 3 + 91 * row) % size, cols]
    gap = np.minimum(abs(v * rows - np.round(v * rows)), abs((u + shift) * 2 - np.round((u + shift) * 2)) * rows / 2)
    return _grime(rng, mix(grain * tone[..., None], base * 0.15, step(-gap, -0.035, 0.015)), 0.03)


def parquet(rng: Generator, base: Colour, size: int = 512) -> Image:
    """Basket-weave parquet: square blocks of slats, turned alternately."""
    blocks, slats = 2 * int(rng.integers(2, 4)), int(rng.integers(4, 6))
    u, v = grid(size, size)
    i, j = np.floor(v * blocks).astype(int), np.floor(u * blocks).astype(int)
    turned = (i + j) % 2 == 1
    across = np.where(turned, u, v) * blocks * slats
    grain = wood(rng, base, size)
    image = np.where(turned[..., None], grain.transpose(1, 0, 2), grain)
    tone = rng.uniform(0.75, 1.15, (blocks, blocks, slats))[i, j, np.floor(across).astype(int) % slats]
    edge = np.minimum(abs(u * blocks - np.round(u * blocks)), abs(v * blocks - np.round(v * blocks))) * slats
    gap = np.minimum(abs(across - np.round(across)), edge)
    return _grime(rng, mix(image * tone[..., None], base * 0.2, step(-gap, -0.06, 0.03)), 0.03)


def tiles(rng: Generator, base: Colour, size: int = 512) -> Image:
    """Glazed tiles with mortar: plain, chequered or ornamented, each a little different."""
    n = 2 * int(rng.integers(2, 4))
    u, v = grid(size, size)
    i, j = np.floor(v * n).astype(int), np.floor(u * n).astype(int)
    other = colour(rng, (0.1, 0.6), (0.25, 0.9))
    image = mix(base, other, ((i + j) % 2).astype(np.float32) * float(rng.uniform() < 0.6))
    if rng.uniform() < 0.6:
        cell = _motif(rng, size // n + 1)
        pv, pu = ((v * n % 1) * (size // n)).astype(int), ((u * n % 1) * (size // n)).astype(int)
        image = mix(image, colour(rng, (0.2, 0.7), (0.2, 0.8)), 0.8 * cell[pv, pu])
    image = image * rng.uniform(0.85, 1.1, (n, n, 1)).astype(np.float32)[i, j]
    mortar = np.minimum(abs(u * n - np.round(u * n)), abs(v * n - np.round(v * n)))
    grout = np.full(3, rng.uniform(0.35, 0.8), np.float32)
    return _grime(rng, mix(image, grout, step(-mortar, -0.03, 0.01)), 0.05)


def bricks(rng: Generator, base: Colour, size: int = 512) -> Image:
    """Bricks in running bond with rough faces."""
    if rng.uniform() < 0.7:
        base = hsv(rng.uniform(0.01, 0.08), rng.uniform(0.1, 0.6), rng.uniform(0.45, 0.9))
    rows = 2 * int(rng.integers(7, 11))
    cols = rows // 3 + 1
    u, v = grid(size, size)
    i = np.floor(v * rows).astype(int)
    x = u * cols + 0.5 * (i % 2)
    j = np.floor(x).astype(int) % cols
    tone = rng.uniform(0.65, 1.2, (rows, cols, 1)) * (1 + 0.04 * rng.standard_normal((rows, cols, 3)))
    rough = 0.04 * fractal(rng, (size, size), 0.8)
    gap = np.minimum(abs(v * rows - np.round(v * rows)), abs(x - np.round(x)) * rows / cols) + rough
    grout = np.full(3, rng.uniform(0.45, 0.8), np.float32)
    return _grime(rng, mix(np.clip(base * tone[i, j], 0, 1), grout, step(-gap, -0.09, 0.03)), 0.10)


def stone(rng: Generator, base: Colour, size: int = 256) -> Image:
    """Marble with veins, or terrazzo with chips."""
    shape = (size, size)
    if rng.uniform() < 0.5:
        veins = abs(fractal(rng, shape, 1.7) + 0.25 * fractal(rng, shape, 0.9))
        return _grime(rng, mix(base, base * rng.uniform(0.2, 0.6), 1.0 - step(veins, 0.10, 0.10)), 0.05)
    u, v = grid(*shape)
    seeds = rng.uniform(size=(260, 2))
    distance, index = (
        np.asarray(x) for x in KDTree(seeds, boxsize=1.0).query(np.stack([u, v], -1).reshape(-1, 2), k=2)
    )
    chip = step((distance[:, 1] - distance[:, 0]).reshape(shape), 0.012, 0.004)
    tint = rng.uniform(-0.35, 0.3, (260, 1)) + rng.uniform(0.02, 0.12) * rng.standard_normal((260, 3))
    chips = np.clip(base + tint, 0, 1)[index[:, 0]].reshape(*shape, 3)
    return _grime(rng, mix(base, chips, chip), 0.04)


def fabric(rng: Generator, base: Colour, size: int = 256) -> Image:
    """Woven cloth: plain, striped, plaid or chevron."""
    u, v = grid(size, size)
    second, third = colour(rng, (0.2, 0.8), (0.2, 0.9)), colour(rng, (0.1, 0.5), (0.6, 0.95))
    kind = rng.integers(4)
    n = int(rng.integers(2, 6))
    image = np.broadcast_to(base, (size, size, 3))
    if kind == 1:
        image = mix(image, second, step(np.cos(2 * np.pi * n * u), 0.1, 0.05))
        image = mix(image, third, step(np.cos(2 * np.pi * n * u + np.pi), 0.9, 0.03))
    elif kind == 2:
        for plane in (u, v):
            image = mix(image, second, 0.5 * step(np.cos(2 * np.pi * n * plane), 0.2, 0.05))
            image = mix(image, third, 0.6 * step(np.cos(2 * np.pi * n * plane + 2), 0.93, 0.03))
    elif kind == 3:
        zigzag = v * 2 * n + abs((u * 2 * n) % 1 - 0.5)
        image = mix(image, second, step(np.cos(2 * np.pi * zigzag), 0.0, 0.2))
    weave = 0.07 * np.sin(2 * np.pi * 64 * u) * np.sin(2 * np.pi * 64 * v)
    return _grime(rng, image * (1 + weave[..., None]), 0.07)


def metal(rng: Generator, base: Colour, size: int = 128) -> Image:
    """Brushed metal."""
    shade = 1.0 + 0.12 * fractal(rng, (size, size), 0.4, 20.0)
    return np.clip(base * shade[..., None], 0, 1).astype(np.float32)


def foliage(rng: Generator, base: Colour, size: int = 128) -> Image:
    """A leaf with a midrib along u and side veins."""
    u, v = grid(size, size)
    rib = abs(v - 0.5)
    veins = np.cos(2 * np.pi * (9 * u + 5 * rib))
    image = mix(base, np.clip(base * 1.5 + 0.08, 0, 1), 0.7 * step(veins, 0.8, 0.1) + step(-rib, -0.03, 0.01))
    return _grime(rng, image, 0.12)


WALLS: tuple[Callable[[Generator, Colour], Image], ...] = (plaster, wallpaper, wallpaper, bricks)
FLOORS: tuple[Callable[[Generator, Colour], Image], ...] = (planks, parquet, tiles, stone)
