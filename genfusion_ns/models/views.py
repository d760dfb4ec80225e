"""One view of the scene for people: what nerfstudio's viewer and renderer show of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.continuation import continue_colours
from genfusion_ns.geometry.depth import depth_to_normals
from genfusion_ns.rendering.surfels import SurfelRender

_FRAYED, _WHOLE = 0.85, 0.95
"""Coverage up to which a pixel belongs to a hole, as surfels fray where photos end, and from which it does not."""


@dataclass(frozen=True)
class View:
    """Images of one camera of any kind.

    Depth is z for a perspective camera and the distance from the camera for all others.
    """

    rgb: Float[Tensor, "H W 3"]
    """Blended colour with the background behind it, not clamped."""
    alpha: Float[Tensor, "H W 1"]
    """Accumulated opacity in 0..1."""
    depth: Float[Tensor, "H W 1"]
    """Expected depth, scene units; 0 where nothing is hit."""
    median_depth: Float[Tensor, "H W 1"]
    """Depth at which half of the light is gone, scene units; 0 where nothing is hit."""
    normals: Float[Tensor, "H W 3"]
    """Blended world normals facing the camera, as long as alpha allows."""
    depth_normals: Float[Tensor, "H W 3"]
    """World normals of the depth map, times alpha."""
    distortion: Float[Tensor, "H W 1"]
    """Spread of the surfels along each ray, scene units."""
    background: Float[Tensor, "H W 3"]
    """What is behind everything."""

    @classmethod
    def of(
        cls,
        render: SurfelRender,
        K: Float[Tensor, "1 3 3"],
        viewmat: Float[Tensor, "1 4 4"],
        background: Float[Tensor, "3"],
    ) -> View:
        """The view of a render of one perspective camera before `background`, at least 2 x 2 pixels."""
        alpha = render.alpha[0]
        return cls(
            rgb=render.rgb[0],
            alpha=alpha,
            depth=render.depth[0],
            median_depth=render.median_depth[0],
            normals=render.normals[0],
            depth_normals=depth_to_normals(render.depth, K, viewmat)[0] * alpha,
            distortion=render.distortion[0],
            background=background.expand_as(render.rgb[0]),
        )

    def before(self, background: Float[Tensor, "H W 3"]) -> View:
        """The same before another background."""
        return replace(self, rgb=self.rgb + (1 - self.alpha) * (background - self.background), background=background)

    def continued(self) -> View:
        """The same with its holes covered by what is beside them, rather by what is far than by what is near.

        Colours fade to the background, see `continue_colours`. Coverage becomes that of what is not a hole.
        """
        if bool((self.alpha >= _WHOLE).all()):
            return self
        own = (self.rgb - (1 - self.alpha) * self.background) / self.alpha.clamp(min=_FRAYED)
        whole = self.alpha > (_FRAYED + _WHOLE) / 2
        behind = continue_colours(own[None], whole[None], self.background[None], depth=self.depth[None])[0]
        kept = ((self.alpha - _FRAYED) / (_WHOLE - _FRAYED)).clamp(0, 1)
        return replace(self, rgb=kept * own + (1 - kept) * behind, alpha=kept, background=behind)

    @classmethod
    def empty(cls, width: int, height: int, background: Float[Tensor, "3"]) -> View:
        """Nothing but background."""
        one, three = background.new_zeros(height, width, 1), background.new_zeros(height, width, 3)
        return cls(three + background, one, one, one, three, three, one, background.expand_as(three))

    def outputs(self) -> dict[str, Tensor]:
        """What `GenFusionModel.get_outputs` returns; depth where nothing is hit is the largest there is."""
        depth, median = (torch.where(self.alpha > 0, value, value.max()) for value in (self.depth, self.median_depth))
        normals = torch.nn.functional.normalize(self.normals, dim=-1)
        return {
            "rgb": self.rgb.clamp(0, 1),
            "accumulation": self.alpha,
            "depth": depth,
            "median_depth": median,
            "normals": (normals + 1) / 2,
            "normals_from_depth": (self.depth_normals + 1) / 2,
            "distortion": self.distortion,
            "background": self.background,
        }


def without_background(
    rgb: Float[Tensor, "H W 3"], alpha: Float[Tensor, "H W 1"], background: Float[Tensor, "H W 3"]
) -> Float[Tensor, "H W 4"]:
    """Colour of the surfels alone and their coverage, neither multiplied into the other, 0..1; 0 where nothing is."""
    own = (rgb - (1 - alpha) * background) / alpha.clamp_min(1e-10)
    return torch.cat([torch.where(alpha > 0, own.clamp(0, 1), 0.0), alpha.clamp(0, 1)], dim=-1)
