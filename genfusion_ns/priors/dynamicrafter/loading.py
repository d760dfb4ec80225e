"""Loads a generator's folder, after everything in it has been compared with what it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from genfusion_ns.priors.dynamicrafter.folder import AGAIN, check_autoencoder, check_pipeline_folder
from genfusion_ns.priors.dynamicrafter.image_projection import ImageProjection
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet
from genfusion_ns.priors.pipeline_files import compare_part, import_old_names, usable

_KINDS: dict[str, Any] = {
    "unet": DynamiCrafterUNet,
    "vae": AutoencoderKL,
    "image_projection": ImageProjection,
    "image_encoder": CLIPVisionModelWithProjection,
}


def load_pipeline(folder: Path, dtype: torch.dtype) -> DynamiCrafterPipeline:
    """The generator in a folder that gf-convert-generator or gf-train-generator wrote.

    Args:
        folder: of the pipeline.
        dtype: of its weights.

    Raises:
        FileNotFoundError: the folder is no pipeline, or a file is missing.
        ValueError: a file is damaged or of another network; the message names the folder or the file.
    """
    check_pipeline_folder(folder)
    for name in _KINDS:
        _compare(folder / name, name)
    import_old_names(folder)
    with usable(folder, AGAIN):
        return DynamiCrafterPipeline.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)


def load_autoencoder(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """An autoencoder in diffusers format; arguments and errors as in `load_pipeline`."""
    check_autoencoder(folder)
    with usable(folder, AGAIN):
        # Names of old releases are translated by the library, so that they cannot be compared beforehand.
        loaded: Any = AutoencoderKL.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    vae, found = loaded
    if found["missing_keys"]:
        raise ValueError(
            f"{folder}: {len(found['missing_keys'])} weights are missing, such as {min(found['missing_keys'])}"
        )
    return vae


def _compare(folder: Path, name: str) -> None:
    """See `compare_part`."""
    compare_part(folder, _on_meta(folder, name))


def _on_meta(folder: Path, name: str) -> nn.Module:
    """The network without weights, in no memory."""
    kind = _KINDS[name]
    with usable(folder / "config.json", AGAIN), torch.device("meta"):
        if name == "image_encoder":
            return kind(CLIPVisionConfig.from_pretrained(folder))
        return kind.from_config(kind.load_config(folder))
