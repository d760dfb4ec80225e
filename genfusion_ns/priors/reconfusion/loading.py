"""Loads a prior's folder, after everything in it has been compared with what it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from genfusion_ns.priors.pipeline_files import compare_part, import_old_names, usable
from genfusion_ns.priors.reconfusion.folder import AGAIN, check_prior_folder
from genfusion_ns.priors.reconfusion.pipeline import ReconFusionPipeline
from genfusion_ns.priors.reconfusion.pixelnerf import PixelNerf

_KINDS: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "image_encoder": CLIPVisionModelWithProjection,
    "pixelnerf": PixelNerf,
}


def load_prior(folder: Path, dtype: torch.dtype = torch.float32) -> ReconFusionPipeline:
    """The prior in a folder that gf-train-generator wrote, on the CPU.

    Args:
        folder: of the pipeline.
        dtype: of its weights.

    Raises:
        FileNotFoundError: the folder is no pipeline, or a file is missing.
        ValueError: a file is damaged or of another network, or holds NaN; the message names the folder or the file.
    """
    check_prior_folder(folder)
    for name in _KINDS:
        if (folder / name).is_dir():
            compare_part(folder / name, _on_meta(folder / name, name))
    import_old_names(folder)
    with usable(folder, AGAIN):
        pipeline = ReconFusionPipeline.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            part.eval()
            _require_numbers(folder / name, part)
    return pipeline


def _require_numbers(folder: Path, part: nn.Module) -> None:
    for name, value in part.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{folder}: {name} contains NaN or infinity, as after a training that diverged; take another checkpoint"
            )


def _on_meta(folder: Path, name: str) -> nn.Module:
    """The network without weights, in no memory."""
    kind = _KINDS[name]
    with usable(folder / "config.json", AGAIN), torch.device("meta"):
        if name == "image_encoder":
            return kind(CLIPVisionConfig.from_pretrained(folder))
        return kind.from_config(kind.load_config(folder))
