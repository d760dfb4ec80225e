"""What pipelines with a supervision have in common: when it acts, what it shows, and the state of randomness."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer

from genfusion_ns.fusion.checkpoints import checked_pipeline_state
from genfusion_ns.fusion.contract import Supervision
from genfusion_ns.fusion.single_device import SingleDevicePipeline

DAMAGE = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)
"""What a state that was changed by somebody or something raises when it is put to use."""


class SupervisedPipeline(SingleDevicePipeline):
    """A pipeline whose runs may learn from more than photos; evaluation, viewer and renderer build no supervision."""

    resumed: ClassVar[frozenset[str]]
    """Parts of the state of a training without which it cannot go on."""
    _supervision: Supervision | None = None
    _loaded_state: dict[str, Any] | None = None

    @cached_property  # nerfstudio's viewer reads every plain property before there is a supervision
    def supervision(self) -> Supervision:
        """What this run learns from beyond its photos; rounds are steered through it, see `FusionLoop`.

        Raises:
            ValueError: outside training there is none.
        """
        if self._supervision is None:
            raise ValueError("there is no supervision: this pipeline was loaded to evaluate or render, not to train")
        return self._supervision

    @staticmethod
    def callbacks_of(supervision: Supervision, trainer: Trainer) -> list[TrainingCallback]:
        """What has a supervision act before each step, and its panel show that after it."""
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        callbacks = [TrainingCallback([before], supervision.before_step)]
        panel = supervision.attach_panel(trainer)
        if panel is not None:
            callbacks.append(TrainingCallback([after], panel.after_step))
            callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], panel.finish))
        return callbacks

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load the pipeline's part of a checkpoint.

        Raises:
            CheckpointError: it is damaged, or holds no scene that can be rendered.
            ValueError: it is not that of a run of this method with these model settings.
        """
        state = checked_pipeline_state(loaded_state, step)
        try:
            super().load_pipeline(state, step)
        except DAMAGE as error:
            raise ValueError(
                f"the checkpoint of step {step} does not belong to a {self.method} run with these model settings: "
                f"{error}"
            ) from error

    def check_resumable(self) -> None:
        """Refuse to train on from a checkpoint without the state of its training.

        Raises:
            ValueError: it is missing.
        """
        missing = self.resumed - set(self._loaded_state or {})
        if missing:
            raise ValueError(f"the state of its training lacks {', '.join(sorted(missing))}")

    def random_state(self) -> dict[str, Any]:
        """States of the global generators, part of those of a checkpoint."""
        cuda = {"cuda_rng": torch.cuda.get_rng_state(self.device)} if torch.device(self.device).type == "cuda" else {}
        return {"rng": torch.get_rng_state(), **cuda}

    def restore_random_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the numbers that followed `random_state`."""
        torch.set_rng_state(state["rng"].cpu())
        if "cuda_rng" in state and torch.device(self.device).type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
