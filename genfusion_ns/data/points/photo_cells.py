"""Photos as coarse grids of cells: mean colours, and which cells are wholly seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.geometry.images import WHOLLY_SEEN


def photo_cells(
    photo: Mapping[str, Any], longer_side: int, least_side: int
) -> tuple[Float[Tensor, "r c 3"], Bool[Tensor, "r c"]]:
    """Mean colour of each cell, 0..1, and whether all of it is seen and opaque.

    Args:
        photo: ``image`` [H, W, 3 or 4] (uint8 or 0..1) and, if parts are hidden, ``mask`` [H, W, 1] (True where seen).
        longer_side: cells along the longer side of the photo.
        least_side: of a cell in pixels; small photos have fewer cells.
    """
    image = photo["image"].cpu()
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    height, width = image.shape[:2]
    side = max(max(height, width) / longer_side, least_side)
    known = image[..., 3:4] if image.shape[-1] == 4 else torch.ones_like(image[..., :1])
    if "mask" in photo:
        known = known * photo["mask"].cpu().float()
    planes = torch.cat([image[..., :3], known], dim=-1).permute(2, 0, 1)[None]
    small = F.adaptive_avg_pool2d(planes, (max(1, round(height / side)), max(1, round(width / side))))[0]
    return small[:3].permute(1, 2, 0), small[3] > WHOLLY_SEEN
