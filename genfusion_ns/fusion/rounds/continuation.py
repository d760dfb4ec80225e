"""What photos show, continued over what stands where none shows anything.

Few photos leave shreds around what they show: surfels that reach out of the pictures, where nothing holds them. A
generator that can but guess what no photo shows gives a colour there that is no better than a smooth continuation of
what the photos show beside it. Holes stay what they are: renders to look at continue into them by themselves
(`View.continued`), and surfels that stood in them would stand before other cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.geometry.cameras import viewmat_to_c2w
from genfusion_ns.geometry.clips import Clip
from genfusion_ns.geometry.continuation import continue_colours
from genfusion_ns.geometry.free_space import SeenSurfaces, seen_in_clip
from genfusion_ns.geometry.images import enlarge_mask
from genfusion_ns.geometry.pixel_rays import pixel_rays
from genfusion_ns.models.surfel_model import GenFusionModel

_EVERY = 2
"""Pixels of a clip along the square that is asked for at once whether any photo shows it."""
_COVERED = 0.9
"""Coverage below which a pixel has a hole, or the frayed edge of one."""


@dataclass(frozen=True)
class Continuation:
    """Colours for the pixels of a clip where something stands that no photo shows."""

    rgb: Float[Tensor, "T H W 3"]
    """Smooth colours of all pixels, 0..1."""
    places: Bool[Tensor, "T H W 1"]
    """The pixels that they are for."""


@torch.no_grad()
def continuation(model: GenFusionModel, clip: Clip, seen: SeenSurfaces) -> Continuation:
    """What photos show in a clip, continued to its other pixels.

    Args:
        model: the scene, for the colours that photos have in a direction.
        clip: render of the scene.
        seen: what all photos show of it (`PosedPhotos.unmasked`).
    """
    shown = _shrunk(_grown(seen_in_clip(clip, seen, _EVERY, _COVERED)))
    known = _shrunk(_opened(shown))  # edges are frayed, and shreds show what they like
    shown, known = (enlarge_mask(mask, clip.size) for mask in (shown, known))
    colours = clip.rgb / clip.alpha.clamp(min=_COVERED)
    rgb = continue_colours(colours, known, _around(model, clip), depth=clip.depth)
    return Continuation(rgb.clamp(0, 1), ~shown & (clip.alpha > _COVERED))


def _around(model: GenFusionModel, clip: Clip) -> Float[Tensor, "T H W 3"]:
    """What is behind everything in a clip, see `GenFusionModel.backdrop`."""
    c2w, Ks = viewmat_to_c2w(clip.viewmats.cpu()), clip.Ks.cpu()
    directions = [pixel_rays(pose[None], K, clip.size)[1] for pose, K in zip(c2w, Ks, strict=True)]
    return model.backdrop(torch.cat(directions).to(clip.rgb), model.background_color.to(clip.rgb))


def _opened(mask: Bool[Tensor, "T H W 1"]) -> Bool[Tensor, "T H W 1"]:
    """Without what is too thin for a square of three steps."""
    return _grown(_shrunk(mask)) & mask


def _grown(mask: Bool[Tensor, "T H W 1"]) -> Bool[Tensor, "T H W 1"]:
    """With the neighbours of its pixels."""
    planes = mask.movedim(-1, 1).float()
    return (functional.max_pool2d(planes, 3, stride=1, padding=1) > 0).movedim(1, -1)


def _shrunk(mask: Bool[Tensor, "T H W 1"]) -> Bool[Tensor, "T H W 1"]:
    """Without the pixels at its edges; those of the picture are none."""
    return ~_grown(~mask)
