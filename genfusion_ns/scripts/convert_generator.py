"""``gf-convert-generator``: the published weights of GenFusion as a folder that this package reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from genfusion_ns.errors import run_program


@dataclass
class ConvertGeneratorConfig:
    """Convert a checkpoint of GenFusion's generator, or of the DynamiCrafter it started from, to a diffusers folder."""

    checkpoint: tyro.conf.Positional[Path]
    """File to convert: .ckpt of Lightning or DeepSpeed, or .safetensors with the same names."""
    output: tyro.conf.Positional[Path]
    """Folder to write, new or empty."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Type of the written weights; float32 to train on."""
    vae: Path | None = None
    """Folder of a diffusers autoencoder to use in place of that of the file; base DynamiCrafter files need the
    four-channel one of Intel/ldm3d-4c."""
    size: tuple[int, int] = (960, 512)
    """Width and height in pixels that the checkpoint was trained at, which runs then use by default; 512 320 for the
    first stage of GenFusion and for DynamiCrafter 512."""


def main(config: ConvertGeneratorConfig) -> None:
    """Convert and say what was written; errors as in `convert_checkpoint`."""
    # Takes seconds to import, which --help should not.
    import torch

    from genfusion_ns.priors.dynamicrafter.architecture import Architecture
    from genfusion_ns.priors.dynamicrafter.conversion.convert import convert_checkpoint

    if any(side < 64 or side % 64 for side in config.size):
        raise ValueError(f"--size is {config.size}; width and height must be multiples of 64 pixels, 960 512 is usual")
    dtype = getattr(torch, config.dtype)
    done = convert_checkpoint(config.checkpoint, config.output, dtype, config.vae, Architecture(size=config.size))
    print(f"{config.output}: {done.parameters:,} parameters in {done.tensors} tensors, {config.dtype}")
    for reason, count in done.ignored.items():
        print(f"left out {count} tensors: {reason}")
    if done.other_schedule:
        print(f"the file was trained with another noise schedule ({', '.join(done.other_schedule)}) than GenFusion's")
    if not done.rgbd:
        print("the autoencoder of this file has no depth: convert it with --vae to repair or train with the result")


def entrypoint() -> None:
    """Command line."""
    config = tyro.cli(ConvertGeneratorConfig, prog="gf-convert-generator")
    run_program("gf-convert-generator", lambda: main(config))


if __name__ == "__main__":
    entrypoint()
