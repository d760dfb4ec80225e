"""Depth of single photos from a depth-estimation model of the transformers library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from genfusion_ns.priors.hub import is_hub_name
from genfusion_ns.priors.mono_depth import MonoDisparity, check_images

_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
_SUGGESTED = "depth-anything/Depth-Anything-V2-Small-hf"
_LEAST_DEPTH = 1e-3
"""Metres or model units; depth is clamped here before it is inverted."""


class TransformersMonoDepth:
    """`MonoDepth` from `AutoModelForDepthEstimation`, image by image; see `genfusion_ns.priors.mono_depth`.

    Known are models whose output has one documented meaning: ``depth_anything`` (relative: disparity; metric: depth),
    ``dpt`` (disparity, as MiDaS) and ``glpn`` (depth). Weights are read from safetensors files only, and code that
    comes with a model is never run.
    """

    def __init__(self, model: str | Path, device: torch.device | str = "cpu") -> None:
        """
        Args:
            model: folder with the files of a model, or its name on the Hugging Face hub, which downloads it once.
            device: where the model runs.

        Raises:
            ImportError: transformers is not installed.
            FileNotFoundError: the model is neither such a folder nor can be downloaded or found in the cache.
            ValueError: the model is no depth estimator of a known kind, or its files are damaged.
        """
        self.name = str(model)
        self.device = torch.device(device)
        self._processor, network, self._gives_depth = _load(str(model))
        self._model = network.eval().to(self.device)

    @torch.no_grad()
    def estimate(self, images: Float[Tensor, "N H W 3"], generator: torch.Generator) -> MonoDisparity:
        """See `MonoDepth.estimate`; nothing is random here, and confidence is 1 where the output is finite."""
        check_images(images)
        disparity = torch.stack([self._one(image) for image in images]).to(images)
        known = torch.isfinite(disparity)
        return MonoDisparity(torch.where(known, disparity, 0.0), known.to(images.dtype))

    def _one(self, image: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 1"]:
        pixels = (image.permute(2, 0, 1).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        inputs = self._processor(images=pixels, return_tensors="pt").to(self.device)
        found = self._model(**inputs).predicted_depth.float()[None]
        # Bicubic interpolation, the default of the library, overshoots at edges.
        found = torch.nn.functional.interpolate(found, image.shape[:2], mode="bilinear", align_corners=False)
        if self._gives_depth:
            found = 1 / found.clamp(min=_LEAST_DEPTH)
        return found[0].permute(1, 2, 0)


def check_depth_model(model: str) -> None:
    """Refuse what cannot be a depth model, without loading it.

    Raises:
        FileNotFoundError: a folder that lacks files, or neither a folder nor a name on the Hugging Face hub.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        _check_folder(folder)
    elif not is_hub_name(model):
        raise FileNotFoundError(f"the depth model {model!r} is no folder here. {_way_out(_SUGGESTED)}")


def _load(model: str) -> tuple[Any, Any, bool]:
    """Image processor, network, and whether the network gives depth."""
    try:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise ImportError(
            f"the depth model {model} needs the transformers library: pip install transformers"
        ) from error
    folder = Path(model).expanduser()
    is_folder = folder.is_dir()
    if is_folder:
        _check_folder(folder)
    source = str(folder) if is_folder else model
    options: dict[str, Any] = {"local_files_only": is_folder, "trust_remote_code": False}
    try:
        gives_depth = _gives_depth(source, AutoConfig.from_pretrained(source, **options))
        processor = AutoImageProcessor.from_pretrained(source, **options)
        network = AutoModelForDepthEstimation.from_pretrained(source, use_safetensors=True, **options)
    except OSError as error:
        if is_folder:
            raise ValueError(f"the depth model in {folder} cannot be read: {error}") from error
        raise FileNotFoundError(
            f"the depth model {model!r} is no folder here and could not be had from the Hugging Face hub "
            f"({str(error).splitlines()[0]}). {_way_out(model)}"
        ) from error
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{source} is not a usable depth-estimation model: {error}") from error
    return processor, network, gives_depth


def _check_folder(folder: Path) -> None:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing == ["model.safetensors"] and (folder / "model.safetensors.index.json").is_file():
        return
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; a depth model is a folder with {', '.join(_FILES)} (pickled "
            f"weights are not read). {_way_out(_SUGGESTED)}"
        )


def _way_out(model: str) -> str:
    return (
        f"On a machine with network, run: hf download {model} --local-dir FOLDER; copy FOLDER here and give its path. "
        f"A small model that works: {_SUGGESTED}"
    )


def _gives_depth(name: str, config: Any) -> bool:
    """Whether the output of a model is depth rather than disparity."""
    if config.model_type == "dpt":
        return False
    if config.model_type == "glpn":
        return True
    if config.model_type == "depth_anything":
        return config.depth_estimation_type == "metric"
    raise ValueError(
        f"{name} is of the kind {config.model_type!r}; it is not known whether its output is depth or disparity. "
        f"Known kinds: depth_anything, dpt, glpn. {_SUGGESTED} is one"
    )
