"""What the cameras of a capture say together: focus, vertical, spread, and how far apart they are.

All poses are c2w with OpenGL axes (see `cameras`). Nothing here knows which world axis is vertical or how the data set
was normalised: everything moves along when the capture is moved. Results come in the dtype and device of the input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.cameras import distances_between

_NO_ROLL_WEIGHT = 0.01
"""Variance of the right axes along a direction above which it is taken as not vertical (about 6 degrees)."""


def focus_point(c2w: Float[Tensor, "N 4 4"]) -> Float[Tensor, "3"]:
    """The point closest to all optical axes in the least-squares sense (ReconFusion, novel-view distribution).

    Args:
        c2w: poses. [N, 4, 4]

    Returns:
        World point, scene units. Where the axes leave it undetermined (parallel axes), the candidate nearest to the
        mean camera position. [3]
    """
    poses = c2w.detach().double().cpu()
    forward, position = -poses[:, :3, 2], poses[:, :3, 3]
    center = position.mean(0)
    off_axis = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    rhs = (off_axis @ (position - center)[..., None]).mean(0)
    offset = torch.linalg.pinv(off_axis.mean(0), rtol=1e-6, hermitian=True) @ rhs
    return (center + offset[:, 0]).to(c2w)


def mean_up(c2w: Float[Tensor, "N 4 4"]) -> Float[Tensor, "3"]:
    """The vertical of a capture: the mean camera up axis, corrected by the habit of holding cameras without roll.

    Cameras that look down from one side share a mean up axis that leans; their right axes are still horizontal. Solves
    ``min |u - mean up|^2 + (1 / w) mean (u . right_i)^2``, so directions that the right axes span are removed
    from u and those they leave open keep the mean up axis.

    Args:
        c2w: poses. [N, 4, 4]

    Returns:
        Unit vector in the world. [3]

    Raises:
        ValueError: the up axes cancel (cameras upside down to each other), so the capture has no vertical.
    """
    up = _common_up(c2w.detach().double().cpu())
    if up is None:
        raise ValueError(f"the up axes of {len(c2w)} cameras cancel out, there is no common vertical for a path")
    return up.to(c2w)


def _common_up(poses: Tensor) -> Tensor | None:
    right, up = poses[:, :3, 0], poses[:, :3, 1].mean(0)
    spread = right.T @ right / len(right)
    leveled = torch.linalg.solve(spread + _NO_ROLL_WEIGHT * torch.eye(3, dtype=torch.float64), up)
    return leveled / leveled.norm() if up.norm() > 1e-3 and leveled.norm() > 1e-9 else None


@dataclass(frozen=True)
class CaptureShape:
    """How the cameras of a capture stand around what they look at."""

    focus: Float[Tensor, "3"]
    """World point nearest to all optical axes, scene units."""
    up: Float[Tensor, "3"] | None
    """Unit vertical, None where `mean_up` finds none."""
    in_front: float
    """Share of the cameras that have the focus before them, 0..1."""
    largest_gap: float
    """Widest horizontal angle around the focus without any camera, radians; 2 pi without a vertical or when all stand
    in one direction."""
    miss: float
    """Root mean square distance of the optical axes from the focus, as a share of the mean distance to it."""

    @property
    def surrounds_focus(self) -> bool:
        """The cameras look at one point and stand around it on more than a third of the circle.

        Otherwise the capture is forward-facing (axes within 60 degrees of their mean) or a walk without a focus.
        """
        return self.in_front >= 0.9 and self.largest_gap < 4 / 3 * math.pi and self.miss <= 0.5


def capture_shape(c2w: Float[Tensor, "N 4 4"]) -> CaptureShape:
    """Measures a capture; see `CaptureShape`."""
    poses = c2w.detach().double().cpu()
    focus, up = focus_point(poses), _common_up(poses)
    toward, forward = focus - poses[:, :3, 3], -poses[:, :3, 2]
    along = (toward * forward).sum(-1)
    distance = toward.norm(dim=-1).mean().clamp(min=1e-12)
    miss = (toward - along[:, None] * forward).square().sum(-1).mean().sqrt() / distance
    return CaptureShape(
        focus=focus.to(c2w),
        up=None if up is None else up.to(c2w),
        in_front=float((along > 0).double().mean()),
        largest_gap=2 * math.pi if up is None else _largest_gap(-toward, up),
        miss=float(miss),
    )


def _largest_gap(offset: Tensor, up: Tensor) -> float:
    first, second = horizontal_axes(offset, up)
    return float(circular_gaps(torch.atan2(offset @ second, offset @ first).sort().values).max())


def circular_gaps(angles: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """From each angle to the next one around the circle, the last one to the first; radians.

    Args:
        angles: ascending, within one turn. [N]
    """
    return torch.cat([angles, angles[:1] + 2 * math.pi]).diff()


def surrounds_focus(c2w: Float[Tensor, "N 4 4"]) -> bool:
    """Whether the cameras surround what they look at; see `CaptureShape.surrounds_focus`."""
    return capture_shape(c2w).surrounds_focus


def neighbour_spacing(c2w: Float[Tensor, "N 4 4"]) -> float:
    """Median distance between a camera and the nearest other one, scene units; 0 for a single camera."""
    if len(c2w) < 2:
        return 0.0
    positions = c2w[:, :3, 3].detach().double().cpu()
    distances = distances_between(positions, positions).fill_diagonal_(math.inf)
    return float(distances.min(dim=1).values.median())


def pose_distances(c2w: Float[Tensor, "N 4 4"], other: Float[Tensor, "M 4 4"] | None = None) -> Float[Tensor, "N M"]:
    """Distance between poses, unit-free: position difference / scale + 0.5 (1 - cos of the angle between the axes).

    The scale is the median distance of the cameras `c2w` from their mean position (1 where they coincide), so that
    the number does not depend on the unit of length, unlike the official rule for choosing references.

    Args:
        c2w: poses of the capture. [N, 4, 4]
        other: poses to compare with; the capture itself if missing. [M, 4, 4]

    Returns:
        Non-negative distances. [N, M]
    """
    other = c2w if other is None else other
    position = c2w[:, :3, 3]
    scale = (position - position.mean(0)).norm(dim=-1).median()
    scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
    difference = (position[:, None] - other[None, :, :3, 3]).norm(dim=-1)
    return difference / scale + 0.5 * (1.0 - c2w[:, :3, 2] @ other[:, :3, 2].T).clamp(min=0.0)


def horizontal_distances(plan: Float[Tensor, "N 2"], offset: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
    """Distances from the vertical through a centre, for paths that go around it.

    Args:
        plan: horizontal offsets from the centre. [N, 2]
        offset: the offsets themselves. [N, 3]

    Raises:
        ValueError: a camera stands on that vertical.
    """
    distances = plan.norm(dim=-1)
    if distances.min() <= 1e-9 * offset.norm(dim=-1).max():
        raise ValueError("a camera stands straight above or below the point that all look at; no loop goes around it")
    return distances


def horizontal_axes(
    offset: Float[Tensor, "N 3"], up: Float[Tensor, "3"]
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Principal horizontal directions of offsets from a centre; unit, right-handed with `up`. [3] twice"""
    flat = offset - (offset @ up)[:, None] * up
    first = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -1]
    first = first - (first @ up) * up
    if first.norm() < 1e-6:
        first = torch.linalg.cross(up, torch.eye(3, dtype=up.dtype)[up.abs().argmin()])
    first = torch.nn.functional.normalize(first, dim=0)
    # The sign of an eigenvector is arbitrary; the offset furthest out along it decides, which moves with the capture.
    lead = flat @ first
    first = first * torch.where(lead[lead.abs().argmax()] < 0, -1.0, 1.0)
    return first, torch.linalg.cross(up, first)
