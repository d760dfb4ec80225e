"""The repairer that repairs nothing, of the kind ``none``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip, References, RepairedClip
from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.priors.base import Capabilities, VideoRepairer
from genfusion_ns.priors.options import PriorOptions, SharedSettings

_CAPABILITIES = Capabilities()


class IdentityRepairer:
    """Returns the artifact clip itself; a run with it is the ``none`` baseline of every comparison."""

    name = "none"
    capabilities = _CAPABILITIES
    clip_length = 16

    def __init__(self, resolution: tuple[int, int] = (256, 144)) -> None:
        self.resolution = resolution

    def repair(self, clip: Clip, references: References, generator: torch.Generator) -> RepairedClip:
        """The clip unchanged, with its alpha as confidence; see `VideoRepairer.repair`.

        Raises:
            ValueError: no frame or no photo.
        """
        if len(clip) == 0 or len(references) == 0:
            raise ValueError(f"a repair needs frames and photos, found {len(clip)} frames and {len(references)} photos")
        disparity = encode_disparity(clip.depth, clip.alpha > SOLID_ALPHA).disparity
        return RepairedClip(rgb=clip.rgb.clamp(0, 1), disparity=disparity, confidence=clip.alpha.clamp(0, 1))

    def release(self) -> None:
        """Nothing to free."""


@dataclass
class NoRepairOptions(PriorOptions):
    """none: no repair, no rounds; the surfels alone."""

    kind: ClassVar[str] = "none"
    capabilities: ClassVar[Capabilities] = _CAPABILITIES
    weights: ClassVar[Path | None] = Path(__file__).parent  # nothing is read from it
    usual_resolution: ClassVar[tuple[int, int]] = (256, 144)

    def build(self, settings: SharedSettings) -> VideoRepairer:
        """See `PriorOptions.build`."""
        return IdentityRepairer(settings.resolution or self.usual_resolution)
