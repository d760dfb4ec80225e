"""How large a capture is, measured once: the length that everything in scene units is a share of.

A dataparser may scale poses to any size, and one stray pose among them changes that size for all others; what the
photos show at which depth does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from genfusion_ns.data.points.random_points import depth_by_axes, views_seeing
from genfusion_ns.geometry.cameras import c2w_to_viewmat

_FEWEST = 10
"""Points that a view must see to say how deep it looks."""
_NEAREST = 0.02
"""Share of the points of a view that may lie nearer than its nearest thing: sparse points have strays."""
_NEAR_SHARE = 0.25
"""Near plane over the depth of the nearest points: things without a texture have none and may be nearer still."""
_NEAR_RANGE = (0.01, 0.2)
"""Near plane in scene lengths. Above the larger nothing is gained, and a walk into the scene would cut things; below
the smaller, surfels that no photo can place hang before the lens."""


@dataclass(frozen=True)
class SceneExtent:
    """Lengths of a capture in scene units; all of them grow with the capture."""

    length: float
    """Typical depth that the photos show; of the order of 1 where the dataparser scales the poses to -1..1."""
    near_plane: float
    """Depth before which no photo shows anything, with a margin."""

    @classmethod
    def of(
        cls,
        cameras: Cameras,
        points: Float[Tensor, "M 3"],
        masks: Sequence[Bool[Tensor, "H W"]] | None = None,
    ) -> SceneExtent:
        """Measure a capture.

        The length is the median over the views of the median depth of the points that they see, so that neither stray
        poses nor stray points count; where no view sees enough of them, the depth at which the optical axes meet.

        Args:
            cameras: of the train views. [V]
            points: seed points in their frame. [M, 3]
            masks: pixels of each camera that count, True where seen; all by default.
        """
        viewmats = c2w_to_viewmat(cameras.camera_to_worlds)
        depths = points @ viewmats[:, 2, :3].T + viewmats[:, 2, 3]
        visible = views_seeing(cameras, points, masks=masks)
        per_view = [depths[mask, i] for i, mask in enumerate(visible) if int(mask.sum()) >= _FEWEST]
        if per_view:
            length = float(torch.stack([depth.median() for depth in per_view]).median())
            nearest = min(float(depth.kthvalue(1 + int(_NEAREST * len(depth))).values) for depth in per_view)
        else:
            length = nearest = depth_by_axes(cameras)
        low, high = (share * length for share in _NEAR_RANGE)
        return cls(length, min(max(_NEAR_SHARE * nearest, low), high))
