"""What a run has to know of ``reconfusion`` before one is built: its options and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from genfusion_ns.priors.base import Capabilities
from genfusion_ns.priors.options import FLAG, PriorOptions, SharedSettings
from genfusion_ns.priors.reconfusion.capabilities import CAPABILITIES
from genfusion_ns.priors.reconfusion.folder import check_prior_folder, recognised

PACKAGED_WEIGHTS = Path(__file__).parents[1] / "weights" / "reconfusion"
_GUIDANCE = (0.0, 50.0)


@dataclass
class ReconFusionOptions(PriorOptions):
    """reconfusion: draws single views for the method reconfusion; a prior that gf-train-generator wrote."""

    kind: ClassVar[str] = "reconfusion"
    capabilities: ClassVar[Capabilities] = CAPABILITIES
    draws_views: ClassVar[bool] = True
    weights: ClassVar[Path | None] = PACKAGED_WEIGHTS
    usual_steps: ClassVar[int | None] = 10
    usual_resolution: ClassVar[tuple[int, int]] = (512, 512)

    guidance_scale: float | None = None
    """Weight of the photos, 0..50; 1 does without guidance, in half the time. By default what the folder says: 3 for
    the full size."""
    pure_noise: bool = True
    """Noise level 1 starts from noise alone; False leaves in it the trace of the render that training had."""

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """See `PriorOptions.recognises`."""
        return recognised(folder)

    def check_ranges(self) -> None:
        """See `PriorOptions.check_ranges`."""
        low, high = _GUIDANCE
        if self.guidance_scale is not None and not low <= self.guidance_scale <= high:
            raise ValueError(f"{self.flag('guidance_scale')} is {self.guidance_scale}; allowed are {low:g}..{high:g}")

    def check(self, settings: SharedSettings) -> None:
        """See `PriorOptions.check`."""
        facts = check_prior_folder(settings.folder)
        size, multiple = settings.resolution, facts.size_multiple
        if size is not None and any(side < multiple or side % multiple for side in size):
            usual = " ".join(str(side) for side in facts.resolution)
            raise ValueError(
                f"{FLAG}.resolution is {size}; the prior in {settings.folder} takes multiples of {multiple}, and was "
                f"trained at {usual}"
            )

    def build(self, settings: SharedSettings) -> Any:
        """A `ViewPrior`; errors as in `check`."""
        from genfusion_ns.priors.reconfusion.prior import ReconFusionPrior

        return ReconFusionPrior.from_folder(
            settings.folder,
            settings.device,
            steps=settings.steps,
            guidance_scale=self.guidance_scale,
            pure_noise=self.pure_noise,
            resolution=settings.resolution,
            dtype=settings.dtype,
        )
