"""Which repairer a run uses, as one config; the table of the kinds that there are; and how one is found and built."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from genfusion_ns.priors.base import Capabilities, VideoRepairer
from genfusion_ns.priors.compact.config import PACKAGED_WEIGHTS, CompactOptions
from genfusion_ns.priors.dynamicrafter.config import DynamiCrafterOptions
from genfusion_ns.priors.hub import PUBLISHED, convert_file, converted_folder, fetch_repairer, is_converted, is_hub_name
from genfusion_ns.priors.identity import NoRepairOptions
from genfusion_ns.priors.options import FLAG, PriorOptions, SharedSettings
from genfusion_ns.priors.reconfusion.config import ReconFusionOptions
from genfusion_ns.stored_config import StoredConfig

_SIDES = (16, 4096)
"""Least and largest side of a clip, in pixels; the networks work on patches of 16."""
_STEPS = 1000
_DTYPES = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass
class RepairerConfig(StoredConfig):
    """The video diffusion model that repairs artifact clips.

    Which one, what is asked of all of them, and below for each kind the options that it alone has. Options of another
    kind than the model's are refused.
    """

    model: str = "auto"
    """auto (the published generator where a converted copy is in the cache and there is a GPU, else compact; downloads
    nothing), compact, none (no repair, for comparison), a folder written by gf-train-generator (compact) or
    gf-convert-generator (dynamicrafter), a checkpoint file, or a name on the Hugging Face hub, such as
    Sibo2rr/GenFusion-GenerationModel (10.4 GB). Files and downloads are converted once, into ~/.cache/genfusion_ns."""
    steps: int | None = None
    """Denoising steps per clip, 1..1000; by default 1 with compact, 25 with dynamicrafter."""
    device: str | None = None
    """Device of the model, such as cpu or cuda:1; by default that of the scene."""
    resolution: tuple[int, int] | None = None
    """Width and height in pixels at which clips are rendered and repaired; by default 256 144 with compact, with
    dynamicrafter what it was trained at (960 512, multiples of 64)."""
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    """dynamicrafter: type of the weights; auto is fp16 on a GPU and fp32 on the CPU. compact: type of the arithmetic;
    auto is bf16 where the processor has it, else fp32."""

    # The table of the kinds: a kind is registered by its field, which is named as it is.
    none: NoRepairOptions = field(default_factory=NoRepairOptions)
    """No repair."""
    compact: CompactOptions = field(default_factory=CompactOptions)
    """The small generator of the package."""
    reconfusion: ReconFusionOptions = field(default_factory=ReconFusionOptions)
    """Draws single views, for the method reconfusion; repairs no clips."""
    dynamicrafter: DynamiCrafterOptions = field(default_factory=DynamiCrafterOptions)
    """The published generator and its family: 16 frames of 960 x 512, needs a GPU."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Runs of version 0.1 have the options of dynamicrafter beside those of all kinds."""
        flat = {entry.name: state[entry.name] for entry in fields(DynamiCrafterOptions) if entry.name in state}
        if flat:
            state = {name: value for name, value in state.items() if name not in flat}
            state.setdefault("dynamicrafter", DynamiCrafterOptions(**flat))
        super().__setstate__(state)

    def options(self) -> dict[str, PriorOptions]:
        """The options of each kind, by its name."""
        return {kind: getattr(self, kind) for kind in KINDS}


KINDS: dict[str, type[PriorOptions]] = {
    entry.name: entry.default_factory
    for entry in fields(RepairerConfig)
    if entry.default_factory is not MISSING
    and isinstance(entry.default_factory, type)
    and issubclass(entry.default_factory, PriorOptions)
}
"""The kinds of priors; read off the fields of `RepairerConfig`."""


@dataclass(frozen=True)
class FoundRepairer:
    """A repairer that is on this disk, and what a run can count on before it is built."""

    kind: str
    folder: Path
    reason: str | None = None
    """Why this one, where the user left it open."""

    @property
    def capabilities(self) -> Capabilities:
        """What it will be able to do."""
        return KINDS[self.kind].capabilities


def find_repairer(config: RepairerConfig, device: torch.device | str | None = None) -> FoundRepairer:
    """The repairer that a config means, whose files have not been looked at; arguments and errors as below.

    A hub name or a checkpoint file that is not in the cache is fetched and converted.
    """
    return _find(config.model, _device(config, device))


def check_repairer(config: RepairerConfig, device: torch.device | str | None = None) -> FoundRepairer:
    """Check a config without building anything, so that a run is refused when it starts and not at its first round.

    What has to be fetched and converted is, see `find_repairer`, for the same reason.

    Args:
        config: see the fields of `RepairerConfig`.
        device: device of the scene; CUDA where there is such a device by default.

    Returns:
        The repairer that will be built.

    Raises:
        ValueError: the model is none of those listed, its files are damaged, or a field is out of range or does not
            belong to it.
        FileNotFoundError: the weights are incomplete or missing, or cannot be downloaded.
    """
    target = _device(config, device)
    _check_ranges(config)
    found = _find(config.model, target)
    _refuse_options_of_others(config, found)
    getattr(config, found.kind).check(_shared(config, found, target))
    return found


def build_repairer(config: RepairerConfig, device: torch.device | str) -> VideoRepairer:
    """Build the repairer that `config` names; errors as in `check_repairer`.

    Args:
        config: see the fields of `RepairerConfig`.
        device: device of the scene, used unless the config names one.
    """
    found = check_repairer(config, device)
    if found.reason is not None:
        print(f"{FLAG}.model auto: {found.kind}, because {found.reason}")
    return getattr(config, found.kind).build(_shared(config, found, _device(config, device)))


def _shared(config: RepairerConfig, found: FoundRepairer, device: torch.device) -> SharedSettings:
    return SharedSettings(found.folder, device, config.steps, config.resolution, _DTYPES[config.dtype])


def _refuse_options_of_others(config: RepairerConfig, found: FoundRepairer) -> None:
    for kind, options in config.options().items():
        if kind != found.kind and (foreign := options.given()):
            raise ValueError(
                f"{options.flag(foreign[0])} is an option of {kind} generators, but the repairer is {found.kind}"
                f"{f' ({found.reason})' if found.reason else ''}; leave it out, or name such a generator with "
                f"{FLAG}.model"
            )


def _find(model: str, device: torch.device) -> FoundRepairer:
    if model == "auto":
        return _automatic(device)
    named = KINDS.get(model)
    if named is not None and named.weights is not None:
        return FoundRepairer(model, named.weights)
    path = Path(model).expanduser()
    if path.is_file():
        folder = convert_file(path)
    elif path.is_dir():
        folder = path
    elif is_hub_name(model):
        folder = fetch_repairer(model)
    else:
        raise ValueError(
            f"repairer model is {model!r}, which is neither {', '.join(['auto', *_names()[:-1]])} or {_names()[-1]} "
            "nor an existing folder, checkpoint file or hub name (organisation/name); gf-train-generator and "
            f"gf-convert-generator write such folders ({FLAG}.model FOLDER)"
        )
    # The check of compact says best what a folder lacks that nobody recognises.
    return FoundRepairer(next((kind for kind, entry in KINDS.items() if entry.recognises(folder)), "compact"), folder)


def _names() -> list[str]:
    """Kinds that can be named as a model."""
    return sorted(kind for kind, entry in KINDS.items() if entry.weights is not None)


def _automatic(device: torch.device) -> FoundRepairer:
    reason = f"the device is {device.type}, the published generator needs a GPU"
    if device.type == "cuda" and is_converted(PUBLISHED):
        reason = "the published generator is in the cache"
        return FoundRepairer(DynamiCrafterOptions.kind, converted_folder(PUBLISHED), reason)
    if device.type == "cuda":
        reason = f"the published generator is not here; {FLAG}.model {PUBLISHED} downloads it (10.4 GB)"
    return FoundRepairer(CompactOptions.kind, PACKAGED_WEIGHTS, reason)


def _check_ranges(config: RepairerConfig) -> None:
    """What is wrong whatever the model; said before anything is downloaded."""
    for options in config.options().values():
        options.check_ranges()
    if config.steps is not None and not 1 <= config.steps <= _STEPS:
        usual = {kind: entry.usual_steps for kind, entry in KINDS.items() if entry.usual_steps is not None}
        said = " and ".join(f"{steps} with {kind}" for kind, steps in usual.items())
        raise ValueError(f"{FLAG}.steps is {config.steps}; allowed are 1..{_STEPS}, usual are {said}")
    low, high = _SIDES
    if config.resolution is not None and not all(low <= side <= high for side in config.resolution):
        usual = {kind: entry.usual_resolution for kind, entry in KINDS.items() if entry.usual_steps is not None}
        said = " and ".join(f"{width} {height} with {kind}" for kind, (width, height) in usual.items())
        raise ValueError(
            f"{FLAG}.resolution is {config.resolution}; width and height must be {low}..{high} pixels, usual are {said}"
        )


def _device(config: RepairerConfig, device: torch.device | str | None) -> torch.device:
    name = config.device
    if name is None:
        return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{FLAG}.device is {name!r}; allowed are cpu, cuda, cuda:0 and so on") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{FLAG}.device is {name!r}, this machine has {torch.cuda.device_count()} CUDA device(s); use cpu, or "
            "leave it out to use the scene's device"
        )
    return chosen
