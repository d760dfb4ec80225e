"""Training of the compact network: losses, the optimisation loop, validation.

The loss is flow matching in its clean-clip form: at a random time of the path the network estimates the clean clip,
compared with a Charbonnier penalty (colour, colour gradients, known disparity). A Gaussian likelihood of the colour
error, seen by the variance head alone, makes the confidence honest.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from genfusion_ns.geometry.clip_pairs import ClipPair
from genfusion_ns.priors.compact_unet import CompactPrediction, CompactUNet
from genfusion_ns.priors.conditioning import Condition, Target, stack_pairs
from genfusion_ns.priors.flow import interpolate, sample_times, start_point
from genfusion_ns.priors.validation import ValidationReport, validate

_CHARBONNIER = 0.03  # of the -1..1 range; below it the penalty is quadratic


@dataclass
class NetworkConfig:
    """Size of the network; see `CompactUNet`."""

    channels: tuple[int, int, int] = (64, 96, 128)
    """Widths of the three levels of the U-Net."""
    reference_channels: int = 32
    """Width of the features of one warped photo."""
    sigma_min: float = 0.02
    """Share of noise in the start point where the reconstruction is opaque."""
    sigma_max: float = 1.0
    """Share of noise in the start point where the reconstruction is empty."""


@dataclass
class OptimisationConfig:
    """How the network is trained."""

    steps: int = 6000
    """Optimiser steps. An interrupted training may be resumed with another number: the learning rate then follows the
    decay towards that one, which is how to end earlier or later than planned."""
    batch_size: int = 2
    """Samples per step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, after a linear warm-up, before a cosine decay to 0."""
    warmup: int = 100
    """Steps of the warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.998
    """Decay of the moving average of the weights, which is what is validated and saved."""
    first_share: float = 0.5
    """Share of training times at the start of the path."""
    disparity_weight: float = 0.5
    """Weight of the disparity loss."""
    gradient_weight: float = 0.5
    """Weight of the loss on spatial colour differences."""
    likelihood_weight: float = 0.1
    """Weight of the likelihood that trains the confidence."""
    precision: str = "no"
    """no, bf16 or fp16 mixed precision; bf16 halves the time on CPUs with AVX512-BF16 or AMX."""
    validate_every: int = 1000
    """Steps between validations."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which an interrupted training resumes."""
    workers: int = 0
    """Processes that prepare samples; 0 does it in the training process."""
    seed: int = 0
    """Seed of weights, samples, times and noise."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Size of the network."""


def training_loss(
    network: CompactUNet, condition: Condition, target: Target, config: OptimisationConfig, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Loss of one batch at random times of the flow."""
    artifact = condition.artifact[:, :4]
    noise = torch.randn(artifact.shape, generator=generator).to(artifact)
    start = start_point(artifact, condition.alpha, noise, config.network.sigma_min, config.network.sigma_max)
    time = sample_times(len(artifact), config.first_share, generator).to(artifact)
    state = interpolate(target.clean, start, time)
    prediction: CompactPrediction = network(state, condition.artifact, condition.warped, condition.photos, time)
    error = prediction.clean - target.clean
    colour, known = error[:, :3], target.depth_known
    loss = _charbonnier(colour).mean()
    loss = loss + config.gradient_weight * sum(_charbonnier(colour.diff(dim=axis)).mean() for axis in (3, 4))
    disparity = (_charbonnier(error[:, 3:]) * known).sum() / known.sum().clamp(min=1)
    return loss + config.disparity_weight * disparity + config.likelihood_weight * _likelihood(prediction, colour)


def _charbonnier(error: Tensor) -> Tensor:
    return (error.square() + _CHARBONNIER**2).sqrt() - _CHARBONNIER


def _likelihood(prediction: CompactPrediction, colour: Tensor) -> Tensor:
    """Negative log likelihood of the colour error; blind to the estimate, so that it cannot be traded."""
    squared = colour.detach().square().mean(dim=1, keepdim=True)
    log_variance = prediction.log_variance.clamp(-12, 4)
    return 0.5 * (squared * torch.exp(-log_variance) + log_variance).mean()


def train(
    batches: Dataset[list[ClipPair]],
    held_out: Sequence[ClipPair],
    output: Path,
    config: OptimisationConfig,
    resume: bool = True,
    initial: CompactUNet | None = None,
) -> ValidationReport:
    """Train a network and write the folder that ``--pipeline.repairer.model`` takes.

    Args:
        batches: item i is the batch of step i; at least ``config.steps`` of them.
        held_out: whole clips that are never trained on, for validation.
        output: receives config.json, weights (half precision), validation.jsonl, samples.png and a checkpoint.
        config: see `OptimisationConfig`.
        resume: go on from the checkpoint in `output` where there is one.
        initial: network to start from, whose size then counts; a fresh one of the configured size when None.

    Returns:
        The last validation.
    """
    set_seed(config.seed)
    accelerator = Accelerator(mixed_precision=config.precision, cpu=not torch.cuda.is_available())
    if initial is None:
        network = build_network(config.network)
    else:
        network, config = initial, replace(config, network=_network_config(initial))
    run = _Run(accelerator, network.train(), config, output)
    first = run.resume() if resume else 0
    remaining = Subset(batches, range(first, config.steps))
    loader = DataLoader(remaining, batch_size=None, collate_fn=_identity, num_workers=config.workers)
    progress = tqdm(total=config.steps, initial=first, desc="train", mininterval=5.0)
    report, total = None, 0.0
    for step, pairs in enumerate(loader, start=first + 1):
        loss = run.step(pairs, step)
        total = 0.98 * total + 0.02 * loss
        progress.update()
        progress.set_postfix(loss=f"{total / (1 - 0.98 ** (step - first)):.4f}", refresh=False)
        if step % config.validate_every == 0 or step == config.steps:
            report = run.validate(held_out, step)
            progress.write(f"step {step}: {report.summary()}")
        if step % config.checkpoint_every == 0 or step == config.steps:
            run.checkpoint(step)
    progress.close()
    return report if report is not None else run.validate(held_out, config.steps)


def build_network(config: NetworkConfig) -> CompactUNet:
    """A fresh network of the configured size."""
    return CompactUNet(
        channels=config.channels,
        reference_channels=config.reference_channels,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
    )


def _network_config(network: CompactUNet) -> NetworkConfig:
    return NetworkConfig(**{f.name: network.config[f.name] for f in fields(NetworkConfig)})


def save_network(network: CompactUNet, folder: Path) -> None:
    """Write config.json and half-precision weights; the folder that the network came from is not recorded."""
    deepcopy(network).cpu().half().save_pretrained(folder, safe_serialization=True)
    path = folder / "config.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != "_name_or_path"}
    path.write_text(json.dumps(content, indent=2) + "\n")


class _Run:
    """State of one training: what a checkpoint holds."""

    def __init__(self, accelerator: Accelerator, network: CompactUNet, config: OptimisationConfig, output: Path):
        self.accelerator, self.config, self.output = accelerator, config, output
        self.average = EMAModel(network.parameters(), decay=config.ema, use_ema_warmup=True, inv_gamma=1, power=0.75)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        schedule = get_scheduler("cosine", optimiser, num_warmup_steps=config.warmup, num_training_steps=config.steps)
        self.network, self.optimiser = accelerator.prepare(network, optimiser)
        self.schedule = schedule
        accelerator.register_for_checkpointing(self.average, self.schedule)
        self.average.to(accelerator.device)

    def step(self, pairs: list[ClipPair], step: int) -> float:
        """One optimiser step; noise and times depend on seed and step alone."""
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + step) % 2**63)
        condition, target = stack_pairs([pair.to(self.accelerator.device) for pair in pairs])
        with self.accelerator.autocast():
            loss = training_loss(self.network, condition, target, self.config, generator)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad()
        self.average.step(self.network.parameters())
        return loss.item()

    def validate(self, held_out: Sequence[ClipPair], step: int) -> ValidationReport:
        """Write the averaged network and judge it on the held-out clips."""
        network = self.accelerator.unwrap_model(self.network)
        self.average.store(network.parameters())
        self.average.copy_to(network.parameters())
        try:
            save_network(network, self.output)
            report = validate(network, held_out, self.output / "samples.png", seed=self.config.seed)
        finally:
            self.average.restore(network.parameters())
            network.train()
        with (self.output / "validation.jsonl").open("a") as log:
            log.write(json.dumps({"step": step, **report.as_dict()}) + "\n")
        return report

    def checkpoint(self, step: int) -> None:
        """Replace the checkpoint, keeping the old one until the new one is complete."""
        self.accelerator.save_state(str(self.output / f"checkpoint-{step}"))
        (self.output / "checkpoint.json").write_text(json.dumps({"step": step}))
        for old in self.output.glob("checkpoint-*"):
            if old.name != f"checkpoint-{step}":
                shutil.rmtree(old)

    def resume(self) -> int:
        """Load the checkpoint, if there is one; the number of steps it has seen.

        Raises:
            ValueError: it is damaged, incomplete, or of a network of another size.
        """
        marker = self.output / "checkpoint.json"
        if not marker.is_file():
            return 0
        afresh = f"delete {marker} to train afresh, or restore the folder"
        try:
            step = int(json.loads(marker.read_text())["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{marker} names no step ({error!r}); {afresh}") from error
        folder = self.output / f"checkpoint-{step}"
        try:
            self.accelerator.load_state(str(folder))
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
            # torch lists every tensor that does not fit
            said = textwrap.shorten(str(error), 300)
            raise ValueError(f"{folder} cannot be resumed from: {said}; {afresh}") from error
        return step


def _identity(pairs: list[ClipPair]) -> list[ClipPair]:
    return pairs
