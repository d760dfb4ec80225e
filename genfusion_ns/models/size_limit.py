"""How large a surfel may be, measured by the photos.

A flat part of a picture can be made of one surfel that is far larger than the picture, and a loss on few photos has
nothing against it: what sticks out lies outside of every photo. A camera beside them looks into it as into a veil, or
sees a needle where such a surfel is seen from its edge.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.cameras import camera_centers, distances_between
from genfusion_ns.models.seen_sides import PhotoViewmats

_TYPICAL = 1.5
"""Times the median size that are always allowed: a scene that starts from few points is made of large surfels."""


@torch.no_grad()
def limit_sizes(
    log_scales: Float[Tensor, "N 3"], means: Float[Tensor, "N 3"], photos: PhotoViewmats, near: float, share: float
) -> None:
    """Shrink, in place, surfels that are too large for where they are.

    The standard deviation of a surfel is at most a share of the longer side of what a camera shows that is as far from
    it as the nearest photo, wherever that one looks, through the lens of most photos. So what is far away, as a
    backdrop, may be large. Where most of the scene is coarse the share is larger, one and a half times the median of
    all surfels. Surfels that have no place or size, as in a run that has diverged, stay as they are.

    Args:
        log_scales: logarithms of the sizes; the third, the thickness, stays as it is.
        means: middles of the surfels.
        photos: their cameras.
        near: distance that counts at least, scene units, above 0.
        share: of the longer side, above 0.
    """
    if not len(means):
        return
    centers = camera_centers(photos.viewmats.to(means))
    sizes = means.new_tensor(photos.sizes)
    # Longer side of the picture over the focal length: what it shows at distance 1.
    extents = (sizes / torch.stack([photos.Ks[:, 0, 0], photos.Ks[:, 1, 1]], dim=-1).to(means)).amax(dim=-1)
    shown = distances_between(means, centers).amin(dim=-1).clamp(min=near) * extents.median()
    shares = log_scales[:, :2].amax(dim=-1).exp() / shown
    limit = (shares.nanmedian() * _TYPICAL).clamp(min=share) * shown
    log_scales[:, :2].clamp_(max=limit.nan_to_num(nan=torch.inf).log()[:, None])
