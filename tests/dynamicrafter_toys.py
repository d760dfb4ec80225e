"""The generator at toy size, with the numbers of the published modules at that size where they are at hand."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from genfusion_ns.priors.dynamicrafter.image_projection import ImageProjection
from genfusion_ns.priors.dynamicrafter.key_map import pieces_of
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "generation"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"recorded numbers are not at {FIXTURES}")

UNET = {
    "block_out_channels": [32, 32, 32, 64],
    "attention_head_dim": 8,
    "cross_attention_dim": 64,
}
PROJECTION = {"embed_dims": 80, "hidden_dims": 48, "output_dims": 64, "depth": 2, "dim_head": 16, "heads": 4}
VAE = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 32, 32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
ENCODER = {
    "hidden_size": 80,
    "intermediate_size": 320,
    "projection_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}


def tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / f"{name}.safetensors")


def facts(name: str) -> dict:
    return json.loads((FIXTURES / f"{name}.json").read_text())


@cache
def recorded_weights() -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in tensors("weights").items()}


def toy_pipeline(seed: int = 0) -> DynamiCrafterPipeline:
    """Random weights, none of them zero."""
    torch.manual_seed(seed)
    pipeline = DynamiCrafterPipeline(
        unet=DynamiCrafterUNet(**UNET),
        vae=AutoencoderKL(**VAE),
        image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**ENCODER)),
        image_projection=ImageProjection(**PROJECTION),
        scheduler=DynamiCrafterScheduler(),
    )
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return quiet(pipeline)


def quiet(pipeline: DynamiCrafterPipeline) -> DynamiCrafterPipeline:
    pipeline.set_progress_bar_config(disable=True)
    for name in ("unet", "vae", "image_encoder", "image_projection"):
        getattr(pipeline, name).eval()
    return pipeline


def recorded_pipeline() -> DynamiCrafterPipeline:
    """The weights with which the fixtures were made."""
    pipeline = toy_pipeline()
    states: dict[str, dict[str, torch.Tensor]] = {}
    for source, tensor in recorded_weights().items():
        for piece in pieces_of(source):
            component, name = re.fullmatch(r"(\w+?)\.(.+)", piece.target).groups()
            states.setdefault(component, {})[name] = piece.of(tensor)
    for component, state in states.items():
        module = getattr(pipeline, component)
        own = module.state_dict()
        state |= {name: own[name] for name in own if name.endswith("position_ids")}
        module.load_state_dict(state, strict=True)
    return pipeline
