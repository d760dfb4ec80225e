"""Training of the generator that GenFusion published, or of its base: the `Objective` that the loop trains.

All of the U-Net and of the image projection is trained, or low-rank changes of the U-Net; autoencoder and image encoder
stay as they are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from genfusion_ns.geometry.clips import RepairedClip
from genfusion_ns.priors.dynamicrafter.folder import check_pipeline_folder
from genfusion_ns.priors.dynamicrafter.image_projection import ImageProjection
from genfusion_ns.priors.dynamicrafter.loading import load_pipeline
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.repairer import confidence_of
from genfusion_ns.priors.dynamicrafter.sampling import Sampling
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet
from genfusion_ns.priors.pipeline_files import INDEX
from genfusion_ns.priors.training.latents import TrainingBatch, draw, encode_batch, velocity_loss
from genfusion_ns.priors.training.loop import build_accelerator, fit
from genfusion_ns.priors.training.lora import add_lora, merge_lora, save_lora
from genfusion_ns.priors.training.settings import DynamiCrafterOptimisation
from genfusion_ns.priors.training.validation import Comparison, HeldOutFrames, Judgement, ValidationReport, judge
from genfusion_ns.priors.weight_files import forget_origin
from genfusion_ns.seeds import generator_of

_FROZEN = ("vae", "image_encoder", "scheduler")
_LATENT_CHANNELS = 4
_RGBD = 4


class TrainedParts(nn.Module):
    """U-Net and image projection as one module, which is what accelerate shares among processes."""

    def __init__(self, unet: nn.Module, image_projection: nn.Module) -> None:
        """Args: the parts of a `DynamiCrafterPipeline`; the U-Net may be wrapped by peft."""
        super().__init__()
        self.unet = unet
        self.image_projection = image_projection

    def forward(self, sample: Tensor, timesteps: Tensor, tokens: Tensor, fps: Tensor) -> Float[Tensor, "B 4 T h w"]:
        """Predict v; arguments as in `latents.Exercise`."""
        return self.unet(sample, timesteps, self.image_projection(tokens), fps)


class DynamiCrafterObjective:
    """`Objective` of a `DynamiCrafterPipeline` on batches of frames."""

    def __init__(self, initial: Path, held_out: Sequence[HeldOutFrames], config: DynamiCrafterOptimisation) -> None:
        """
        Args:
            initial: folder of a generator to start from.
            held_out: clips that are never trained on, for validation.
            config: see `DynamiCrafterOptimisation`.

        Raises:
            FileNotFoundError: the folder is no generator, or a file is missing.
            ValueError: the generator is damaged or has no depth, or a setting does not fit it.
            ImportError: LoRA without peft.
        """
        facts = check_pipeline_folder(initial)
        if any(side < facts.size_multiple or side % facts.size_multiple for side in config.size):
            raise ValueError(
                f"--optimisation.size is {config.size}; the generator in {initial} takes multiples of "
                f"{facts.size_multiple}, such as 512 320 or 960 512"
            )
        low, high = config.reference_dropout
        if not 0 <= low <= high <= 1:
            raise ValueError(f"--optimisation.reference-dropout is {low} {high}; a range within 0..1 is needed")
        pipeline = load_pipeline(initial, torch.float32)
        if pipeline.vae.config["in_channels"] != _RGBD:
            raise ValueError(
                f"the autoencoder in {initial} has no depth; a base checkpoint needs another one, with --vae VAE, a "
                "copy of the one of Intel/ldm3d-4c: here where --initial is the file, else in gf-convert-generator"
            )
        self.initial, self.held_out, self.config, self.pipeline = initial, held_out, config, pipeline
        for part in (pipeline.vae, pipeline.image_encoder):
            part.eval().requires_grad_(False)
        if config.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
        unet: nn.Module = pipeline.unet
        if config.lora.rank:
            unet = add_lora(unet, config.lora)
            pipeline.image_projection.requires_grad_(False)
        self.network = TrainedParts(unet, pipeline.image_projection)
        self._device, self._dtype = torch.device("cpu"), torch.float32

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """See `Objective.place`."""
        self._device, self._dtype = device, dtype
        for part in (self.pipeline.vae, self.pipeline.image_encoder):
            nn.Module.to(part, device, dtype)

    def loss(self, network: nn.Module, batch: TrainingBatch, numbers: range) -> Float[Tensor, ""]:
        """See `Objective.loss`; what is random about a sample follows from its number."""
        config, cell = self.config, self.pipeline.pixels_per_latent
        generators = [generator_of(config.seed, "sample", number) for number in numbers]
        frames, height, width = batch.artifact_rgb.shape[1:4]
        shape = (_LATENT_CHANNELS, frames, height // cell, width // cell)
        draws = draw(generators, shape, len(self.pipeline.scheduler)).to(self._device)
        exercise = encode_batch(self.pipeline, batch, draws, config.reference_dropout, config.fps)
        return velocity_loss(network, exercise)

    def write(self, weights: dict[str, Tensor], folder: Path) -> None:
        """See `Objective.write`; weights in half precision, with LoRA also the changes alone, in ``adapter``.

        Files of the parts that are not trained are linked to those of the initial generator where the disk can.
        """
        for name, part in self._parts(weights).items():
            part.half().save_pretrained(folder / name, safe_serialization=True)
            forget_origin(folder / name / "config.json")
        for name in _FROZEN:
            shutil.copytree(self.initial / name, folder / name, copy_function=_link)
        index = json.loads((self.initial / INDEX).read_text(encoding="utf-8"))
        index |= {"width": self.config.size[0], "height": self.config.size[1]}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        forget_origin(folder / INDEX)
        if self.config.lora.rank:
            save_lora(add_lora(self._empty_unet(), self.config.lora), _part(weights, "unet"), folder / "adapter")

    def validate(self, weights: dict[str, Tensor]) -> Judgement:
        """Repair the held-out clips as a run would do it."""
        parts = self._parts(weights)
        for part in parts.values():
            nn.Module.to(part, self._device, self._dtype)  # not diffusers' own, which warns without reason
        pipeline = DynamiCrafterPipeline(
            vae=self.pipeline.vae,
            image_encoder=self.pipeline.image_encoder,
            scheduler=self.pipeline.scheduler,
            **parts,
        )
        pipeline.set_progress_bar_config(disable=True)
        sampling = Sampling(steps=self.config.validation_steps, fps=self.config.fps)

        def compared() -> Iterator[Comparison]:
            for index, clip in enumerate(self.held_out):
                generator = generator_of(self.config.seed, "validation", index)
                yield _repair(pipeline, clip, sampling, generator)

        return judge(compared())

    def _parts(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        """The trained parts as plain networks with copies of the weights, on the CPU."""
        with torch.device("meta"):
            projection: Any = ImageProjection.from_config(self.pipeline.image_projection.config)
        projection.load_state_dict(_part(weights, "image_projection"), assign=True)
        unet: Any = self._empty_unet()
        if self.config.lora.rank:
            unet = merge_lora(add_lora(unet, self.config.lora), _part(weights, "unet"))
        else:
            unet.load_state_dict(_part(weights, "unet"), assign=True)
        return {"unet": unet.eval(), "image_projection": projection.eval()}

    def _empty_unet(self) -> nn.Module:
        with torch.device("meta"):
            return DynamiCrafterUNet.from_config(self.pipeline.unet.config)  # pyright: ignore[reportReturnType]


def train(
    batches: Dataset[Any],
    held_out: Sequence[HeldOutFrames],
    initial: Path,
    output: Path,
    config: DynamiCrafterOptimisation,
    resume: bool = True,
    accelerator: Accelerator | None = None,
) -> ValidationReport | None:
    """Train a generator of the dynamicrafter family; errors as in `fit` and `DynamiCrafterObjective`.

    Args:
        batches: item i is the i-th batch of the training, over all processes; each a `TrainingBatch`.
        held_out: clips that are never trained on, for validation.
        initial: folder of a generator to start from.
        output: receives what `fit` writes.
        config: see `DynamiCrafterOptimisation`.
        resume: go on from the checkpoint in `output` where there is one.
        accelerator: see `build_accelerator`.

    Returns:
        The last validation; None in other processes than the main one.
    """
    accelerator = accelerator or build_accelerator(config)
    set_seed(config.seed)
    objective = DynamiCrafterObjective(initial, held_out, config)
    return cast("ValidationReport | None", fit(objective, batches, output, config, resume, accelerator))


def _repair(
    pipeline: DynamiCrafterPipeline, clip: HeldOutFrames, sampling: Sampling, generator: torch.Generator
) -> Comparison:
    rgb, disparity = clip.artifact[..., :3], clip.artifact[..., 3:]
    out = pipeline(rgb, disparity, clip.photo[None], sampling, generator)
    confidence = confidence_of(out.variance, rgb.shape[1:3])
    repaired = RepairedClip(out.rgb, out.disparity, confidence).to(rgb.device)
    everywhere = torch.ones_like(clip.known)  # as in the loss
    return Comparison(clip.artifact, clip.clean, repaired, clip.known, everywhere, clip.novel, clip.photo)


def _part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Copies, on the CPU, of the weights of one part."""
    prefix = f"{name}."
    chosen = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return {key: value.detach().to("cpu", copy=True) for key, value in chosen.items()}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
