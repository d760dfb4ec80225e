"""Published checkpoints of the PyTorch port of mip-NeRF, as runs of mipnerf-multiscale.

Nothing but tensors and plain values is unpickled, and every tensor is used: names and shapes must be those of the
network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genfusion_ns.fusion.multiscale.trainer import MipNerfTrainer, MipNerfTrainerConfig
from genfusion_ns.models.mipnerf.field import MipNerfMLP
from genfusion_ns.priors.dynamicrafter.conversion.source import ConversionError, open_checkpoint
from genfusion_ns.priors.weight_files import other_tensors

PREFIX = "mip_nerf.mlp."
_SHOWN = 3


def read_published(path: Path) -> dict[str, Tensor]:
    """The network's tensors of a published checkpoint, named as in `MipNerfMLP`, in float32.

    Args:
        path: .ckpt of Lightning or .safetensors with the same names.

    Raises:
        FileNotFoundError: there is no such file.
        ConversionError: it is damaged, holds something else, or its tensors are those of no mip-NeRF.
    """
    source = open_checkpoint(path)
    names = source.names()
    foreign = [name for name in names if not name.startswith(PREFIX)]
    if foreign:
        raise ConversionError(
            f"{path} has {len(foreign)} tensors that mip-NeRF has not ({', '.join(foreign[:_SHOWN])}); a checkpoint of "
            f"the PyTorch port is needed, whose names begin with {PREFIX}"
        )
    state = {name.removeprefix(PREFIX): source.tensor(name).float() for name in names}
    check_layout(path, {name: tuple(value.shape) for name, value in state.items()})
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ConversionError(f"{path}: {', '.join(broken[:_SHOWN])} hold values that are not finite; take another one")
    return state


def sizes_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes of the network that these tensors seem to be of; the usual ones where unclear."""
    hidden, view = shapes.get("extra_layer.weight", (256,)), shapes.get("color_layer.weight", (3, 128))
    depth = sum(name.startswith("layers.") and name.endswith(".weight") for name in shapes)
    first = shapes.get("layers.0.0.weight", (256, 96))
    return {
        "width": hidden[0],
        "depth": max(depth, 1),
        "view_width": view[-1],
        "degrees": max(first[-1] // 6, 1),
    }


def check_layout(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are not, one for one, those of a mip-NeRF.

    Raises:
        ConversionError: with those that are missing, too many or of another shape.
    """
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in MipNerfMLP(**sizes_of(shapes)).state_dict().items()}
    said = other_tensors(expected, shapes)
    if said:
        raise ConversionError(f"{path} is no mip-NeRF of the PyTorch port: {said}")


def write_run(state: dict[str, Tensor], config: MipNerfTrainerConfig) -> Path:
    """Write a run, as if it had been trained, and return its config.yml.

    Args:
        state: see `read_published`.
        config: of the method, with its data and where to write.

    Raises:
        FileExistsError: there is such a run.
    """
    model: Any = config.pipeline.model
    for name, value in sizes_of({name: tuple(tensor.shape) for name, tensor in state.items()}).items():
        setattr(model, name, value)
    path = config.get_base_dir() / "config.yml"
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another --timestamp or --output-dir")
    config.save_config()
    trainer: MipNerfTrainer = config.setup()
    trainer.setup()
    network: Any = trainer.pipeline.model.field
    network.load_state_dict(state)
    trainer.save_checkpoint(0)
    return config.get_base_dir() / "config.yml"
