"""Clips and photos whose cameras nobody knows, in the terms of `VideoRepairer`: the one place that defines them.

Depth. A frame without depth has **neutral depth**: alpha is 1, for every pixel is part of a picture, and depth is 0,
which means unknown. Repairers code the disparity of a clip over the pixels whose depth they know, so a clip of neutral
depth has an empty code: ``compact`` then reads one constant disparity, the farthest (-1 of its -1..1 range), and
nothing is looked up in the photos through it; ``dynamicrafter`` reads the middle of the range (0), as GenFusion's own
monocular mode gives it. Alpha 1 keeps the colours: where it is 0, a repairer would start from noise.

Cameras. All frames share one camera at the origin, which is right for depth given per pixel. Photos must not be warped
into frames whose relation to them is unknown, so their cameras stand so far ahead of the clip that everything the clip
shows lies behind them: no pixel of a photo is looked up, while repairers still attend to the photo as a whole.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.clips import Clip, References

_AHEAD = 1e12
"""Scene units between a clip and the cameras of such photos; beyond any depth that a file may hold."""


def clip_without_cameras(rgb: Float[Tensor, "T H W 3"], depth: Float[Tensor, "T H W 1"] | None = None) -> Clip:
    """A clip of frames without cameras.

    Args:
        rgb: colours in 0..1.
        depth: z depth in any linear unit, the same for all frames, 0 where unknown; None: neutral, see above.
    """
    frames, height, width = rgb.shape[:3]
    focal = float(max(height, width))
    K = rgb.new_tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Clip(
        rgb=rgb,
        depth=rgb.new_zeros(frames, height, width, 1) if depth is None else depth.to(rgb),
        alpha=rgb.new_ones(frames, height, width, 1),
        viewmats=torch.eye(4, dtype=rgb.dtype, device=rgb.device).repeat(frames, 1, 1),
        Ks=K.repeat(frames, 1, 1),
    )


def photos_without_cameras(photos: Float[Tensor, "R H W 3"]) -> References:
    """Photos that are attended to but never warped.

    Args:
        photos: colours in 0..1.
    """
    cameras = clip_without_cameras(photos)
    viewmats = cameras.viewmats.clone()
    viewmats[:, 2, 3] = -_AHEAD
    return References(photos, viewmats, cameras.Ks)
