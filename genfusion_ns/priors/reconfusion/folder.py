"""What can be said of a prior's folder without importing the libraries that load it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from genfusion_ns.json_files import JsonFileError, JsonValue, read_json, sentence
from genfusion_ns.priors.config_checks import (
    AUTOENCODER,
    DDIM,
    DENOISER,
    IMAGE_ENCODER,
    PIXELNERF,
    check_config,
    check_kind,
    number,
    whole,
)
from genfusion_ns.priors.pipeline_files import INDEX, check_lengths, check_part_class, read_part

AGAIN = "copy the folder again, or train it again with gf-train-generator configs/generator/reconfusion_small.yaml"
"""The way out where a file of a folder is damaged."""
CLASS = "ReconFusionPipeline"
_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "pixelnerf": ("genfusion_ns.priors.reconfusion.pixelnerf", "PixelNerf"),
    "scheduler": ("diffusers", "DDIMScheduler"),
}
_VAE = ("diffusers", "AutoencoderKL")
_SETTINGS = {
    "width": whole(8, 16384),
    "height": whole(8, 16384),
    "fold": whole(1, 64),
    "guided": JsonValue.flag,
    "num_references": whole(1, 64),
    "steps": whole(1, 1000),
    "guidance_scale": number(0, 50),
}
_DEFAULTS: dict[str, Any] = {
    "width": 512,
    "height": 512,
    "fold": 1,
    "guided": False,
    "num_references": 3,
    "steps": 10,
    "guidance_scale": 3.0,
}
_GUIDE_CHANNELS = 15
_ENCODER = IMAGE_ENCODER | {"image_size": whole(8, 4096)}


@dataclass(frozen=True)
class PriorFacts:
    """What a folder says of its prior."""

    resolution: tuple[int, int]
    """(width, height) in pixels that it was trained at."""
    size_multiple: int
    """Width and height must be multiples of this many pixels."""
    num_references: int
    """Photos at most."""
    steps: int
    """Of sampling."""
    guidance_scale: float
    """Weight of the photos."""


def recognised(folder: Path) -> bool:
    """Whether a folder is one of this kind, complete or not."""
    index = folder / INDEX
    if not index.is_file():
        return False
    try:
        return read_json(index)["_class_name"].value == CLASS
    except JsonFileError:
        return False


def check_prior_folder(folder: Path) -> PriorFacts:
    """Look at all files of a folder written by ``gf-train-generator`` without loading them.

    Raises:
        FileNotFoundError: the folder is no pipeline, or a file is missing.
        ValueError: the pipeline is of another kind, its parts do not fit each other, or a file is damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"{folder} has no {INDEX}; gf-train-generator writes such a folder")
    content = _read(index)
    check_kind(content, CLASS)
    checks = {name: partial(check_part_class, kind) for name, kind in _CLASSES.items()}
    check_config(content, _SETTINGS | checks | {"vae": _check_vae_class})
    for name in _CLASSES:
        if not content[name].is_given:
            content[name].refuse(str(list(_CLASSES[name])))
    settings = {name: content[name].value if content[name].is_given else usual for name, usual in _DEFAULTS.items()}
    has_vae = content["vae"].is_given and content["vae"].value != [None, None]
    pixels, latent = _latents(folder, settings["fold"], has_vae)
    unet = _network(folder, "unet", DENOISER)
    nerf = _network(folder, "pixelnerf", PIXELNERF)
    encoder = read_part(folder / "image_encoder", AGAIN)
    check_kind(encoder, "clip_vision_model", "model_type")
    check_config(encoder, _ENCODER, closed=False)
    _check_scheduler(folder / "scheduler")
    guide = _GUIDE_CHANNELS * (1 if has_vae else pixels**2) if settings["guided"] else 0
    _check_channels(unet, latent, _given(nerf, "features") + guide)
    multiple = pixels * 2 ** (len(unet["block_out_channels"].value) - 1)
    width, height = settings["width"], settings["height"]
    if width % multiple or height % multiple:
        raise ValueError(f"{index}: width and height are {width} {height}; multiples of {multiple} are needed; {AGAIN}")
    return PriorFacts(
        (width, height), multiple, settings["num_references"], settings["steps"], settings["guidance_scale"]
    )


def _latents(folder: Path, fold: int, has_vae: bool) -> tuple[int, int]:
    """Pixels along one latent, and channels of latents."""
    if not has_vae:
        return fold, 3 * fold**2
    config = _network(folder, "vae", AUTOENCODER)
    check_lengths(config, ("block_out_channels", "down_block_types", "up_block_types"), AGAIN)
    return 2 ** (len(config["block_out_channels"].value) - 1), _given(config, "latent_channels")


def _network(folder: Path, name: str, checks: dict) -> JsonValue:
    config = read_part(folder / name, AGAIN)
    library, kind = _CLASSES.get(name, _VAE)
    check_kind(config, kind)
    check_config(config, checks, closed=library != "diffusers")
    if "block_out_channels" in checks and not config["block_out_channels"].is_given:
        config["block_out_channels"].refuse("a list of widths")
    return config


def _check_channels(unet: JsonValue, latent: int, conditions: int) -> None:
    for name, wanted in (("in_channels", latent + conditions), ("out_channels", latent)):
        if _given(unet, name) != wanted:
            raise ValueError(
                f"{unet.file}: {name} is {_given(unet, name)}, but latents have {latent} channels and conditions "
                f"{conditions}, by the other parts: {wanted} is needed; {AGAIN}"
            )


def _given(config: JsonValue, name: str) -> int:
    return config[name].whole("a whole number", 1)


def _check_vae_class(value: JsonValue) -> None:
    if value.value != [None, None]:
        check_part_class(_VAE, value)


def _check_scheduler(folder: Path) -> None:
    file = folder / "scheduler_config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no {file.name}: the folder is incomplete or damaged; {AGAIN}")
    config = _read(file)
    check_kind(config, _CLASSES["scheduler"][1])
    check_config(config, DDIM, closed=False)
    if config["rescale_betas_zero_snr"].value is True and config["prediction_type"].value != "v_prediction":
        config["prediction_type"].refuse("v_prediction, with rescale_betas_zero_snr: the noise of pure noise is known")


def _read(path: Path) -> JsonValue:
    return read_json(path, sentence(AGAIN))
