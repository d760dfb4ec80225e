"""From a published checkpoint to a folder that `DynamiCrafterPipeline.from_pretrained` reads.

The conversion is strict both ways: every parameter of the pipeline is filled once, and every tensor of the file is used
or on the list of those that are not needed. All of that is settled from names and shapes before anything is written;
then tensors pass one by one from the mapped file to the written one.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from genfusion_ns.files import require_room
from genfusion_ns.priors.dynamicrafter.architecture import Architecture, weighted_parts
from genfusion_ns.priors.dynamicrafter.conversion.plan import VAE_PREFIX, Plan, plan_conversion
from genfusion_ns.priors.dynamicrafter.conversion.safetensors_writer import write_safetensors
from genfusion_ns.priors.dynamicrafter.conversion.source import CheckpointSource, ConversionError, open_checkpoint
from genfusion_ns.priors.dynamicrafter.loading import load_autoencoder
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler

_HALF_DIGITS = 1e-3  # of numbers up to 1 in half precision, in which a file may keep its tables
RGBD_CHANNELS = (4, 4)
"""Image channels of the autoencoder, in and out."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion did."""

    parameters: int
    """Numbers written."""
    tensors: int
    """Tensors written."""
    ignored: dict[str, int]
    """Tensors of the checkpoint that were left out, by reason."""
    rgbd: bool
    """Whether the autoencoder takes RGB-D; without, the result cannot run."""
    other_schedule: list[str]
    """Tables of the noise schedule that the file has with other values than those written; empty for GenFusion's."""


def convert_checkpoint(
    checkpoint: Path,
    output: Path,
    dtype: torch.dtype = torch.float16,
    vae: Path | None = None,
    architecture: Architecture | None = None,
) -> Conversion:
    """Convert a checkpoint of GenFusion, or of the DynamiCrafter it started from.

    Args:
        checkpoint: see `conversion.source.open_checkpoint`.
        output: folder to write, new or empty.
        dtype: float16, bfloat16 or float32.
        vae: folder of an autoencoder in diffusers format to use in place of the one in the file. Base DynamiCrafter
            files need one that takes RGB-D: theirs has three channels.
        architecture: sizes; the published ones where there are none.

    Raises:
        FileNotFoundError: the checkpoint or the folder of the autoencoder is missing.
        FileExistsError: the output folder has files in it.
        ConversionError: the file is unreadable, its tensors do not fit the architecture, or the autoencoder has no
            depth.
        ValueError: a tensor with values that are not finite in this type.
        OSError: the disk is too small.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty folder; choose another or remove it")
    source = open_checkpoint(checkpoint)
    autoencoder = None if vae is None else _load_autoencoder(vae, dtype)
    pipeline = _fitting(architecture or Architecture(), source, replaced=vae is not None).skeleton()
    plan = plan_conversion(source, pipeline, skip_vae=vae is not None, where=str(checkpoint))
    if autoencoder is not None:
        pipeline.register_modules(vae=autoencoder)
    values = [value for part in weighted_parts(pipeline).values() for value in part.state_dict().values()]
    require_room(output, sum(value.numel() for value in values) * dtype.itemsize)
    # Written beside its place, so that an interrupted conversion does not look like a pipeline.
    staging = output.absolute().with_name(f".{output.name}.{os.getpid()}.part")
    try:
        _write_pipeline(staging, pipeline, source, plan, dtype)
        if output.exists():
            output.rmdir()
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Conversion(
        parameters=sum(value.numel() for value in values),
        tensors=len(values),
        ignored=plan.ignored,
        rgbd=_channels(pipeline.vae) == RGBD_CHANNELS,
        other_schedule=_differing_tables(source, pipeline.scheduler),
    )


def _fitting(architecture: Architecture, source: CheckpointSource, replaced: bool) -> Architecture:
    """The architecture with the image channels of the file's autoencoder."""
    ends = [f"{VAE_PREFIX}encoder.conv_in.weight", f"{VAE_PREFIX}decoder.conv_out.weight"]
    if replaced or not set(ends) <= set(source.names()):
        return architecture
    first, last = (source.shape(name) for name in ends)
    if len(first) != 4 or len(last) != 4:
        return architecture  # the plan will say what is wrong
    return architecture.with_vae_channels(first[1], last[0])


def _channels(vae: Any) -> tuple[int, int]:
    return vae.config.in_channels, vae.config.out_channels


def _differing_tables(source: CheckpointSource, scheduler: DynamiCrafterScheduler) -> list[str]:
    tables = {"alphas_cumprod": scheduler.alphas_cumprod, "scale_arr": scheduler.scales}
    names = set(source.names())
    return [
        name
        for name, table in tables.items()
        if name in names and not _agree(source.tensor(name)[: len(table)].double(), table)
    ]


def _agree(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, atol=_HALF_DIGITS, rtol=0)


def _load_autoencoder(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """An autoencoder of RGB-D from a diffusers folder."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is not the folder of a diffusers autoencoder")
    vae = load_autoencoder(folder, dtype)
    if _channels(vae) != RGBD_CHANNELS:
        raise ConversionError(
            f"the autoencoder in {folder} has {_channels(vae)} image channels (in, out); RGB-D needs {RGBD_CHANNELS}, "
            "as that of Intel/ldm3d-4c has"
        )
    return vae


def _write_pipeline(
    folder: Path, pipeline: DynamiCrafterPipeline, source: CheckpointSource, plan: Plan, dtype: torch.dtype
) -> None:
    for name, part in weighted_parts(pipeline).items():
        if next(part.parameters()).is_meta:
            _write_part(folder / name, part, name, source=source, plan=plan, dtype=dtype)
        else:  # loaded from elsewhere
            cast(AutoencoderKL, part).save_pretrained(folder / name)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.save_config(folder)


def _write_part(
    folder: Path, part: Any, name: str, *, source: CheckpointSource, plan: Plan, dtype: torch.dtype
) -> None:
    """Config and weights of one part, as its own ``save_pretrained`` would lay them out."""
    folder.mkdir(parents=True)
    transformers_part = name == "image_encoder"
    if transformers_part:
        part.config.architectures = [type(part).__name__]
        part.config.save_pretrained(folder)
    else:
        part.save_config(folder)

    def read(key: str) -> Tensor:
        origin, piece = plan.sources[f"{name}.{key}"]
        return piece.of(source.tensor(origin))

    shapes = {key: tuple(value.shape) for key, value in part.state_dict().items()}
    file = "model.safetensors" if transformers_part else "diffusion_pytorch_model.safetensors"
    write_safetensors(folder / file, shapes, dtype, read)
