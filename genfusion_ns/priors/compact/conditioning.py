"""From clips and photos to the tensors that the compact network reads, and back.

Tensors are channels first with a batch axis; colours and disparity are in -1..1, alpha and masks in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip, ClipPair, References
from genfusion_ns.geometry.depth import DisparityCode, encode_disparity
from genfusion_ns.geometry.warping import fill_colours, fill_depth, warp_references

_SATURATED_PERCENT = 1.0  # share of the pixels at either end of the disparity range that may saturate: floaters


@dataclass(frozen=True)
class Condition:
    """What is known before the repair."""

    artifact: Float[Tensor, "B 5 T H W"]
    """rgb and disparity, both continued smoothly into holes, and alpha."""
    warped: Float[Tensor, "B R 6 T H W"]
    """rgb of each photo in each frame, valid, visible, alignment (see `WarpedReferences`)."""
    photos: Float[Tensor, "B R 3 h w"]
    """The photos themselves."""
    code: DisparityCode
    """Range of the disparity of the (last) clip."""

    @property
    def alpha(self) -> Float[Tensor, "B 1 T H W"]:
        """Coverage of the artifact clip."""
        return self.artifact[:, 4:5]


@dataclass(frozen=True)
class Target:
    """What the repair should give."""

    clean: Float[Tensor, "B 4 T H W"]
    """rgb and disparity, the latter under the code of the artifact clip, which it may leave (-2..2)."""
    depth_known: Bool[Tensor, "B 1 T H W"]
    """Where the clean disparity counts."""
    colour_known: Bool[Tensor, "B 1 T H W"]
    """Where the clean colours count: everywhere, if they are a photo's."""


def condition_on(clip: Clip, references: References) -> Condition:
    """Condition of one clip, batch size 1."""
    solid = clip.alpha > SOLID_ALPHA
    code = encode_disparity(clip.depth, solid, percentile=_SATURATED_PERCENT)
    depth = fill_depth(clip.depth, clip.alpha, threshold=SOLID_ALPHA)
    # Holes start from the continuation of what surrounds them, a better guess than the farthest depth.
    disparity = _under_code(depth, code).clamp(0, 1)
    alpha = clip.alpha.clamp(0, 1)
    rgb = fill_colours(clip.rgb.clamp(0, 1), alpha).clamp(0, 1)
    images = torch.cat([rgb * 2 - 1, disparity * 2 - 1, alpha], dim=-1)
    warped = warp_references(depth, clip.viewmats, clip.Ks, references, solid=solid)
    colours = (warped.rgb * 2 - 1) * warped.valid
    planes = torch.cat([colours, warped.valid.float(), warped.visible.float(), warped.alignment], dim=-1)
    return Condition(
        artifact=images.permute(3, 0, 1, 2)[None],
        warped=planes.permute(0, 4, 1, 2, 3)[None],
        photos=references.rgb.permute(0, 3, 1, 2)[None] * 2 - 1,
        code=code,
    )


def target_of(clean: Clip, code: DisparityCode, rendered: bool = False) -> Target:
    """Target of one clip under the disparity code of its artifact clip, batch size 1; see `ClipPair.rendered`."""
    span = code.maximum - code.minimum
    known = (clean.alpha > SOLID_ALPHA) & (clean.depth > 0) & (span > 0)
    disparity = _under_code(clean.depth, code).clamp(-0.5, 1.5)
    images = torch.cat([clean.rgb * 2 - 1, torch.where(known, disparity * 2 - 1, -1.0)], dim=-1)
    counts = clean.alpha > SOLID_ALPHA if rendered else torch.ones_like(known)
    return Target(*(x.permute(3, 0, 1, 2)[None] for x in (images, known, counts)))


def _under_code(depth: Tensor, code: DisparityCode) -> Tensor:
    """Disparity under the range of a code, not clamped; 0 where depth is unknown or the code is empty."""
    span = code.maximum - code.minimum
    known = (depth > 0) & (span > 0)
    inverse = 1 / torch.where(known, depth, 1.0)
    return torch.where(known, (inverse - code.minimum) / torch.where(span > 0, span, 1.0), 0.0)


def stack_pairs(pairs: list[ClipPair]) -> tuple[Condition, Target]:
    """A batch of pairs that agree in frames, size, number and size of photos.

    Raises:
        ValueError: the pairs differ in shape.
    """
    conditions = [condition_on(pair.artifact, pair.references) for pair in pairs]
    targets = [target_of(pair.clean, c.code, pair.rendered) for pair, c in zip(pairs, conditions, strict=True)]
    shapes = {(tuple(c.artifact.shape), tuple(c.warped.shape), tuple(c.photos.shape)) for c in conditions}
    if len(shapes) != 1:
        raise ValueError(f"clips of one batch must agree in frames, size and photos; found shapes {sorted(shapes)}")
    condition = Condition(
        *(torch.cat([getattr(c, name) for c in conditions]) for name in ("artifact", "warped", "photos")),
        code=conditions[-1].code,
    )
    names = ("clean", "depth_known", "colour_known")
    return condition, Target(*(torch.cat([getattr(target, name) for target in targets]) for name in names))
