"""``gf-convert-mipnerf``: a published checkpoint of mip-NeRF as a run that nerfstudio's commands take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from genfusion_ns.errors import run_program


@dataclass
class ConvertMipNerf:
    """Make a run of mipnerf-multiscale of a checkpoint of the PyTorch port, for ns-eval, ns-render and ns-viewer."""

    checkpoint: tyro.conf.Positional[Path]
    """File to convert: .ckpt of Lightning, or .safetensors with the same names."""
    data: Path
    """The data that it was trained on."""
    kind: Literal["multiscale", "blender"] = "multiscale"
    """Of the data: written by gf-make-multiscale, or a Blender object of one size."""
    output_dir: Path = Path("outputs")
    """Folder of runs."""
    timestamp: str = "published"
    """Name of the run."""
    num_samples: int = 128
    """Intervals of a ray in each pass; the published ones were trained with 128."""

    def run(self) -> None:
        """Convert and say what to do with the run; errors as in `read_published` and `write_run`."""
        # Takes seconds to import, which --help should not.
        from copy import deepcopy

        from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

        from genfusion_ns.fusion.multiscale.published import read_published, write_run
        from genfusion_ns.methods import mipnerf_multiscale

        if not self.data.exists():
            raise FileNotFoundError(f"--data {self.data} does not exist")
        state = read_published(self.checkpoint)
        config: Any = deepcopy(mipnerf_multiscale.config)
        if self.kind == "blender":
            config.pipeline.datamanager.dataparser = BlenderDataParserConfig()
        config.data = config.pipeline.datamanager.data = self.data
        config.output_dir, config.timestamp = self.output_dir, self.timestamp
        config.experiment_name, config.vis = self.data.name, "tensorboard"
        config.pipeline.model.num_samples = self.num_samples
        path = write_run(state, config)
        count = sum(value.numel() for value in state.values())
        print(f"{count:,} parameters in {len(state)} tensors. Judge them with: ns-eval --load-config {path}")


def entrypoint() -> None:
    """Command line."""
    run_program("gf-convert-mipnerf", lambda: tyro.cli(ConvertMipNerf).run())


if __name__ == "__main__":
    entrypoint()
