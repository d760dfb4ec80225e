"""Cluttered rooms of the sample scene: thin, glossy and textureless things, in each other's way."""

from __future__ import annotations

import numpy as np

from genfusion_ns.data.sample_scene import textures
from genfusion_ns.data.sample_scene.groups import Group, turn
from genfusion_ns.data.sample_scene.rooms import FurnishedRoom
from genfusion_ns.data.sample_scene.shapes import Surface


class ClutteredRoom(FurnishedRoom):
    """A furnished room with a heap of things on the floor, a rack of thin rods, and a rail with tools."""

    def _furnish_walls(self) -> None:
        self._plain = [
            Surface(np.full((8, 8, 3), textures.colour(self.rng, (0.0, 0.25), (0.45, 0.95)), np.float32))
            for _ in range(4)
        ]
        self._shiny = [
            Surface(
                np.full((8, 8, 3), textures.colour(self.rng, (0.1, 0.8), (0.2, 0.8)), np.float32),
                gloss=self.rng.uniform(0.4, 0.8),
                shininess=self.rng.uniform(40.0, 150.0),
            )
            for _ in range(4)
        ]
        super()._furnish_walls()

    def _centrepiece(self) -> None:
        super()._centrepiece()
        self._heap(0.0, 0.0, 1.0)

    def _foreground(self) -> None:
        super()._foreground()
        middle = self.main.point(self.rng.uniform(-0.4, 0.4), 0.9, 0.0)
        self._heap(middle[0], middle[1], 1.1)

    def _heap(self, x: float, y: float, reach: float) -> None:
        """Things on the floor around a place, none higher than a metre, so that cameras pass above them."""
        rng = self.rng
        makers = (self._rods, self._balls, self._block, self._hoop, self._tripod, self.shop.crate_stack)
        for k in range(int(rng.integers(9, 15))):
            thing = makers[int(rng.integers(len(makers)))]()
            angle, away = 2.4 * k + rng.uniform(-0.4, 0.4), reach * rng.uniform(0.45, 1.0)
            self.groups.append(
                thing.placed(x + away * np.cos(angle), y + away * np.sin(angle), 0, rng.uniform(0, 2 * np.pi))
            )

    def _rods(self) -> Group:
        """A frame with thin upright rods."""
        group, height, count = Group(), self.rng.uniform(0.4, 0.9), int(self.rng.integers(4, 9))
        surface, thick = (
            self.shop.pick([self.shop.metal, *self._shiny, *self.shop.woods]),
            self.rng.uniform(0.004, 0.01),
        )
        for k in range(count):
            group.cone((0.05 * (k - count / 2), 0, 0), height, (thick, thick), surface)
        for z in (0.02, height):
            group.box((-0.025, 0, z), (0.05 * count, 2.5 * thick, 2.5 * thick), surface)
        return group

    def _balls(self) -> Group:
        """Glossy balls side by side."""
        group = Group()
        for k in range(int(self.rng.integers(1, 4))):
            radius = self.rng.uniform(0.06, 0.16)
            group.ball((0.3 * k, self.rng.uniform(-0.1, 0.1), radius), radius, self.shop.pick(self._shiny))
        return group

    def _block(self) -> Group:
        """A box or drum without any texture."""
        group, size, plain = Group(), self.rng.uniform(0.15, 0.45, 3), self.shop.pick(self._plain)
        if self.rng.uniform() < 0.5:
            group.box((0, 0, size[2] / 2), size, plain)
        else:
            group.cone((0, 0, 0), size[2], (size[0] / 2, size[1] / 2), plain)
        return group

    def _hoop(self) -> Group:
        """A wheel of short thin pieces, upright."""
        group, radius, pieces = Group(), self.rng.uniform(0.18, 0.35), 16
        surface = self.shop.pick([self.shop.metal, *self._shiny])
        for k in range(pieces):
            angle = 2 * np.pi * k / pieces
            place = (radius * np.cos(angle), 0, radius + 0.02 + radius * np.sin(angle))
            length = 2.1 * radius * np.tan(np.pi / pieces)
            group.box(place, (0.012, 0.012, length), surface, turn(0, 0, -angle))
        return group

    def _tripod(self) -> Group:
        """Three leaning sticks with something on top."""
        group, height, wood = Group(), self.rng.uniform(0.5, 0.95), self.shop.pick(self.shop.woods)
        for k in range(3):
            lean = turn(2 * np.pi * k / 3, 0, 0.3)
            group.box(lean @ np.array([0, 0, -height / 2]) + [0, 0, height], (0.018, 0.018, height), wood, lean)
        group.ball((0, 0, height), 0.05, self.shop.pick(self._shiny))
        return group
