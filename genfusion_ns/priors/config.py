"""Which repairer a run uses, as one config, and the function that builds it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from tyro.conf import Suppress

from genfusion_ns.priors.base import IdentityRepairer, VideoRepairer
from genfusion_ns.priors.dynamicrafter.folder import INDEX, check_pipeline_folder
from genfusion_ns.priors.dynamicrafter.sampling import Sampling
from genfusion_ns.priors.hub import (
    PUBLISHED,
    convert_file,
    converted_folder,
    fetch_generator,
    is_converted,
    is_hub_name,
)
from genfusion_ns.priors.weight_files import check_folder
from genfusion_ns.stored_config import StoredConfig

_COMPACT_WEIGHTS = Path(__file__).parent / "weights" / "compact"
_COMPACT_STEPS = 1
_COMPACT_SIZE = (256, 144)
_SIDES = (16, 4096)
"""Least and largest side of a clip, in pixels; the networks work on patches of 16."""
_DTYPES = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_SHARED = ("model", "steps", "device", "resolution", "dtype", "task_guidance_scale")


@dataclass
class RepairerConfig(StoredConfig):
    """The video diffusion model that repairs artifact clips.

    There are two kinds: compact, small, comes with the package; dynamicrafter, the generator that GenFusion published
    (16 frames of 960 x 512, needs a GPU), or others of its family. Options of dynamicrafter are refused with others.
    """

    model: str = "auto"
    """auto (the published generator where a converted copy is in the cache and there is a GPU, else compact; downloads
    nothing), compact, none (no repair, for comparison), a folder written by gf-train-generator (compact) or
    gf-convert-generator (dynamicrafter), a checkpoint file, or a name on the Hugging Face hub, such as
    Sibo2rr/GenFusion-GenerationModel (10.4 GB). Files and downloads are converted once, into ~/.cache/genfusion_ns."""
    steps: int | None = None
    """Denoising steps per clip; by default 1 with compact, 25 with dynamicrafter."""
    device: str | None = None
    """Device of the model, such as cpu or cuda:1; by default that of the scene."""
    resolution: tuple[int, int] | None = None
    """Width and height in pixels at which clips are rendered and repaired; by default 256 144 with compact, with
    dynamicrafter what it was trained at (960 512, multiples of 64)."""
    guidance_scale: float | None = None
    """dynamicrafter: weight of the reference photo; 1 does without guidance, in half the time. By default 3.2, to
    complete scenes 2.2."""
    guidance_rescale: float | None = None
    """dynamicrafter: how far the spread of the guided prediction is pulled back, 0..1; 0.7 by default."""
    eta: float | None = None
    """dynamicrafter: randomness of the steps, 0 (none) to 1 (default)."""
    spacing: Literal["uniform", "trailing"] | None = None
    """dynamicrafter: time steps; uniform (default, as published, starts a little below pure noise) or trailing."""
    start_noise: float | None = None
    """dynamicrafter: noise level from which covered pixels start, as a share of the time steps; 1 (default) is pure
    noise as published, 0.6 keeps more of the render where alpha is high. Empty pixels always start from noise."""
    sample_condition: bool | None = None
    """dynamicrafter: draw the latents of the render (default, as published) or take their mean, the same each time."""
    samples: int | None = None
    """dynamicrafter: repairs drawn per clip, of which the one that agrees best with photos and covered render is kept;
    1 by default."""
    batch_guidance: bool | None = None
    """dynamicrafter: both branches of the guidance in one call (default); False takes less memory."""
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    """dynamicrafter: type of the weights; auto is fp16 on a GPU and fp32 on the CPU. compact: type of the arithmetic;
    auto is bf16 where the processor has it, else fp32."""
    offload: Literal["none", "model"] = "none"
    """dynamicrafter: model keeps only the part on the GPU that is running, for little memory."""
    task_guidance_scale: Suppress[float] = 3.2
    """What guidance_scale None stands for in this task; set by the methods, of no meaning for compact."""


@dataclass(frozen=True)
class _Choice:
    """A repairer that is on this disk."""

    kind: Literal["none", "compact", "dynamicrafter"]
    folder: Path
    reason: str | None = None
    """Why, where the user left it open."""


def check_repairer(config: RepairerConfig, device: torch.device | str | None = None) -> None:
    """Check a config without building anything, so that a run is refused when it starts and not at its first round.

    A hub name or a checkpoint file that is not in the cache is fetched and converted here, for the same reason.

    Args:
        config: see the fields of `RepairerConfig`.
        device: device of the scene; CUDA where there is such a device by default.

    Raises:
        ValueError: the model is none of those listed, its files are damaged, or a field is out of range or does not
            belong to it.
        FileNotFoundError: the weights are incomplete or missing, or cannot be downloaded.
    """
    _choose(config, _device(config, device))


def build_repairer(config: RepairerConfig, device: torch.device | str) -> VideoRepairer:
    """Build the repairer that `config` names; errors as in `check_repairer`.

    Args:
        config: see the fields of `RepairerConfig`.
        device: device of the scene, used unless the config names one.
    """
    target = _device(config, device)
    choice = _choose(config, target)
    if choice.reason is not None:
        print(f"--pipeline.repairer.model auto: {choice.kind}, because {choice.reason}")
    if choice.kind == "none":
        return IdentityRepairer(config.resolution or _COMPACT_SIZE)
    # diffusers takes seconds to import, so it is reached only where a repairer is really built.
    if choice.kind == "compact":
        from genfusion_ns.priors.compact.repairer import CompactRepairer

        steps = _COMPACT_STEPS if config.steps is None else config.steps
        size = config.resolution or _COMPACT_SIZE
        return CompactRepairer.from_folder(choice.folder, steps, target, size, _DTYPES[config.dtype])
    from genfusion_ns.priors.dynamicrafter.repairer import DynamiCrafterRepairer

    return DynamiCrafterRepairer.from_folder(
        choice.folder,
        _sampling(config),
        target,
        config.resolution,
        offload=config.offload == "model",
        samples=1 if config.samples is None else config.samples,
        dtype=_DTYPES[config.dtype],
    )


def _choose(config: RepairerConfig, device: torch.device) -> _Choice:
    """The repairer that a config means, with everything checked that can be without loading it."""
    _check_ranges(config)
    choice = _find(config.model, device)
    if choice.kind == "dynamicrafter":
        _check_dynamicrafter(config, choice, device)
        return choice
    foreign = [field.name for field in fields(config) if getattr(config, field.name) != field.default]
    foreign = [name for name in foreign if name not in _SHARED]
    if foreign:
        raise ValueError(
            f"{_flag(foreign[0])} is an option of dynamicrafter generators, but the repairer is {choice.kind}"
            f"{f' ({choice.reason})' if choice.reason else ''}; leave it out, or name such a generator with "
            "--pipeline.repairer.model"
        )
    if choice.kind == "compact":
        check_folder(choice.folder)
    return choice


def _find(model: str, device: torch.device) -> _Choice:
    if model == "none":
        return _Choice("none", _COMPACT_WEIGHTS)
    if model == "compact":
        return _Choice("compact", _COMPACT_WEIGHTS)
    if model == "auto":
        return _automatic(device)
    path = Path(model).expanduser()
    if path.is_file():
        folder = convert_file(path)
    elif path.is_dir():
        folder = path
    elif is_hub_name(model):
        folder = fetch_generator(model)
    else:
        raise ValueError(
            f"repairer model is {model!r}, which is neither auto, compact or none nor an existing folder, checkpoint "
            "file or hub name (organisation/name); gf-train-generator and gf-convert-generator write such folders "
            "(--pipeline.repairer.model FOLDER)"
        )
    return _Choice("dynamicrafter" if (folder / INDEX).is_file() else "compact", folder)


def _automatic(device: torch.device) -> _Choice:
    if device.type != "cuda":
        return _Choice("compact", _COMPACT_WEIGHTS, f"the device is {device.type}, the published generator needs a GPU")
    if not is_converted(PUBLISHED):
        reason = f"the published generator is not here; --pipeline.repairer.model {PUBLISHED} downloads it (10.4 GB)"
        return _Choice("compact", _COMPACT_WEIGHTS, reason)
    return _Choice("dynamicrafter", converted_folder(PUBLISHED), "the published generator is in the cache")


def _check_dynamicrafter(config: RepairerConfig, choice: _Choice, device: torch.device) -> None:
    facts = check_pipeline_folder(choice.folder)
    multiple = facts.size_multiple
    if config.resolution is not None and any(side < multiple or side % multiple for side in config.resolution):
        usual = " ".join(str(side) for side in facts.resolution)
        raise ValueError(
            f"--pipeline.repairer.resolution is {config.resolution}; the generator in {choice.folder} takes multiples "
            f"of {multiple}, {usual} is usual"
        )
    if config.offload == "model" and device.type == "cpu":
        raise ValueError("--pipeline.repairer.offload model needs a GPU, but the device is cpu; use none")
    _sampling(config)


def _sampling(config: RepairerConfig) -> Sampling:
    """The sampling of dynamicrafter."""
    names = ("steps", "guidance_rescale", "eta", "start_noise", "sample_condition", "batch_guidance")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    scale = config.task_guidance_scale if config.guidance_scale is None else config.guidance_scale
    spacing = "uniform_trailing" if config.spacing == "trailing" else "uniform"
    try:
        return Sampling(guidance_scale=scale, spacing=spacing, **given)
    except ValueError as error:
        name, _, said = str(error).partition(" ")
        raise ValueError(f"{_flag(name)} {said}") from error


def _flag(name: str) -> str:
    return f"--pipeline.repairer.{name.replace('_', '-')}"


def _check_ranges(config: RepairerConfig) -> None:
    """What is wrong whatever the model; said before anything is downloaded."""
    if config.samples is not None and not 1 <= config.samples <= 64:
        raise ValueError(f"--pipeline.repairer.samples is {config.samples}; allowed are 1..64")
    _sampling(replace(config, steps=None))  # which steps are possible depends on the model
    if config.steps is not None and not 1 <= config.steps <= 1000:
        raise ValueError(
            f"--pipeline.repairer.steps is {config.steps}; allowed are 1..1000, 1 is usual with compact and 25 with "
            "dynamicrafter"
        )
    low, high = _SIDES
    if config.resolution is not None and not all(low <= side <= high for side in config.resolution):
        raise ValueError(
            f"--pipeline.repairer.resolution is {config.resolution}; width and height must be {low}..{high} pixels, "
            "256 144 is usual with compact and 960 512 with dynamicrafter"
        )


def _device(config: RepairerConfig, device: torch.device | str | None) -> torch.device:
    name = config.device
    if name is None:
        return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--pipeline.repairer.device is {name!r}; allowed are cpu, cuda, cuda:0 and so on") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--pipeline.repairer.device is {name!r}, this machine has {torch.cuda.device_count()} CUDA device(s); "
            "use cpu, or leave it out to use the scene's device"
        )
    return chosen
