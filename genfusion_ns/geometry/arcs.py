"""Paths along the arcs around a focus on which photos were taken: never across a gap that no photo answers for.

Poses are c2w with OpenGL axes (see `cameras`); everything moves along when the capture is moved. Float64 on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.cameras import look_at
from genfusion_ns.geometry.capture_shape import (
    circular_gaps,
    focus_point,
    horizontal_axes,
    horizontal_distances,
    mean_up,
)
from genfusion_ns.geometry.trajectories import constant_speed, tilted

_LEAST_SPREAD = math.radians(10.0)
"""Photos count for the height, distance and aim of a frame by a Gaussian of at least this width in angle."""


@dataclass(frozen=True)
class Arc:
    """A part of the circle around the focus, radians, counter-clockwise seen from above."""

    start: float
    length: float
    """2 pi: the whole circle."""

    @property
    def closed(self) -> bool:
        """It is the whole circle."""
        return self.length >= 2 * math.pi - 1e-9


@dataclass(frozen=True)
class ArcPath:
    """Frames on one or more arcs."""

    c2w: Float[Tensor, "M 4 4"]
    arcs: list[Arc]
    """All that the photos leave to choose from."""
    starts: list[int]
    """Frames at which an arc begins; between arcs the path jumps."""


def photo_arcs(angles: Float[Tensor, " N"], beyond: float, bridge: float) -> list[Arc]:
    """The arcs on which photos stand, and a little beyond their ends.

    Args:
        angles: of the photos around the focus, radians, in any order and turn. [N]
        beyond: how far an arc goes on after its last photo, radians; at most a third of the gap there.
        bridge: widest gap between two photos that is crossed, radians.

    Returns:
        Disjoint arcs in order; the whole circle as one where no gap is wider.

    Example:
        >>> import math, torch
        >>> quarter = torch.tensor([0.0, 45.0, 90.0]).deg2rad()
        >>> (arc,) = photo_arcs(quarter, beyond=math.radians(10), bridge=math.radians(90))
        >>> round(math.degrees(arc.start)), round(math.degrees(arc.length))
        (-10, 110)
    """
    ordered = (angles.double() % (2 * math.pi)).sort().values
    gaps = circular_gaps(ordered)
    wide = (gaps > bridge).nonzero()[:, 0].tolist()
    if not wide:
        return [Arc(float(ordered[0]), 2 * math.pi)]
    arcs = []
    for gap, following in zip(wide, [*wide[1:], wide[0]], strict=True):
        first, last = float(ordered[(gap + 1) % len(ordered)]), float(ordered[following])
        before, after = (min(beyond, float(gaps[i]) / 3) for i in (gap, following))
        span = (last - first) % (2 * math.pi)
        arcs.append(Arc((first - before + math.pi) % (2 * math.pi) - math.pi, span + before + after))
    return sorted(arcs, key=lambda arc: arc.start)


def arc_path(
    c2w: Float[Tensor, "N 4 4"],
    num: int,
    *,
    beyond: float,
    bridge: float,
    piece: int,
    turn: int = 0,
    phase: float = 0.0,
    sway: float = 1.0,
    scale: float = 1.0,
    tilt: float = 0.0,
) -> ArcPath:
    """A path around the focus of a capture that stays where photos were taken.

    Height, distance and aim of a frame are means over the photos, by their nearness in angle, so the path runs along
    the cameras and not along a circle fitted to them.

    Args:
        c2w: poses of the capture. [N, 4, 4]
        num: frames.
        beyond, bridge: see `photo_arcs`.
        piece: frames of a clip; each arc has a multiple of it, so that none of the clips jumps.
        turn: where there are more arcs than clips, which of them come first.
        phase: where on a whole circle the path begins, and where the height sways up, in turns (0..1).
        sway: 0 stays at the mean height of the photos near in angle; 1 sways by their standard deviation.
        scale: factor on the horizontal distances from the focus.
        tilt: rotation of each camera about its own x axis, radians, positive looks up.

    Raises:
        ValueError: num < 1, no vertical (`mean_up`), or a camera on the vertical through the focus.
    """
    if num < 1:
        raise ValueError(f"a path needs at least 1 frame, num is {num}")
    ring = _Ring.of(c2w)
    arcs = photo_arcs(ring.angles, beyond, bridge)
    chosen, counts = _shares(arcs, num, piece, turn)
    pieces = []
    for arc, frames in zip(chosen, counts, strict=True):
        start = arc.start + (2 * math.pi * phase if arc.closed else 0.0)

        def curve(s: np.ndarray, start: float = start, length: float = arc.length) -> np.ndarray:
            turned = torch.from_numpy(s)
            wave = sway * torch.cos(2 * math.pi * (turned + phase))
            return ring.positions(start + length * turned, wave, scale).numpy()

        stops = constant_speed(curve, frames + arc.closed, samples=40 * max(frames, 25))[:frames]
        aims = ring.aims(start + arc.length * torch.from_numpy(stops))
        pieces.append(look_at(torch.from_numpy(curve(stops)), aims, ring.up))
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    return ArcPath(tilted(torch.cat(pieces), tilt).to(c2w), arcs, starts)


def _shares(arcs: list[Arc], num: int, piece: int, turn: int) -> tuple[list[Arc], list[int]]:
    """Which arcs are taken, and how many frames each: whole clips by length, what is left over to the last."""
    clips = max(1, num // piece)
    taken = min(clips, len(arcs))
    chosen = [arcs[(turn * taken + i) % len(arcs)] for i in range(taken)] if taken < len(arcs) else arcs
    counts = [1] * taken
    for _ in range(clips - taken):
        counts[max(range(taken), key=lambda i: chosen[i].length / counts[i])] += 1
    frames = [count * piece for count in counts]
    frames[-1] += num - sum(frames)
    return chosen, frames


@dataclass(frozen=True)
class _Ring:
    """The cameras of a capture around their focus, as functions of the angle."""

    focus: Float[Tensor, "3"]
    up: Float[Tensor, "3"]
    axes: Float[Tensor, "2 3"]
    """Horizontal, of angles 0 and pi / 2."""
    angles: Float[Tensor, " N"]
    distances: Float[Tensor, " N"]
    """Horizontal, from the focus."""
    heights: Float[Tensor, " N"]
    targets: Float[Tensor, "N 3"]
    """On each optical axis, the point nearest to the focus."""

    @classmethod
    def of(cls, c2w: Tensor) -> _Ring:
        poses = c2w.detach().double().cpu()
        focus, up = focus_point(poses), mean_up(poses)
        offset = poses[:, :3, 3] - focus
        axes = torch.stack(horizontal_axes(offset, up))
        plan = offset @ axes.T
        distances = horizontal_distances(plan, offset)
        forward = -poses[:, :3, 2]
        along = -(offset * forward).sum(-1, keepdim=True)
        targets = poses[:, :3, 3] + along.clamp(min=0) * forward
        return cls(focus, up, axes, torch.atan2(plan[:, 1], plan[:, 0]), distances, offset @ up, targets)

    def positions(self, angles: Tensor, wave: Tensor, scale: float) -> Tensor:
        """World points. [M, 3]"""
        near = self._nearness(angles)
        height = near @ self.heights
        spread = (near @ self.heights.square() - height.square()).clamp(min=0).sqrt()
        plan = (scale * (near @ self.distances))[:, None] * torch.stack([angles.cos(), angles.sin()], dim=-1)
        return self.focus + plan @ self.axes + (height + wave * spread)[:, None] * self.up

    def aims(self, angles: Tensor) -> Tensor:
        """What cameras at these angles look at. [M, 3]"""
        return self._nearness(angles) @ self.targets

    def _nearness(self, angles: Tensor) -> Tensor:
        """Share of each photo in what holds at these angles; rows sum to 1. [M, N]"""
        spread = max(_LEAST_SPREAD, float(circular_gaps(self.angles.sort().values).median()) / 2)
        apart = torch.remainder(angles[:, None] - self.angles + math.pi, 2 * math.pi) - math.pi
        return torch.softmax(-0.5 * (apart / spread).square(), dim=-1)
