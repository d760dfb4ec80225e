"""`gf-make-clips`: training pairs for the generator, from weak reconstructions of captures.

Every capture and seed is a job, see `fusion.clip_making.job` and `scripts.ray_jobs`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.fusion.clip_making.recipe import ClipRecipe
from genfusion_ns.scripts.ray_jobs import JobOptions, run_jobs


@dataclass
class MakeClips:
    """Write clip pairs of captures into a data set, one job per capture and seed; jobs done before are skipped."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the data set; jobs of other captures in it stay."""
    captures: tuple[Path, ...]
    """Folders of captures: nerfstudio (transforms.json), Blender (transforms_train.json) or COLMAP (images, sparse)."""
    seeds: tuple[int, ...] = (0,)
    """Each gives other train views, crop windows, paths and reconstructions."""
    recipe: Annotated[ClipRecipe, tyro.conf.arg(name="")] = field(default_factory=ClipRecipe)
    """What is done with each capture."""
    jobs: Annotated[JobOptions, tyro.conf.arg(name="")] = field(default_factory=JobOptions)
    """Where jobs run."""

    def run(self) -> None:
        """Make what is missing.

        Raises:
            ValueError: settings that cannot be used, or finished jobs with other settings.
            SystemExit: jobs failed; the message gives their reasons.
        """
        # Takes seconds to import, which --help should not.
        from genfusion_ns.fusion.clip_making.job import ClipJob

        self.recipe.check()
        self.jobs.check()
        if not self.captures or not self.seeds:
            raise ValueError("--captures and --seeds need at least one entry each")
        # Workers of a cluster start in folders of their own.
        out, captures = self.out.absolute(), [path.absolute() for path in self.captures]
        jobs = [ClipJob(path, out, seed, self.recipe) for path in captures for seed in self.seeds]
        twice = [name for name, count in Counter(job.name for job in jobs).items() if count > 1]
        if twice:
            raise ValueError(
                f"several captures and seeds would write {twice[0]} in {self.out}; captures of one data set need "
                "different folder names, and seeds must differ"
            )
        missing = [job for job in jobs if not job.is_finished()]
        if len(missing) < len(jobs):
            print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs were done before")
        failures = run_jobs(missing, self.jobs) if missing else {}
        if failures:
            reasons = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
            raise SystemExit(f"gf-make-clips: {len(failures)} of {len(jobs)} jobs failed:\n{reasons}")


def entrypoint() -> None:
    """Entry point of `gf-make-clips`."""
    run_program("gf-make-clips", lambda: tyro.cli(MakeClips).run())
