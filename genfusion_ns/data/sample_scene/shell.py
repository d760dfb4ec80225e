"""The empty room of the sample scene: walls, a window with the outdoors behind it, a doorway to a second room.

The main room is centred on the z axis with its floor at z = 0; views through the openings hold several depths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from genfusion_ns.data.sample_scene import pictures, textures
from genfusion_ns.data.sample_scene.furniture import Workshop
from genfusion_ns.data.sample_scene.groups import Group, turn
from genfusion_ns.data.sample_scene.lighting import Light
from genfusion_ns.data.sample_scene.render import RoomBox
from genfusion_ns.data.sample_scene.shapes import Shape, Surface

Layout = Literal["orbit", "forward"]
Span = tuple[float, float]
_WALL = 0.14
_UPRIGHT = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
"""Axes of an upright panel in the frame of a wall: x to the right as seen from the room, y up, normal into the room."""


@dataclass(frozen=True)
class Wall:
    """One inner wall: x runs along it, +y into the room, the origin in the middle of its foot."""

    number: int
    width: float
    origin: np.ndarray
    yaw: float

    def place(self, group: Group, x: float, y: float = 0.0, z: float = 0.0) -> list[Shape]:
        """A group in the world, given its place in the frame of the wall."""
        foot = self.point(x, y, z)
        return group.placed(foot[0], foot[1], foot[2], self.yaw)

    def point(self, x: float, y: float, z: float) -> np.ndarray:
        """World point of a point in the frame of the wall."""
        return self.origin + turn(self.yaw) @ np.array([x, y, z])


@dataclass(frozen=True)
class Opening:
    """A window or doorway: centre along the wall, width, and its lower and upper edge, in metres."""

    x: float
    width: float
    low: float
    high: float


class Shell:
    """Walls, openings and what lies behind them, with the daylight and the lamp of the second room."""

    def __init__(self, layout: Layout, rng: Generator) -> None:
        self.layout, self.rng = layout, rng
        self.shop = Workshop(rng)
        self.groups: list[list[Shape]] = []
        self.lights: list[Light] = []
        self.size = np.array([rng.uniform(5.0, 6.6), rng.uniform(4.6, 5.8), rng.uniform(2.5, 2.9)])
        half = self.size / 2
        self.box = RoomBox(np.array([-half[0], -half[1], 0.0]), np.array([half[0], half[1], self.size[2]]))
        yaws = (np.pi, np.pi / 2, 0.0, -np.pi / 2)
        feet = ((0, half[1]), (half[0], 0), (0, -half[1]), (-half[0], 0))
        self.walls = [Wall(k, self.size[k % 2], np.array([*feet[k], 0.0]), yaws[k]) for k in range(4)]
        order = rng.permutation(4) if layout == "orbit" else [0, *rng.permutation([1, 2, 3])]
        self.main, other = self.walls[order[0]], self.walls[order[1]]
        self.door_wall, self.window_wall = (other, self.main) if rng.uniform() < 0.5 else (self.main, other)
        self.door = self._opening(self.door_wall, (0.85, 1.2), (0.0, 0.0), (2.0, 2.2))
        self.window = self._opening(self.window_wall, (1.1, 1.9), (0.75, 1.0), (1.9, 2.3))
        self._shell()
        self._second_room()
        self._outside()

    def _opening(self, wall: Wall, width: Span, low: Span, high: Span) -> Opening:
        wide = self.rng.uniform(*width)
        side = self.rng.choice([-1.0, 1.0]) if wall is self.main and self.layout == "forward" else 0.0
        reach = wall.width / 2 - wide / 2 - 0.5
        x = side * self.rng.uniform(0.45, 0.6) * reach if side else self.rng.uniform(-0.7, 0.7) * reach
        return Opening(x, wide, self.rng.uniform(*low), self.rng.uniform(*high))

    def _shell(self) -> None:
        rng, (sx, sy, sz) = self.rng, self.size
        wood_hue = textures.hsv(rng.uniform(0.05, 0.1), rng.uniform(0.3, 0.7), rng.uniform(0.35, 0.75))
        kind = textures.FLOORS[int(rng.integers(len(textures.FLOORS)))]
        tint = (
            wood_hue
            if kind in (textures.planks, textures.parquet)
            else textures.hsv(rng.uniform(0.0, 0.6), rng.uniform(0.03, 0.3), rng.uniform(0.4, 0.85))
        )
        floor = Surface(kind(rng, tint), tile=rng.uniform(1.4, 2.2), gloss=rng.uniform(0.0, 0.3), shininess=18.0)
        ceiling = Surface(textures.plaster(rng, textures.hsv(rng.uniform(), 0.04, 0.92)), tile=2.0)
        base = [textures.colour(rng, (0.03, 0.3), (0.55, 0.93)) for _ in range(2)]
        coats = [
            Surface(textures.WALLS[int(rng.integers(len(textures.WALLS)))](rng, c), tile=rng.uniform(1.0, 2.0))
            for c in base
        ]
        shell = Group()
        shell.panel((0, 0, 0), (sx, sy), floor, np.eye(3))
        shell.panel((0, 0, sz), (sx, sy), ceiling, turn(0, np.pi))
        self.groups += [[shape] for shape in shell.shapes]
        accent = int(rng.integers(4))
        trim = self.shop.pick(self.shop.woods)
        for wall in self.walls:
            holes = [o for o, w in ((self.door, self.door_wall), (self.window, self.window_wall)) if w is wall]
            cut = tuple((h.x - h.width / 2, h.x + h.width / 2, h.low - sz / 2, h.high - sz / 2) for h in holes)
            group = Group()
            group.panel(
                (0, 0, sz / 2),
                (wall.width, sz),
                coats[int(wall.number == accent)],
                _UPRIGHT,
                _mirrored(cut),
            )
            self.groups.append(wall.place(group, 0))
            self._skirting(wall, trim)
        self._frame(self.door_wall, self.door, trim, sill=False)
        self._frame(self.window_wall, self.window, trim, sill=True)

    def _skirting(self, wall: Wall, trim: Surface) -> None:
        group, half = Group(), wall.width / 2
        spans = [(-half, half)]
        if wall is self.door_wall:
            left, right = self.door.x - self.door.width / 2 - 0.06, self.door.x + self.door.width / 2 + 0.06
            spans = [(-half, left), (right, half)]
        for a, b in spans:
            group.box(((a + b) / 2, 0.008, 0.05), (b - a, 0.016, 0.1), trim)
        self.groups.append(wall.place(group, 0))

    def _frame(self, wall: Wall, hole: Opening, trim: Surface, sill: bool) -> None:
        group, rim, middle = Group(), 0.06, (hole.low + hole.high) / 2
        deep, y = _WALL + 0.04, -_WALL / 2
        for side in (-1, 1):
            group.box((hole.x + side * (hole.width + rim) / 2, y, middle), (rim, deep, hole.high - hole.low), trim)
        group.box((hole.x, y, hole.high + rim / 2), (hole.width + 2 * rim, deep, rim), trim)
        if sill:
            group.box(
                (hole.x, y + 0.06, hole.low - 0.02),
                (hole.width + 0.2, deep + 0.12, 0.04),
                self.shop.pick(self.shop.stones),
            )
            for k in range(1, int(self.rng.integers(2, 4)) + 1):
                x = hole.x + hole.width * (k / (int(hole.width / 0.6) + 1.0) - 0.5)
                if abs(x - hole.x) < hole.width / 2 - 0.1:
                    group.box((x, y, middle), (0.04, 0.04, hole.high - hole.low), trim)
            group.box((hole.x, y, hole.low + 0.65 * (hole.high - hole.low)), (hole.width, 0.04, 0.04), trim)
            self._curtains(wall, hole)
        self.groups.append(wall.place(group, 0))

    def _curtains(self, wall: Wall, hole: Opening) -> None:
        cloth = self.shop.pick(self.shop.cloths)
        for side in (-1, 1):
            group = Group()
            for k in range(5):
                x = hole.x + side * (hole.width / 2 + 0.02 + 0.065 * k)
                group.cone(
                    (x, 0.07 + 0.015 * (k % 2), max(hole.low - 0.6, 0.06)),
                    hole.high + 0.1 - max(hole.low - 0.6, 0.06),
                    (0.045, 0.035),
                    cloth,
                )
            self.groups.append(wall.place(group, 0))
        rod = Group()
        rod.box((hole.x, 0.08, hole.high + 0.13), (hole.width + 0.8, 0.025, 0.025), self.shop.metal)
        self.groups.append(wall.place(rod, 0))

    def _second_room(self) -> None:
        rng, wall, height = self.rng, self.door_wall, 2.45
        width, depth = rng.uniform(2.4, 3.2), rng.uniform(1.8, 2.8)
        coat = Surface(
            textures.WALLS[int(rng.integers(4))](rng, textures.colour(rng, (0.1, 0.5), (0.6, 0.95))), tile=1.5
        )
        floor = Surface(
            textures.FLOORS[int(rng.integers(4))](rng, textures.colour(rng, (0.1, 0.5), (0.4, 0.8))), tile=1.4
        )
        white = Surface(textures.plaster(rng, textures.hsv(0.1, 0.05, 0.9), 256), tile=2.0)
        x, near, middle = self.door.x, -_WALL, -_WALL - depth / 2
        hole = (-self.door.width / 2, self.door.width / 2, -1.0 - height / 2, self.door.high - height / 2)
        for part in (
            ((x, middle, -0.002), (width, depth), floor, np.eye(3), ()),
            ((x, middle, height), (width, depth), white, turn(0, np.pi), ()),
            ((x, near - depth, height / 2), (width, height), coat, _UPRIGHT, ()),
            ((x, near, height / 2), (width, height), coat, turn(np.pi) @ _UPRIGHT, (hole,)),
            ((x - width / 2, middle, height / 2), (depth, height), coat, turn(-np.pi / 2) @ _UPRIGHT, ()),
            ((x + width / 2, middle, height / 2), (depth, height), coat, turn(np.pi / 2) @ _UPRIGHT, ()),
        ):
            group = Group()
            group.panel(*part)
            self.groups.append(wall.place(group, 0))
        threshold = Group()
        threshold.box((x, -_WALL / 2, -0.018), (self.door.width + 0.1, _WALL, 0.04), self.shop.pick(self.shop.woods))
        self.groups.append(wall.place(threshold, 0))
        picture = self.shop.picture(rng.uniform(0.5, 0.8), rng.uniform(0.4, 0.7))
        self.groups.append(wall.place(picture, x + rng.uniform(-0.2, 0.2), near - depth, 1.5))
        thing = self.shop.cabinet(rng.uniform(0.6, 1.0), 0.8) if rng.uniform() < 0.5 else self.shop.crate_stack()
        self.groups.append(wall.place(thing, x + rng.uniform(-0.3, 0.3), near - depth, 0))
        lamp = wall.point(x, middle, height - 0.25)
        self.lights.append(Light(np.array([1.0, 0.85, 0.65]) * rng.uniform(1.5, 2.5), lamp, 0.08 * np.eye(3)[:2]))

    def _outside(self) -> None:
        rng, wall, hole = self.rng, self.window_wall, self.window
        glow, away = rng.uniform(1.3, 2.2), rng.uniform(7.0, 12.0)
        view = Surface(pictures.outdoors(rng), emission=glow)
        lawn = Surface(textures.plaster(rng, textures.hsv(rng.uniform(0.2, 0.36), 0.5, 0.5), 256), 2.0, emission=glow)
        sky = Surface(textures.plaster(rng, textures.hsv(0.57, 0.4, 0.9), 128), 9.0, emission=glow)
        middle, wide, tall = -_WALL - away / 2, 3.0 * away, 1.6 * away
        centre = tall * 0.12
        for part in (
            ((hole.x, -_WALL - away, centre), (wide, tall), view, _UPRIGHT),
            ((hole.x - wide / 2, middle, centre), (away, tall), view, turn(-np.pi / 2) @ _UPRIGHT),
            ((hole.x + wide / 2, middle, centre), (away, tall), view, turn(np.pi / 2) @ _UPRIGHT),
            ((hole.x, middle, centre - tall / 2), (wide, away), lawn, np.eye(3)),
            ((hole.x, middle, centre + tall / 2), (wide, away), sky, turn(0, np.pi)),
        ):
            group = Group()
            group.panel(*part)
            self.groups.append(wall.place(group, 0))
        middle = wall.point(hole.x, -_WALL, (hole.low + hole.high) / 2)
        inward = turn(wall.yaw) @ np.array([0.0, 1.0, 0.0])
        axes = np.stack(
            [turn(wall.yaw) @ np.array([hole.width / 2, 0, 0]), np.array([0, 0, (hole.high - hole.low) / 2])]
        )
        self.lights.append(Light(np.array([0.85, 0.95, 1.1]) * rng.uniform(2.5, 4.0), middle, axes, inward))
        if rng.uniform() < 0.6:
            direction = turn(wall.yaw + rng.uniform(-0.6, 0.6)) @ np.array([0.0, -1.0, rng.uniform(0.5, 1.0)])
            direction /= np.linalg.norm(direction)
            self.lights.append(
                Light(np.array([1.0, 0.85, 0.65]) * rng.uniform(2.0, 4.0), None, np.eye(3)[:2], direction)
            )


def _mirrored(holes: tuple) -> tuple:
    return tuple((-x1, -x0, y0, y1) for x0, x1, y0, y1 in holes)
