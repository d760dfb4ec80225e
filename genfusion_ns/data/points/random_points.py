"""Random points in view of a set of cameras, for scenes without sparse points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from genfusion_ns.geometry.cameras import c2w_to_viewmat, camera_centers, camera_forwards

_MIN_LANDMARKS = 10
_BATCHES = 1000
_NEAREST = 0.1
"""Nearest random point, in scene depths."""
_MARGIN = 0.75
"""How far the box reaches beyond the points that the cameras look at, in scene depths."""


def views_seeing(
    cameras: Cameras,
    xyz: Float[Tensor, "M 3"],
    min_depth: float = 0.0,
    masks: Sequence[Bool[Tensor, "H W"]] | None = None,
) -> Bool[Tensor, "V M"]:
    """Which cameras have which points inside their image and deeper than `min_depth` (scene units).

    Lens distortion and occlusion are ignored.

    Args:
        cameras: any sizes. [V]
        xyz: points in their frame. [M, 3]
        min_depth: z depth below which a point does not count.
        masks: pixels of each camera that count, True where seen; all by default.
    """
    viewmats = c2w_to_viewmat(cameras.camera_to_worlds)
    visible = torch.zeros(len(viewmats), len(xyz), dtype=torch.bool)
    for i, viewmat in enumerate(viewmats):
        x, y, z = (xyz @ viewmat[:3, :3].T + viewmat[:3, 3]).unbind(-1)
        u, v = cameras.fx[i] * x / z + cameras.cx[i], cameras.fy[i] * y / z + cameras.cy[i]
        visible[i] = (u >= 0) & (u < cameras.width[i]) & (v >= 0) & (v < cameras.height[i]) & (z > min_depth)
        if masks is not None:
            inside = visible[i].nonzero()[:, 0]
            visible[i, inside] = masks[i][v[inside].long(), u[inside].long()]
    return visible


def random_points_in_view(
    cameras: Cameras,
    count: int,
    generator: torch.Generator,
    landmarks: Float[Tensor, "L 3"] | None = None,
    masks: Sequence[Bool[Tensor, "H W"]] | None = None,
) -> Float[Tensor, "M 3"]:
    """Points drawn uniformly from the part of a box that at least one camera sees.

    Every camera looks at a point at the scene depth on its axis; the box encloses these points with a margin of 0.75
    scene depths. The scene depth comes from `landmarks` when there are ten or more, else from where the axes meet.

    Args:
        cameras: at least one. [V]
        count: number of points; fewer come back when hardly any of the box is seen.
        generator: on the CPU.
        landmarks: points known to be in the scene.
        masks: see `views_seeing`.
    """
    viewmats = c2w_to_viewmat(cameras.camera_to_worlds)
    depth = _scene_depth(cameras, viewmats, landmarks)
    looked_at = camera_centers(viewmats) + depth * camera_forwards(viewmats)
    low, high = looked_at.amin(0) - _MARGIN * depth, looked_at.amax(0) + _MARGIN * depth
    kept: list[Tensor] = []
    missing = count
    # The looked-at points lie inside the box and inside an image, so a share of every batch is accepted, unless crop
    # windows or masks leave only what is far off the axis.
    for _ in range(_BATCHES):
        if missing == 0:
            break
        candidates = low + (high - low) * torch.rand(max(4 * missing, 64), 3, generator=generator)
        accepted = candidates[views_seeing(cameras, candidates, _NEAREST * depth, masks).any(0)][:missing]
        kept.append(accepted)
        missing -= len(accepted)
    return torch.cat(kept) if kept else torch.zeros(0, 3)


def depth_by_axes(cameras: Cameras) -> float:
    """Depth at which the cameras look, from where their axes meet; scene units, above 0. All that poses say about it.

    Args:
        cameras: at least one; of a single one, or of several in one place, nothing is known, and the depth is 1. [V]
    """
    viewmats = c2w_to_viewmat(cameras.camera_to_worlds)
    centers, forwards = camera_centers(viewmats), camera_forwards(viewmats)
    spread = float((centers - centers.mean(0)).norm(dim=-1).median())
    if spread == 0.0:
        return 1.0
    # The point nearest to all optical axes; the small ridge keeps parallel axes solvable.
    across = torch.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    focus = torch.linalg.solve(across.mean(0) + 1e-4 * torch.eye(3), (across @ centers[:, :, None]).mean(0)[:, 0])
    depth = float(((focus - centers) * forwards).sum(-1).median())
    # Axes that diverge meet behind the cameras (a room seen from its middle): the walls are beyond the cameras.
    return min(max(depth, spread), 8 * spread) if depth > 0 else 2 * spread


def _scene_depth(cameras: Cameras, viewmats: Tensor, landmarks: Tensor | None) -> float:
    if landmarks is not None and len(landmarks) >= _MIN_LANDMARKS:
        z = landmarks @ viewmats[:, 2, :3].T + viewmats[:, 2, 3]
        in_front = z[z > 0]
        if len(in_front):
            return float(in_front.median())
    return depth_by_axes(cameras)
