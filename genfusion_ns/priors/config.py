"""Which repairer a run uses, as one config, and the function that builds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from genfusion_ns.priors.base import IdentityRepairer, VideoRepairer

_COMPACT_WEIGHTS = Path(__file__).parent / "weights" / "compact"


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


def build_repairer(config: RepairerConfig, device: torch.device | str) -> VideoRepairer:
    """Build the repairer that `config` names.

    Args:
        config: see the fields of `RepairerConfig`.
        device: device of the scene, used unless the config names one.

    Raises:
        ValueError: the model is neither a known name nor a folder, or a field is out of range.
        FileNotFoundError: the weights are incomplete or missing.
    """
    if config.model == "none":
        return IdentityRepairer(config.resolution)
    folder = _COMPACT_WEIGHTS if config.model in ("auto", "compact") else Path(config.model).expanduser()
    if config.model not in ("auto", "compact") and not folder.is_dir():
        raise ValueError(
            f"repairer model is {config.model!r}, which is neither auto, compact or none nor an existing folder; "
            "gf-train-generator writes such a folder"
        )
    # diffusers takes seconds to import, so it is reached only where a repairer is really built.
    from genfusion_ns.priors.compact import CompactRepairer

    chosen = config.device if config.device is not None else device
    return CompactRepairer.from_folder(folder, config.steps, chosen, config.resolution)
