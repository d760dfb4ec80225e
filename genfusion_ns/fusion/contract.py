"""How a scene is supervised beyond its photos: all that pipeline and trainer know of it.

The settings of a run select it: ``--pipeline.fusion`` is a `SupervisionConfig`, which builds the `Supervision`. Rounds
of repaired clips are one (`genfusion_ns.fusion.loop`); another may draw a camera at every step, or have views
generated before the first. Generative models never see the scene: a supervision renders it, with gradient or without,
and hands over images, cameras, photos and what else a prior asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nerfstudio.engine.trainer import Trainer
from torch import Tensor

from genfusion_ns.data.datamanager import GenFusionDataManager
from genfusion_ns.models.surfel_model import GenFusionModel
from genfusion_ns.priors.config import RepairerConfig
from genfusion_ns.stored_config import StoredConfig


@dataclass(frozen=True)
class TrainingRun:
    """What a supervision has to do with: the run that it belongs to."""

    scene: GenFusionModel
    datamanager: GenFusionDataManager
    repairer: RepairerConfig
    """Settings of the generative model of the run."""
    total_steps: int
    """Of the whole run, resumed or not."""
    folder: Path
    """For files of the supervision, its own within that of the run; made when something is written."""


class SupervisionPanel(Protocol):
    """What the viewer shows of a supervision; both are called on the training thread."""

    def after_step(self, step: int) -> None:
        """Show the state after a training step."""
        ...

    def finish(self, step: int) -> None:
        """Show the state after the last one."""
        ...


class Supervision(Protocol):
    """What a training run learns from beyond its photos; belongs to the thread that trains.

    Implementations derive from it and leave out what has a body here. Everything random comes from generators that
    `state` holds, so that a resumed run goes on with the same numbers.
    """

    results: int = 0
    """Grows with each result that cost enough for a checkpoint of its own; the trainer then saves one."""

    def before_step(self, step: int) -> None:
        """Called right before a training step, under no autocast; leaves the gradients of the scene as they are."""

    def photo_weight(self, step: int, view: int) -> float:
        """How much the photo of a step counts, 0..1; less than 1 where the capture says that no camera took it.

        Args:
            step: of the training.
            view: position of the photo among the train views.
        """
        return 1.0

    def losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Loss terms that a step adds to those of its photo, and metrics to log; both by names of their own.

        Called once in each step, after the photo was rendered. Nothing where there is nothing to learn from. The terms
        are finite and depend on parameters of the scene alone.
        """
        ...

    def seconds_to_come(self, step: int) -> float:
        """What all calls of `before_step` after this step will probably take; by those so far, 0 where unknown."""
        return 0.0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, numbers and strings only; what is large lies in the folder of the run."""
        ...

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """Go on where `state` was taken.

        Args:
            state: of a checkpoint; it may be damaged, and is refused by any error.
            folder: that of the `TrainingRun` that it was taken in.
        """
        ...

    def attach_panel(self, trainer: Trainer) -> SupervisionPanel | None:
        """Show itself in the trainer's viewer; None where there is none, or nothing to show."""
        return None


@dataclass
class SupervisionConfig(StoredConfig):
    """Base of the settings that select and build a supervision."""

    def check(self, repairer: RepairerConfig, device: str) -> None:
        """Refuse, before photos are read, what the run could not use later.

        Raises:
            ValueError: with the flag.
        """

    def setup(self, run: TrainingRun) -> Supervision:
        """The supervision of a run; imports what it needs only here, as every ns-* command reads the settings.

        Raises:
            ValueError: settings that this run cannot follow.
        """
        raise NotImplementedError(f"{type(self).__name__} builds no supervision")
