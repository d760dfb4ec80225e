"""One view of the scene for people: what nerfstudio's viewer and renderer show of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.clips import SOLID_ALPHA
from genfusion_ns.geometry.continuation import continue_colours
from genfusion_ns.geometry.depth import depth_to_normals
from genfusion_ns.rendering.surfels import SurfelRender

_WHOLE, _SPEAKS = 0.7, 0.9
"""Coverage from which a pixel belongs to no hole, and above which it goes on into one. Up to `SOLID_ALPHA` it is all
hole: surfels fray where photos end."""


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

        Colours fade to the background, and to what little there is in the holes, see `continue_colours`. Coverage
        becomes that of what is not a hole: 0 up to `SOLID_ALPHA` where something is near, 1 from 0.7 on.
        """
        if bool((self.alpha >= _WHOLE).all()):
            return self
        own = (self.rgb - (1 - self.alpha) * self.background) / self.alpha.clamp(min=SOLID_ALPHA)
        speaks = self.alpha > _SPEAKS
        found = continue_colours(own[None], speaks[None], self.background[None], depth=self.depth[None])
        far = 1 - found.known[0]
        behind = found.colours[0] + far * (self.rgb - self.background)
        kept = ((self.alpha - SOLID_ALPHA) / (_WHOLE - SOLID_ALPHA)).clamp(0, 1)
        return replace(
            self,
            rgb=kept * self.rgb + (1 - kept) * behind,
            alpha=kept + (1 - kept) * far * self.alpha,
            background=found.colours[0],
        )

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
