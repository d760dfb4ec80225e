"""What photos show, continued over what stands where none shows anything.

Few photos leave shreds around what they show: surfels that reach out of the pictures, where nothing holds them. A
generator that can but guess what no photo shows gives a colour there that is no better than a smooth continuation of
what the photos show beside it. Holes stay what they are: renders to look at continue into them by themselves
(`View.continued`), and surfels that stood in them would stand before other cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.clips import Clip
from genfusion_ns.geometry.continuation import continue_colours
from genfusion_ns.geometry.free_space import SeenSurfaces, seen_in_clip
from genfusion_ns.geometry.images import enlarge_mask, grown, shrunk
from genfusion_ns.models.surfel_model import GenFusionModel

_EVERY = 2
"""Pixels of a clip along the square that is asked for at once whether any photo shows it."""
_COVERED = 0.9
"""Coverage below which a pixel has a hole, or the frayed edge of one."""


@dataclass(frozen=True)
class OverShreds:
    """Colours for the pixels of a clip where something stands that no photo shows."""

    rgb: Float[Tensor, "T H W 3"]
    """Smooth colours of all pixels, 0..1."""
    trust: Float[Tensor, "T H W 1"]
    """0 but in the pixels that they are for; there how much of them comes from what photos show, 0..1."""


@torch.no_grad()
def over_shreds(model: GenFusionModel, clip: Clip, seen: SeenSurfaces) -> OverShreds:
    """What photos show in a clip, continued over what stands where none shows anything.

    Args:
        model: the scene, for the colours that photos have in a direction.
        clip: render of the scene.
        seen: what all photos show of it (`PosedPhotos.unmasked`).
    """
    shown = shrunk(grown(seen_in_clip(clip, seen, _EVERY, _COVERED)))
    known = shrunk(grown(shrunk(shown)) & shown)  # edges are frayed, and what is thin may be a shred
    shown, known = (enlarge_mask(mask, clip.size) for mask in (shown, known))
    around = torch.stack([model.around(pose, K, *clip.size) for pose, K in zip(clip.viewmats, clip.Ks, strict=True)])
    continued = continue_colours(clip.rgb / clip.alpha.clamp(min=_COVERED), known, around, depth=clip.depth)
    return OverShreds(continued.colours.clamp(0, 1), continued.known * (~shown & (clip.alpha > _COVERED)))
