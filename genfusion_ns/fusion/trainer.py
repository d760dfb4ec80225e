"""`GenFusionTrainer`: nerfstudio's trainer on any device, with checkpoints that a kill cannot destroy."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from genfusion_ns.data.capture_location import absolute_if_there, config_file
from genfusion_ns.data.datamanager import GenFusionDataManagerConfig
from genfusion_ns.models.optim import LogLinearDecayConfig, in_scene_units

_KEYS = {"step", "pipeline", "optimizers", "schedulers", "scalers"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed; the message names the file, what is wrong and the way out."""


@dataclass
class GenFusionTrainerConfig(TrainerConfig):
    """nerfstudio's trainer settings; --max-num-iterations is the length of the whole run, resumed or not."""

    _target: type = field(default_factory=lambda: GenFusionTrainer)

    def save_config(self) -> None:
        """Write config.yml with absolute paths, so that the run can be used from any working directory."""
        self.output_dir = Path(os.path.abspath(self.output_dir))
        for name in ("data", "load_dir", "load_checkpoint"):
            setattr(self, name, absolute_if_there(getattr(self, name)))
        if isinstance(self.pipeline.datamanager, GenFusionDataManagerConfig):
            self.pipeline.datamanager.make_paths_absolute()
        super().save_config()

    def get_checkpoint_dir(self) -> Path:
        """Folder of the checkpoints; of a run that was moved, the one beside the config.yml that the command names."""
        named, config = super().get_checkpoint_dir(), config_file()
        moved = None if config is None else config.parent / self.relative_model_dir
        return moved if moved is not None and not named.exists() and moved.is_dir() else named


class GenFusionTrainer(Trainer):
    """Trainer that falls back to the CPU when there is no GPU and writes checkpoints atomically."""

    config: GenFusionTrainerConfig

    def __init__(self, config: GenFusionTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        _refuse_scaled_gradients(config)
        if config.machine.device_type == "cuda" and not torch.cuda.is_available():
            CONSOLE.print("No CUDA device is available: training on the CPU (--machine.device-type cpu).")
            config.machine.device_type = "cpu"
        for group in config.optimizers.values():
            schedule = group["scheduler"]
            if isinstance(schedule, LogLinearDecayConfig) and schedule.max_steps < 0:
                schedule.max_steps = config.max_num_iterations
        super().__init__(config, local_rank, world_size)

    def setup_optimizers(self) -> Optimizers:
        """Optimisers of all parameters; surfels move in scene lengths."""
        pipeline: Any = self.pipeline
        return Optimizers(in_scene_units(self.config.optimizers, pipeline.model.length), pipeline.get_param_groups())

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
            super().train()
        finally:
            self.config.max_num_iterations = total

    def _load_checkpoint(self) -> None:
        path = _checkpoint_to_load(self.config)
        if path is None:
            CONSOLE.print("No checkpoint to load, training from scratch.")
            return
        state = _read_checkpoint(path)
        self._start_step = state["step"] + 1
        try:
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            self.optimizers.load_optimizers(state["optimizers"])
            if self.config.load_scheduler:
                self.optimizers.load_schedulers(state["schedulers"])
            self.grad_scaler.load_state_dict(state["scalers"])
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} cannot be resumed: {error}. Resume with the method and settings it was trained with."
            ) from error
        CONSOLE.print(f"Resuming after step {state['step']} of {path}")

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint beside its final name, then rename it, and only then delete older ones."""
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        _write_atomically(self._state(step), path)
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
    found = {int(path.stem.removeprefix("step-")): path for path in config.load_dir.glob("step-*[0-9].ckpt")}
    if not found:
        raise CheckpointError(
            f"--load-dir {config.load_dir} holds no checkpoint (step-*.ckpt); give the folder nerfstudio_models of "
            "a run"
        )
    step = max(found) if config.load_step is None else config.load_step
    if step not in found:
        raise CheckpointError(f"--load-step {step} is not in {config.load_dir}; it holds the steps {sorted(found)}")
    return found[step]


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors, numbers and strings of a checkpoint; nothing in it is executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        others = sorted(other.name for other in path.parent.glob("step-*.ckpt") if other != path)
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint, it is damaged or something else ({error}). Other checkpoints "
            f"beside it, for --load-step: {', '.join(others) if others else 'none'}."
        ) from error
    missing = _KEYS - set(state) if isinstance(state, dict) else _KEYS
    if missing:
        raise CheckpointError(f"{path} is no checkpoint of ns-train: it lacks {', '.join(sorted(missing))}.")
    return state


def _write_atomically(state: dict[str, Any], path: Path) -> None:
    # nerfstudio lists every name in the folder as a checkpoint, so the unfinished file lives one level up.
    partial = path.parent.parent / f".{path.name}.partial"
    try:
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"cannot write the checkpoint {path}: {error}; free disk space and resume with --load-dir"
        ) from error
