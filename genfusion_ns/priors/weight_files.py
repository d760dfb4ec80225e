"""Folders with the weights of a network, read without ever unpickling: config.json and a safetensors file.

Errors are told apart before a network is built, so that a run can refuse a folder when it starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from genfusion_ns.json_files import read_json
from genfusion_ns.priors.config_checks import COMPACT, Check, check_config, check_kind

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
_SHOWN = 3


def check_folder(folder: Path) -> None:
    """Look at both files of a folder with the weights of a compact network, without loading them.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: config.json is not that of a compact network, or the weights are no whole safetensors file.
    """
    read_config(folder)
    with _open(folder / WEIGHTS_FILE):
        pass  # opening reads the header and compares it with the length of the file


def read_config(
    folder: Path, kind: str = "CompactUNet", checks: Mapping[str, Check] = COMPACT, what: str = "a repairer"
) -> dict[str, Any]:
    """The content of the config.json of a network, whose values have been checked.

    Args:
        folder: of the network.
        kind: class of the network.
        checks: of its config.
        what: the thing in words, for messages.

    Raises:
        FileNotFoundError: it or the weights are missing.
        ValueError: it is no JSON object, of another network, or has values of a wrong type or out of range.
    """
    for name in ("config.json", WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: {what} is a folder with config.json and {WEIGHTS_FILE} (pickled weights, "
                ".bin or .ckpt, are never loaded); gf-train-generator writes one"
            )
    config = read_json(folder / "config.json", "Copy the folder again.")
    check_kind(config, kind)
    check_config(config, checks)
    return config.value


def forget_origin(path: Path) -> None:
    """Remove from a config the folder that it was read from, which means nothing elsewhere."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("_name_or_path", None)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_weights(network: nn.Module, folder: Path) -> None:
    """Give `network`, which may be on the meta device, the weights of a folder, in float32 on the CPU.

    Raises:
        ValueError: the file is damaged, or its tensors are not those of the network, or not finite.
    """
    path = folder / WEIGHTS_FILE
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    with _open(path) as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        compare_shapes(path, expected, found)
        weights = {key: file.get_tensor(key) for key in found}
    require_numbers(path, weights)
    network.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} does not fit {path.with_name('config.json')}: it is no whole safetensors file ({error}); copy it "
            "again, or convert weights of another format"
        ) from error


def other_tensors(expected: Mapping[str, tuple], found: Mapping[str, tuple]) -> str:
    """Which tensors are missing, unexpected or of another shape, for people; empty where all agree."""
    other = [
        f"{key} {found[key]} for {expected[key]}" for key in expected if key in found and found[key] != expected[key]
    ]
    kinds = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": other,
    }
    wrong = [f"{len(keys)} tensors {kind} ({', '.join(keys[:_SHOWN])})" for kind, keys in kinds.items() if keys]
    return "; ".join(wrong)


def compare_shapes(
    path: Path, expected: Mapping[str, tuple], found: Mapping[str, tuple], config: str = "config.json"
) -> None:
    """Refuse weights that are not those of the network which the config beside them describes.

    Args:
        path: the file of the weights, for the message.
        expected: shapes of the network's tensors by name.
        found: those of the file.
        config: name of the config beside it.

    Raises:
        ValueError: other names, or other shapes.
    """
    wrong = other_tensors(expected, found)
    if wrong:
        raise ValueError(
            f"{path} does not fit {path.with_name(config)}: {wrong}. Both files must come from the same training"
        )


def require_numbers(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of a file that are no finite numbers.

    Raises:
        ValueError: with the file and the name of the tensor.
    """
    for key, value in weights.items():
        if not value.is_floating_point():
            raise ValueError(f"{path}: {key} is stored as {value.dtype}; float16, bfloat16 or float32 is needed")
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{path}: {key} contains NaN or infinity, as after a training that diverged; take another checkpoint"
            )
