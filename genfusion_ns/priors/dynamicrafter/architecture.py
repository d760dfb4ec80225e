"""The parts of a generator by their sizes, and the parts themselves without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from genfusion_ns.priors.dynamicrafter.image_projection import ImageProjection
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet


def _published_vae() -> dict[str, Any]:
    return {
        "in_channels": 4,
        "out_channels": 4,
        "latent_channels": 4,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    }


def _published_image_encoder() -> dict[str, Any]:
    return {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "projection_dim": 1024,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }


@dataclass(frozen=True)
class Architecture:
    """Arguments of the parts; the defaults are the published sizes."""

    unet: Mapping[str, Any] = field(default_factory=dict)
    """Of `DynamiCrafterUNet`."""
    image_projection: Mapping[str, Any] = field(default_factory=dict)
    """Of `ImageProjection`."""
    vae: Mapping[str, Any] = field(default_factory=_published_vae)
    """Of diffusers' `AutoencoderKL`; that of LDM3D, four channels in and out."""
    image_encoder: Mapping[str, Any] = field(default_factory=_published_image_encoder)
    """Of transformers' `CLIPVisionConfig`; OpenCLIP ViT-H/14."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """Of `DynamiCrafterScheduler`."""
    size: tuple[int, int] = (960, 512)
    """(width, height) in pixels that the networks were trained at."""

    def with_vae_channels(self, inputs: int, outputs: int) -> Architecture:
        """The same with an autoencoder of other image channels, such as 3 in a base DynamiCrafter file."""
        return replace(self, vae={**self.vae, "in_channels": inputs, "out_channels": outputs})

    def skeleton(self) -> DynamiCrafterPipeline:
        """The pipeline on the meta device: names and shapes of all parameters, no memory."""
        with torch.device("meta"):
            unet = DynamiCrafterUNet(**self.unet)
            projection = ImageProjection(**self.image_projection)
            vae = AutoencoderKL(**self.vae)
            encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**self.image_encoder))
        return DynamiCrafterPipeline(
            unet=unet,
            vae=vae,
            image_encoder=encoder,
            image_projection=projection,
            scheduler=DynamiCrafterScheduler(**self.scheduler),
            width=self.size[0],
            height=self.size[1],
        )


def weighted_parts(pipeline: DynamiCrafterPipeline) -> dict[str, nn.Module]:
    """The parts that have weights, by the name of their folder."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
