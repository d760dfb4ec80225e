"""Paths through free space: frames that stand in walls or objects give way, and what remains of jumps is cut."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.geometry.cameras import distances_between
from genfusion_ns.geometry.free_space import ClearTest

_RELAXATIONS = 40
"""Steps of the elastic band; a disturbance spreads over about 5 frames."""
_BISECTIONS = 7
"""Halvings of the way to an observed camera; 1 % of it is close enough."""
_JUMP = 3.0
"""A step this many times longer than any of the unobstructed path is a jump."""


@dataclass(frozen=True)
class ClearPath:
    """A path after `keep_clear`."""

    c2w: Float[Tensor, "M 4 4"]
    pulled_frames: int
    """Frames that had to move."""
    largest_pull: float
    """How far one had to go from its own pose (0) to the nearest observed one (1)."""
    jumps: int
    """Jumps that are left, between clips as far as possible."""


def keep_clear(
    c2w: Float[Tensor, "M 4 4"],
    observed: Float[Tensor, "N 4 4"],
    borders: list[int],
    is_clear: ClearTest,
    turn: bool = True,
) -> ClearPath:
    """The path in free space, with what could not be joined smoothly cut at the borders of its clips.

    Args:
        c2w: path, in order. [M, 4, 4]
        observed: poses that are clear by definition. [N, 4, 4]
        borders: frames at which clips begin.
        is_clear: see `ClearTest`.
        turn: frames that move also turn towards the observed camera; False: they look where they looked.
    """
    limit = _JUMP * float(_steps(c2w).max()) if len(c2w) > 1 else math.inf
    pulled = pull_to_clear(c2w, observed, is_clear)
    path = pulled.c2w
    if not turn:
        path = path.clone()
        path[:, :3, :3] = c2w[:, :3, :3]
    path = move_jumps(path, borders, limit, is_clear)
    return ClearPath(path, int((pulled.pull > 0).sum()), float(pulled.pull.max()), int((_steps(path) > limit).sum()))


@dataclass(frozen=True)
class PulledPath:
    """A path after `pull_to_clear`."""

    c2w: Float[Tensor, "M 4 4"]
    pull: Float[Tensor, " M"]
    """How far each frame had to go from its own pose (0) to the nearest observed one (1), before smoothing."""


def pull_to_clear(
    c2w: Float[Tensor, "M 4 4"], observed: Float[Tensor, "N 4 4"], is_clear: ClearTest, reach: int = 8
) -> PulledPath:
    """Moves the frames that are not clear towards their nearest observed camera, as little as needed, and smoothly.

    The frames around a moved one are then relaxed like an elastic band that may only rest in clear places, so what
    remains of a jump is no wider than the obstacle in it.

    Args:
        c2w: path, in order. [M, 4, 4]
        observed: poses that are clear by definition. [N, 4, 4]
        is_clear: see `ClearTest`.
        reach: frames on either side of a moved one that give way.

    Returns:
        The path, every frame of which is clear or stands at an observed pose.
    """
    clear = is_clear(c2w)
    if bool(clear.all()):
        return PulledPath(c2w, c2w.new_zeros(len(c2w)))
    blocked = (~clear).nonzero()[:, 0]
    pull, path = c2w.new_zeros(len(c2w)), c2w.clone()
    pull[blocked], path[blocked] = _pull_back(c2w[blocked], observed.to(c2w), is_clear)
    yielding = F.max_pool1d(pull[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0] > 0
    return PulledPath(_relaxed(path, yielding.nonzero()[:, 0], is_clear), pull)


def _pull_back(
    c2w: Float[Tensor, "B 4 4"], observed: Float[Tensor, "N 4 4"], is_clear: ClearTest
) -> tuple[Float[Tensor, " B"], Float[Tensor, "B 4 4"]]:
    """How far each of these poses has to go towards its nearest observed one to be clear, and where it is then."""
    target = observed[distances_between(c2w[:, :3, 3], observed[:, :3, 3]).argmin(1)]
    low, high = c2w.new_zeros(len(c2w)), c2w.new_ones(len(c2w))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        passed = is_clear(_blend(c2w, target, middle))
        high, low = torch.where(passed, middle, high), torch.where(passed, low, middle)
    return high, torch.where((high == 1.0)[:, None, None], target, _blend(c2w, target, high))


def _relaxed(path: Float[Tensor, "M 4 4"], frames: Int[Tensor, " Y"], is_clear: ClearTest) -> Float[Tensor, "M 4 4"]:
    """The path after its `frames` have given way like an elastic band, step by step and only to clear places."""
    path = path.clone()
    for _ in range(_RELAXATIONS):
        smooth = _smooth_poses(path, frames)
        passed = is_clear(smooth)
        if not bool(passed.any()):
            break
        path[frames[passed]] = smooth[passed]
    return path


def move_jumps(
    c2w: Float[Tensor, "M 4 4"], borders: list[int], limit: float, is_clear: ClearTest
) -> Float[Tensor, "M 4 4"]:
    """Retimes a path so that the jumps left in it fall between clips, where no video has to bridge them.

    Args:
        c2w: path, every frame of it clear. [M, 4, 4]
        borders: frames at which clips begin; each jump goes to the nearest one (0 and M drop the shorter piece).
        limit: distance between neighbouring frames that counts as a jump, scene units.
        is_clear: see `ClearTest`; where a frame between two frames would not be clear, the nearer one is repeated.

    Returns:
        As many poses. [M, 4, 4]
    """
    jumps = ((c2w[1:, :3, 3] - c2w[:-1, :3, 3]).norm(dim=-1) > limit).nonzero()[:, 0] + 1
    places = sorted({0, len(c2w), *borders})
    old = [0, *jumps.tolist(), len(c2w)]
    new = [0, *(min(places, key=lambda place: abs(place - jump)) for jump in old[1:-1]), len(c2w)]
    pieces = []
    for k in range(len(old) - 1):
        frames = new[k + 1] - new[k]
        if frames == 0:
            continue
        at = torch.linspace(old[k], old[k + 1] - 1, frames, dtype=c2w.dtype, device=c2w.device)
        before = at.floor().long()
        between = _blend(c2w[before], c2w[(before + 1).clamp(max=old[k + 1] - 1)], at - before)
        pieces.append(torch.where(is_clear(between)[:, None, None], between, c2w[at.round().long()]))
    return torch.cat(pieces)


def _steps(c2w: Tensor) -> Tensor:
    return c2w[:, :3, 3].diff(dim=0).norm(dim=-1)


def _blend(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    mixed = first + share[:, None, None] * (second - first)
    return _with_rotations(mixed)


def _smooth_poses(c2w: Tensor, frames: Tensor) -> Tensor:
    """The poses of `frames` between their two neighbours; the ends of the path stay."""
    before, after = c2w[(frames - 1).clamp(min=0)], c2w[(frames + 1).clamp(max=len(c2w) - 1)]
    inner = ((frames > 0) & (frames < len(c2w) - 1))[:, None, None]
    mixed = torch.where(inner, 0.25 * before + 0.5 * c2w[frames] + 0.25 * after, c2w[frames])
    return _with_rotations(mixed)


def _with_rotations(mixed: Tensor) -> Tensor:
    """Replaces averaged rotation blocks by the nearest rotation (chordal mean)."""
    left, _, right = torch.linalg.svd(mixed[:, :3, :3])
    sign = torch.ones_like(mixed[:, 0, :3])
    sign[:, 2] = torch.linalg.det(left @ right)
    result = mixed.clone()
    result[:, :3, :3] = (left * sign[:, None]) @ right
    return result
