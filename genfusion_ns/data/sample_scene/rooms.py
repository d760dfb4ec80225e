"""Furnished rooms of the sample scene: what stands in the shell, the lamps, and a camera path."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from genfusion_ns.data.sample_scene import pictures
from genfusion_ns.data.sample_scene.groups import Group
from genfusion_ns.data.sample_scene.lighting import Light
from genfusion_ns.data.sample_scene.paths import HandHeldPath
from genfusion_ns.data.sample_scene.shapes import Surface
from genfusion_ns.data.sample_scene.shell import Layout, Opening, Shell, Wall


class FurnishedRoom(Shell):
    """A room with furniture along its walls and things to look at in the middle, or before one wall."""

    def __init__(self, layout: Layout, rng: Generator) -> None:
        super().__init__(layout, rng)
        self._furnish_walls()
        self._rug()
        if layout == "orbit":
            self._centrepiece()
        else:
            self._foreground()
        self._lamps()

    def path(self) -> HandHeldPath:
        """A walk that suits the layout."""
        rng = self.rng
        if self.layout == "orbit":
            reach = self.size[:2].min() / 2 - 0.75
            sweep = rng.uniform(1.2, 2.0) * np.pi
            focus = np.array([0, 0, rng.uniform(0.7, 0.95)])
            return HandHeldPath(
                "orbit",
                focus,
                rng.uniform(0.88, 1.0) * min(reach, 1.9),
                rng.uniform(0, 2 * np.pi),
                sweep,
                (rng.uniform(0.8, 1.0), rng.uniform(1.6, 1.9)),
            )
        focus = self.main.point(rng.uniform(-0.4, 0.4), 0.45, rng.uniform(0.7, 0.95))
        heading = self.main.yaw + np.pi / 2 + rng.uniform(-0.12, 0.12)
        return HandHeldPath(
            "forward",
            focus,
            rng.uniform(2.2, 2.7),
            heading,
            rng.uniform(1.3, 2.0),
            (rng.uniform(0.85, 1.05), rng.uniform(1.5, 1.75)),
        )

    def _furnish_walls(self) -> None:
        for wall in self.walls:
            x = -wall.width / 2 + self.rng.uniform(0.5, 0.75)
            end = wall.width / 2 - 0.5
            while x < end - 0.4:
                x += self._furnish(wall, x, end)

    def _blocked(self, wall: Wall, left: float, right: float) -> Opening | None:
        for owner, hole in ((self.door_wall, self.door), (self.window_wall, self.window)):
            if owner is wall and right > hole.x - hole.width / 2 - 0.3 and left < hole.x + hole.width / 2 + 0.3:
                return hole
        return None

    def _furnish(self, wall: Wall, x: float, end: float) -> float:
        rng, shop = self.rng, self.shop
        width = min(rng.uniform(0.6, 1.5), end - x)
        hole = self._blocked(wall, x, x + width)
        centre = x + width / 2
        if hole is not None and hole.low == 0:
            return (
                hole.x + hole.width / 2 + 0.35 - x
                if x > hole.x - hole.width / 2 - 0.45
                else max(0.15, hole.x - hole.width / 2 - 0.3 - x)
            )
        kind = int(rng.integers(7)) if hole is None else int(rng.choice([1, 6]))
        top = 0.0
        if kind == 0 and width >= 0.6:
            self.groups += [wall.place(g, centre) for g in shop.shelf(width, rng.uniform(1.3, 2.1))]
            return width + rng.uniform(0.1, 0.4)
        if kind in (1, 2):
            top = rng.uniform(0.45, 0.6) if hole is not None else rng.uniform(0.6, 1.0)
            self.groups.append(wall.place(shop.cabinet(width, top), centre))
            self._decorate(wall, centre, width, 0.2, top + 0.025, tall=hole is None)
        elif kind == 3 and width > 0.85:
            self.groups.append(wall.place(shop.armchair(width), centre, 0.05))
            top = 0.8
        elif kind == 4:
            width = 0.6
            self.groups.append(wall.place(shop.plant(rng.uniform(0.8, 1.5), 0.35), x + 0.3, 0.36))
            return width
        elif kind == 5:
            width = 0.5
            self.groups.append(wall.place(shop.crate_stack(), x + 0.25, 0.02))
        if hole is None:
            art = shop.picture(min(0.8, width * rng.uniform(0.5, 0.9)), rng.uniform(0.3, 0.6))
            self.groups.append(wall.place(art, centre, 0, max(1.5, top + 0.65) + rng.uniform(-0.05, 0.12)))
        return width + rng.uniform(0.15, 0.5)

    def _decorate(self, wall: Wall, centre: float, width: float, y: float, z: float, tall: bool) -> None:
        x = -width / 2 + 0.12
        while x < width / 2 - 0.1:
            radius = self.rng.uniform(0.05, 0.1)
            thing = self.shop.trinket(radius, 0.4 if tall else 0.18)
            self.groups.append(wall.place(thing, centre + x, y + self.rng.uniform(-0.04, 0.06), z))
            x += radius * 2 + self.rng.uniform(0.03, 0.3)

    def _rug(self) -> None:
        if self.rng.uniform() < 0.8:
            group = Group()
            wide, deep = self.size[0] * self.rng.uniform(0.4, 0.55), self.size[1] * self.rng.uniform(0.4, 0.55)
            group.box((0, 0, 0.006), (wide, deep, 0.012), Surface(pictures.rug(self.rng)))
            self.groups.append(group.placed(0, 0, 0, self.rng.uniform(-0.15, 0.15)))

    def _things_on(self, x: float, y: float, z: float, reach: float, count: int) -> None:
        rng, shop = self.rng, self.shop
        for k in range(count):
            angle = 2 * np.pi * (k + rng.uniform(-0.2, 0.2)) / max(count - 1, 1)
            away = 0.0 if k == 0 else reach * rng.uniform(0.62, 0.8)
            radius = rng.uniform(0.07, 0.12) if k else rng.uniform(0.11, 0.15)
            kind = int(rng.integers(4))
            if k == 0:
                choice = (
                    shop.sculpture(rng.uniform(0.4, 0.6)),
                    shop.plant(rng.uniform(0.45, 0.65), 0.26),
                    shop.fruit_bowl(0.17),
                    shop.trinket(0.15, 0.5),
                )
                thing = choice[kind]
            else:
                thing = shop.fruit_bowl(radius) if kind == 0 else shop.trinket(radius, 0.35)
            self.groups.append(
                thing.placed(x + away * np.cos(angle), y + away * np.sin(angle), z, rng.uniform(0, 6.28))
            )

    def _centrepiece(self) -> None:
        rng, shop = self.rng, self.shop
        height, yaw = rng.uniform(0.55, 0.75), rng.uniform(0, np.pi)
        if rng.uniform() < 0.5:
            wide, deep = rng.uniform(1.0, 1.25), rng.uniform(0.75, 0.95)
            self.groups.append(shop.table(wide, deep, height).placed(0, 0, 0, yaw))
            reach = deep / 2
        else:
            reach = rng.uniform(0.45, 0.6)
            self.groups.append(shop.round_table(reach, height).placed(0, 0))
        self._things_on(0, 0, height, reach, int(rng.integers(4, 7)))
        for k in range(int(rng.integers(1, 3))):
            angle = yaw + np.pi * k + rng.uniform(-0.4, 0.4)
            away = reach + rng.uniform(0.15, 0.25)
            self.groups.append(shop.chair().placed(away * np.cos(angle), away * np.sin(angle), 0, angle + np.pi / 2))

    def _foreground(self) -> None:
        rng, shop, wall = self.rng, self.shop, self.main
        side = -np.sign(self.door.x if wall is self.door_wall else self.window.x) or 1.0
        x, height = side * rng.uniform(0.3, 0.7), rng.uniform(0.45, 0.65)
        self.groups.append(wall.place(shop.table(0.95, 0.6, height), x, 0.95))
        centre = wall.point(x, 0.95, 0)
        self._things_on(centre[0], centre[1], height, 0.3, int(rng.integers(3, 6)))
        turned = Group(shop.chair().placed(0, 0, 0, rng.uniform(-2, 2)))
        self.groups.append(wall.place(turned, -side * rng.uniform(0.6, 1.0), 1.0))

    def _lamps(self) -> None:
        rng, shop, top = self.rng, self.shop, self.size[2]
        x, y = (0.0, 0.0) if self.layout == "orbit" else self.main.point(rng.uniform(-0.5, 0.5), 1.6, 0)[:2]
        pendant, drop = Group(), rng.uniform(0.3, 0.45)
        pendant.cone((0, 0, top - drop), drop, (0.008, 0.008), shop.metal)
        pendant.cone((0, 0, top - drop - 0.16), 0.16, (0.24, 0.1), shop.shade)
        self.groups.append(pendant.placed(x, y))
        warm = np.array([1.0, 0.86, 0.68])
        self.lights.append(
            Light(warm * rng.uniform(3.0, 6.0), np.array([x, y, top - drop - 0.2]), 0.12 * np.eye(3)[:2])
        )
        corner = self.walls[int(rng.integers(4))]
        place = corner.point(corner.width / 2 - 0.35, 0.35, 0)
        lamp, height = shop.floor_lamp(rng.uniform(1.3, 1.6)), 1.45
        self.groups.append(lamp.placed(place[0], place[1]))
        self.lights.append(
            Light(warm * rng.uniform(1.0, 2.0), np.array([place[0], place[1], height]), 0.1 * np.eye(3)[:2])
        )
