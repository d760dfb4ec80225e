"""Training of the compact network: its loss, and the `Objective` that the loop trains.

The loss is flow matching in its clean-clip form: at a random time of the path the network estimates the clean clip,
compared by the logarithm of each sample's squared error and a Charbonnier penalty (colour) and by the latter alone
(colour gradients, known disparity). By the logarithm a decibel counts the same in clips that are nearly right and in
clips full of holes, which would drown the others in a plain mean. A Gaussian likelihood of the colour
error, seen by the variance head alone, makes the confidence honest.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from genfusion_ns.geometry.clips import ClipPair
from genfusion_ns.priors.compact.conditioning import Condition, Target, stack_pairs
from genfusion_ns.priors.compact.flow import interpolate, sample_times, start_point
from genfusion_ns.priors.compact.unet import CompactPrediction, CompactUNet
from genfusion_ns.priors.training.loop import build_accelerator, fit
from genfusion_ns.priors.training.settings import NetworkConfig, OptimisationConfig
from genfusion_ns.priors.training.validation import Judgement, ValidationReport, validate
from genfusion_ns.priors.weight_files import forget_origin
from genfusion_ns.seeds import generator_of

_CHARBONNIER = 0.03  # of the -1..1 range; below it the penalty is quadratic
_LEAST_ERROR = 1e-4  # squared, of the -1..1 range: 46 dB, beyond which nothing is gained


def training_loss(
    network: nn.Module, condition: Condition, target: Target, config: OptimisationConfig, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Loss of one batch at random times of the flow."""
    artifact = condition.artifact[:, :4]
    noise = torch.randn(artifact.shape, generator=generator).to(artifact)
    start = start_point(artifact, condition.alpha, noise, config.network.sigma_min, config.network.sigma_max)
    time = sample_times(len(artifact), config.first_share, generator).to(artifact)
    state = interpolate(target.clean, start, time)
    prediction: CompactPrediction = network(state, condition.artifact, condition.warped, condition.photos, time)
    error = prediction.clean - target.clean
    colour, known = error[:, :3] * target.colour_known, target.depth_known
    loss = config.logarithm_weight * _log_error(colour, target).mean()
    loss = loss + config.absolute_weight * _charbonnier(colour).mean()
    loss = loss + config.gradient_weight * sum(_charbonnier(colour.diff(dim=axis)).mean() for axis in (3, 4))
    disparity = (_charbonnier(error[:, 3:]) * known).sum() / known.sum().clamp(min=1)
    likelihood = _likelihood(prediction, colour, target)
    return loss + config.disparity_weight * disparity + config.likelihood_weight * likelihood


def _log_error(colour: Tensor, target: Target) -> Float[Tensor, " B"]:
    """Logarithm of the mean squared error where colours are known."""
    axes = (1, 2, 3, 4)
    count = target.colour_known.sum(axes).clamp(min=1) * colour.shape[1]
    return (colour.square().sum(axes) / count + _LEAST_ERROR).log()


def _charbonnier(error: Tensor) -> Tensor:
    return (error.square() + _CHARBONNIER**2).sqrt() - _CHARBONNIER


def _likelihood(prediction: CompactPrediction, colour: Tensor, target: Target) -> Tensor:
    """Negative log likelihood of the colour error (Kendall and Gal 2017, equation 8, on the logarithm of the variance).

    Blind to the estimate, so that it cannot be traded.
    """
    squared = colour.detach().square().mean(dim=1, keepdim=True)
    log_variance = prediction.log_variance.clamp(-12, 4)
    terms = 0.5 * (squared * torch.exp(-log_variance) + log_variance) * target.colour_known
    return terms.sum() / target.colour_known.sum().clamp(min=1)


class CompactObjective:
    """`Objective` of a `CompactUNet` on batches of clip pairs."""

    def __init__(self, network: CompactUNet, held_out: Sequence[ClipPair], config: OptimisationConfig) -> None:
        """
        Args:
            network: to be trained.
            held_out: whole clips that are never trained on, for validation.
            config: see `OptimisationConfig`.
        """
        self.network, self.held_out, self.config = network, held_out, config

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Nothing is frozen here."""

    def loss(self, network: nn.Module, batch: list[ClipPair], numbers: range) -> Float[Tensor, ""]:
        """See `Objective.loss`; noise and times of a batch follow from the number of its first sample."""
        device = next(network.parameters()).device
        condition, target = stack_pairs([pair.to(device) for pair in batch])
        generator = generator_of(self.config.seed, "noise", numbers[0])
        return training_loss(network, condition, target, self.config, generator)

    def write(self, weights: dict[str, Tensor], folder: Path) -> None:
        """See `save_network`."""
        save_network(self._loaded(weights), folder)

    def validate(self, weights: dict[str, Tensor]) -> Judgement:
        """See `validate`."""
        network = self._loaded(weights)
        nn.Module.to(network, next(iter(weights.values())).device)
        return validate(network, self.held_out, self.config.seed)

    def _loaded(self, weights: dict[str, Tensor]) -> CompactUNet:
        network = cast(CompactUNet, CompactUNet.from_config(self.network.config))
        network.load_state_dict(weights)
        return network


def train(
    batches: Dataset[list[ClipPair]],
    held_out: Sequence[ClipPair],
    output: Path,
    config: OptimisationConfig,
    resume: bool = True,
    initial: CompactUNet | None = None,
    accelerator: Accelerator | None = None,
) -> ValidationReport | None:
    """Train a network; errors as in `fit`.

    Args:
        batches: item i is the i-th batch of the training, over all processes.
        held_out: whole clips that are never trained on, for validation.
        output: receives what `fit` writes.
        config: see `OptimisationConfig`.
        resume: go on from the checkpoint in `output` where there is one.
        initial: network to start from, whose size then counts; a fresh one of the configured size when None.
        accelerator: see `build_accelerator`.

    Returns:
        The last validation; None in other processes than the main one.
    """
    accelerator = accelerator or build_accelerator(config)
    set_seed(config.seed)
    if initial is None:
        network = build_network(config.network)
    else:
        sizes = {f.name: initial.config[f.name] for f in fields(NetworkConfig)}
        network, config = initial, replace(config, network=NetworkConfig(**sizes))
    return fit(CompactObjective(network, held_out, config), batches, output, config, resume, accelerator)


def build_network(config: NetworkConfig) -> CompactUNet:
    """A fresh network of the configured size."""
    return CompactUNet(
        channels=config.channels,
        reference_channels=config.reference_channels,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
    )


def save_network(network: CompactUNet, folder: Path) -> None:
    """Write config.json and half-precision weights; the folder that the network came from is not recorded."""
    deepcopy(network).cpu().half().save_pretrained(folder, safe_serialization=True)
    forget_origin(folder / "config.json")
