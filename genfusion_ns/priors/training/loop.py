"""The optimisation loop of all generators, on accelerate: any number of processes, exact resume, curves, validation.

Everything random follows from the seed and the number of a sample, counted over the whole training, not from the
process, the worker or the moment. A training that was killed goes on as if nothing had happened, and two processes
with one batch each take the same step as one process with two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from genfusion_ns.files import replacing_files
from genfusion_ns.interrupts import StopRequest
from genfusion_ns.priors.training.checkpoints import load_checkpoint, save_checkpoint
from genfusion_ns.priors.training.curves import Curves, write_picture
from genfusion_ns.priors.training.objective import Objective
from genfusion_ns.priors.training.settings import LoopConfig
from genfusion_ns.priors.training.validation import Report
from genfusion_ns.seeds import seed_of

_VALIDATION_LIMIT = timedelta(hours=6)  # that other processes wait while the main one validates
_STOPS = "the training stops after this step and saves a checkpoint. Once more: it stops at once."
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


@dataclass(frozen=True)
class StepResult:
    """One optimiser step."""

    loss: float
    """Mean over all samples of all processes."""
    gradient_norm: float | None
    """Before clipping; None in steps that fp16 skips to find its scale."""


def build_accelerator(config: LoopConfig) -> Accelerator:
    """The processes and devices of a training: those of ``accelerate launch``, or this process.

    Raises:
        ValueError: settings that no training can have.
    """
    config.check()
    return Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulation,
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_VALIDATION_LIMIT)],
    )


class Training:
    """State of one training: what a checkpoint holds."""

    def __init__(self, accelerator: Accelerator, objective: Objective[Any], config: LoopConfig, output: Path) -> None:
        """
        Args:
            accelerator: see `build_accelerator`.
            objective: see `Objective`.
            config: see `LoopConfig`.
            output: folder of the training.

        Raises:
            ValueError: a moving average of weights that are spread over processes.
        """
        self.accelerator, self.objective, self.config, self.output = accelerator, objective, config, output
        if config.ema and accelerator.distributed_type in _SHARDED:
            raise ValueError("no moving average can be kept of weights in shards; set --optimisation.ema 0")
        plugin = accelerator.state.deepspeed_plugin
        if plugin is not None and accelerator.distributed_type == DistributedType.DEEPSPEED:
            # It clips by itself, and cannot ask a loader that accelerate does not know.
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch_size
            plugin.deepspeed_config["gradient_clipping"] = config.clip_norm
        dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
        objective.place(accelerator.device, dtype)
        trained = [parameter for parameter in objective.network.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(trained, config.learning_rate, config.betas, weight_decay=config.weight_decay)
        self.average = None
        if config.ema:
            self.average = EMAModel(trained, decay=config.ema, use_ema_warmup=True, inv_gamma=1, power=0.75)
            self.average.to(accelerator.device)
            accelerator.register_for_checkpointing(self.average)
        self.network, self.optimiser = accelerator.prepare(objective.network.train(), optimiser)

    def step(self, batches: Iterator[tuple[int, Any]], step: int) -> StepResult:
        """One optimiser step, counted from 1.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        config, accelerator = self.config, self.accelerator
        for group in self.optimiser.param_groups:
            group["lr"] = config.rate(step)
        total, norm = torch.zeros((), device=accelerator.device), None
        for _ in range(config.accumulation):
            index, batch = next(batches)
            torch.manual_seed(seed_of(config.seed, "layers", index))  # of dropout
            numbers = range(index * config.batch_size, (index + 1) * config.batch_size)
            with accelerator.accumulate(self.network):
                with accelerator.autocast():
                    loss = self.objective.loss(self.network, batch, numbers)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.network.parameters(), config.clip_norm)
                self.optimiser.step()
                self.optimiser.zero_grad()
            total += loss.detach() / config.accumulation
        if self.average is not None:
            self.average.step(self._trained())
        mean = float(accelerator.reduce(total, "mean"))  # pyright: ignore[reportArgumentType]
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss of step {step} is {mean}: the training has diverged. Lower --optimisation.learning-rate, or "
                f"take bf16 or no for --optimisation.precision; {self.output} keeps the latest checkpoint"
            )
        length = math.nan if norm is None else float(norm)
        return StepResult(mean, length if math.isfinite(length) else None)

    def publish(self, step: int, curves: Curves | None) -> Report | None:
        """Write the generator and judge it on the held-out clips; called by all processes, the main one reports."""
        with self._averaged():
            weights = self._weights()
            report = self._judge(weights, step, curves) if curves is not None else None
            # The others wait, lest they change the weights that the main one reads.
            self.accelerator.wait_for_everyone()
        return report

    def keep(self, step: int) -> None:
        """Write the generator once more, where it stays."""
        with self._averaged():
            weights = self._weights()
            if self.accelerator.is_main_process:
                folder = self.output / "kept" / f"step-{step}"
                with replacing_files(folder, "the generator") as staging:
                    self.objective.write(weights, staging)
            self.accelerator.wait_for_everyone()

    def checkpoint(self, step: int) -> None:
        """See `save_checkpoint`."""
        save_checkpoint(self.accelerator, self.output, step)

    def resume(self) -> int:
        """See `load_checkpoint`."""
        step = load_checkpoint(self.accelerator, self.output)
        self.accelerator.step = 0  # batches of the current step, which may be made of more or fewer of them than before
        return step

    def _weights(self) -> dict[str, Tensor]:
        """The whole state of the network, wherever its parts are."""
        return cast(dict[str, Tensor], self.accelerator.get_state_dict(self.network))

    def _judge(self, weights: dict[str, Tensor], step: int, curves: Curves) -> Report:
        with replacing_files(self.output, "the generator") as staging:
            self.objective.write(weights, staging)
        judgement = self.objective.validate(weights)
        write_picture(judgement.sheet, self.output / "samples.png")
        curves.validate(step, judgement.report.as_dict(), judgement.sheet)
        return judgement.report

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in place of the latest ones."""
        if self.average is None:
            yield
            return
        self.average.store(self._trained())
        self.average.copy_to(self._trained())
        try:
            yield
        finally:
            self.average.restore(self._trained())


def fit(
    objective: Objective[Any],
    batches: Dataset[Any],
    output: Path,
    config: LoopConfig,
    resume: bool = True,
    accelerator: Accelerator | None = None,
) -> Report | None:
    """Train, and write the folder that ``--pipeline.repairer.model`` takes.

    Args:
        objective: see `Objective`.
        batches: item i is the i-th batch of the training, over all processes; `LoopConfig.batches` of them.
        output: receives the generator, training.jsonl, validation.jsonl, tensorboard, samples.png and a checkpoint.
        config: see `LoopConfig`.
        resume: go on from the checkpoint in `output` where there is one.
        accelerator: see `build_accelerator`, which makes it where there is none.

    Returns:
        The last validation, in the main process.

    Raises:
        SystemExit: Ctrl-C or SIGTERM, after a checkpoint; a training in several processes ends without one.
        ValueError: settings that no training can have, or a checkpoint that cannot be resumed from.
        FloatingPointError: the training diverged.
    """
    accelerator = accelerator or build_accelerator(config)
    run = Training(accelerator, objective, config, output)
    first = run.resume() if resume else 0
    if not accelerator.is_main_process:
        return _steps(run, batches, first, None)
    with Curves(output, first) as curves:
        return _steps(run, batches, first, curves)


def _steps(run: Training, batches: Dataset[Any], first: int, curves: Curves | None) -> Report | None:
    stop = StopRequest(_STOPS)
    # The launcher of several processes passes signals on to some of them only.
    with stop if run.accelerator.num_processes == 1 else nullcontext():
        report = _steps_until(stop, run, batches, first, curves)
    if stop.received is not None:
        raise SystemExit(stop.status)
    return report


def _steps_until(
    stop: StopRequest, run: Training, batches: Dataset[Any], first: int, curves: Curves | None
) -> Report | None:
    config, report = run.config, None
    stream = _stream(batches, run.accelerator, config, first)
    progress = tqdm(total=config.steps, initial=first, desc="train", mininterval=5.0, disable=curves is None)
    total = 0.0
    for step in range(first + 1, config.steps + 1):
        result, last = run.step(stream, step), step == config.steps
        if curves is not None:
            curves.train(step, loss=result.loss, learning_rate=config.rate(step), gradient_norm=result.gradient_norm)
        total = 0.98 * total + 0.02 * result.loss
        progress.update()
        progress.set_postfix(loss=f"{total / (1 - 0.98 ** (step - first)):.4f}", refresh=False)
        if step % config.validate_every == 0 or last:
            report = run.publish(step, curves)
            if report is not None:
                progress.write(f"step {step}: {report.summary()}")
        if config.keep_every and step % config.keep_every == 0:
            run.keep(step)
        stops = stop.received is not None
        if step % config.checkpoint_every == 0 or last or stops:
            run.checkpoint(step)
        if stops:
            progress.write(f"stopped after step {step} of {config.steps}, with a checkpoint; the same command goes on")
            progress.close()
            return report
    progress.close()
    return run.publish(config.steps, curves) if first >= config.steps else report


def _stream(
    batches: Dataset[Any], accelerator: Accelerator, config: LoopConfig, first: int
) -> Iterator[tuple[int, Any]]:
    """The batches of this process, with their numbers among those of all processes."""
    processes, rank = accelerator.num_processes, accelerator.process_index
    numbers = range(first * config.accumulation * processes + rank, config.batches(processes), processes)
    loader = DataLoader(batches, batch_size=None, sampler=numbers, collate_fn=_identity, num_workers=config.workers)
    return zip(numbers, loader, strict=True)


def _identity(batch: Any) -> Any:
    return batch
