"""Furniture and small things of the sample scene, each a group of shapes in its own frame.

Frames: z up, origin on the floor (or on the table top, for small things). Things that stand at a wall have their back
at y = 0 and face +y, x along the wall; free-standing things have their origin in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from genfusion_ns.data import sample_scene_pictures as pictures
from genfusion_ns.data import sample_scene_textures as textures
from genfusion_ns.data.sample_scene_shapes import Hole, Shape, Surface


def turn(yaw: float, tilt: float = 0.0, roll: float = 0.0) -> Float[np.ndarray, "3 3"]:
    """Rotation by `roll` about y, then `tilt` about x, then `yaw` about z, in radians. [3, 3]"""
    cz, sz, cx, sx, cy, sy = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt), np.cos(roll), np.sin(roll)
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return about_z @ about_x @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


@dataclass
class Group:
    """Shapes under construction."""

    shapes: list[Shape] = field(default_factory=list)

    def box(self, centre, size, surface: Surface | tuple[Surface, ...], rotation=None) -> None:
        """A box of full `size` about `centre`, one surface or one for each of -x, +x, -y, +y, -z, +z."""
        self._add("box", centre, np.asarray(size, float) / 2, surface, rotation)

    def ball(self, centre, half, surface: Surface, rotation=None) -> None:
        """An ellipsoid with half-axes `half`."""
        self._add("ellipsoid", centre, np.asarray(half, float) * np.ones(3), surface, rotation)

    def cone(self, base, height: float, radii: tuple[float, float], surface: Surface | tuple[Surface, ...]) -> None:
        """An upright frustum standing on `base`, with bottom and top radius; surface for all or side, bottom, top."""
        self._add("frustum", np.add(base, (0, 0, height / 2)), (*radii, height / 2), surface, None)

    def panel(self, centre, size, surface: Surface, rotation, holes: tuple[Hole, ...] = ()) -> None:
        """A rectangle in the x-y plane of `rotation`, with openings."""
        self.shapes.append(
            Shape("panel", np.asarray(centre, float), rotation, np.array([*size, 0.0]) / 2, (surface,), holes)
        )

    def lapped(self, centre, size, surface: Surface, rotation, holes: tuple[Hole, ...] = (), lap: float = 0.0) -> None:
        """A panel that reaches `lap` metres further in total along both axes."""
        self.panel(centre, (size[0] + lap, size[1] + lap), surface, rotation, holes)

    def placed(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> list[Shape]:
        """The shapes in the world."""
        return [shape.moved(turn(yaw), np.array([x, y, z])) for shape in self.shapes]

    def _add(self, kind, centre, half, surface, rotation) -> None:
        surfaces = surface if isinstance(surface, tuple) else (surface,)
        rotation = np.eye(3) if rotation is None else rotation
        self.shapes.append(Shape(kind, np.asarray(centre, float), rotation, np.asarray(half, float), surfaces))


class Workshop:
    """Makes furniture from one generator and one choice of woods, cloths and metals."""

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
            Surface(textures.fabric(rng, textures.colour(rng, (0.15, 0.7), (0.3, 0.9))), tile=rng.uniform(0.25, 0.6))
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

    def picture(self, width: float, height: float) -> Group:
        """A framed painting or poster on a wall, centred at the origin."""
        group, wood = Group(), self.pick(self.woods)
        art = pictures.painting(self.rng) if self.rng.uniform() < 0.65 else pictures.poster(self.rng)
        group.box((0, 0.012, 0), (width, 0.024, height), Surface(art))
        rim = self.rng.uniform(0.03, 0.06)
        for sign in (-1, 1):
            group.box((sign * (width + rim) / 2, 0.02, 0), (rim, 0.04, height + 2 * rim), wood)
            group.box((0, 0.02, sign * (height + rim) / 2), (width, 0.04, rim), wood)
        return group

    def table(self, width: float, depth: float, height: float) -> Group:
        """A table with four legs and an apron, free-standing."""
        group, wood = Group(), self.pick(self.woods)
        top = self.pick([*self.woods, *self.stones])
        group.box((0, 0, height - 0.02), (width, depth, 0.04), top)
        leg = self.rng.uniform(0.05, 0.08)
        for sx in (-1, 1):
            for sy in (-1, 1):
                place = (sx * (width / 2 - leg), sy * (depth / 2 - leg), (height - 0.04) / 2)
                group.box(place, (leg, leg, height - 0.04), wood)
            group.box((sx * (width / 2 - leg), 0, height - 0.09), (0.025, depth - 2 * leg, 0.09), wood)
            group.box((0, sx * (depth / 2 - leg), height - 0.09), (width - 2 * leg, 0.025, 0.09), wood)
        return group

    def round_table(self, radius: float, height: float) -> Group:
        """A round top on a turned column, or a stone drum."""
        group, wood = Group(), self.pick(self.woods)
        if self.rng.uniform() < 0.3:
            group.cone((0, 0, 0), height, (radius * 0.85, radius * 0.8), self.pick(self.stones + self.cloths))
            return group
        group.cone((0, 0, height - 0.035), 0.035, (radius, radius), self.pick([*self.woods, *self.stones]))
        group.cone((0, 0, 0.04), height - 0.075, (0.05, 0.07), wood)
        group.ball((0, 0, height * 0.4), (0.085, 0.085, 0.1), wood)
        group.cone((0, 0, 0), 0.05, (radius * 0.6, radius * 0.45), wood)
        return group

    def chair(self) -> Group:
        """A chair with a slatted back, its back towards -y."""
        group, wood, seat = Group(), self.pick(self.woods), self.pick([*self.cloths, *self.woods])
        group.box((0, 0, 0.44), (0.42, 0.42, 0.05), seat)
        for sx in (-1, 1):
            group.box((sx * 0.18, 0.18, 0.21), (0.04, 0.04, 0.42), wood)
            group.box((sx * 0.18, -0.19, 0.45), (0.04, 0.04, 0.9), wood)
        bars = int(self.rng.integers(2, 5))
        if self.rng.uniform() < 0.5:
            for k in range(bars):
                group.box((0, -0.19, 0.56 + 0.3 * (k + 0.5) / bars), (0.34, 0.02, 0.05), wood)
        else:
            group.box((0, -0.19, 0.86), (0.34, 0.03, 0.06), wood)
            for k in range(bars):
                group.box((0.32 * ((k + 0.5) / bars - 0.5), -0.19, 0.65), (0.035, 0.02, 0.38), wood)
        return group

    def armchair(self, width: float) -> Group:
        """An upholstered chair or sofa with cushions."""
        group, cloth, depth = Group(), self.pick(self.cloths), 0.72
        group.box((0, depth / 2, 0.19), (width, depth, 0.26), cloth)
        group.box((0, 0.1, 0.5), (width, 0.2, 0.62), cloth)
        for side in (-1, 1):
            group.box((side * (width / 2 - 0.08), depth / 2, 0.37), (0.16, depth, 0.30), cloth)
        seats = max(1, round((width - 0.3) / 0.6))
        for k in range(seats):
            x = (width - 0.32) * ((k + 0.5) / seats - 0.5)
            group.box((x, depth / 2 + 0.08, 0.37), ((width - 0.34) / seats, depth - 0.22, 0.12), cloth)
            lean = turn(self.rng.uniform(-0.3, 0.3), -1.1, 0)
            place = (x + self.rng.uniform(-0.08, 0.08), 0.3, 0.58)
            group.ball(place, (0.21, 0.19, 0.08), self.pick(self.cloths), lean)
        return group

    def cabinet(self, width: float, height: float) -> Group:
        """A sideboard or chest with panelled doors or drawers and knobs."""
        group, wood, depth = Group(), self.pick(self.woods), self.rng.uniform(0.36, 0.44)
        group.box((0, depth / 2, height / 2 + 0.05), (width, depth, height - 0.1), wood)
        group.box((0, depth / 2, height + 0.012), (width + 0.04, depth + 0.03, 0.025), self.pick(self.woods))
        for side in (-1, 1):
            group.box((side * (width / 2 - 0.04), depth / 2, 0.05), (0.06, depth * 0.9, 0.1), wood)
        columns, rows = max(1, round(width / 0.45)), int(self.rng.integers(1, 4))
        front = self.pick(self.woods)
        for i in range(columns):
            for j in range(rows):
                w, h = width / columns, (height - 0.1) / rows
                x, z = -width / 2 + (i + 0.5) * w, 0.1 + (j + 0.5) * h
                group.box((x, depth + 0.008, z), (w - 0.03, 0.02, h - 0.03), front)
                group.ball((x, depth + 0.03, z + 0.1 * h), 0.016, self.metal)
        return group

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

    def shelf(self, width: float, height: float) -> list[Group]:
        """A bookcase, one group for the case and one for the contents of every board."""
        case, wood, depth = Group(), self.pick(self.woods), 0.3
        case.box((0, 0.01, height / 2), (width, 0.02, height), self.pick(self.woods))
        for side in (-1, 1):
            case.box((side * (width / 2 - 0.012), depth / 2, height / 2), (0.025, depth, height), wood)
        boards = max(2, round(height / 0.36))
        gap = (height - 0.06) / boards
        groups = [case]
        for k in range(boards + 1):
            case.box((0, depth / 2, 0.05 + k * gap - 0.01), (width - 0.05, depth - 0.01, 0.022), wood)
            if k == boards:
                break
            content, floor = Group(), 0.05 + k * gap
            split = self.rng.uniform(0.35, 1.0) * (width - 0.08) - width / 2 + 0.04
            self.books(content, -width / 2 + 0.04, split, 0.06, floor, gap - 0.04)
            if split < width / 2 - 0.2:
                x = (split + width / 2) / 2
                thing = self.trinket(min(0.09, (width / 2 - split) / 2.5), gap - 0.05)
                content.shapes += thing.placed(x, 0.16, floor)
            groups.append(content)
        return groups

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

    def floor_lamp(self, height: float) -> Group:
        """A standing lamp; its light is added by the room."""
        group = Group()
        group.cone((0, 0, 0), 0.03, (0.15, 0.14), self.metal)
        group.cone((0, 0, 0.03), height - 0.25, (0.012, 0.012), self.metal)
        group.cone((0, 0, height - 0.26), 0.26, (0.2, 0.13), self.shade)
        return group

    def crate_stack(self) -> Group:
        """Boxes piled up, each turned a little."""
        group, z = Group(), 0.0
        for _ in range(int(self.rng.integers(2, 4))):
            size = self.rng.uniform(0.25, 0.42, 3) * [1, 1, 0.8]
            side = Surface(pictures.poster(self.rng)) if self.rng.uniform() < 0.4 else self.pick(self.woods)
            group.box((0, 0.26, z + size[2] / 2), size, side, turn(self.rng.uniform(-0.3, 0.3)))
            z += size[2]
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
