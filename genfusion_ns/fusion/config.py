"""`FusionConfig`: rounds of repaired clips as the supervision of a run."""

from __future__ import annotations

from dataclasses import dataclass

from genfusion_ns.fusion.capability_notes import capability_notes
from genfusion_ns.fusion.contract import Supervision, TrainingRun
from genfusion_ns.fusion.rounds.settings import RoundSettings
from genfusion_ns.messages import say
from genfusion_ns.priors.config import KINDS, RepairerConfig, check_repairer
from genfusion_ns.priors.options import FLAG


@dataclass
class FusionConfig(RoundSettings):
    """When rounds take place, where their cameras go and how their views are used.

    Step counts above 1 are steps; from 0 to 1 they are shares of the run (--max-num-iterations).
    """

    def check(self, repairer: RepairerConfig, device: str) -> None:
        """See `SupervisionConfig.check`."""
        self.sampler.setup(clip_length=1, resolution=(64, 64))
        found = check_repairer(repairer, device)
        if KINDS[found.kind].draws_views:
            raise ValueError(
                f"{FLAG}.model {repairer.model} is a prior of the kind {found.kind}, which draws single views and "
                "repairs no clips; rounds need a repairer, such as compact. ns-train reconfusion trains with this one"
            )
        for note in capability_notes(self, found):
            say(note)

    def setup(self, run: TrainingRun) -> Supervision:
        """See `SupervisionConfig.setup`."""
        from genfusion_ns.fusion.loop import FusionLoop

        loop, generated = FusionLoop(self, run), run.datamanager.generated_train_views
        if not generated:
            return loop
        from genfusion_ns.fusion.image_start.supervision import FadingViews

        say(f"{len(generated)} train views are generated: their weight falls from 1 to {self.generated_photos:g}.")
        return FadingViews(loop, generated, run.total_steps, self.generated_photos)
