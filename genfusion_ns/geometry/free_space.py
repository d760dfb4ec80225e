"""Which places a camera may take, judged by what the observed views have seen: no camera inside walls or objects.

Evidence comes from depth rendered at the observed cameras. A place is *seen empty* by a view if it projects into the
image before the surface there. Everything is pure torch and works in the frame of the poses given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.geometry.cameras import camera_centers, viewmat_to_c2w
from genfusion_ns.geometry.capture import capture_shape, neighbour_spacing

ClearTest = Callable[[Float[Tensor, "M 4 4"]], Bool[Tensor, " M"]]
"""Says for each pose (c2w, OpenGL) whether a camera may stand there."""

_RADIUS_SHARE = 0.2
_NEIGHBOURS = 3
"""Observed cameras this near in rank to each other are taken to be joined by a walk."""


def free_space_test(
    points: Float[Tensor, "M 3"],
    viewmats: Float[Tensor, "N 4 4"],
    Ks: Float[Tensor, "N 3 3"],
    depths: Float[Tensor, "N H W 1"],
    alphas: Float[Tensor, "N H W 1"],
    radius: float | None = None,
    focus: Float[Tensor, "3"] | None = None,
    margin: float = 0.05,
) -> Bool[Tensor, " M"]:
    """Whether a camera may stand at each point.

    The positions of observed cameras always count as clear, points on a visible surface otherwise never. Of the rest,
    without `focus` a point needs evidence for it: some view has seen it empty, or it lies within `radius` of a camera
    or of the line between two neighbouring cameras and no view sees anything before it. What stands there unseen by
    all cannot be known. With `focus`, for captures that surround it, evidence against a point is needed: some view
    sees background, i.e. a surface beyond the focus, before it; what the subject itself hides stays allowed.

    Args:
        points: world points. [M, 3]
        viewmats: observed cameras, world-to-camera, OpenCV axes. [N, 4, 4]
        Ks: intrinsics in pixels of the depth maps. [N, 3, 3]
        depths: rendered z depth, scene units. [N, H, W, 1]
        alphas: rendered coverage; below 0.5 a pixel is no evidence. [N, H, W, 1]
        radius: scene units; a fifth of the median distance between neighbouring cameras if missing.
        focus: the point that the cameras surround. [3]
        margin: distance to keep before a surface, as a share of its depth.

    Returns:
        [M]
    """
    if radius is None:
        radius = _RADIUS_SHARE * neighbour_spacing(viewmat_to_c2w(viewmats))
    sight = _look(points, viewmats, Ks, depths, alphas)
    on_surface = (sight.known & ((sight.z - sight.depth).abs() <= margin * sight.depth)).any(0)
    centers = camera_centers(viewmats)
    at_camera = torch.cdist(points, centers).amin(1) <= 1e-3 * radius
    behind = sight.known & (sight.z >= (1 - margin) * sight.depth)
    if focus is None:
        empty = sight.known & (sight.z <= (1 - margin) * sight.nearest)
        clear = empty.any(0) | (_near_a_walk(points, centers, radius) & ~behind.any(0))
    else:
        focus_z = viewmats[:, 2, :3] @ focus + viewmats[:, 2, 3]
        clear = ~(behind & (sight.depth > focus_z[:, None])).any(0)
    return at_camera | (clear & ~on_surface)


def seen_empty(
    points: Float[Tensor, "M 3"],
    viewmats: Float[Tensor, "N 4 4"],
    Ks: Float[Tensor, "N 3 3"],
    depths: Float[Tensor, "N H W 1"],
    alphas: Float[Tensor, "N H W 1"],
    margin: float = 0.1,
) -> Bool[Tensor, " M"]:
    """Which points lie clearly before a surface that some view sees: nothing can be there. Arguments as above. [M]"""
    sight = _look(points, viewmats, Ks, depths, alphas)
    return (sight.known & (sight.z <= (1 - margin) * sight.nearest)).any(0)


def clearance_test(
    viewmats: Float[Tensor, "N 4 4"],
    Ks: Float[Tensor, "N 3 3"],
    depths: Float[Tensor, "N H W 1"],
    alphas: Float[Tensor, "N H W 1"],
) -> ClearTest:
    """A test of poses against the reconstruction, strict or lenient by the shape of the capture.

    Args:
        viewmats: all observed cameras, world-to-camera, OpenCV axes. [N, 4, 4]
        Ks: intrinsics in pixels of the depth maps. [N, 3, 3]
        depths: z depth rendered at them, scene units; a small raster (128 pixels wide) suffices. [N, H, W, 1]
        alphas: coverage rendered at them, 0..1. [N, H, W, 1]
    """
    shape = capture_shape(viewmat_to_c2w(viewmats))
    focus = shape.focus if shape.surrounds_focus else None

    def is_clear(poses: Tensor) -> Tensor:
        points = poses[:, :3, 3].to(viewmats)
        return free_space_test(points, viewmats, Ks, depths, alphas, focus=focus).to(poses.device)

    return is_clear


@dataclass(frozen=True)
class _Sight:
    """What N views see in the direction of M points."""

    known: Tensor
    """The point is before the camera, inside the image, on a covered pixel. [N, M]"""
    z: Tensor
    """Depth of the point. [N, M]"""
    depth: Tensor
    """Depth of the surface at the point's pixel. [N, M]"""
    nearest: Tensor
    """Smallest depth in the 3 x 3 pixels around it, 0 where one of them is not covered. [N, M]"""


def _look(points: Tensor, viewmats: Tensor, Ks: Tensor, depths: Tensor, alphas: Tensor) -> _Sight:
    height, width = depths.shape[1:3]
    camera = points @ viewmats[:, :3, :3].transpose(-1, -2) + viewmats[:, None, :3, 3]
    z = camera[..., 2]
    pixel = (camera @ Ks.transpose(-1, -2))[..., :2] / z.clamp(min=1e-12)[..., None]
    inside = (z > 0) & (pixel >= 0).all(-1) & (pixel[..., 0] < width) & (pixel[..., 1] < height)
    column = pixel[..., 0].clamp(0, width - 1).long()
    row = pixel[..., 1].clamp(0, height - 1).long()
    view = torch.arange(len(viewmats), device=points.device)[:, None]
    covered = alphas[..., 0] > 0.5
    surface = torch.where(covered, depths[..., 0], 0.0)
    nearest = -F.max_pool2d(-surface[:, None], 3, stride=1, padding=1)[:, 0]
    return _Sight(inside & covered[view, row, column], z, surface[view, row, column], nearest[view, row, column])


def _near_a_walk(points: Tensor, centers: Tensor, radius: float) -> Tensor:
    """Points within `radius` of a camera or of a line between neighbouring cameras. [M]"""
    distances = torch.cdist(centers, centers).fill_diagonal_(torch.inf)
    neighbours = distances.topk(min(_NEIGHBOURS, len(centers) - 1), largest=False).indices
    # A camera is also its own neighbour: a line of no length, so that a single camera needs no case of its own.
    ends = torch.cat([torch.arange(len(centers), device=points.device)[:, None], neighbours], dim=1)
    first = centers[:, None].expand(*ends.shape, 3).reshape(-1, 3)
    line = centers[ends.flatten()] - first
    along = ((points[:, None] - first) * line).sum(-1) / line.square().sum(-1).clamp(min=1e-20)
    foot = first + along.clamp(0, 1)[..., None] * line
    return ((points[:, None] - foot).norm(dim=-1) <= radius).any(1)
