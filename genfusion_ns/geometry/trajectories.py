"""Camera paths made from the cameras of a capture: pure functions of poses, equivariant under rigid motions.

All poses are c2w with OpenGL axes (see `cameras`). Nothing here knows which world axis is vertical: the up axis is
taken from the cameras themselves, so no path depends on how a data set was normalised. Everything runs in float64 on
the CPU and returns the dtype and device of its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from genfusion_ns.geometry.cameras import look_at, rigid_poses
from genfusion_ns.geometry.capture_shape import (
    focus_point,
    horizontal_axes,
    horizontal_distances,
    mean_up,
    neighbour_spacing,
    pose_distances,
)

_DENSE = 40
"""Samples per output frame when a curve is measured for constant speed."""


def ellipse_path(
    c2w: Float[Tensor, "N 4 4"],
    num: int,
    *,
    height_variation: float = 1.0,
    phase: float = 0.0,
    scale: float = 1.0,
    tilt: float = 0.0,
) -> Float[Tensor, "num 4 4"]:
    """A closed loop around the focus of a capture, looking at it (GenFusion, sparse captures).

    The ellipse is horizontal about the vertical of the capture and goes around its focus. Along each principal axis of
    the camera positions it reaches from their 5th to their 95th percentile, so a lopsided capture gets a lopsided loop;
    on the sides where nobody stood, and wherever else the loop would come nearer to the focus than the photographer
    did, it keeps the smallest observed horizontal distance.

    Args:
        c2w: poses of the capture. [N, 4, 4]
        num: frames, evenly spaced along the curve; the last stops one step before the first.
        height_variation: 0 stays at the middle height, 1 sways between the 10th and 90th percentile of the heights.
        phase: where along the loop the highest point lies, in turns (0..1).
        scale: factor on the horizontal distances from the focus.
        tilt: rotation of each camera about its own x axis, radians, positive looks up.

    Returns:
        Poses. [num, 4, 4]

    Raises:
        ValueError: num < 1, no vertical (`mean_up`), or a camera on the vertical through the focus.
    """
    _require_frames(num)
    poses = c2w.detach().double().cpu()
    focus, up = focus_point(poses), mean_up(poses)
    offset = poses[:, :3, 3] - focus
    first, second = horizontal_axes(offset, up)
    plan = torch.stack([offset @ first, offset @ second], dim=-1)
    nearest = horizontal_distances(plan, offset).min()
    ends = torch.quantile(plan, plan.new_tensor([0.05, 0.95]), dim=0)
    ends = torch.stack([ends[0].clamp(max=-nearest), ends[1].clamp(min=nearest)])
    center, half_axes = ends.mean(0), (ends[1] - ends[0]) / 2
    low, high = torch.quantile(offset @ up, offset.new_tensor([0.1, 0.9]))

    def curve(s: np.ndarray) -> np.ndarray:
        turn = 2 * math.pi * torch.from_numpy(s)[:, None]
        sway = height_variation * (high - low) / 2 * torch.cos(turn + 2 * math.pi * phase)
        loop = center + half_axes * torch.cat([torch.cos(turn), torch.sin(turn)], dim=1)
        loop = scale * loop * (nearest / loop.norm(dim=1, keepdim=True)).clamp(min=1.0)
        return (focus + loop @ torch.stack([first, second]) + ((low + high) / 2 + sway) * up).numpy()

    stops = constant_speed(curve, num + 1, samples=_DENSE * max(num, 25))[:-1]
    path = look_at(torch.from_numpy(curve(stops)), focus, up)
    return tilted(path, tilt).to(c2w)


def orbit_path(
    c2w: Float[Tensor, "N 4 4"],
    num: int,
    path_scale: float = 0.7,
    *,
    rotation_angle: float = 0.0,
    position_z_offset: float = 0.0,
    distance: float = 0.0,
) -> Float[Tensor, "num 4 4"]:
    """A level loop around the focus of a capture that may look past it (GenFusion, scene completion).

    The loop of `ellipse_path` at the middle height of the cameras, then moved and turned. Lengths are given in units
    of the median distance between a camera and the focus. GenFusion scales its world such that cameras are about 1 from
    its origin: its values carry over where that is the focus (0.97 and 0.98 of its unit in two captures that surround
    their subject), not in rooms (0.39 in one). Here they mean the same in a world of any scale.

    Other than there: the loop is scaled about the focus, not about the mean camera position; the vertical is that of
    the cameras (`mean_up`), not a principal axis of their positions with an arbitrary sign; and the cameras turn about
    the vertical, not about their own y axis, which would roll those that look down.

    Args:
        c2w: poses of the capture. [N, 4, 4]
        num: frames, evenly spaced along the loop before `distance` applies; the last stops one step before the first.
        path_scale: factor on the horizontal distances from the focus, above 0; 1 is where the photographer stood.
        rotation_angle: turn of each camera about the vertical, radians, positive to its left; 0 looks at the focus,
            pi / 2 along the loop.
        position_z_offset: upward shift, in units of the capture as above.
        distance: shift away from the focus (negative: towards it), in units of the capture as above.

    Returns:
        Poses. [num, 4, 4]

    Raises:
        ValueError: as `ellipse_path`, path_scale <= 0, a camera that ends up straight above or below the focus, or a
            distance that takes cameras through it.
    """
    if path_scale <= 0:
        raise ValueError(f"path_scale is {path_scale}; it must be above 0")
    poses = c2w.detach().double().cpu()
    focus, up = focus_point(poses), mean_up(poses)
    unit = (poses[:, :3, 3] - focus).norm(dim=-1).median()
    loop = ellipse_path(poses, num, height_variation=0.0, scale=path_scale)[:, :3, 3]
    reach = float((loop - focus).norm(dim=-1).min() / unit)
    if distance <= -(1 - 1e-6) * reach:
        raise ValueError(f"distance is {distance}; it must be above {-reach:.3g}, where cameras pass through the focus")
    away = torch.nn.functional.normalize(loop - focus, dim=-1)
    path = look_at(loop + unit * (distance * away + position_z_offset * up), focus, up)
    turn = torch.from_numpy(Rotation.from_rotvec(rotation_angle * up.numpy()).as_matrix())
    return rigid_poses(turn @ path[:, :3, :3], path[:, :3, 3]).to(c2w)


def spline_path(c2w: Float[Tensor, "N 4 4"], num: int) -> Float[Tensor, "num 4 4"]:
    """A smooth open path through keyframes, from the first to the last at constant speed.

    Positions follow a natural cubic spline with centripetal knots (Lee 1989), which keeps overshoot small between
    uneven keyframes; rotations are interpolated spherically between neighbours.

    Args:
        c2w: keyframes in order; equal neighbours are merged, a single keyframe gives a camera at rest. [N, 4, 4]
        num: frames.

    Returns:
        Poses. [num, 4, 4]

    Raises:
        ValueError: num < 1.
    """
    _require_frames(num)
    poses = c2w.detach().double().cpu()
    moves = pose_distances(poses).diagonal(1) > 1e-9
    poses = poses[torch.cat([torch.ones(1, dtype=torch.bool), moves])].numpy()
    if len(poses) == 1:
        return c2w[:1].expand(num, 4, 4).clone()
    steps = pose_distances(torch.from_numpy(poses)).diagonal(1).numpy()
    knots = np.concatenate([[0.0], np.cumsum(np.sqrt(steps))])
    knots /= knots[-1]
    positions = CubicSpline(knots, poses[:, :3, 3], bc_type="natural")
    rotations = Slerp(knots, Rotation.from_matrix(poses[:, :3, :3]))
    # Cameras that only turn still have to advance, so part of the speed is angular.
    stops = constant_speed(
        lambda s: np.concatenate(
            [positions(s), _turn_length(poses) * rotations(s).as_matrix().reshape(len(s), 9)], axis=1
        ),
        num,
        samples=_DENSE * max(num, 25),
    )
    rotation = torch.from_numpy(rotations(stops).as_matrix())
    return rigid_poses(rotation, torch.from_numpy(positions(stops))).to(c2w)


def interpolate_poses(c2w: Float[Tensor, "N 4 4"], steps: int) -> Float[Tensor, "M 4 4"]:
    """Keyframes joined by straight moves with constant turns, `steps` frames apart; M = (N - 1) * steps + 1.

    Every keyframe is a frame of the path, number ``i * steps``. A single one is the whole path.
    """
    if len(c2w) == 1 or steps == 1:
        return c2w.clone()
    at = np.arange((len(c2w) - 1) * steps + 1) / steps
    poses = c2w.detach().double().cpu().numpy()
    rotation = Slerp(np.arange(len(c2w)), Rotation.from_matrix(poses[:, :3, :3]))(at).as_matrix()
    position = np.stack([np.interp(at, np.arange(len(c2w)), poses[:, axis, 3]) for axis in range(3)], axis=1)
    path = rigid_poses(torch.from_numpy(rotation), torch.from_numpy(position)).to(c2w)
    path[::steps] = c2w
    return path


def visiting_order(c2w: Float[Tensor, "N 4 4"]) -> list[int]:
    """A short order in which to visit all cameras: nearest neighbour tours from each start, the shortest of them."""
    distances = pose_distances(c2w.detach().double().cpu()).numpy()
    best, best_length = list(range(len(distances))), math.inf
    # Every start would be cubic in the number of views; beyond 64 an even choice of starts is as good.
    for start in np.unique(np.linspace(0, len(distances) - 1, 64).astype(int)):
        order, length = [int(start)], 0.0
        open_views = np.ones(len(distances), dtype=bool)
        open_views[start] = False
        while open_views.any():
            step = np.where(open_views, distances[order[-1]], np.inf)
            order.append(int(step.argmin()))
            length += step.min()
            open_views[order[-1]] = False
        if length < best_length - 1e-12:
            best, best_length = order, length
    return best


def follow_path(
    c2w: Float[Tensor, "N 4 4"],
    num: int,
    generator: torch.Generator,
    *,
    position_jitter: float = 0.0,
    turn_jitter: float = 0.0,
    frames_per_view: int = 8,
) -> Float[Tensor, "num 4 4"]:
    """A path along the cameras of a capture, with smooth seeded departures from it.

    For captures that do not surround a focus: it stays where a photographer has walked. Drawn from `generator`: which
    views are visited when there are more than `num / frames_per_view`, the direction of travel, and the departures.

    Args:
        c2w: poses of the capture, in any order. [N, 4, 4]
        num: frames.
        generator: source of randomness, on the CPU.
        position_jitter: largest departure along each camera axis, as a share of the median distance between a view
            and its nearest neighbour; one view alone has no such scale and stays.
        turn_jitter: largest departure about each camera axis, radians.
        frames_per_view: frames that the path spends on one view at least.

    Returns:
        Poses. [num, 4, 4]
    """
    _require_frames(num)
    order = visiting_order(c2w)
    stops = min(len(order), max(2, num // frames_per_view))
    shift, reverse = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    visited = [order[min(int((i + shift) * len(order) / stops), len(order) - 1)] for i in range(stops)]
    path = spline_path(c2w[visited[::-1] if reverse < 0.5 else visited], num).double().cpu()

    controls = max(4, stops + 2)
    noise = 2 * torch.rand(controls, 6, generator=generator, dtype=torch.float64) - 1
    smooth = CubicSpline(np.linspace(0, 1, controls), noise.numpy(), bc_type="natural")(np.linspace(0, 1, num))
    smooth = smooth / np.maximum(1.0, np.abs(smooth).max(axis=0))
    local = torch.eye(4, dtype=torch.float64).repeat(num, 1, 1)
    local[:, :3, :3] = torch.from_numpy(Rotation.from_rotvec(turn_jitter * smooth[:, 3:]).as_matrix())
    local[:, :3, 3] = position_jitter * neighbour_spacing(c2w) * torch.from_numpy(smooth[:, :3])
    return (path @ local).to(c2w)


def constant_speed(curve: Callable[[np.ndarray], np.ndarray], num: int, samples: int) -> np.ndarray:
    """Parameters in 0..1 at which `curve` is passed in `num` equal steps, both ends included."""
    dense = np.linspace(0.0, 1.0, samples)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve(dense), axis=0), axis=1))])
    return np.interp(np.linspace(0.0, length[-1], num), length, dense)


def _turn_length(poses: np.ndarray) -> float:
    """Length that one unit of rotation-matrix change counts for: a tenth of the keyframes' spread, or 1 at rest."""
    spread = float(np.linalg.norm(poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0), axis=1).max())
    return 0.1 * spread if spread > 1e-12 else 1.0


def tilted(c2w: Float[Tensor, "N 4 4"], angle: float) -> Float[Tensor, "N 4 4"]:
    """Each camera turned about its own x axis, radians, positive looks up."""
    local = torch.eye(4, dtype=c2w.dtype)
    local[1:3, 1:3] = local.new_tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return c2w @ local


def _require_frames(num: int) -> None:
    if num < 1:
        raise ValueError(f"a path needs at least 1 frame, num is {num}")
