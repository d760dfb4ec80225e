"""What folders of diffusers pipelines have in common: looked at without building or importing what they name."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from genfusion_ns.json_files import JsonValue, read_json, sentence
from genfusion_ns.moved import MOVED
from genfusion_ns.priors.config_checks import check_weight_index
from genfusion_ns.priors.weight_files import compare_shapes

INDEX = "model_index.json"
"""The file that tells a folder of a diffusers pipeline from others."""
_NO_WEIGHTS = "position_ids"
"""Tensors that some releases of transformers store, and others compute."""


def check_part_class(kind: tuple[str, str], value: JsonValue) -> None:
    """Refuse another class than that of a part in a `model_index.json`: the library imports whatever stands there.

    Args:
        kind: library or module, and class.
        value: the entry.
    """
    library, name = kind
    allowed = f"[{library!r}, {name!r}]"
    entries = value.entries(allowed)
    if len(entries) != 2 or entries[1].value != name or not isinstance(entries[0].value, str):
        value.refuse(allowed)
    # Modules of this package may have had other names when the folder was written.
    if entries[0].value.split(".")[0] != library.split(".")[0]:
        value.refuse(allowed)


def read_part(folder: Path, again: str) -> JsonValue:
    """The config of a network whose files are there and whole.

    Args:
        folder: of the part.
        again: the way out where a file is damaged.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: the folder is incomplete or damaged; {again}")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no .safetensors file: the folder is incomplete or damaged; {again}")
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass  # opening reads the header and compares it with the length of the file
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}); {again}") from error
    for path in folder.glob("*.safetensors.index.json"):
        index = read_json(path, sentence(again))
        check_weight_index(index, [file.name for file in files], lambda entry: entry.path_in(folder))
    return read_json(folder / "config.json", sentence(again))


def check_lengths(config: JsonValue, names: Sequence[str], again: str) -> None:
    """Refuse lists of a config that belong together and have other numbers of entries."""
    lengths = {name: len(config[name].value) for name in names if config[name].is_given}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"{config.file}: lists that belong together have other numbers of entries: {said}; {again}")


def compare_part(folder: Path, network: nn.Module) -> None:
    """Compare names and shapes of stored weights with those of the network that the config beside them describes.

    The libraries leave weights that a file lacks at random numbers, with no more than a warning.

    Args:
        folder: of the part.
        network: without weights, in no memory.

    Raises:
        ValueError: they differ.
    """
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as weights:
            found |= {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
    kept, there = (
        {key: shape for key, shape in side.items() if not key.endswith(_NO_WEIGHTS)} for side in (expected, found)
    )
    compare_shapes(files[0], kept, there)


def import_old_names(folder: Path) -> None:
    """diffusers takes parts of other libraries only from modules that are imported; those of today are."""
    for entry in json.loads((folder / INDEX).read_text(encoding="utf-8")).values():
        if isinstance(entry, list) and entry[0] in MOVED:
            importlib.import_module(entry[0])


@contextmanager
def usable(path: Path, again: str) -> Iterator[None]:
    """The libraries raise anything at configs that do not fit them; too little memory is no fault of the folder.

    Raises:
        ValueError: whatever was raised inside, in words.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = str(error)[:300] or "no reason given"
        raise ValueError(
            f"{path} describes no network that can be built or loaded ({type(error).__name__}: {said}); {again}"
        ) from error
