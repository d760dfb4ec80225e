"""Captures whose views were generated: they count less and less as photos, beside whatever else supervises the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import Trainer
from torch import Tensor

from genfusion_ns.fusion.contract import Supervision, SupervisionPanel


class FadingViews(Supervision):
    """A supervision, and views of the capture that no camera took, whose weight falls from 1.

    Real photos among the views keep theirs.
    """

    def __init__(self, inner: Supervision, generated: frozenset[int], total_steps: int, final_weight: float) -> None:
        """
        Args:
            inner: what else supervises the run.
            generated: positions among the train views.
            total_steps: of the run.
            final_weight: what generated views count at its end, 0..1.
        """
        self.inner, self.generated = inner, generated
        self.total_steps, self.final_weight = total_steps, final_weight

    @property
    def results(self) -> int:  # type: ignore[override]
        """See `Supervision.results`."""
        return self.inner.results

    def before_step(self, step: int) -> None:
        """See `Supervision.before_step`."""
        self.inner.before_step(step)

    def photo_weight(self, step: int, view: int) -> float:
        """See `Supervision.photo_weight`; linear over the run."""
        weight = self.inner.photo_weight(step, view)
        if view not in self.generated:
            return weight
        done = min(1.0, step / max(1, self.total_steps - 1))
        return weight * (1 + done * (self.final_weight - 1))

    def losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `Supervision.losses`."""
        return self.inner.losses(step)

    def seconds_to_come(self, step: int) -> float:
        """See `Supervision.seconds_to_come`."""
        return self.inner.seconds_to_come(step)

    def state(self) -> dict[str, Any]:
        """See `Supervision.state`; the weight follows from the step."""
        return self.inner.state()

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """See `Supervision.restore`."""
        self.inner.restore(state, folder)

    def attach_panel(self, trainer: Trainer) -> SupervisionPanel | None:
        """See `Supervision.attach_panel`."""
        return self.inner.attach_panel(trainer)
