"""Where novel views of a few photos lie: ellipses about what they look at, and splines through their cameras.

The distribution of ReconFusion (CVPR 2024) with the path helpers of mip-NeRF 360: all poses are c2w with OpenGL axes
(see `cameras`), also where these helpers turn them round. Functions on a frame take poses whose z axis is the vertical
of the scene (or, for captures from one side, the axis of the mean camera); `NovelViews` brings any capture into such a
frame by its own cameras, so that a capture that is moved, turned or enlarged has the same novel views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import splev, splprep
from torch import Tensor

from genfusion_ns.geometry.cameras import look_at, rigid_poses
from genfusion_ns.geometry.capture_shape import capture_shape, focus_point, horizontal_axes, mean_up
from genfusion_ns.geometry.trajectories import visiting_order

ViewPath = Literal["auto", "ellipse", "forward", "spline"]
"""ellipse: around what all cameras look at; forward: the same before it, for captures from one side; spline: along the
cameras; auto: what the capture looks like."""

_ONE_SIDE = math.cos(math.radians(60))
"""Cosine of the angle to the mean viewing direction within which all cameras of a capture from one side look."""
_IN_FRONT = 0.9
"""Share of the cameras that must have the focus before them for a path around it."""
_ARM = 0.1
"""Length at which a pose's directions are drawn into a spline, in the frame of the capture."""
_SPLINE_SAMPLES = 256
"""Poses that stand for a spline when one is drawn."""
_SAME_DISTANCE = 1e-6
"""Distances are equal that differ by less than this, as a share of the largest."""


@dataclass(frozen=True)
class Ellipse:
    """A loop about the point that a capture looks at, in a frame whose z axis is its normal."""

    focus: Float[Tensor, "3"]
    """World point that the cameras look at."""
    half_axes: Float[Tensor, "3"]
    """90th percentiles of the cameras' distances from the foot of the focus, along each axis; z has no meaning."""
    heights: Float[Tensor, "2"]
    """10th and 90th percentile of the cameras' heights."""
    up: Float[Tensor, "3"]
    """The signed axis of the frame that is nearest to the mean up axis of the cameras."""

    @classmethod
    def of(cls, c2w: Float[Tensor, "N rows 4"]) -> Ellipse:
        """The ellipse of a capture, in the frame of its poses; float64."""
        poses = c2w.double()
        focus, centers = focus_point(poses), poses[:, :3, 3]
        foot = focus * focus.new_tensor([1.0, 1.0, 0.0])
        half_axes = torch.quantile((centers - foot).abs(), 0.9, dim=0)
        heights = torch.quantile(centers[:, 2], centers.new_tensor([0.1, 0.9]))
        up = poses[:, :3, 1].mean(0)
        axis = int(up.abs().argmax())
        return cls(focus, half_axes, heights, torch.sign(up[axis]) * torch.eye(3, dtype=up.dtype)[axis])

    def positions(
        self, angles: Float[Tensor, " M"], height_variation: float = 0.0, phase: float = 0.0
    ) -> Float[Tensor, "M 3"]:
        """Places on the ellipse.

        Args:
            angles: along it, radians. [M]
            height_variation: 0 stays at height 0, 1 sways between the percentiles of the cameras' heights.
            phase: where along the loop the highest point lies, in turns.
        """
        low, high = self.heights
        sway = torch.cos(angles + 2 * math.pi * phase) / 2 + 0.5
        return torch.stack(
            [
                self.focus[0] + self.half_axes[0] * torch.cos(angles),
                self.focus[1] + self.half_axes[1] * torch.sin(angles),
                height_variation * (low + (high - low) * sway),
            ],
            dim=-1,
        )

    def poses(self, positions: Float[Tensor, "M 3"]) -> Float[Tensor, "M 4 4"]:
        """Cameras at these places that look at the focus, upright."""
        return look_at(positions, self.focus, self.up)


def pose_spline(
    c2w: Float[Tensor, "N rows 4"], num: int, *, degree: int = 5, smoothing: float = 0.03, arm: float = _ARM
) -> Float[Tensor, "num 4 4"]:
    """Poses along a smoothing B-spline through place, look-at point and up point of each camera, even in its parameter.

    Args:
        c2w: poses in order, neighbours at different places. [N, 3 or 4, 4]
        num: poses wanted; the last one stops a step before the end.
        degree: of the spline, N - 1 at most.
        smoothing: sum of squared distances that the spline may keep from the points; 0 passes through them.
        arm: distance of the look-at and up points from the camera.

    Returns:
        float64.
    """
    poses = c2w.detach().double().cpu()
    center = poses[:, :3, 3]
    points = torch.cat([center, center - arm * poses[:, :3, 2], center + arm * poses[:, :3, 1]], dim=1).numpy()
    knots, _ = splprep(points.T, k=min(degree, len(points) - 1), s=smoothing)
    at = np.linspace(0.0, 1.0, num, endpoint=False)
    place, target, above = torch.from_numpy(np.stack(splev(at, knots), axis=1)).split(3, dim=1)
    return facing(place, target, above - place)


def facing(
    place: Float[Tensor, "M 3"], target: Float[Tensor, "M 3"], up: Float[Tensor, "M 3"]
) -> Float[Tensor, "M 4 4"]:
    """Poses at these places that look at their targets; `up` need not be at right angles to that. [M, 4, 4]"""
    return look_at(place, target, torch.nn.functional.normalize(up, dim=-1))


@dataclass(frozen=True)
class NovelViews:
    """The novel views of one capture: the path near which they lie, and how far from it they may be."""

    kind: Literal["ellipse", "forward", "spline"]
    """What `auto` has become."""
    to_world: Float[Tensor, "4 4"]
    """From the frame of the path to the world; rotation and shift."""
    scale: float
    """Largest coordinate of a camera in the frame, scene units."""
    distance: float
    """Mean distance between a camera and what it looks at, in units of `scale`."""
    ellipse: Ellipse | None
    """In the frame, in units of `scale`; None for splines."""
    spline: Float[Tensor, "M 4 4"] | None
    """Poses along the spline; None for ellipses."""

    @classmethod
    def of(cls, c2w: Float[Tensor, "N 4 4"], path: ViewPath = "auto", smoothing: float = 0.03) -> NovelViews:
        """Measure a capture.

        Args:
            c2w: poses of at least two cameras at different places. [N, 4, 4]
            path: see `ViewPath`.
            smoothing: of a spline, see `pose_spline`; in units of the frame.

        Raises:
            ValueError: fewer cameras, or all at one place, or an ellipse is asked for where the cameras look at no
                point before them.
        """
        poses = c2w.detach().double().cpu()
        centers = poses[:, :3, 3]
        spread = (centers - centers.mean(0)).abs().max()
        if len(poses) < 2 or spread <= 1e-6 * (1e-6 + centers.abs().max()):
            raise ValueError(f"novel views lie between photos from several places; these {len(poses)} are from one")
        kind = _kind_of(poses) if path == "auto" else path
        to_world = _frame_of(poses, kind)
        inside = torch.linalg.inv(to_world) @ poses
        scale = float(inside[:, :3, 3].abs().max())
        inside[:, :3, 3] /= scale
        distance = float((inside[:, :3, 3] - focus_point(inside)).norm(dim=-1).mean())
        if kind == "spline":
            order = visiting_order(inside)
            line = pose_spline(_moving(inside[order]), _SPLINE_SAMPLES, smoothing=smoothing)
            return cls(kind, to_world, scale, distance, None, line)
        if capture_shape(poses).in_front < _IN_FRONT:
            raise ValueError(
                "the cameras do not look at one point before them, so that no ellipse goes around it; use spline"
            )
        return cls(kind, to_world, scale, distance, Ellipse.of(inside), None)

    def draw(
        self,
        generator: torch.Generator,
        *,
        position_jitter: float = 0.1,
        up_jitter: float = 0.05,
        lookat_jitter: float = 0.1,
        height_variation: float = 1.0,
    ) -> Float[Tensor, "4 4"]:
        """One novel view: a pose of the path, and a random departure from it.

        Args:
            generator: source of randomness, on the CPU.
            position_jitter: largest departure along each axis, in units of the mean distance of the cameras from
                what they look at.
            up_jitter: standard deviation of each component of the up axis.
            lookat_jitter: as `position_jitter`, of the point that the camera looks at.
            height_variation: see `Ellipse.positions`; the height is drawn independently of the place.

        Returns:
            Pose in the world, float64. [4, 4]
        """
        where, phase = torch.rand(2, generator=generator, dtype=torch.float64)
        place, target, up = self._on_path(float(where), float(phase), height_variation)
        shift = 2 * torch.rand(2, 3, generator=generator, dtype=torch.float64) - 1
        lean = torch.randn(3, generator=generator, dtype=torch.float64)
        place = place + position_jitter * self.distance * shift[0]
        target = target + lookat_jitter * self.distance * shift[1]
        pose = facing(place[None], target[None], (up + up_jitter * lean)[None])[0]
        pose[:3, 3] *= self.scale
        return self.to_world @ pose

    def _on_path(self, where: float, phase: float, height_variation: float) -> tuple[Tensor, Tensor, Tensor]:
        """Place, point looked at, and up axis, in the frame."""
        if self.ellipse is not None:
            angle = torch.tensor([2 * math.pi * where], dtype=torch.float64)
            return self.ellipse.positions(angle, height_variation, phase)[0], self.ellipse.focus, self.ellipse.up
        if self.spline is None:
            raise ValueError("novel views need an ellipse or a spline")
        pose = self.spline[min(int(where * len(self.spline)), len(self.spline) - 1)]
        return pose[:3, 3], pose[:3, 3] - self.distance * pose[:3, 2], pose[:3, 1]


def nearest_cameras(c2w: Float[Tensor, "N 4 4"], pose: Float[Tensor, "4 4"], count: int) -> list[int]:
    """The cameras whose centres are nearest to that of a pose; of equally near ones those that look more alike.

    Args:
        c2w: poses of the cameras. [N, 4, 4]
        pose: the other one.
        count: how many; all at most.

    Returns:
        Indices, nearest first.
    """
    distances = (c2w[:, :3, 3] - pose[:3, 3]).norm(dim=-1).double().cpu().numpy()
    turned = -(c2w[:, :3, 2] @ pose[:3, 2]).double().cpu().numpy()
    step = max(_SAME_DISTANCE * distances.max(), 1e-300)
    return np.lexsort((turned, np.round(distances / step)))[:count].tolist()


def _kind_of(poses: Tensor) -> Literal["ellipse", "forward", "spline"]:
    shape = capture_shape(poses)
    if shape.in_front < _IN_FRONT or shape.up is None:
        return "spline"
    forward = -poses[:, :3, 2]
    mean = torch.nn.functional.normalize(forward.mean(0), dim=0)
    if float((forward @ mean).min()) >= _ONE_SIDE:
        return "forward"
    return "ellipse" if shape.surrounds_focus else "spline"


def _frame_of(poses: Tensor, kind: str) -> Tensor:
    """Origin at the mean camera; z is the vertical, or for captures from one side the mean axis of the cameras.

    The vertical is that of the cameras (`mean_up`) and not the least principal axis of their places, which a few
    photos hardly determine; x and y are the principal axes at right angles to it.
    """
    center = poses[:, :3, 3].mean(0)
    up = mean_up(poses)
    if kind == "forward":
        backward = torch.nn.functional.normalize(poses[:, :3, 2].mean(0), dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(up, backward), dim=0)
        return rigid_poses(torch.stack([right, torch.linalg.cross(backward, right), backward], dim=1), center)
    first, second = horizontal_axes(poses[:, :3, 3] - center, up)
    return rigid_poses(torch.stack([first, second, up], dim=1), center)


def _moving(poses: Tensor) -> Tensor:
    """Without those that stand where the one before stands."""
    steps = (poses[1:, :3, 3] - poses[:-1, :3, 3]).norm(dim=-1)
    return poses[torch.cat([torch.ones(1, dtype=torch.bool), steps > 1e-9])]
