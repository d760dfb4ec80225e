"""When the loop fuses and how much generated views weigh (GenFusion section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FusionSchedule:
    """Rounds every ``every`` steps in [start, until); generated views weigh in as half a sine between the two."""

    start: int
    every: int
    until: int
    peak_weight: float

    @classmethod
    def resolve(cls, start: int, every: int, until: int, peak_weight: float, total_steps: int) -> FusionSchedule:
        """Replace -1 by the published shares of a run of `total_steps`: start and every 1/7, until its end.

        Raises:
            ValueError: a step count that no run can follow, with the flag that set it.
        """
        seventh = max(1, round(total_steps / 7))
        start, every = (value if value >= 0 else seventh for value in (start, every))
        until = until if until >= 0 else total_steps
        if every == 0:
            raise ValueError("--pipeline.fusion.every is 0; give the steps between rounds, at least 1, or -1")
        if until <= start:
            raise ValueError(
                f"--pipeline.fusion.until is {until} and --pipeline.fusion.start is {start}: rounds need start < until "
                f"(the run has {total_steps} steps)"
            )
        if peak_weight < 0 or not math.isfinite(peak_weight):
            raise ValueError(f"--pipeline.fusion.weight is {peak_weight}; it must be a number of at least 0")
        return cls(start, every, until, peak_weight)

    def is_round(self, step: int) -> bool:
        """Whether a round takes place before this training step."""
        return self.start <= step < self.until and (step - self.start) % self.every == 0

    def round_index(self, step: int) -> int:
        """0-based index of the latest round at this step; -1 before the first."""
        return -1 if step < self.start else (min(step, self.until - 1) - self.start) // self.every

    @property
    def num_rounds(self) -> int:
        """Rounds in a whole run."""
        return math.ceil((self.until - self.start) / self.every)

    def weight(self, step: int) -> float:
        """Weight of the generated-view loss: peak * sin(pi * (step - start) / (until - start)), 0 outside."""
        if not self.start <= step < self.until:
            return 0.0
        return self.peak_weight * math.sin(math.pi * (step - self.start) / (self.until - self.start))
