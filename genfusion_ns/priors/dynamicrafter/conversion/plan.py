"""What a checkpoint's tensors become, settled strictly from names and shapes before anything is read or written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from genfusion_ns.priors.dynamicrafter.architecture import weighted_parts
from genfusion_ns.priors.dynamicrafter.conversion.key_map import Piece, ignored_as, pieces_of
from genfusion_ns.priors.dynamicrafter.conversion.source import CheckpointSource, ConversionError
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline

VAE_PREFIX = "first_stage_model."
"""What the names of the autoencoder begin with in a checkpoint."""
_SHOWN = 5


@dataclass(frozen=True)
class Plan:
    """Where each parameter comes from."""

    sources: dict[str, tuple[str, Piece]]
    """By target name: name in the checkpoint and what is taken of it."""
    ignored: dict[str, int]
    """See `Conversion.ignored`."""


def plan_conversion(
    source: CheckpointSource, pipeline: DynamiCrafterPipeline, skip_vae: bool = False, where: str = "the checkpoint"
) -> Plan:
    """Match the names and shapes of a checkpoint with those of a pipeline, of which only shapes are read.

    Args:
        source: the checkpoint.
        pipeline: may be on the meta device.
        skip_vae: leave the autoencoder out on both sides.
        where: what messages call the checkpoint.

    Raises:
        ConversionError: tensors that no rule knows, that are missing, or of another shape.
    """
    targets = {
        f"{name}.{key}": tuple(value.shape)
        for name, part in weighted_parts(pipeline).items()
        if not (skip_vae and name == "vae")
        for key, value in part.state_dict().items()
    }
    layers = pipeline.unet.config.layers_per_block
    levels = _lvdm_levels(source.names())
    sources: dict[str, tuple[str, Piece]] = {}
    ignored: Counter[str] = Counter()
    unknown, misfits = [], []
    for name in source.names():
        reason = "autoencoder, replaced by --vae" if skip_vae and name.startswith(VAE_PREFIX) else ignored_as(name)
        if reason is not None:
            ignored[reason] += 1
            continue
        pieces = pieces_of(name, layers, levels)
        if not pieces or any(piece.target not in targets for piece in pieces):
            unknown.append(name)
        for piece in pieces:
            misfit = _misfit(source.shape(name), piece, targets.get(piece.target))
            misfits += [f"{name}: {misfit}"] if misfit else []
            sources[piece.target] = (name, piece)
    missing = [name for name in targets if name not in sources]
    _raise_if_any(where, unknown, missing, misfits)
    return Plan(sources, dict(ignored))


def _misfit(shape: tuple[int, ...], piece: Piece, expected: tuple[int, ...] | None) -> str | None:
    """What is wrong with the shape of a source, if anything."""
    if expected is None:
        return None
    try:
        found = tuple(piece.of(torch.empty(shape, device="meta")).shape)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None if found == expected else f"gives {found} for {piece.target}, which is {expected}"


def _raise_if_any(where: str, unknown: list[str], missing: list[str], misfits: list[str]) -> None:
    problems = [
        f"{len(entries)} {what}: {_some(entries)}"
        for entries, what in (
            (unknown, "tensors that this generator does not have"),
            (missing, "parameters without a tensor"),
            (misfits, "tensors of another shape"),
        )
        if entries
    ]
    if problems:
        raise ConversionError(
            f"{where} is not a checkpoint of GenFusion's generator or of DynamiCrafter at 512 or 1024 pixels. "
            + ". ".join(problems)
        )


def _some(entries: Iterable[str]) -> str:
    shown = list(entries)
    return ", ".join(shown[:_SHOWN]) + (" ..." if len(shown) > _SHOWN else "")


def _lvdm_levels(names: Iterable[str]) -> int:
    """Resolutions of an autoencoder with the original names; 0 where the names are those of diffusers."""
    found = (re.match(rf"{re.escape(VAE_PREFIX)}decoder\.up\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)
