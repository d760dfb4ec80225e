"""What a run has to know of ``dynamicrafter`` before one is built: its options and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from tyro.conf import Suppress

from genfusion_ns.priors.base import Capabilities, VideoRepairer
from genfusion_ns.priors.dynamicrafter.capabilities import CAPABILITIES
from genfusion_ns.priors.dynamicrafter.folder import check_pipeline_folder
from genfusion_ns.priors.dynamicrafter.sampling import Sampling
from genfusion_ns.priors.options import FLAG, PriorOptions, SharedSettings
from genfusion_ns.priors.pipeline_files import INDEX

_SAMPLES = 64


def _flag_of_0_1(name: str) -> Any:
    """The option goes on answering to the flag it had in version 0.1, beside the options of all priors."""
    return tyro.conf.arg(aliases=[f"{FLAG}.{name}"])


@dataclass
class DynamiCrafterOptions(PriorOptions):
    """dynamicrafter: the generator that GenFusion published, or others of its family."""

    kind: ClassVar[str] = "dynamicrafter"
    capabilities: ClassVar[Capabilities] = CAPABILITIES
    usual_steps: ClassVar[int | None] = 25
    usual_resolution: ClassVar[tuple[int, int]] = (960, 512)
    set_by_tasks: ClassVar[tuple[str, ...]] = ("task_guidance_scale",)

    guidance_scale: Annotated[float | None, _flag_of_0_1("guidance-scale")] = None
    """Weight of the reference photo, 0..50; 1 does without guidance, in half the time. By default 3.2, to complete
    scenes 2.2."""
    guidance_rescale: Annotated[float | None, _flag_of_0_1("guidance-rescale")] = None
    """How far the spread of the guided prediction is pulled back, 0..1; 0.7 by default."""
    eta: Annotated[float | None, _flag_of_0_1("eta")] = None
    """Randomness of the steps, 0 (none) to 1 (default)."""
    spacing: Annotated[Literal["uniform", "trailing"] | None, _flag_of_0_1("spacing")] = None
    """Time steps; uniform (default, as published, starts a little below pure noise) or trailing."""
    start_noise: Annotated[float | None, _flag_of_0_1("start-noise")] = None
    """Noise level from which covered pixels start, as a share of the time steps, 0.05..1; 1 (default) is pure noise as
    published, 0.6 keeps more of the render where alpha is high. Empty pixels always start from noise."""
    sample_condition: Annotated[bool | None, _flag_of_0_1("sample-condition")] = None
    """Draw the latents of the render (default, as published) or take their mean, the same each time."""
    samples: Annotated[int | None, _flag_of_0_1("samples")] = None
    """Repairs drawn per clip, 1..64, of which the one that agrees best with photos and covered render is kept; 1 by
    default."""
    batch_guidance: Annotated[bool | None, _flag_of_0_1("batch-guidance")] = None
    """Both branches of the guidance in one call (default); False takes less memory."""
    offload: Annotated[Literal["none", "model"], _flag_of_0_1("offload")] = "none"
    """model keeps only the part on the GPU that is running, for little memory."""
    task_guidance_scale: Suppress[float] = 3.2
    """What guidance_scale None stands for in this task; set by the methods."""

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """See `PriorOptions.recognises`."""
        return (folder / INDEX).is_file()

    def check_ranges(self) -> None:
        """See `PriorOptions.check_ranges`."""
        if self.samples is not None and not 1 <= self.samples <= _SAMPLES:
            raise ValueError(f"{self.flag('samples')} is {self.samples}; allowed are 1..{_SAMPLES}")
        self.sampling(None)  # which steps are possible depends on the model that is found

    def check(self, settings: SharedSettings) -> None:
        """See `PriorOptions.check`."""
        facts = check_pipeline_folder(settings.folder)
        size, multiple = settings.resolution, facts.size_multiple
        if size is not None and any(side < multiple or side % multiple for side in size):
            usual = " ".join(str(side) for side in facts.resolution)
            raise ValueError(
                f"{FLAG}.resolution is {size}; the generator in {settings.folder} takes multiples of {multiple}, "
                f"{usual} is usual"
            )
        if self.offload == "model" and settings.device.type == "cpu":
            raise ValueError(f"{self.flag('offload')} model needs a GPU, but the device is cpu; use none")
        self.sampling(settings.steps)

    def build(self, settings: SharedSettings) -> VideoRepairer:
        """See `PriorOptions.build`."""
        from genfusion_ns.priors.dynamicrafter.repairer import DynamiCrafterRepairer

        return DynamiCrafterRepairer.from_folder(
            settings.folder,
            self.sampling(settings.steps),
            settings.device,
            resolution=settings.resolution,
            offload=self.offload == "model",
            samples=1 if self.samples is None else self.samples,
            dtype=settings.dtype,
        )

    def sampling(self, steps: int | None) -> Sampling:
        """How clips are sampled; `steps` None stands for the usual ones.

        Raises:
            ValueError: a value out of range, with its flag.
        """
        names = ("guidance_rescale", "eta", "start_noise", "sample_condition", "batch_guidance")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if steps is not None:
            given["steps"] = steps
        scale = self.task_guidance_scale if self.guidance_scale is None else self.guidance_scale
        spacing = "uniform_trailing" if self.spacing == "trailing" else "uniform"
        try:
            return Sampling(guidance_scale=scale, spacing=spacing, **given)
        except ValueError as error:
            name, _, said = str(error).partition(" ")
            raise ValueError(f"{FLAG}.steps {said}" if name == "steps" else f"{self.flag(name)} {said}") from error
