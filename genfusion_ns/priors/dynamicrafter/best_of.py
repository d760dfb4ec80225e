"""Which of several repairs of a clip to keep."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip, References
from genfusion_ns.geometry.warping import warp_references

_CELL = 8  # pixels: finer detail is what a repair may change, and where warps are off by a pixel


def disagreement(rgb: Float[Tensor, "T H W 3"], clip: Clip, references: References) -> float:
    """Mean colour difference, 0..1, of a repair from what is known of the clip; 0 where nothing is known.

    Known are, in this order: the photos where they show the surface of a pixel, by the depth of the clip; the clip
    itself where it is covered, weighted by alpha. Colours are compared as means over cells of 8 pixels.

    Args:
        rgb: colours of the repair in 0..1.
        clip: the artifact clip, on the same device.
        references: photos with their cameras.
    """
    solid = clip.alpha > SOLID_ALPHA
    warped = warp_references(clip.depth, clip.viewmats, clip.Ks, references.to(rgb.device), solid=solid)
    shown = (warped.visible & solid).to(rgb)
    count = shown.sum(0)
    photos = (warped.rgb * shown).sum(0) / count.clamp(min=1)
    target = torch.where(count > 0, photos, clip.rgb.clamp(0, 1))
    weight = torch.where(count > 0, 1.0, clip.alpha * solid)
    cells = _cell_means(torch.cat([weight * (rgb - target), weight], dim=-1))
    total = cells[:, 3].sum()
    # The difference of the weighted means times the weight: an average over pixels that count, cell by cell.
    return float(cells[:, :3].abs().mean(1).sum() / total) if total > 0 else 0.0


def _cell_means(images: Float[Tensor, "T H W C"]) -> Float[Tensor, "T C h w"]:
    kernel = min(_CELL, *images.shape[1:3])
    return functional.avg_pool2d(images.permute(0, 3, 1, 2), kernel, ceil_mode=True)
