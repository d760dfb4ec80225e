"""Training of ReconFusion's prior: the `Objective` that the loop trains.

The noise, or v, of noisy latents is predicted under the condition of photos, and PixelNeRF learns to render the view in
colours beside it (Wu et al. 2024, section 4.1); some samples have black photos, for guidance.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from genfusion_ns.geometry.clips import Clip, ClipPair, RenderedView
from genfusion_ns.geometry.images import psnr
from genfusion_ns.priors.reconfusion.inputs import ViewInputs, shrink_images, stack_inputs, view_inputs
from genfusion_ns.priors.reconfusion.ladder import add_noise, alphas_of, velocity
from genfusion_ns.priors.reconfusion.pipeline import ReconFusionPipeline, condition_planes, facts_of, photo_tokens
from genfusion_ns.priors.training.loop import build_accelerator, fit
from genfusion_ns.priors.training.settings import ReconFusionOptimisation
from genfusion_ns.priors.training.validation import Judgement, Report
from genfusion_ns.priors.weight_files import forget_origin
from genfusion_ns.seeds import generator_of, seeded_generator

_ROWS = 8
_LEVELS = (1.0, 0.5)
"""Noise levels at which held-out views are drawn."""


@dataclass(frozen=True)
class ViewBatch:
    """Views to learn from."""

    inputs: ViewInputs
    target: Float[Tensor, "B 3 H W"]
    """What they should show, in 0..1."""
    known: Float[Tensor, "B 1 H W"]
    """1 where that is known, else 0."""

    def to(self, device: torch.device | str) -> ViewBatch:
        """The same batch on `device`."""
        return ViewBatch(self.inputs.to(device), self.target.to(device), self.known.to(device))


@dataclass(frozen=True)
class ViewReport:
    """Means over held-out views, in dB, where their colours are known."""

    psnr_render: float
    """Of the renders."""
    psnr_sample: float
    """Of what is drawn from pure noise."""
    psnr_half: float
    """Of what is drawn from half of the noise over the render."""
    psnr_features: float
    """Of the colours of PixelNeRF, at their size."""

    def as_dict(self) -> dict[str, float]:
        """The numbers by name."""
        return asdict(self)

    def summary(self) -> str:
        """One line for a log."""
        return (
            f"held-out views: render {self.psnr_render:.2f} dB, drawn from noise {self.psnr_sample:.2f} dB, from half "
            f"of it {self.psnr_half:.2f} dB; PixelNeRF {self.psnr_features:.2f} dB"
        )


def view_of(clip: Clip, frame: int = 0) -> RenderedView:
    """One frame of a clip as a view."""
    return RenderedView(clip.rgb[frame], clip.depth[frame], clip.alpha[frame], clip.viewmats[frame], clip.Ks[frame])


def batch_views(pairs: Sequence[ClipPair], most: int, guided: bool) -> ViewBatch:
    """The first frames of clip pairs as a batch.

    Args:
        pairs: of one size and one number of photos; a pair without a render has no coverage.
        most, guided: as in `view_inputs`.
    """
    inputs = [view_inputs(view_of(pair.artifact), pair.references, most, guided) for pair in pairs]
    target = torch.stack([pair.clean.rgb[0] for pair in pairs]).permute(0, 3, 1, 2)
    known = [pair.clean.alpha[0] > 0.5 if pair.rendered else torch.ones_like(pair.clean.alpha[0]) for pair in pairs]
    return ViewBatch(stack_inputs(inputs), target, torch.stack(known).float().permute(0, 3, 1, 2))


class ViewBatches(Dataset[ViewBatch]):
    """Batches of clip pairs as the networks read them; made where they are drawn, which may be another process."""

    def __init__(self, pairs: Dataset[list[ClipPair]], most: int, guided: bool) -> None:
        """Args: as in `batch_views`."""
        self.pairs, self.most, self.guided = pairs, most, guided

    def __len__(self) -> int:
        return len(self.pairs)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> ViewBatch:
        return batch_views(self.pairs[index], self.most, self.guided)


@dataclass(frozen=True)
class Draws:
    """Everything random of a batch."""

    timesteps: Tensor
    """[B]"""
    noise: Float[Tensor, "B c h w"]
    keep: Float[Tensor, " B"]
    """0 where photos are black."""

    @classmethod
    def of(cls, seed: int, numbers: range, shape: tuple[int, int, int], drop: float, total: int) -> Draws:
        """Those of the samples with these numbers.

        Args:
            seed: of the training.
            numbers: of the samples.
            shape: of the latents of one.
            drop: share of samples with black photos.
            total: time steps.
        """
        times, noise, keep = [], [], []
        for number in numbers:
            generator = generator_of(seed, "view sample", number)
            times.append(torch.randint(0, total, (), generator=generator))
            keep.append((torch.rand((), generator=generator) >= drop).float())
            noise.append(torch.randn(shape, generator=generator))
        return cls(torch.stack(times), torch.stack(noise), torch.stack(keep))

    def to(self, device: torch.device | str) -> Draws:
        """The same draws on `device`."""
        return Draws(self.timesteps.to(device), self.noise.to(device), self.keep.to(device))


class ReconFusionTask(nn.Module):
    """What is trained as one module, which is what accelerate shares among processes."""

    def __init__(self, pipeline: ReconFusionPipeline, frozen_encoder: bool) -> None:
        """
        Args:
            pipeline: whose networks are taken.
            frozen_encoder: leave the image encoder out; its tokens are then given.
        """
        super().__init__()
        self.unet: Any = pipeline.unet
        self.pixelnerf: Any = pipeline.pixelnerf
        self.image_encoder: Any = None if frozen_encoder else pipeline.image_encoder
        self._pipeline = [pipeline]  # not a part of the module

    def forward(
        self, noisy: Float[Tensor, "B c h w"], timesteps: Tensor, inputs: ViewInputs, tokens: Tensor | None
    ) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B 3 r r"]]:
        """The prediction, and the colours of PixelNeRF."""
        pipeline = self._pipeline[0]
        if tokens is None:
            tokens = photo_tokens(self.image_encoder, inputs.photos)
        rendered = self.pixelnerf(inputs)
        planes = condition_planes(rendered.features, inputs.guide, pipeline.latents, pipeline.resolution)
        sample = torch.cat([noisy.to(planes), planes], dim=1)
        return self.unet(sample, timesteps, tokens, return_dict=False)[0], rendered.colours


class ReconFusionObjective:
    """`Objective` of a `ReconFusionPipeline` on batches of views."""

    def __init__(
        self, pipeline: ReconFusionPipeline, held_out: Sequence[ClipPair], config: ReconFusionOptimisation
    ) -> None:
        """
        Args:
            pipeline: to be trained; its autoencoder, and an image encoder that comes with one, stay as they are.
            held_out: views that are never trained on, as clip pairs of one frame.
            config: see `ReconFusionOptimisation`.
        """
        self.pipeline, self.held_out, self.config = pipeline, held_out, config
        self.frozen_encoder = pipeline.vae is not None
        if config.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
            pipeline.pixelnerf.gradient_checkpointing = True
        for part in (pipeline.vae, pipeline.image_encoder if self.frozen_encoder else None):
            if part is not None:
                nn.Module.requires_grad_(part, False)
        self.alphas = alphas_of(pipeline.scheduler)
        self.kind = facts_of(pipeline.scheduler).prediction_type
        self.network = ReconFusionTask(pipeline, self.frozen_encoder)

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """See `Objective.place`."""
        self.alphas = self.alphas.to(device, torch.float32)
        for part in (self.pipeline.vae, self.pipeline.image_encoder):
            if part is not None and self.frozen_encoder:
                nn.Module.to(part, device=device, dtype=dtype)

    def loss(self, network: nn.Module, batch: ViewBatch, numbers: range) -> Float[Tensor, ""]:
        """See `Objective.loss`."""
        device = next(network.parameters()).device
        latents, size = self.pipeline.latents, self.pipeline.resolution
        draws = Draws.of(self.config.seed, numbers, latents.shape(size), self.config.drop, len(self.alphas)).to(device)
        batch = batch.to(device)
        inputs = batch.inputs.shown(draws.keep)
        clean = latents.encode(batch.target * 2 - 1)
        levels = self.alphas[draws.timesteps]
        noisy = add_noise(clean, draws.noise, levels)
        wanted = draws.noise if self.kind == "epsilon" else velocity(clean, draws.noise, levels)
        tokens = None
        if self.frozen_encoder:
            with torch.no_grad():
                tokens = photo_tokens(self.pipeline.image_encoder, inputs.photos)
        predicted, colours = network(noisy, draws.timesteps, inputs, tokens)
        # A latent counts as far as its pixels are known.
        known = functional.avg_pool2d(batch.known, latents.side)
        errors = (predicted.float() - wanted).square().mean(1, keepdim=True)
        denoising = (known * errors).sum() / known.sum().clamp(min=1)
        return denoising + self.config.colour_weight * self._colour_loss(colours, batch, draws.keep)

    def _colour_loss(self, colours: Tensor, batch: ViewBatch, keep: Tensor) -> Tensor:
        """What PixelNeRF makes of photos that are there; what it makes of black ones cannot be like the view."""
        side = (colours.shape[-1], colours.shape[-2])
        weight = shrink_images(batch.known, side) * keep[:, None, None, None]
        errors = (colours.float() - shrink_images(batch.target, side)).square().mean(1, keepdim=True)
        return (weight * errors).sum() / weight.sum().clamp(min=1)

    def write(self, weights: dict[str, Tensor], folder: Path) -> None:
        """Write the folder that a run takes, in half precision."""
        self._loaded(weights, torch.float16).save_pretrained(folder, safe_serialization=True)
        for path in folder.rglob("*.json"):
            forget_origin(path)

    @torch.no_grad()
    def validate(self, weights: dict[str, Tensor]) -> Judgement:
        """Draw held-out views from noise, and from half of it, and compare them."""
        pipeline = self._loaded(weights, torch.float32)
        device = next(iter(weights.values())).device
        pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
        facts = pipeline.facts
        scores, rows = [], []
        for index, pair in enumerate(self.held_out):
            batch = batch_views([pair], facts.num_references, facts.guided).to(device)
            render = pair.artifact.rgb.permute(0, 3, 1, 2).to(device)
            noise = torch.randn(1, *pipeline.latents.shape(pipeline.resolution), generator=seeded_generator(index)).to(
                device
            )
            drawn = [pipeline.draw(batch.inputs, render * 2 - 1, noise, level) / 2 + 0.5 for level in _LEVELS]
            images = [render, *(image.clamp(0, 1) for image in drawn)]
            colours = pipeline.pixelnerf(batch.inputs).colours
            small = shrink_images(batch.target, (colours.shape[-1], colours.shape[-2]))
            numbers = [_decibels(image, batch.target, batch.known) for image in images]
            scores.append([*numbers, _decibels(colours, small, torch.ones_like(small[:, :1]))])
            if len(rows) < _ROWS:
                shown = functional.interpolate(colours, size=render.shape[-2:], mode="nearest")
                rows.append(torch.cat([*images, batch.target, shown, batch.inputs.photos[:, 0]], dim=-1)[0])
        means = torch.tensor(scores, dtype=torch.float64).mean(0).tolist()
        return Judgement(ViewReport(*means), torch.cat(rows, dim=1).permute(1, 2, 0).float().cpu())

    def _loaded(self, weights: dict[str, Tensor], dtype: torch.dtype) -> ReconFusionPipeline:
        """The pipeline with copies of the weights, on the CPU."""
        whole: dict[str, Any] = self.pipeline.components
        parts: dict[str, Any] = {
            name: copy.deepcopy(part).cpu() for name, part in whole.items() if isinstance(part, nn.Module)
        }
        for name, part in parts.items():
            start = f"{name}."
            own = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
            if own:
                part.load_state_dict(own)
            nn.Module.to(part, dtype).eval()  # the method of the library warns
        arguments: dict[str, Any] = {
            name: value for name, value in self.pipeline.config.items() if not name.startswith("_")
        }
        return ReconFusionPipeline(**arguments | whole | parts)


def _decibels(image: Tensor, target: Tensor, known: Tensor) -> float:
    squares = ((image - target).square() * known).sum() / (3 * known.sum()).clamp(min=1)
    return float(psnr(squares))


def seed_everything(config: ReconFusionOptimisation) -> None:
    """Seed what fresh networks are drawn from."""
    set_seed(config.seed)


def train(
    pipeline: ReconFusionPipeline,
    batches: Dataset[list[ClipPair]],
    held_out: Sequence[ClipPair],
    output: Path,
    config: ReconFusionOptimisation,
    resume: bool = True,
    accelerator: Accelerator | None = None,
) -> Report | None:
    """Train a prior; errors as in `fit`.

    Args:
        pipeline: to start from.
        batches: item i is the i-th batch of the training, over all processes.
        held_out: see `ReconFusionObjective`.
        output: receives what `fit` writes.
        config: see `ReconFusionOptimisation`.
        resume: go on from the checkpoint in `output` where there is one.
        accelerator: see `build_accelerator`.

    Returns:
        The last validation; None in other processes than the main one.
    """
    check_optimisation(config)
    accelerator = accelerator or build_accelerator(config)
    objective = ReconFusionObjective(pipeline, held_out, config)
    views = ViewBatches(batches, pipeline.facts.num_references, pipeline.facts.guided)
    return fit(objective, views, output, config, resume, accelerator)


def check_optimisation(config: ReconFusionOptimisation) -> None:
    """Refuse settings that no training can have.

    Raises:
        ValueError: with the flag.
    """
    if not 0 <= config.drop < 1:
        raise ValueError(f"--optimisation.drop is {config.drop}; allowed are 0 to less than 1, 0.1 is usual")
    if not 0 <= config.colour_weight < 1e6:
        raise ValueError(f"--optimisation.colour-weight is {config.colour_weight}; it must be at least 0")
