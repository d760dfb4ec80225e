"""The depth of sparse points in the photos that see them, as a loss on these photos (DS-NeRF, Deng et al. 2022).

Structure from motion gives few photos the one thing that their colours do not: how far away some of what they show is.
Points count only in photos whose tracks name them: one that merely projects into a photo may lie behind what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes, cameras_to_viewmats
from genfusion_ns.geometry.clips import SOLID_ALPHA

if TYPE_CHECKING:
    from genfusion_ns.data.datamanager import GenFusionDataManager
    from genfusion_ns.rendering.contract import SurfelRender

FLAG = "--pipeline.seed-depth-weight"
_LARGEST_ERROR = 1.0
"""Relative error of depth from which on a pixel does not pull: such a surface has nothing to do with the point."""


class SeedDepths:
    """Where each train photo shows seed points, and how far away they are."""

    def __init__(self, views: Sequence[Float[Tensor, "P 3"]], weight: float) -> None:
        """
        Args:
            views: for each train view, x and y of its points as shares of width and height, and their depth in scene
                units.
            weight: of the loss.
        """
        self.views = list(views)
        self.weight = weight

    @classmethod
    def of(cls, datamanager: GenFusionDataManager, weight: float, device: torch.device | str) -> SeedDepths | None:
        """Those of a run; None where the capture does not say which photo sees which point."""
        seeds = datamanager.seeds
        if seeds.seen_by is None:
            return None
        _ = datamanager.cached_train  # reading the photos is what undistorts and crops the cameras
        cameras = datamanager.train_dataset.cameras.to("cpu")
        viewmats, Ks = cameras_to_viewmats(cameras)
        views = [
            _projected(seeds.xyz[seen], viewmat, K, size).to(device)
            for seen, viewmat, K, size in zip(seeds.seen_by, viewmats, Ks, camera_sizes(cameras), strict=True)
        ]
        return cls(views, weight)

    def losses(self, render: SurfelRender, view: int) -> dict[str, Tensor]:
        """The term ``seed_depth`` of a training render of a train view, of whatever size.

        Args:
            render: of the photo's camera.
            view: position among the train views.

        Returns:
            The mean relative error of the depth of the points that the photo sees, where anything is rendered; nothing
            for photos that see none.
        """
        points = self.views[view]
        if len(points) == 0:
            return {}
        height, width = render.depth.shape[1:3]
        scale = points.new_tensor([width, height])
        x, y = (points[:, :2] * scale).long().minimum((scale - 1).long()).unbind(-1)
        depth, alpha = render.depth[0, y, x, 0], render.alpha[0, y, x, 0]
        error = ((depth - points[:, 2]) / points[:, 2]).abs().clamp(max=_LARGEST_ERROR)
        return {"seed_depth": self.weight * torch.where(alpha > SOLID_ALPHA, error, 0.0).mean()}


def _projected(
    xyz: Float[Tensor, "M 3"], viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]
) -> Float[Tensor, "P 3"]:
    """Shares of width and height and depth of the points in front of the camera and within its image."""
    local = xyz.double() @ viewmat[:3, :3].double().T + viewmat[:3, 3].double()
    depth = local[:, 2:]
    shares = (local @ K.double().T)[:, :2] / depth / torch.tensor(size, dtype=torch.float64)
    inside = (depth[:, 0] > 0) & ((shares >= 0) & (shares < 1)).all(dim=-1)
    return torch.cat([shares, depth], dim=-1)[inside].float()
