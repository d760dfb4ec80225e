"""What can be said of a generator's folder without importing the libraries that load it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genfusion_ns.json_files import JsonValue, read_json, sentence
from genfusion_ns.priors.config_checks import (
    AUTOENCODER,
    IMAGE_ENCODER,
    IMAGE_PROJECTION,
    SCHEDULER,
    UNET,
    check_config,
    check_kind,
    whole,
)
from genfusion_ns.priors.pipeline_files import INDEX, check_lengths, check_part_class, read_part

AGAIN = "copy the folder again, or convert the checkpoint again with gf-convert-generator"
"""The way out where a file of a folder is damaged."""
_CLASS = "DynamiCrafterPipeline"
_OWN = "genfusion_ns.priors.dynamicrafter"
_CLASSES = {
    "unet": (f"{_OWN}.unet", "DynamiCrafterUNet"),
    "vae": ("diffusers", "AutoencoderKL"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "image_projection": (f"{_OWN}.image_projection", "ImageProjection"),
    "scheduler": (f"{_OWN}.scheduler", "DynamiCrafterScheduler"),
}
_LIBRARIES = ("diffusers", "transformers")
_CONFIGS = {"unet": UNET, "vae": AUTOENCODER, "image_encoder": IMAGE_ENCODER, "image_projection": IMAGE_PROJECTION}
_INDEX_KEYS = {"width": whole(8), "height": whole(8), "frames_per_slice": whole(1, 1024)}
_PUBLISHED_SIZE = (960, 512)


@dataclass(frozen=True)
class PipelineFacts:
    """What a folder says of its generator."""

    resolution: tuple[int, int]
    """(width, height) in pixels that it was trained at."""
    size_multiple: int
    """Width and height must be multiples of this many pixels."""


def check_pipeline_folder(folder: Path) -> PipelineFacts:
    """Look at all files of a folder written by ``gf-convert-generator`` without loading them.

    Raises:
        FileNotFoundError: the folder is no pipeline, or a file is missing.
        ValueError: the pipeline is of another kind, or a file is damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"{folder} has no {INDEX}; gf-convert-generator writes such a folder")
    content = _read(index)
    check_kind(content, _CLASS)
    # The library imports whatever module stands here.
    check_config(content, _INDEX_KEYS | {name: partial(check_part_class, kind) for name, kind in _CLASSES.items()})
    configs = {name: _check_part(folder / name, name) for name in _CONFIGS}
    _check_scheduler(folder / "scheduler")
    halvings = 0
    for name in ("unet", "vae"):
        widths = configs[name]["block_out_channels"]
        if not widths.is_given:
            widths.refuse("a list of widths")
        halvings += len(widths.value) - 1
    width, height = (
        content[name].value if content[name].is_given else size
        for name, size in zip(("width", "height"), _PUBLISHED_SIZE, strict=True)
    )
    multiple = 2**halvings
    if width % multiple or height % multiple:
        raise ValueError(f"{index}: width and height are {width} {height}; multiples of {multiple} are needed; {AGAIN}")
    return PipelineFacts((width, height), multiple)


def _check_part(folder: Path, name: str) -> JsonValue:
    config = read_part(folder, AGAIN)
    if name == "image_encoder":
        check_kind(config, "clip_vision_model", "model_type")
    else:
        check_kind(config, _CLASSES[name][1])
    check_config(config, _CONFIGS[name], closed=_CLASSES[name][0] not in _LIBRARIES)
    if name == "vae":
        check_lengths(config, ("block_out_channels", "down_block_types", "up_block_types"), AGAIN)
    return config


def check_autoencoder(folder: Path) -> None:
    """Look at the files of a diffusers autoencoder without loading them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is a network of another kind, or a file is damaged.
    """
    _check_part(folder, "vae")


def _check_scheduler(folder: Path) -> None:
    file = folder / "scheduler_config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no {file.name}: the folder is incomplete or damaged; {AGAIN}")
    config = _read(file)
    check_kind(config, _CLASSES["scheduler"][1])
    check_config(config, SCHEDULER)


def _read(path: Path) -> JsonValue:
    return read_json(path, sentence(AGAIN))
