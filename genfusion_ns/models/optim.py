"""Optimisers and learning-rate schedules whose state survives a safe checkpoint reload."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim.lr_scheduler import LambdaLR

from genfusion_ns.ranges import LEAST_0, require_ranges
from genfusion_ns.stored_config import StoredConfig


@dataclass
class FusedAdamConfig(StoredConfig, AdamOptimizerConfig):
    """Adam in one pass over memory per parameter, several times faster on CPUs; eps as in 3D Gaussian Splatting."""

    eps: float = 1e-15
    """Added to the root of the second moment."""
    fused: bool = True
    """Use the fused kernel of torch (CPU and CUDA)."""


@dataclass
class LogLinearDecayConfig(StoredConfig, SchedulerConfig):
    """Learning rate that decays log-linearly over the run.

    nerfstudio's own exponential schedule writes numpy numbers into checkpoints, which torch >= 2.6 refuses to load;
    this one works in Python floats.
    """

    _target: type = field(default_factory=lambda: LogLinearDecay)
    lr_final: float = 1.6e-6
    """Learning rate at the end, in the unit of that at the start, before it is paced; 0: as at the start."""
    max_steps: int = -1
    """Steps until lr_final; -1: the length of the run."""
    paced_for: int = 0
    """Steps that the learning rates are for. Where max-steps are fewer both rates are larger, so that parameters come
    as far in them; 0: they are the same for any number."""
    most_pace: float = 1.0
    """How many times as large they are at most, 1 or more."""


class LogLinearDecay(Scheduler):
    """See `LogLinearDecayConfig`."""

    config: LogLinearDecayConfig  # type: ignore[assignment]

    def get_scheduler(self, optimizer: torch.optim.Optimizer, lr_init: float) -> LambdaLR:
        """Scheduler over steps 0..max_steps; constant afterwards."""
        config, horizon = self.config, max(self.config.max_steps, 1)
        ratio = config.lr_final / lr_init if config.lr_final and lr_init else 1.0
        pace = min(max(config.paced_for / horizon, 1.0), config.most_pace)

        def factor(step: int) -> float:
            return pace * math.exp(math.log(ratio) * min(step / horizon, 1.0))

        return LambdaLR(optimizer, lr_lambda=factor)


@dataclass
class WarmedDecayConfig(StoredConfig, SchedulerConfig):
    """Log-linear decay times a warm-up, as mip-NeRF has it."""

    _target: type = field(default_factory=lambda: WarmedDecay)
    lr_final: float = 5e-6
    """Learning rate at the end."""
    max_steps: int = -1
    """Steps until lr_final; -1: the length of the run."""
    delay_steps: int = 2500
    """Steps of the warm-up; at most a quarter of max_steps."""
    delay_factor: float = 0.01
    """Share of the learning rate at the start of the warm-up."""


class WarmedDecay(Scheduler):
    """See `WarmedDecayConfig`."""

    config: WarmedDecayConfig  # type: ignore[assignment]

    def get_scheduler(self, optimizer: torch.optim.Optimizer, lr_init: float) -> LambdaLR:
        """Scheduler over steps 0..max_steps; constant afterwards."""
        config, horizon = self.config, max(self.config.max_steps, 1)
        ratio = config.lr_final / lr_init
        delay = min(config.delay_steps, horizon // 4)

        def factor(step: int) -> float:
            decayed = math.exp(math.log(ratio) * min(step / horizon, 1.0))
            if delay <= 0:
                return decayed
            warm = math.sin(0.5 * math.pi * min(step / delay, 1.0))
            return decayed * (config.delay_factor + (1 - config.delay_factor) * warm)

        return LambdaLR(optimizer, lr_lambda=factor)


def check_rates(optimizers: Mapping[str, Any]) -> None:
    """Refuse learning rates that cannot train.

    Args:
        optimizers: `optimizers` of a trainer's config.

    Raises:
        ValueError: one below 0 or not finite, or a pace that would slow a run down; the message names the flag.
    """
    ranges = {"lr": LEAST_0, "lr_final": LEAST_0, "most_pace": (1, math.inf)}
    for name, group in optimizers.items():
        for part in ("optimizer", "scheduler"):
            held = {key: allowed for key, allowed in ranges.items() if hasattr(group[part], key)}
            require_ranges(group[part], held, f"--optimizers.{name.replace('_', '-')}.{part}.")


def keep_older_rates(optimizers: Optimizers, saved: Collection[str]) -> bool:
    """Learning rates as they were, for a run that began before they were paced.

    Args:
        optimizers: of the run that goes on; schedules that do nothing but pace are dropped, others no longer pace.
        saved: names of the schedules in its checkpoint, which lacks those that do nothing but pace.

    Returns:
        Whether it began before.
    """
    schedules = {name: optimizers.config[name]["scheduler"] for name in optimizers.schedulers}
    paced = {name: one for name, one in schedules.items() if isinstance(one, LogLinearDecayConfig)}
    missing = set(schedules) - set(saved)
    if not missing or not missing <= {name for name, one in paced.items() if one.lr_final == 0}:
        return False
    for name in missing:
        del optimizers.schedulers[name]
    for name in set(paced) - missing:
        lr = optimizers.config[name]["optimizer"].lr
        unpaced = replace(paced[name], paced_for=0).setup()
        optimizers.schedulers[name] = unpaced.get_scheduler(optimizers.optimizers[name], lr)
    return True


def in_scene_units(optimizers: Mapping[str, Any], scene_length: float) -> dict[str, Any]:
    """Settings of all optimisers with the steps of surfel centres in scene units; in the config they are shares.

    Adam steps by its learning rate whatever the gradient, so this is what makes a scene of any size train alike. The
    other parameters have no length: sizes are logarithms.

    Args:
        optimizers: `optimizers` of a trainer's config; stays as it is.
        scene_length: scene units.
    """
    group = optimizers["means"]
    schedule = group["scheduler"]
    if schedule is not None:
        schedule = replace(schedule, lr_final=schedule.lr_final * scene_length)
    steps = replace(group["optimizer"], lr=group["optimizer"].lr * scene_length)
    return {**optimizers, "means": {**group, "optimizer": steps, "scheduler": schedule}}
