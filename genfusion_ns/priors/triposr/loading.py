"""A TripoSR from wherever it lies: a folder of ours, the published folder or file, or a name on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genfusion_ns.priors.hub import fetch_files, is_hub_name
from genfusion_ns.priors.triposr.network import TripoSRNetwork
from genfusion_ns.priors.triposr.published import CONFIG, REPOSITORY, WEIGHTS, load_published, published_sizes

AUTO, SMALL = "auto", "small"
PACKAGED_WEIGHTS = Path(__file__).parents[1] / "weights" / "triposr_small"
_SIZE = "1.7 GB"
_LIMITS = (
    "note: the small network of the package knows solids of two to four plain parts, and shows little else; for photos "
    f"of other things give --model {REPOSITORY} ({_SIZE}, fetched once)"
)


@dataclass(frozen=True)
class ChosenNetwork:
    """Which network a user's word means."""

    model: str
    """What `load_network` takes."""
    note: str | None = None
    """What the user should know of it."""


def choose_network(model: str) -> ChosenNetwork:
    """The network that a user means; downloads nothing.

    Args:
        model: auto is the published one where it has been fetched already, and else the small one; small is the one
            that comes with the package; all else as in `load_network`.
    """
    if model == AUTO and _is_fetched():
        return ChosenNetwork(REPOSITORY)
    return ChosenNetwork(str(PACKAGED_WEIGHTS), _LIMITS) if model in (AUTO, SMALL) else ChosenNetwork(model)


def _is_fetched() -> bool:
    """Whether the published network is in the cache of the Hugging Face hub."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(REPOSITORY, name), str) for name in (CONFIG, WEIGHTS[0]))


def load_network(model: str) -> TripoSRNetwork:
    """The network that a user names, in float32 on the CPU.

    Args:
        model: a folder with config.json and weights, as gf-train-generator writes it; a folder with the published
            config.yaml and model.ckpt; that model.ckpt itself; or the name of a repository on the Hugging Face hub.

    Raises:
        FileNotFoundError: there is nothing of that name, or a file is missing; the message says what to get.
        ValueError: a damaged file, or one of another network.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        return load_published(path, published_sizes(_config_of(path)))
    if not is_hub_name(model):
        raise FileNotFoundError(
            f"{model} is neither a folder nor a checkpoint nor a hub name (organisation/name); give a folder that "
            f"gf-train-generator wrote, a copy of config.yaml and model.ckpt of {REPOSITORY}, or {REPOSITORY} itself"
        )
    wanted = [CONFIG, WEIGHTS[0]] if model == REPOSITORY else [CONFIG, *WEIGHTS, "*.json", "*.safetensors"]
    return _load_folder(fetch_files(model, wanted, _way_out(model)))


def _load_folder(folder: Path) -> TripoSRNetwork:
    if (folder / "config.json").is_file():
        return TripoSRNetwork.from_pretrained(folder)
    weights = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not weights:
        raise FileNotFoundError(
            f"{folder} holds no TripoSR: neither config.json, as gf-train-generator writes it, nor "
            f"{' or '.join(WEIGHTS)}, as {REPOSITORY} has it"
        )
    return load_published(weights[0], published_sizes(_config_of(weights[0])))


def _config_of(weights: Path) -> Path:
    config = weights.with_name(CONFIG)
    if not config.is_file():
        raise FileNotFoundError(f"{config} is missing: a TripoSR is {weights.name} with the {CONFIG} published with it")
    return config


def _way_out(repository: str) -> str:
    return (
        f"On a machine with network, get {CONFIG} and {WEIGHTS[0]} ({_SIZE} of {REPOSITORY}) from "
        f"https://huggingface.co/{repository} (hf download {repository} --local-dir FOLDER), copy them here and give "
        "the path: --model FOLDER"
    )
