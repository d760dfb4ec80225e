"""Which repairer a run uses, as one config, and the function that builds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from genfusion_ns.priors.base import IdentityRepairer, VideoRepairer
from genfusion_ns.priors.weight_files import check_folder

_COMPACT_WEIGHTS = Path(__file__).parent / "weights" / "compact"
_EMBEDDED = ("auto", "compact")
_SIDES = (16, 4096)
"""Least and largest side of a clip, in pixels; the networks work on patches of 16."""


@dataclass
class RepairerConfig:
    """The video diffusion model that repairs artifact clips."""

    model: str = "auto"
    """auto (the best that this installation has), compact (the small model that comes with the package, any machine),
    none (no repair, for comparison), or a folder written by gf-train-generator."""
    steps: int = 4
    """Denoising steps per clip."""
    device: str | None = None
    """Device of the model, such as cpu or cuda:1; by default that of the scene."""
    resolution: tuple[int, int] = (256, 144)
    """Width and height in pixels at which clips are rendered and repaired."""


def check_repairer(config: RepairerConfig) -> None:
    """Check a config without building anything, so that a run is refused when it starts and not at its first round.

    Raises:
        ValueError: the model is neither a known name nor a folder, its files are damaged, or a field is out of range.
        FileNotFoundError: the weights are incomplete or missing.
    """
    if not 1 <= config.steps <= 1000:
        raise ValueError(f"--pipeline.repairer.steps is {config.steps}; allowed are 1..1000, 4 is usual")
    low, high = _SIDES
    if not all(low <= side <= high for side in config.resolution):
        raise ValueError(
            f"--pipeline.repairer.resolution is {config.resolution}; width and height must be {low}..{high} pixels, "
            "256 144 is usual"
        )
    _check_device(config.device)
    if config.model != "none":
        check_folder(_folder(config.model))


def build_repairer(config: RepairerConfig, device: torch.device | str) -> VideoRepairer:
    """Build the repairer that `config` names.

    Args:
        config: see the fields of `RepairerConfig`.
        device: device of the scene, used unless the config names one.

    Raises:
        ValueError: the model is neither a known name nor a folder, or a field is out of range.
        FileNotFoundError: the weights are incomplete or missing.
    """
    check_repairer(config)
    if config.model == "none":
        return IdentityRepairer(config.resolution)
    # diffusers takes seconds to import, so it is reached only where a repairer is really built.
    from genfusion_ns.priors.compact import CompactRepairer

    chosen = config.device if config.device is not None else device
    return CompactRepairer.from_folder(_folder(config.model), config.steps, chosen, config.resolution)


def _folder(model: str) -> Path:
    if model in _EMBEDDED:
        return _COMPACT_WEIGHTS
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"repairer model is {model!r}, which is neither auto, compact or none nor an existing folder; "
            "gf-train-generator writes such a folder (--pipeline.repairer.model FOLDER)"
        )
    return folder


def _check_device(name: str | None) -> None:
    if name is None:
        return
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--pipeline.repairer.device is {name!r}; allowed are cpu, cuda, cuda:0 and so on") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--pipeline.repairer.device is {name!r}, this machine has {torch.cuda.device_count()} CUDA device(s); "
            "use cpu, or leave it out to use the scene's device"
        )
