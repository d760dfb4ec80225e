"""`GenFusionTrainer`: nerfstudio's trainer on any device, with checkpoints that a kill cannot destroy."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from rich.errors import MarkupError
from rich.text import Text
from torch import Tensor

from genfusion_ns.data.captures.location import absolute_if_there, config_file
from genfusion_ns.data.datamanager import GenFusionDataManagerConfig
from genfusion_ns.errors import CheckpointError, show_errors_plainly
from genfusion_ns.files import WriteError, is_full_disk, write_atomically
from genfusion_ns.fusion.checkpoints import check_training_state, checkpoints_of, read_checkpoint, write_checkpoint
from genfusion_ns.fusion.pipeline import GenFusionPipeline
from genfusion_ns.fusion.time_left import StepClock, put_time_left
from genfusion_ns.interrupts import StopRequest
from genfusion_ns.messages import say
from genfusion_ns.models.optim import (
    LogLinearDecayConfig,
    WarmedDecayConfig,
    check_rates,
    in_scene_units,
    keep_older_rates,
)
from genfusion_ns.models.run_length import usual_steps
from genfusion_ns.stored_config import StoredConfig

_SAVES = 10
"""Checkpoints that a run writes at least, however short; each replaces the one before."""
_OTHER_CHECKPOINT = ("load_dir", "load_step", "load_checkpoint")


@dataclass
class GenFusionTrainerConfig(StoredConfig, TrainerConfig):
    """nerfstudio's trainer settings."""

    _target: type = field(default_factory=lambda: GenFusionTrainer)
    max_num_iterations: int = 0
    """Length of the whole run in steps, resumed or not. 0: chosen by the number of train photos, of which few are
    over-fitted in long runs."""
    print_config: bool = False
    """Print all settings at the start; they are in config.yml of the run in any case."""

    def print_to_terminal(self) -> None:
        """Print all settings, which are some two hundred lines, to those who ask for them."""
        if self.print_config:
            super().print_to_terminal()

    def save_config(self) -> None:
        """Write config.yml into the folder of the run, with absolute paths, so that it can be used from anywhere.

        Raises:
            WriteError: the folder cannot be written.
            ValueError: nerfstudio could not print the folder's name.
        """
        self.output_dir = Path(os.path.abspath(self.output_dir))
        for name in ("data", "load_dir", "load_checkpoint"):
            setattr(self, name, absolute_if_there(getattr(self, name)))
        if isinstance(self.pipeline.datamanager, GenFusionDataManagerConfig):
            self.pipeline.datamanager.make_paths_absolute()
        path = self.get_base_dir() / "config.yml"
        try:
            Text.from_markup(str(path))
        except MarkupError as error:
            raise ValueError(
                f"the run would be written to {self.get_base_dir()}, whose brackets nerfstudio's console takes for "
                f"markup ({error}); choose other names with --output-dir, --experiment-name and --timestamp"
            ) from error
        write_atomically(path, yaml.dump(self).encode(), "the settings of the run")
        say(f"The settings of the run are in {path}")

    def get_checkpoint_dir(self) -> Path:
        """Folder of the checkpoints; of a run that was moved, the one beside the config.yml that the command names."""
        named, config = super().get_checkpoint_dir(), config_file()
        moved = None if config is None else config.parent / self.relative_model_dir
        return moved if moved is not None and not named.exists() and moved.is_dir() else named


class GenFusionTrainer(Trainer):
    """Trainer that falls back to the CPU when there is no GPU, and loses nothing that it has trained.

    Checkpoints are written completely or not at all: every `steps_per_save` steps, at least ten times in a run, after
    each round, at the end, and on Ctrl-C or SIGTERM.
    """

    config: GenFusionTrainerConfig
    pipeline: GenFusionPipeline
    rate_flag = "--optimizers.means.optimizer.lr"
    """The learning rate to lower where a training diverges."""

    def __init__(self, config: GenFusionTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        show_errors_plainly()
        self.check(config)
        check_rates(config.optimizers)
        if config.machine.device_type == "cuda" and not torch.cuda.is_available():
            say("No CUDA device is available: training on the CPU (--machine.device-type cpu).")
            config.machine.device_type = "cpu"
        if config.max_num_iterations < 0:
            raise ValueError(
                f"--max-num-iterations is {config.max_num_iterations}; give the number of steps, or 0 to have it "
                "chosen by the number of photos"
            )
        super().__init__(config, local_rank, world_size)
        self._last_step = -1
        self._saved_step = -1
        self._saved_results = 0
        self._clock = StepClock()
        self._stop = StopRequest(
            "the run stops after this step and saves a checkpoint; a round under way is ended first. Once more: it "
            "stops at once.",
            self._stop_soon,
        )

    def check(self, config: GenFusionTrainerConfig) -> None:
        """Refuse settings that cannot train, before anything is read.

        Raises:
            ValueError: mixed precision.
        """
        _refuse_scaled_gradients(config)

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """nerfstudio's setup; Ctrl-C ends it without a checkpoint, as nothing is trained yet."""
        try:
            super().setup(test_mode)
        except KeyboardInterrupt:
            say("Interrupted before the first step; there is nothing to save.")
            raise SystemExit(130) from None
        self._last_step = self._start_step - 1
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        # First of all: what it saves is the state after the step before, with nothing of this one.
        self.callbacks.insert(0, TrainingCallback([before], self._save_results))
        self.callbacks.append(TrainingCallback([before], self._clock.start))
        self.callbacks.append(TrainingCallback([after], self._clock.stop))
        self.callbacks.append(TrainingCallback([after], self._note_step))

    def setup_optimizers(self) -> Optimizers:
        """Optimisers of all parameters; surfels move in scene lengths."""
        pipeline: Any = self.pipeline
        self.settle_length(len(pipeline.datamanager.train_names))
        return Optimizers(in_scene_units(self.config.optimizers, pipeline.model.length), pipeline.get_param_groups())

    def settle_length(self, photos: int) -> None:
        """Fix the length of the run, and what follows from it, before anything is built that depends on it."""
        config = self.config
        if config.max_num_iterations == 0:
            config.max_num_iterations = usual_steps(photos)
            say(f"{config.max_num_iterations} steps, which suit {photos} photos (--max-num-iterations chooses others).")
        for group in config.optimizers.values():
            schedule = group["scheduler"]
            if isinstance(schedule, (LogLinearDecayConfig, WarmedDecayConfig)) and schedule.max_steps < 0:
                schedule.max_steps = config.max_num_iterations
        if config.save_only_latest_checkpoint:
            config.steps_per_save = min(config.steps_per_save, max(config.max_num_iterations // _SAVES, 1))

    def train(self) -> None:
        """Train up to step ``max_num_iterations``, counting the steps of the run that is resumed."""
        total = self.config.max_num_iterations
        if self._start_step >= total:
            raise ValueError(
                f"the checkpoint is at step {self._start_step - 1} and --max-num-iterations is {total}: nothing is "
                f"left to train. Give a larger --max-num-iterations to continue."
            )
        self.config.max_num_iterations = total - self._start_step
        try:
            with self._stop:
                super().train()
        except Exception as error:
            if isinstance(error, WriteError) or not is_full_disk(error):
                raise
            raise WriteError(
                f"the disk has no room left: {error}. Free some and go on: {self._resume_command()}"
            ) from error
        finally:
            self.config.max_num_iterations = total

    @property
    def results(self) -> int:
        """How much has been made beside the training that deserves a checkpoint of its own."""
        return self.pipeline.supervision.results

    def seconds_to_come(self, step: int) -> float:
        """Time that the rest of the run takes beside its steps."""
        return self.pipeline.supervision.seconds_to_come(step)

    def trained_values(self) -> dict[str, Tensor]:
        """What must be finite for a checkpoint to be worth writing."""
        return dict(self.pipeline.scene.gauss_params)

    def _stop_soon(self) -> None:
        """Somebody asks to stop; called between any two instructions of the training."""
        self.stop_training = True

    def _save_results(self, step: int) -> None:
        """What supervises costs most; a checkpoint of the step before which it was made keeps it."""
        if self.results != self._saved_results:
            self._saved_results = self.results
            if self._saved_step != step - 1:
                self.save_checkpoint(step - 1)

    def _note_step(self, step: int) -> None:
        self._last_step = step
        if self._stop.received is not None:
            self.stop_training = True

    def _update_viewer_state(self, step: int) -> None:
        # The first that nerfstudio calls once it has timed a step and said how long the others will take.
        left = self._start_step + self.config.max_num_iterations - 1 - step
        put_time_left(left * self._clock.seconds() + self.seconds_to_come(step), step)
        super()._update_viewer_state(step)

    def _after_train(self) -> None:
        if not self.stop_training or self._last_step == self._start_step + self.config.max_num_iterations - 1:
            super()._after_train()
            return
        self.step = self._last_step  # nerfstudio has counted the step that it leaves out
        if self._stop.received is None:
            super()._after_train()
            return
        trained = self._last_step >= self._start_step
        if trained and self._saved_step != self._last_step:
            self.save_checkpoint(self._last_step)
        writer.write_out_storage()
        self.shutdown()
        if trained:
            say(f"Stopped after step {self._last_step}; go on with:")
            say(self._resume_command(), wrap=False)
        else:
            say("Stopped before a step was trained; there is nothing to save.")
        raise SystemExit(self._stop.status)

    def _train_complete_viewer(self) -> None:
        """Show the finished scene until Ctrl-C, which then is the usual way to end."""
        if self._stop.received is not None:
            return
        self._stop.release()
        try:
            super()._train_complete_viewer()
        except KeyboardInterrupt:
            self.shutdown()

    def _resume_command(self) -> str:
        """What to type to go on from the latest checkpoint."""
        return resume_command(sys.argv, self.config.method_name or "genfusion", self.checkpoint_dir)

    def _load_checkpoint(self) -> None:
        path = _checkpoint_to_load(self.config)
        if path is None:
            say("No checkpoint to load, training from scratch.")
            return
        state = read_checkpoint(path)
        try:
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            if keep_older_rates(self.optimizers, state["schedulers"]):
                say("The run is from before learning rates grew with shorter runs, and keeps those that it has.")
            check_training_state(state, self.optimizers, self.config.load_scheduler)
            self.optimizers.load_optimizers(state["optimizers"])
            if self.config.load_scheduler:
                self.optimizers.load_schedulers(state["schedulers"])
            self.grad_scaler.load_state_dict(state["scalers"])
            self.pipeline.check_resumable()
            self._start_step = state["step"] + 1
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} cannot be resumed: {error}. Resume with the method and settings it was trained with."
            ) from error
        say(f"Resuming after step {state['step']} of {path}")

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint beside its final name, then rename it, and only then delete older ones.

        Raises:
            FloatingPointError: the scene has diverged; the older checkpoint stays.
            WriteError: the disk is full or not writable; the older checkpoint stays.
        """
        broken = [name for name, value in self.trained_values().items() if not value.isfinite().all()]
        if broken:
            raise FloatingPointError(
                f"{', '.join(broken)} of the scene have values that are not finite after step {step}: the training has "
                f"diverged. Lower the learning rates ({self.rate_flag}); {self.checkpoint_dir} keeps "
                "what was saved before"
            )
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        write_checkpoint(self._state(step), path)
        self._saved_step = step
        if self.config.save_only_latest_checkpoint:
            for older in self.checkpoint_dir.glob("*.ckpt"):
                if older != path:
                    older.unlink()

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }


def _refuse_scaled_gradients(config: GenFusionTrainerConfig) -> None:
    """nerfstudio's mixed precision scales the loss, and with it the gradients that decide which surfels grow."""
    for flag in ("mixed_precision", "use_grad_scaler"):
        if getattr(config, flag):
            raise ValueError(
                f"--{flag.replace('_', '-')} is True; surfels are rendered and trained in single precision, because "
                "half precision moves cameras by pixels and scaled gradients make every surfel grow: leave it at False"
            )


def _checkpoint_to_load(config: GenFusionTrainerConfig) -> Path | None:
    """The checkpoint that --load-checkpoint, or --load-dir with or without --load-step, names."""
    if config.load_dir is None:
        if config.load_checkpoint is not None and not config.load_checkpoint.is_file():
            raise CheckpointError(f"--load-checkpoint {config.load_checkpoint} does not exist")
        return config.load_checkpoint
    found = checkpoints_of(config.load_dir)
    if not found:
        raise CheckpointError(
            f"--load-dir {config.load_dir} holds no checkpoint (step-*.ckpt); give the folder nerfstudio_models of "
            "a run"
        )
    step = max(found) if config.load_step is None else config.load_step
    if step not in found:
        raise CheckpointError(f"--load-step {step} is not in {config.load_dir}; it holds the steps {sorted(found)}")
    return found[step]


def resume_command(words: list[str], method: str, checkpoints: Path) -> str:
    """The command line that goes on with a run.

    Args:
        words: `sys.argv` of the run.
        method: its name.
        checkpoints: the folder with its latest checkpoint.
    """
    if Path(words[0]).name != "ns-train" or any(word.startswith(("--load-config", "--load_config")) for word in words):
        return f"ns-train {method} (the settings of this run) --load-dir {shlex.quote(str(checkpoints))}"
    kept: list[str] = []
    skipping = False
    for word in words[2:]:
        flag, _, value = word.partition("=")
        if skipping:
            skipping = False
        elif flag.startswith("--") and flag[2:].replace("-", "_") in _OTHER_CHECKPOINT:
            skipping = not value
        else:
            kept.append(word)
    # Right after the method: behind the name of a dataparser, flags are those of the dataparser.
    return shlex.join(["ns-train", words[1], "--load-dir", str(checkpoints), *kept])
