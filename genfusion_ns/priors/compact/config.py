"""What a run has to know of ``compact`` before one is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from genfusion_ns.priors.base import Capabilities, VideoRepairer
from genfusion_ns.priors.compact.capabilities import CAPABILITIES
from genfusion_ns.priors.options import PriorOptions, SharedSettings
from genfusion_ns.priors.weight_files import check_folder

PACKAGED_WEIGHTS = Path(__file__).parents[1] / "weights" / "compact"


@dataclass
class CompactOptions(PriorOptions):
    """compact: the small RGB-D video diffusion model that comes with the package, or one trained like it."""

    kind: ClassVar[str] = "compact"
    capabilities: ClassVar[Capabilities] = CAPABILITIES
    weights: ClassVar[Path | None] = PACKAGED_WEIGHTS
    usual_steps: ClassVar[int | None] = 1
    usual_resolution: ClassVar[tuple[int, int]] = (256, 144)

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """See `PriorOptions.recognises`."""
        return (folder / "config.json").is_file()

    def check(self, settings: SharedSettings) -> None:
        """See `PriorOptions.check`."""
        check_folder(settings.folder)

    def build(self, settings: SharedSettings) -> VideoRepairer:
        """See `PriorOptions.build`."""
        from genfusion_ns.priors.compact.repairer import CompactRepairer

        steps = 1 if settings.steps is None else settings.steps
        size = settings.resolution or self.usual_resolution
        return CompactRepairer.from_folder(settings.folder, steps, settings.device, size, settings.dtype)
