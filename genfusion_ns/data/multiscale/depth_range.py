"""Between which depths the photos of a capture show something."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from genfusion_ns.data.points.random_points import views_seeing
from genfusion_ns.data.points.scene_extent import SceneExtent
from genfusion_ns.geometry.cameras import c2w_to_viewmat

_FARTHEST = 0.98
"""Share of the points of a view that lie before its far plane, before the margin; sparse points have strays."""
_MARGIN = 1.5
_LENGTHS = 4.0
"""Far plane in scene lengths where no view sees points."""


class DepthRange(NamedTuple):
    """Depths in scene units."""

    near: float
    far: float


def depth_range(cameras: Cameras, points: Float[Tensor, "M 3"]) -> DepthRange:
    """Depths between which points lie that the cameras see, with margins on both sides.

    Args:
        cameras: of the train views. [V]
        points: seed points in their frame.
    """
    extent = SceneExtent.of(cameras, points)
    viewmats = c2w_to_viewmat(cameras.camera_to_worlds)
    depths = points @ viewmats[:, 2, :3].T + viewmats[:, 2, 3]
    seen = [depths[mask, i] for i, mask in enumerate(views_seeing(cameras, points)) if bool(mask.any())]
    deepest = [float(torch.quantile(part[:1_000_000], _FARTHEST)) for part in seen]
    far = _MARGIN * max(deepest) if deepest else _LENGTHS * extent.length
    return DepthRange(extent.near_plane, max(far, 2 * extent.near_plane))
