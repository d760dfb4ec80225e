"""Whether a camera path belongs to a capture: one saved in another world frame shows nothing that can be repaired."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genfusion_ns.data.camera_path import CameraPath
from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras
from genfusion_ns.geometry.cameras import distances_between
from genfusion_ns.geometry.capture_shape import CaptureShape, capture_shape

_FAR = 3.0
"""A path all of whose cameras are further than this many capture radii from every photo belongs to another scene."""
_CONTENT_DEPTHS = (0.25, 0.5, 1.0, 2.0)
"""Depths, in capture radii, at which the surfaces that the photos show are looked for."""


def path_misses_scene(path: CameraPath, cameras: PhotoCameras) -> str | None:
    """Why a camera path has nothing to do with a capture, or None when it has.

    Judged from poses alone, against the radius of the capture: the larger of the spread of its cameras and their median
    distance from the point they look at. A path misses when all of its cameras are further than three radii from every
    photo, or when none has anything before its lens that a photo shows at a quarter to two radii of depth. A single
    frame that does neither is enough, for a path may well start far out or look into the unknown.

    Args:
        path: in the world frame of the capture, if it is the right one.
        cameras: training views.

    Returns:
        The reason with its figures; None, too, where a single photo or parallel views give no radius to judge by.
    """
    shape = capture_shape(cameras.c2w)
    radius = _capture_radius(cameras.c2w, shape)
    if radius < 1e-9:
        return None
    nearest = distances_between(path.c2w[:, :3, 3], cameras.c2w[:, :3, 3].double().cpu()).min()
    if nearest > _FAR * radius:
        return (
            f"the nearest of its {len(path)} cameras is {float(nearest):.3g} away from every photo, which is more than "
            f"{_FAR:g} times the radius of the capture, {radius:.3g} (scene units)"
        )
    content = _photo_content(cameras, radius)
    if shape.in_front > 0.5:
        content = torch.cat([content, shape.focus.double().cpu()[None]])
    if not bool(_in_view(path, content).any()):
        return f"none of its {len(path)} cameras looks at anything that the photos show"
    return None


def _capture_radius(c2w: Float[Tensor, "N 4 4"], shape: CaptureShape) -> float:
    position = c2w[:, :3, 3].double().cpu()
    spread = (position - position.median(dim=0).values).norm(dim=-1).quantile(0.9)
    depth = (position - shape.focus.double().cpu()).norm(dim=-1).median()
    return float(torch.maximum(spread, depth))


def _photo_content(cameras: PhotoCameras, radius: float) -> Float[Tensor, "P 3"]:
    """Points on 3 x 3 rays through each photo where its surfaces may be."""
    sizes = torch.tensor(cameras.sizes, dtype=torch.float64)
    share = torch.cartesian_prod(*[torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)] * 2)
    pixels = torch.cat([share * sizes[:, None], torch.ones(len(sizes), 9, 1, dtype=torch.float64)], dim=-1)
    rays = pixels @ torch.linalg.inv(cameras.Ks.double().cpu()).transpose(-1, -2)
    c2w = cameras.c2w.double().cpu()
    depths = radius * torch.tensor(_CONTENT_DEPTHS, dtype=torch.float64)
    # Rays are in OpenCV axes, poses in OpenGL ones.
    rays = rays * rays.new_tensor([1.0, -1.0, -1.0])
    points = (depths[:, None, None, None] * rays) @ c2w[:, :3, :3].transpose(-1, -2) + c2w[:, None, :3, 3]
    return points.reshape(-1, 3)


def _in_view(path: CameraPath, points: Float[Tensor, "P 3"]) -> Bool[Tensor, "M P"]:
    local = (points - path.c2w[:, None, :3, 3]) @ path.c2w[:, :3, :3]
    half_height = torch.tan(path.fov_y / 2)[:, None]
    depth = -local[..., 2]
    high, wide = half_height * depth, half_height * path.aspect[:, None] * depth
    return (depth > 0) & (local[..., 1].abs() <= high) & (local[..., 0].abs() <= wide)


def path_tilt(path: CameraPath, cameras: PhotoCameras) -> float:
    """Degrees (0..180) between the verticals of path and capture; 0 where one of them has none."""
    ups = [capture_shape(c2w.double().cpu()).up for c2w in (path.c2w, cameras.c2w)]
    if ups[0] is None or ups[1] is None:
        return 0.0
    return math.degrees(math.acos(max(-1.0, min(1.0, float(ups[0] @ ups[1])))))
