"""``gf-make-multiscale``: captures with every image at 1, 1/2, 1/4 and 1/8 of its size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.ranges import require_ranges

_MOST_LEVELS = 8


@dataclass
class MakeMultiscale:
    """Write multi-scale data sets: the published conversion of Blender objects, and the same for any other capture.

    Read them with the dataparser multiscale-blender-data. Objects that are done already are skipped.
    """

    data: Annotated[Path, tyro.conf.arg(aliases=["--blender-dir"])]
    """A capture, or a folder of captures such as nerf_synthetic: Blender, nerfstudio or COLMAP."""
    out_dir: Path = Path("multiscale")
    """Folder for one folder per object."""
    object_name: tuple[str, ...] = ()
    """Objects in the folder that are wanted; all by default."""
    n_down: int = 4
    """Sizes of each image, each half of the one before."""
    downscale: int = 1
    """Shrink images by this first; Blender's are then also cut evenly so that they can be halved."""
    overwrite: bool = False
    """Make what is done already anew."""

    def run(self) -> None:
        """Convert what is missing.

        Raises:
            ValueError: settings or captures that cannot be used.
            WriteError: the disk is full or not writable.
        """
        require_ranges(self, {"n_down": (1, _MOST_LEVELS), "downscale": (1, 64)})
        # Takes seconds to import, which --help should not.
        from genfusion_ns.data.multiscale.conversion import is_done, planned

        jobs = planned(self.data, self.out_dir, self.object_name)
        for number, job in enumerate(jobs, 1):
            if not self.overwrite and is_done(job, self.n_down):
                print(f"{job.output} is done already")
            else:
                self._convert(job.source, job.output, f"{job.name} ({number} of {len(jobs)})")

    def _convert(self, source: Path, output: Path, title: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from genfusion_ns.data.multiscale.conversion import convert, open_source

        opened = open_source(source, self.downscale)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as progress:
            task = progress.add_task(title, total=len(opened))
            count = convert(opened, output, self.n_down, lambda: progress.advance(task))
        print(f"Wrote {count} images of {len(opened)} views to {output}")


def entrypoint() -> None:
    """Entry point of `gf-make-multiscale`."""
    run_program("gf-make-multiscale", lambda: tyro.cli(MakeMultiscale).run())


if __name__ == "__main__":
    entrypoint()
