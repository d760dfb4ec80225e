"""Where the training of a prior starts: a prior that was trained, or a Stable Diffusion with a CLIP image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPVisionModelWithProjection

from genfusion_ns.json_files import read_json, sentence
from genfusion_ns.priors.hub import fetch_files, is_hub_name
from genfusion_ns.priors.pipeline_files import INDEX, usable
from genfusion_ns.priors.reconfusion.architecture import from_stable_diffusion
from genfusion_ns.priors.reconfusion.folder import recognised
from genfusion_ns.priors.reconfusion.loading import load_prior
from genfusion_ns.priors.reconfusion.pipeline import ReconFusionPipeline

BASE = "stabilityai/stable-diffusion-2-1-base"
ENCODER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_BASE_FILES = [
    INDEX,
    "scheduler/*.json",
    *(f"{part}/{name}" for part in ("unet", "vae") for name in ("config.json", _WEIGHTS)),
]
_ENCODER_FILES = ["config.json", "model.safetensors"]
_AGAIN = f"copy the folder again, or take {BASE} and {ENCODER} from the Hugging Face hub"


def starting_pipeline(initial: str, image_encoder: str | None, size: tuple[int, int]) -> ReconFusionPipeline:
    """The pipeline that a training starts from, in float32 on the CPU.

    Args:
        initial: folder or hub name of a prior that gf-train-generator wrote, or of a Stable Diffusion in the format of
            diffusers.
        image_encoder: folder or hub name of a CLIP vision model with projection, for a Stable Diffusion; by default
            that of its own folder, else `ENCODER`.
        size: (width, height) of the views, for a Stable Diffusion.

    Raises:
        FileNotFoundError: there is nothing of that name, a file is missing, or it cannot be downloaded.
        ValueError: damaged files, or networks of another kind.
    """
    folder = _folder(initial, "--initial", _BASE_FILES, "a folder that gf-train-generator wrote, or a Stable Diffusion")
    if recognised(folder):
        return load_prior(folder)
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"--initial {initial} has no {INDEX}: a prior that gf-train-generator wrote, or a Stable Diffusion in the "
            f"format of diffusers such as {BASE}, is needed"
        )
    parts = read_json(folder / INDEX, sentence(_AGAIN))
    for name, kind in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        entry = parts[name]
        if not entry.is_given or entry.value[1:] != [kind]:
            entry.refuse(f"a {kind}, as Stable Diffusion has one")
    if image_encoder is None:
        image_encoder = str(folder / "image_encoder") if (folder / "image_encoder").is_dir() else ENCODER
    encoder = _folder(image_encoder, "--image-encoder", _ENCODER_FILES, "a CLIP vision model with projection")
    with usable(folder, _AGAIN):
        unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
        vae: Any = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
        scheduler: Any = DDIMScheduler.from_pretrained(folder / "scheduler")
    with usable(encoder, _AGAIN):
        vision: Any = CLIPVisionModelWithProjection.from_pretrained(encoder, torch_dtype=torch.float32)
    return from_stable_diffusion(unet, vae, scheduler, vision.eval(), size)


def _folder(model: str, flag: str, wanted: Sequence[str], what: str) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if not is_hub_name(model):
        raise FileNotFoundError(
            f"{flag} {model} is neither a folder nor a hub name (organisation/name); {what} is needed"
        )
    way_out = (
        f"On a machine with network, run hf download {model} --local-dir FOLDER, copy the folder here and give its "
        f"path: {flag} FOLDER"
    )
    return fetch_files(model, wanted, way_out)
