"""Open ground of the sample scene: things on grass or paving, a fence, trees, and a far backdrop under the sky."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from genfusion_ns.data.sample_scene import pictures, textures
from genfusion_ns.data.sample_scene.furniture import Workshop
from genfusion_ns.data.sample_scene.groups import Group, turn
from genfusion_ns.data.sample_scene.lighting import Light
from genfusion_ns.data.sample_scene.paths import HandHeldPath
from genfusion_ns.data.sample_scene.render import RoomBox
from genfusion_ns.data.sample_scene.shapes import Shape, Surface
from genfusion_ns.data.sample_scene.shell import Layout

_UPRIGHT = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
_INNER = 6.0
"""Half the side of the ground that things stand on, in metres; its light is stored finely."""


class Yard:
    """Ground, sky, what stands between them, and a walk there."""

    def __init__(self, layout: Layout, rng: Generator) -> None:
        self.layout, self.rng = layout, rng
        self.shop = Workshop(rng)
        self.groups: list[list[Shape]] = []
        self.lights: list[Light] = []
        self.box = RoomBox(np.array([-_INNER, -_INNER, 0.0]), np.array([_INNER, _INNER, 4.0]))
        self._bark = Surface(textures.wood(rng, textures.hsv(0.07, 0.4, rng.uniform(0.25, 0.5))), tile=0.6, grain=True)
        self._rock = Surface(textures.plaster(rng, textures.hsv(rng.uniform(0.05, 0.15), 0.15, 0.55)), tile=0.8)
        self._leaves = [
            Surface(textures.plaster(rng, textures.hsv(rng.uniform(0.18, 0.36), 0.55, rng.uniform(0.3, 0.6)), 128), 0.5)
            for _ in range(3)
        ]
        self._ground()
        self._backdrop()
        self._sky()
        self._middle()
        self._surroundings()

    def path(self) -> HandHeldPath:
        """A walk that suits the layout."""
        rng = self.rng
        heights = (rng.uniform(0.9, 1.2), rng.uniform(1.5, 1.9))
        focus = np.array([0, 0, rng.uniform(0.5, 0.9)])
        heading, distance = rng.uniform(0, 2 * np.pi), rng.uniform(2.2, 3.0)
        if self.layout == "orbit":
            return HandHeldPath("orbit", focus, distance, heading, rng.uniform(1.0, 2.0) * np.pi, heights)
        return HandHeldPath("forward", focus, distance, heading, rng.uniform(1.4, 2.2), heights)

    def _ground(self) -> None:
        rng, away = self.rng, 30.0
        kind = int(rng.integers(4))
        earth = textures.hsv(rng.uniform(0.05, 0.13), rng.uniform(0.15, 0.5), rng.uniform(0.35, 0.7))
        grass = textures.hsv(rng.uniform(0.2, 0.36), 0.5, rng.uniform(0.35, 0.55))
        near = (
            textures.plaster(rng, grass),
            textures.stone(rng, earth, 512),
            textures.tiles(rng, earth),
            textures.bricks(rng, earth),
        )[kind]
        far = Surface(textures.plaster(rng, grass if kind != 1 else earth), tile=3.0)
        ground = Group()
        ground.panel((0, 0, 0), (2 * _INNER, 2 * _INNER), Surface(near, tile=rng.uniform(1.2, 2.2)), np.eye(3))
        middle, width = (away + _INNER) / 2, away - _INNER
        for sign in (-1, 1):
            ground.panel((0, sign * middle, -0.002), (2 * away, width), far, np.eye(3))
            ground.panel((sign * middle, 0, -0.002), (width, 2 * _INNER), far, np.eye(3))
        self.groups += [[shape] for shape in ground.shapes]

    def _backdrop(self) -> None:
        rng, away = self.rng, 29.0
        glow, tall = rng.uniform(1.3, 2.0), 1.6 * 29.0
        sky = Surface(textures.plaster(rng, textures.hsv(0.57, rng.uniform(0.1, 0.45), 0.95), 128), 30.0, emission=glow)
        centre = 0.12 * tall  # the horizon of the pictures then lies on the ground
        for k in range(4):
            view, group = Surface(pictures.outdoors(rng), emission=glow), Group()
            group.panel((0, -away, centre), (2 * away, tall), view, _UPRIGHT)
            self.groups.append(group.placed(0, 0, 0, k * np.pi / 2))
        roof = Group()
        roof.panel((0, 0, centre + tall / 2), (2 * away, 2 * away), sky, turn(0, np.pi))
        self.groups.append(roof.placed(0, 0))

    def _sky(self) -> None:
        rng = self.rng
        axes = np.array([[14.0, 0.0, 0.0], [0.0, 14.0, 0.0]])
        sky = np.array([0.8, 0.95, 1.15]) * rng.uniform(1.2, 1.8)
        self.lights.append(Light(sky, np.array([0.0, 0.0, 14.0]), axes, np.array([0.0, 0.0, -1.0])))
        if rng.uniform() < 0.75:
            angle, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.2)
            sun = np.array([np.cos(angle) * np.cos(rise), np.sin(angle) * np.cos(rise), np.sin(rise)])
            self.lights.append(Light(np.array([1.0, 0.9, 0.75]) * rng.uniform(1.5, 3.0), None, np.eye(3)[:2], sun))

    def _middle(self) -> None:
        rng, shop = self.rng, self.shop
        plinth, height = Group(), rng.uniform(0.3, 0.6)
        plinth.box((0, 0, height / 2), (*rng.uniform(0.5, 0.8, 2), height), shop.pick([*shop.stones, *shop.woods]))
        self.groups.append(plinth.placed(0, 0, 0, rng.uniform(0, 3)))
        top = shop.sculpture(rng.uniform(0.5, 0.8)) if rng.uniform() < 0.6 else shop.plant(rng.uniform(0.6, 0.9), 0.4)
        self.groups.append(top.placed(0, 0, height))
        for k in range(int(rng.integers(4, 8))):
            angle, away = 2.4 * k + rng.uniform(-0.3, 0.3), rng.uniform(0.7, 1.25)
            makers = (self._boulder, shop.crate_stack, self._pot, self._tuft, self._stake)
            thing = makers[int(rng.integers(len(makers)))]()
            self.groups.append(thing.placed(away * np.cos(angle), away * np.sin(angle), 0, rng.uniform(0, 6.28)))

    def _surroundings(self) -> None:
        """Things around the walk: trees, a wall, a fence, boulders, beyond the cameras."""
        rng = self.rng
        makers = (self._tree, self._boulder, self._tree, self._fence, self._wall)
        count = int(rng.integers(7, 12))
        for k in range(count):
            angle, away = 2 * np.pi * (k + rng.uniform(-0.3, 0.3)) / count, rng.uniform(4.3, 5.6)
            thing = makers[int(rng.integers(len(makers)))]()
            place = (away * np.cos(angle), away * np.sin(angle))
            self.groups.append(thing.placed(*place, 0, angle + np.pi / 2 + rng.uniform(-0.3, 0.3)))
        for _ in range(12):
            angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(8.0, 20.0)
            self.groups.append(self._tree().placed(away * np.cos(angle), away * np.sin(angle)))

    def _boulder(self) -> Group:
        group, size = Group(), self.rng.uniform(0.12, 0.35, 3)
        group.ball((0, 0, 0.6 * size[2]), size, self._rock, turn(self.rng.uniform(0, 3), self.rng.uniform(-0.3, 0.3)))
        return group

    def _pot(self) -> Group:
        return self.shop.plant(self.rng.uniform(0.4, 0.8), self.rng.uniform(0.2, 0.35))

    def _tuft(self) -> Group:
        """Blades of grass."""
        group, leaf = Group(), self.shop.leaf
        for _ in range(int(self.rng.integers(14, 24))):
            height = self.rng.uniform(0.15, 0.45)
            lean = turn(self.rng.uniform(0, 6.28), 0, self.rng.uniform(0.0, 0.5))
            foot = np.array([*self.rng.uniform(-0.08, 0.08, 2), 0.0])
            group.ball(foot + lean @ np.array([0, 0, height / 2]), (0.012, 0.004, height / 2), leaf, lean)
        return group

    def _stake(self) -> Group:
        """A thin post, with a sign on some."""
        group, height = Group(), self.rng.uniform(0.5, 1.0)
        group.cone((0, 0, 0), height, (0.012, 0.012), self.shop.pick([self.shop.metal, self._bark]))
        if self.rng.uniform() < 0.6:
            group.box((0, 0.015, height - 0.12), (0.3, 0.015, 0.22), Surface(pictures.poster(self.rng, 128)))
        return group

    def _tree(self) -> Group:
        group, height = Group(), self.rng.uniform(2.0, 4.0)
        group.cone((0, 0, 0), 0.6 * height, (0.05 * height, 0.025 * height), self._bark)
        for _ in range(int(self.rng.integers(5, 10))):
            radius = height * self.rng.uniform(0.1, 0.2)
            place = np.array([*self.rng.uniform(-0.2, 0.2, 2), self.rng.uniform(0.55, 0.95)]) * height
            half = radius * self.rng.uniform(0.7, 1.2, 3)
            group.ball(place, half, self.shop.pick(self._leaves), turn(self.rng.uniform(0, 3)))
        return group

    def _fence(self) -> Group:
        """Pickets on two rails."""
        group, wood, count = Group(), self.shop.pick(self.shop.woods), int(self.rng.integers(8, 16))
        height, step = self.rng.uniform(0.7, 1.1), 0.14
        for k in range(count):
            group.box((step * (k - count / 2), 0, height / 2), (0.06, 0.02, height), wood)
        for z in (0.25 * height, 0.75 * height):
            group.box((-step / 2, -0.025, z), (step * count, 0.03, 0.06), wood)
        return group

    def _wall(self) -> Group:
        group = Group()
        size = (self.rng.uniform(1.2, 2.5), 0.25, self.rng.uniform(0.5, 1.6))
        coat = Surface(textures.bricks(self.rng, textures.colour(self.rng, (0.1, 0.4), (0.4, 0.9))), tile=1.2)
        group.box((0, 0, size[2] / 2), size, coat)
        return group
