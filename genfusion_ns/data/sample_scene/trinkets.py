"""Small things of the sample scene: books, vessels, fruit, plants, sculptures, standing on z = 0 about the z axis."""

from __future__ import annotations

import numpy as np

from genfusion_ns.data.sample_scene import pictures, textures
from genfusion_ns.data.sample_scene.groups import Group, Materials, turn
from genfusion_ns.data.sample_scene.shapes import Surface


class Trinkets(Materials):
    """Makes things to put on tables and boards, from one generator and one set of materials."""

    def books(self, group: Group, left: float, right: float, y: float, z: float, height: float) -> None:
        """Fill a board from `left` to `right` with books, some leaning, with gaps for small things."""
        x = left
        while x < right - 0.03:
            if self.rng.uniform() < 0.07:
                x += self.rng.uniform(0.04, 0.14)
                continue
            wide = self.rng.uniform(0.016, 0.045)
            tall, deep = height * self.rng.uniform(0.6, 0.93), self.rng.uniform(0.13, 0.2)
            if x + wide > right:
                break
            spine = self.pick(self.spines)
            cover = Surface(spine.image[:32, :8], tile=None)
            lean = turn(0, 0, self.rng.uniform(0.06, 0.16)) if self.rng.uniform() < 0.08 else np.eye(3)
            group.box(
                (x + wide / 2, y + deep / 2, z + tall / 2),
                (wide, deep, tall),
                (cover, cover, self.pages, spine, self.pages, self.pages),
                lean,
            )
            x += wide + (0.035 if lean[0, 2] else 0.002)

    def trinket(self, radius: float, height: float) -> Group:
        """Something small to stand on a board: a vase, a ball on a foot, a clock, a box, a stack of books."""
        group, kind, glaze = Group(), int(self.rng.integers(5)), self.pick(self.pots)
        height = min(height, self.rng.uniform(2.0, 3.5) * radius)
        if kind == 0:
            self.vase(group, radius, height)
        elif kind == 1:
            group.cone((0, 0, 0), height - 1.6 * radius, (radius * 0.6, radius * 0.3), self.pick(self.woods))
            group.ball((0, 0, height - 0.9 * radius), radius * 0.9, glaze)
        elif kind == 2:
            face = Surface(pictures.poster(self.rng, 128))
            group.box(
                (0, 0, height / 2),
                (1.6 * radius, 0.6 * radius, height),
                (self.metal, self.metal, face, face, self.metal, self.metal),
                turn(self.rng.uniform(-0.4, 0.4)),
            )
        elif kind == 3:
            group.box((0, 0, 0.4 * radius), (1.8 * radius, 1.3 * radius, 0.8 * radius), self.pick(self.woods))
            group.ball((0, 0, 1.3 * radius), 0.5 * radius, glaze)
        else:
            self.book_stack(group, radius)
        return group

    def vase(self, group: Group, radius: float, height: float) -> None:
        """A turned vessel: foot, belly, neck and lip."""
        glaze = self.pick(self.pots)
        belly = self.rng.uniform(0.25, 0.45)
        group.cone((0, 0, 0), 0.12 * height, (0.6 * radius, 0.75 * radius), glaze)
        group.ball((0, 0, belly * height + 0.05 * height), (radius, radius, belly * height), glaze)
        group.cone((0, 0, 1.6 * belly * height), (0.97 - 1.6 * belly) * height, (0.5 * radius, 0.38 * radius), glaze)
        group.cone((0, 0, 0.96 * height), 0.04 * height, (0.4 * radius, 0.55 * radius), (glaze, glaze, self.soil))

    def book_stack(self, group: Group, radius: float) -> None:
        """A few books lying on each other."""
        z = 0.0
        for _ in range(int(self.rng.integers(2, 5))):
            thick, spine = self.rng.uniform(0.018, 0.04), self.pick(self.spines)
            cover = Surface(np.ascontiguousarray(np.rot90(spine.image)))
            size = (radius * self.rng.uniform(1.7, 2.2), radius * self.rng.uniform(1.2, 1.6), thick)
            rotation = turn(self.rng.uniform(-0.35, 0.35))
            group.box((0, 0, z + thick / 2), size, (self.pages, self.pages, cover, cover, cover, cover), rotation)
            z += thick

    def fruit_bowl(self, radius: float) -> Group:
        """A bowl heaped with fruit."""
        group, glaze, fruit = Group(), self.pick(self.pots), self.pick(self.pots)
        group.cone((0, 0, 0), 0.025, (0.4 * radius, 0.45 * radius), glaze)
        group.cone((0, 0, 0.025), 0.5 * radius, (0.5 * radius, radius), glaze)
        for k in range(7):
            angle, reach = 2 * np.pi * k / 6, 0.58 * radius * (k < 6)
            size = radius * self.rng.uniform(0.26, 0.34)
            place = (
                reach * np.cos(angle),
                reach * np.sin(angle),
                0.55 * radius + 0.5 * size + 0.35 * radius * (k == 6),
            )
            skin = Surface(textures.plaster(self.rng, textures.hsv(self.rng.uniform(0, 0.3), 0.8, 0.8), 64), gloss=0.15)
            group.ball(place, size * np.array([1, 1, self.rng.uniform(0.85, 1.15)]), skin if k % 3 else fruit)
        return group

    def plant(self, height: float, spread: float) -> Group:
        """A potted plant: arching stems of flat leaves."""
        group, pot = Group(), 0.28 * height
        group.cone((0, 0, 0), pot, (0.1 * height, 0.15 * height), (self.pick(self.pots), self.soil, self.soil))
        for k in range(int(self.rng.integers(16, 26))):
            angle, rise = 2.4 * k + self.rng.uniform(-0.3, 0.3), self.rng.uniform(0.15, 1.25)
            reach = spread * self.rng.uniform(0.35, 0.8) * np.cos(rise)
            tip = pot + (height - pot) * np.sin(rise) * self.rng.uniform(0.5, 1.0)
            length = spread * self.rng.uniform(0.3, 0.5)
            rotation = turn(angle, self.rng.uniform(-0.5, 0.5), -rise + self.rng.uniform(0.2, 0.7))
            place = (reach * np.cos(angle), reach * np.sin(angle), max(tip, pot + 0.05))
            group.ball(place, (length, length * 0.3, 0.006), self.leaf, rotation)
        for k in range(4):
            group.cone(
                (0.02 * np.cos(k * 1.6), 0.02 * np.sin(k * 1.6), pot), (height - pot) * 0.6, (0.008, 0.004), self.leaf
            )
        return group

    def sculpture(self, height: float) -> Group:
        """A tower of unlike solids."""
        group, z, radius = Group(), 0.0, 0.3 * height
        palette = [*self.pots, *self.stones, *self.woods]
        while z < 0.8 * height:
            size, surface = radius * self.rng.uniform(0.7, 1.1), self.pick(palette)
            kind = int(self.rng.integers(3))
            if kind == 0:
                group.box((0, 0, z + size / 2), (1.4 * size, 1.2 * size, size), surface, turn(self.rng.uniform(0, 3)))
            elif kind == 1:
                group.ball((0, 0, z + 0.7 * size), (0.85 * size, 0.85 * size, 0.75 * size), surface)
            else:
                group.cone((0, 0, z), size, (0.8 * size, self.rng.uniform(0.3, 0.8) * size), surface)
            z, radius = z + size * (1.3 if kind == 1 else 1.0), radius * 0.85
        return group
