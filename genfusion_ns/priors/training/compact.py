"""Training of the compact network: its loss, and the `Objective` that the loop trains.

The loss is flow matching in its clean-clip form: at a random time of the path the network estimates the clean clip,
compared by the logarithm of each sample's squared error and a Charbonnier penalty (colour) and by the latter alone
(colour gradients, known disparity). By the logarithm a decibel counts the same in clips that are nearly right and in
clips full of holes, which would drown the others in a plain mean. A mean of squares rewards blur wherever it is not
certain what is right; against that stand LPIPS, the amount of detail in small squares, and a penalty on every pixel
that the repair makes worse than the render. A Gaussian likelihood of the colour error, seen by the variance head alone,
makes the confidence honest.
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
from genfusion_ns.priors.training.image_losses import (
    PerceptualLoss,
    charbonnier,
    detail_loss,
    gradient_loss,
    harm_loss,
)
from genfusion_ns.priors.training.loop import build_accelerator, fit
from genfusion_ns.priors.training.settings import NetworkConfig, OptimisationConfig
from genfusion_ns.priors.training.validation import Judgement, ValidationReport, validate
from genfusion_ns.priors.weight_files import forget_origin
from genfusion_ns.seeds import generator_of

_LEAST_ERROR = 1e-4  # squared, of the -1..1 range: 46 dB, beyond which nothing is gained


def training_loss(
    network: nn.Module,
    condition: Condition,
    target: Target,
    config: OptimisationConfig,
    generator: torch.Generator,
    perceptual: PerceptualLoss | None = None,
    head_only: bool = False,
) -> Float[Tensor, ""]:
    """Loss of one batch at random times of the flow; see the module docstring and `CompactUNet.forward`."""
    artifact = condition.artifact[:, :4]
    noise = torch.randn(artifact.shape, generator=generator).to(artifact)
    start = start_point(artifact, condition.alpha, noise, config.network.sigma_min, config.network.sigma_max)
    time = sample_times(len(artifact), config.first_share, generator).to(artifact)
    state = interpolate(target.clean, start, time)
    inputs = (state, condition.artifact, condition.warped, condition.photos, time)
    prediction: CompactPrediction = network(*inputs, head_only)
    error = prediction.clean - target.clean
    colour, known = error[:, :3] * target.colour_known, target.depth_known
    loss = config.logarithm_weight * _log_error(colour, target).mean()
    loss = loss + config.absolute_weight * charbonnier(colour).mean()
    loss = loss + config.gradient_weight * gradient_loss(colour.transpose(1, 2).flatten(0, 1))
    loss = loss + _detail_terms(prediction, condition, target, config, generator, perceptual)
    disparity = (charbonnier(error[:, 3:]) * known).sum() / known.sum().clamp(min=1)
    likelihood = _likelihood(prediction, colour, target)
    return loss + config.disparity_weight * disparity + config.likelihood_weight * likelihood


def _detail_terms(
    prediction: CompactPrediction,
    condition: Condition,
    target: Target,
    config: OptimisationConfig,
    generator: torch.Generator,
    perceptual: PerceptualLoss | None,
) -> Float[Tensor, ""]:
    """What keeps the repair from blurring, and from touching what is right."""
    known = target.colour_known.transpose(1, 2).flatten(0, 1).float()
    truth, before = (x[:, :3].transpose(1, 2).flatten(0, 1) for x in (target.clean, condition.artifact))
    # What does not count shows the truth, so that nothing in the neighbourhood is held against the repair.
    image = torch.where(known > 0, prediction.clean[:, :3].transpose(1, 2).flatten(0, 1), truth)
    total = image.new_zeros(())
    if config.harm_weight:
        total = total + config.harm_weight * (harm_loss(image, before, truth) * known).mean()
    if config.detail_weight:
        # Where neither the scene nor a photo shows anything, nobody knows how much detail there should be.
        shown = torch.maximum(condition.alpha, condition.warped[:, :, 3].amax(dim=1, keepdim=True))
        weight = known * (shown.transpose(1, 2).flatten(0, 1) > 0.5)
        total = total + config.detail_weight * detail_loss(image, truth, weight)
    if config.perceptual_weight and perceptual is not None:
        chosen = torch.randperm(len(image), generator=generator)[: config.perceptual_frames].to(image.device)
        total = total + config.perceptual_weight * perceptual(image[chosen], truth[chosen])
    return total


def _log_error(colour: Tensor, target: Target) -> Float[Tensor, " B"]:
    """Logarithm of the mean squared error where colours are known."""
    axes = (1, 2, 3, 4)
    count = target.colour_known.sum(axes).clamp(min=1) * colour.shape[1]
    return (colour.square().sum(axes) / count + _LEAST_ERROR).log()


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

        Raises:
            ValueError: a perceptual loss is asked for and its weights are not installed.
        """
        self.network, self.held_out, self.config = network, held_out, config
        self.perceptual = PerceptualLoss() if config.perceptual_weight else None

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move what is frozen: the network of the perceptual loss."""
        if self.perceptual is not None:
            self.perceptual = self.perceptual.to(device)

    def loss(self, network: nn.Module, batch: list[ClipPair], numbers: range) -> Float[Tensor, ""]:
        """See `Objective.loss`; noise and times of a batch follow from the number of its first sample."""
        device = next(network.parameters()).device
        condition, target = stack_pairs([pair.to(device) for pair in batch])
        generator = generator_of(self.config.seed, "noise", numbers[0])
        head_only = numbers[0] < self.config.head_samples
        return training_loss(network, condition, target, self.config, generator, self.perceptual, head_only)

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
    objective = CompactObjective(network, held_out, config)
    return cast("ValidationReport | None", fit(objective, batches, output, config, resume, accelerator))


def build_network(config: NetworkConfig) -> CompactUNet:
    """A fresh network of the configured size."""
    return CompactUNet(
        channels=config.channels,
        reference_channels=config.reference_channels,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        output=config.output,
    )


def save_network(network: CompactUNet, folder: Path) -> None:
    """Write config.json and half-precision weights; the folder that the network came from is not recorded."""
    deepcopy(network).cpu().half().save_pretrained(folder, safe_serialization=True)
    forget_origin(folder / "config.json")
