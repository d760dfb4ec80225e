"""Loads a generator's folder, after everything in it has been compared with what it must be."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors import safe_open
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from genfusion_ns.moved import MOVED
from genfusion_ns.priors.dynamicrafter.folder import AGAIN, INDEX, check_autoencoder, check_pipeline_folder
from genfusion_ns.priors.dynamicrafter.image_projection import ImageProjection
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet
from genfusion_ns.priors.weight_files import compare_shapes

_KINDS: dict[str, Any] = {
    "unet": DynamiCrafterUNet,
    "vae": AutoencoderKL,
    "image_projection": ImageProjection,
    "image_encoder": CLIPVisionModelWithProjection,
}
_NO_WEIGHTS = "position_ids"
"""Tensors that some releases of transformers store, and others compute."""


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
    _import_old_names(folder)
    with _usable(folder):
        return DynamiCrafterPipeline.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)


def load_autoencoder(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """An autoencoder in diffusers format; arguments and errors as in `load_pipeline`."""
    check_autoencoder(folder)
    with _usable(folder):
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


def _import_old_names(folder: Path) -> None:
    """diffusers takes parts of other libraries only from modules that are imported; those of today are, above."""
    for entry in json.loads((folder / INDEX).read_text(encoding="utf-8")).values():
        if isinstance(entry, list) and entry[0] in MOVED:
            importlib.import_module(entry[0])


def _compare(folder: Path, name: str) -> None:
    """Compare names and shapes of the weights with those of the network that the config describes.

    The libraries leave weights that a file lacks at random numbers, with no more than a warning.
    """
    expected = {key: tuple(value.shape) for key, value in _on_meta(folder, name).state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as weights:
            found |= {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
    kept, there = (
        {key: shape for key, shape in side.items() if not key.endswith(_NO_WEIGHTS)} for side in (expected, found)
    )
    compare_shapes(files[0], kept, there)


def _on_meta(folder: Path, name: str) -> nn.Module:
    """The network without weights, in no memory."""
    kind = _KINDS[name]
    try:
        with torch.device("meta"):
            if name == "image_encoder":
                return kind(CLIPVisionConfig.from_pretrained(folder))
            return kind.from_config(kind.load_config(folder))
    except Exception as error:  # as in `_usable`
        raise _unusable(folder / "config.json", error) from error


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """The libraries raise anything at configs that do not fit them; too little memory is no fault of the folder."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _unusable(folder, error) from error


def _unusable(path: Path, error: Exception) -> ValueError:
    said = str(error)[:300] or "no reason given"
    return ValueError(
        f"{path} describes no network that can be built or loaded ({type(error).__name__}: {said}); {AGAIN}"
    )
