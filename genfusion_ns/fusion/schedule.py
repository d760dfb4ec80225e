"""When the loop fuses and how much generated views weigh (GenFusion section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from genfusion_ns.models.run_length import steps_of_run


@dataclass(frozen=True)
class FusionSchedule:
    """Rounds every ``every`` steps in [start, until); generated views weigh in as half a sine between the two.

    In the second half the weight falls to `final_share` of the peak instead of 0.
    """

    start: int
    every: int
    until: int
    peak_weight: float
    final_share: float = 0.0

    @classmethod
    def resolve(
        cls,
        start: float,
        every: float,
        until: float,
        peak_weight: float,
        *,
        total_steps: int,
        final_share: float = 0.0,
    ) -> FusionSchedule:
        """Turn steps or shares of a run of `total_steps` into a schedule; see `steps_of_run`.

        Raises:
            ValueError: a step count that no run can follow, with the flag that set it.
        """
        for flag, value in (("start", start), ("every", every), ("until", until)):
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"--pipeline.fusion.{flag} is {value}; give steps (above 1) or a share of the run (0 to 1)"
                )
        first, last = steps_of_run(start, total_steps), steps_of_run(until, total_steps)
        if every == 0:
            raise ValueError(
                "--pipeline.fusion.every is 0; give the steps between rounds, or a share of the run above 0"
            )
        if last <= first:
            raise ValueError(
                f"--pipeline.fusion.until is {until} (step {last}) and --pipeline.fusion.start is {start} (step "
                f"{first}): rounds need start < until (the run has {total_steps} steps)"
            )
        return cls(first, max(1, steps_of_run(every, total_steps)), last, peak_weight, final_share)

    def is_round(self, step: int) -> bool:
        """Whether a round takes place before this training step."""
        return self.start <= step < self.until and (step - self.start) % self.every == 0

    def is_control(self, step: int, refine_every: int = 1) -> bool:
        """Whether the latest round is to be judged before this step: midway to the next one, right before a refinement.

        Refinements (after every `refine_every` steps) set a scene back for a while, which would be laid to the round.
        """
        if not self.start <= step < self.until:
            return False
        latest = step - (step - self.start) % self.every
        midway = latest + self.every // 2
        aligned = midway - midway % refine_every
        return step == (aligned if aligned > latest else midway)

    def next_round(self, step: int) -> int | None:
        """The first step from `step` on before which a round takes place; None when there is none left."""
        due = self.start + max(0, -(-(step - self.start) // self.every)) * self.every
        return due if due < self.until else None

    @property
    def num_rounds(self) -> int:
        """Rounds in a whole run."""
        return self.rounds_within(0, self.until)

    def rounds_within(self, first: int, end: int) -> int:
        """Rounds before the steps first, first + 1, ... end - 1."""
        return self._rounds_before(end) - self._rounds_before(first)

    def _rounds_before(self, step: int) -> int:
        return max(0, -(-(min(step, self.until) - self.start) // self.every))

    def weight(self, step: int) -> float:
        """Weight of the generated-view loss, 0 outside of [start, until).

        peak * s with s = sin(pi * x), x = (step - start) / (until - start); for x > 1/2, f + (1 - f) s with the final
        share f takes the place of s. GenFusion has f = 0.
        """
        if not self.start <= step < self.until:
            return 0.0
        passed = (step - self.start) / (self.until - self.start)
        least = self.final_share if passed > 0.5 else 0.0
        return self.peak_weight * (least + (1 - least) * math.sin(math.pi * passed))
