"""Putting shapes of the sample scene together: groups in a frame of their own, and the materials they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import ArrayLike

from genfusion_ns.data.sample_scene import pictures, textures
from genfusion_ns.data.sample_scene.shapes import Hole, Shape, Surface

LAP = 0.02
"""Panels reach this much further than the edges where they meet, so that no ray slips between them, in metres."""
Surfaces = Surface | tuple[Surface, ...]
Rotation = Float[np.ndarray, "3 3"]


def turn(yaw: float, tilt: float = 0.0, roll: float = 0.0) -> Rotation:
    """Rotation by `roll` about y, then `tilt` about x, then `yaw` about z, in radians. [3, 3]"""
    cz, sz, cx, sx, cy, sy = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt), np.cos(roll), np.sin(roll)
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return about_z @ about_x @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


@dataclass
class Group:
    """Shapes under construction."""

    shapes: list[Shape] = field(default_factory=list)

    def box(self, centre: ArrayLike, size: ArrayLike, surface: Surfaces, rotation: Rotation | None = None) -> None:
        """A box of full `size` about `centre`, one surface or one for each of -x, +x, -y, +y, -z, +z."""
        self._add("box", centre, np.asarray(size, float) / 2, surface, rotation)

    def ball(self, centre: ArrayLike, half: ArrayLike, surface: Surface, rotation: Rotation | None = None) -> None:
        """An ellipsoid with half-axes `half`."""
        self._add("ellipsoid", centre, np.asarray(half, float) * np.ones(3), surface, rotation)

    def cone(self, base: ArrayLike, height: float, radii: tuple[float, float], surface: Surfaces) -> None:
        """An upright frustum standing on `base`, with bottom and top radius; surface for all or side, bottom, top."""
        self._add("frustum", np.add(base, (0, 0, height / 2)), (*radii, height / 2), surface, None)

    def panel(
        self,
        centre: ArrayLike,
        size: tuple[float, float],
        surface: Surface,
        rotation: Rotation,
        holes: tuple[Hole, ...] = (),
    ) -> None:
        """A rectangle in the x-y plane of `rotation`, with openings; it laps over its neighbours by `LAP`."""
        size = size[0] + LAP, size[1] + LAP
        self.shapes.append(
            Shape("panel", np.asarray(centre, float), rotation, np.array([*size, 0.0]) / 2, (surface,), holes)
        )

    def placed(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> list[Shape]:
        """The shapes in the world."""
        return [shape.moved(turn(yaw), np.array([x, y, z])) for shape in self.shapes]

    def _add(
        self,
        kind: Literal["box", "ellipsoid", "frustum"],
        centre: ArrayLike,
        half: ArrayLike,
        surface: Surfaces,
        rotation: Rotation | None,
    ) -> None:
        surfaces = surface if isinstance(surface, tuple) else (surface,)
        rotation = np.eye(3) if rotation is None else rotation
        self.shapes.append(Shape(kind, np.asarray(centre, float), rotation, np.asarray(half, float), surfaces))


class Materials:
    """One choice of woods, cloths, stones, glazes and metals, so that the things of a room go together."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        hues = rng.uniform(0.05, 0.11, 3)
        self.woods = [
            Surface(
                textures.wood(rng, textures.hsv(hue, rng.uniform(0.3, 0.75), value)),
                tile=rng.uniform(0.5, 0.9),
                gloss=gloss,
                shininess=25.0,
                grain=True,
            )
            for hue, value, gloss in zip(hues, rng.uniform(0.25, 0.85, 3), (0.0, 0.12, 0.05), strict=True)
        ]
        paint = textures.colour(rng, (0.03, 0.4), (0.4, 0.95))
        self.woods.append(Surface(textures.wood(rng, paint), tile=0.8, grain=True))
        self.cloths = [
            Surface(textures.fabric(rng, textures.colour(rng, (0.1, 0.55), (0.3, 0.85))), tile=rng.uniform(0.25, 0.6))
            for _ in range(5)
        ]
        self.metal = Surface(
            textures.metal(rng, textures.hsv(rng.uniform(0.05, 0.15), rng.uniform(0, 0.5), 0.6)),
            tile=0.3,
            gloss=0.5,
            shininess=40.0,
        )
        self.stones = [
            Surface(textures.stone(rng, textures.colour(rng, (0.02, 0.3), (0.5, 0.9))), tile=0.5, gloss=0.1)
            for _ in range(2)
        ]
        self.pots = [
            Surface(pictures.glaze(rng), gloss=float(rng.choice([0.0, 0.2, 0.35])), shininess=60.0) for _ in range(7)
        ]
        self.leaf = Surface(textures.foliage(rng, textures.hsv(rng.uniform(0.2, 0.4), 0.65, rng.uniform(0.3, 0.6))))
        self.soil = Surface(textures.plaster(rng, textures.hsv(0.07, 0.5, 0.25), 128), tile=0.3)
        self.shade = Surface(
            textures.fabric(rng, textures.hsv(0.11, rng.uniform(0.1, 0.4), 0.95)), tile=0.3, emission=2.2
        )
        self.spines = [Surface(pictures.book_spine(rng)) for _ in range(24)]
        self.pages = Surface(textures.fabric(rng, textures.hsv(0.12, 0.12, 0.9), 64), tile=0.1)

    def pick(self, options: list[Surface]) -> Surface:
        """One of several surfaces."""
        return options[int(self.rng.integers(len(options)))]
