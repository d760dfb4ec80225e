"""From a clip of the scene to what the pipeline reads: working size, disparity code, coverage, frames kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip, References, RepairedClip
from genfusion_ns.geometry.depth import align_scale_shift, encode_disparity
from genfusion_ns.geometry.images import resize_images
from genfusion_ns.priors.dynamicrafter.images import pad_to_multiple, resize_disparity, resize_rgb, there_and_back
from genfusion_ns.priors.dynamicrafter.sampling import KnownFrames

_AGREEING = 0.5  # share of pixels whose known disparity must fit the render's for the fit to be believed


@dataclass(frozen=True)
class ClipInputs:
    """A clip at its working size, padded to what the network takes."""

    video: Float[Tensor, "T h w 4"]
    """Colours and disparity in 0..1."""
    alpha: Float[Tensor, "T h w 1"]
    """Coverage in 0..1."""
    known: KnownFrames | None
    """Frames that are repaired already."""
    size: tuple[int, int]
    """(width, height) without the padding."""
    corner: tuple[int, int]
    """(top, left) of the clip within the padding."""


def clip_inputs(clip: Clip, known: RepairedClip | None, size: tuple[int, int], least: int, multiple: int) -> ClipInputs:
    """Prepare one clip.

    Args:
        clip: of any size and length.
        known: its first frames, already repaired, at its size and on its device.
        size: working size, (width, height) in pixels.
        least: frames that the network needs; shorter clips go on backwards from their end.
        multiple: both sides are padded to a multiple of this many pixels.
    """
    code = _disparity(clip)
    frames = there_and_back(len(clip), least)
    channels = torch.cat([clip.rgb.clamp(0, 1), code, clip.alpha.clamp(0, 1)], dim=-1)
    channels = channels[frames].permute(3, 0, 1, 2)[None]
    small = [resize_rgb(channels[:, :3], size), resize_disparity(channels[:, 3:4], size)]
    small.append(resize_rgb(channels[:, 4:], size))
    padded, corner = pad_to_multiple(torch.cat(small, dim=1)[0].permute(1, 2, 3, 0), multiple)
    kept = None
    if known is not None:
        video = torch.cat([known.rgb.clamp(0, 1), _in_code(known, clip, code)], dim=-1)
        video = pad_to_multiple(video if size == clip.size else resize_images(video, size).clamp(0, 1), multiple)[0]
        places = [place for place, frame in enumerate(frames) if frame < len(known)]
        kept = KnownFrames(video[[frames[place] for place in places]], places)
    return ClipInputs(padded[..., :4], padded[..., 4:], kept, size, corner)


def _disparity(clip: Clip) -> Float[Tensor, "T H W 1"]:
    """Disparity in 0..1, 0 where unknown; in clips of neutral depth (see `priors.without_cameras`) the middle of
    the range, which is what GenFusion tells its generator when it asks for the depth of photos.
    """
    solid = clip.alpha > SOLID_ALPHA
    if solid.all() and not (clip.depth > 0).any():
        return torch.full_like(clip.depth, 0.5)
    return encode_disparity(clip.depth, solid).disparity


def _in_code(known: RepairedClip, clip: Clip, code: Float[Tensor, "T H W 1"]) -> Float[Tensor, "K H W 1"]:
    """Known disparity, which has the scale and shift of its own window, in the code of this one.

    It stays as it is where the renders do not show a common scale.
    """
    count = len(known)
    trusted = (clip.depth[:count] > 0) & (clip.alpha[:count] > SOLID_ALPHA)
    fit = align_scale_shift(known.disparity[None], code[None, :count], trusted[None])
    if float(fit.inlier_fraction) < _AGREEING or float(fit.scale) <= 0:
        return known.disparity
    return fit.apply(known.disparity[None])[0].clamp(0, 1)


def seen_part(references: References, index: int) -> Float[Tensor, "1 h w 3"]:
    """One photo; of a masked one the smallest rectangle around what is seen, its other pixels in the mean colour."""
    photo = references.rgb[index]
    if references.seen is None or not references.seen[index].any():
        return photo[None]
    seen = references.seen[index]
    rows, columns = (seen[..., 0].any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    photo = torch.where(seen, photo, photo[seen[..., 0]].mean(0))
    return photo[None, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
