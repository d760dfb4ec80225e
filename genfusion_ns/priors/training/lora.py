"""Training of a few numbers beside frozen weights (LoRA, Hu et al. 2022), by peft."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn


@dataclass
class LoraSettings:
    """Low-rank changes of the U-Net in place of a training of all weights; the image projection then stays as it is."""

    rank: int = 0
    """Rank of the changes; 0 trains all weights, 16 is usual."""
    alpha: float = 16.0
    """Scale of the changes, which are multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Ends of the names of the layers that are changed."""


def add_lora(network: nn.Module, settings: LoraSettings) -> Any:
    """The network as a peft model: frozen, with changes of rank `settings.rank` that do nothing yet.

    Raises:
        ImportError: peft is not installed.
        ValueError: a negative rank, or no layer has one of the names.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("--optimisation.lora.rank needs peft: pip install genfusion-ns[train]") from error
    if settings.rank < 1:
        raise ValueError(f"--optimisation.lora.rank is {settings.rank}; at least 1 is needed, or 0 for no LoRA")
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.targets))  # pyright: ignore[reportArgumentType]
    try:
        return get_peft_model(network, config)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise ValueError(f"--optimisation.lora.targets {' '.join(settings.targets)}: {error}") from error


def merge_lora(model: Any, weights: dict[str, Tensor]) -> nn.Module:
    """The plain network with the changes of `weights` added to its layers.

    Args:
        model: as `add_lora` gives it, on any device, the meta device included; used up.
        weights: a state of it, used up as well.
    """
    model.load_state_dict(weights, assign=True)
    return model.merge_and_unload()


def save_lora(model: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Write the changes alone, as ``peft.PeftModel.from_pretrained`` reads them; arguments as in `merge_lora`."""
    model.load_state_dict(weights, assign=True)
    model.save_pretrained(str(folder), safe_serialization=True)
