"""What can be said of a generator's folder without importing the libraries that load it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

INDEX = "model_index.json"
"""The file that tells a folder of a diffusers pipeline from others."""
_CLASS = "DynamiCrafterPipeline"
_PARTS = ("unet", "vae", "image_encoder", "image_projection")
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
    if content.get("_class_name") != _CLASS:
        raise ValueError(f"{index} describes a {content.get('_class_name')}, not a {_CLASS}")
    configs = {name: _check_part(folder / name) for name in _PARTS}
    halvings = 0
    for name in ("unet", "vae"):
        widths = configs[name].get("block_out_channels")
        if not isinstance(widths, list) or not widths:
            raise ValueError(f"{folder / name / 'config.json'} names no block_out_channels; {_AGAIN}")
        halvings += len(widths) - 1
    width, height = (content.get(name, size) for name, size in zip(("width", "height"), _PUBLISHED_SIZE, strict=True))
    return PipelineFacts((width, height), 2**halvings)


_AGAIN = "copy the folder again, or convert the checkpoint again with gf-convert-generator"


def _check_part(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: the folder is incomplete or damaged; {_AGAIN}")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no .safetensors file: the folder is incomplete or damaged; {_AGAIN}")
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass  # opening reads the header and compares it with the length of the file
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}); {_AGAIN}") from error
    return _read(folder / "config.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}; {_AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, an object is needed; {_AGAIN}")
    return content
