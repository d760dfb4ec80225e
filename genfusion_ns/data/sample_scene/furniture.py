"""Furniture of the sample scene, each piece a group of shapes in its own frame.

Frames: z up, origin on the floor. What stands at a wall has its back at y = 0 and faces +y, x along the wall;
free-standing pieces have their origin in the middle.
"""

from __future__ import annotations

from genfusion_ns.data.sample_scene import pictures
from genfusion_ns.data.sample_scene.groups import Group, turn
from genfusion_ns.data.sample_scene.shapes import Surface
from genfusion_ns.data.sample_scene.trinkets import Trinkets


class Workshop(Trinkets):
    """Makes furniture, and the things to put on it."""

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
