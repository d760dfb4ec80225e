"""``gf-run INPUT``: from a video, photos, or a capture with poses to one page to share."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.fusion.whole_run.settings import WholeRunSettings

_OF_TRAINING = ("--pipeline.", "--optimizers.", "--machine.", "--logging.", "--viewer.", "--steps-per-")
"""What flags of ns-train begin with that may be given here."""


@dataclass
class Run(WholeRunSettings):
    """Make a scene of a video, photos, or a capture with poses: poses, training, evaluation, video, exports, one page.

    Each stage is a command of its own, which is printed. A rerun goes on where the last one ended; stages whose
    settings or photos have changed are done again, and those that rest on them. Flags of ns-train in the groups
    pipeline, optimizers, machine and logging are handed to it.
    """

    inputs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """A video, a folder of photos, several of both, or the folder of a capture that has poses."""

    def run(self, extra: list[str]) -> None:
        """Do everything, or print the plan.

        Raises:
            ValueError: settings or inputs that cannot be used; a stage that failed.
            OSError: files that are missing or cannot be written.
        """
        _check_extra(extra)
        # These take seconds to import, which --help should not.
        from genfusion_ns.fusion.whole_run.planning import Planner
        from genfusion_ns.fusion.whole_run.run import run_all, show_plan
        from genfusion_ns.methods import genfusion

        planner = Planner(self, self.inputs, extra, genfusion.config.optimizers)
        if self.dry_run:
            show_plan(planner)
            return
        try:
            run_all(planner)
        except KeyboardInterrupt:
            print("\nStopped: rerun the same command to go on; what is done is kept.", file=sys.stderr)
            raise


def _check_extra(extra: list[str]) -> None:
    """Refuse flags that nobody knows, before hours of work."""
    for word in extra:
        if word.startswith("--") and not word.startswith(_OF_TRAINING):
            raise ValueError(
                f"there is no option {word.split('=')[0]}; see gf-run --help. Flags of ns-train that may be given "
                f"begin with {', '.join(_OF_TRAINING)}"
            )
    if extra and not extra[0].startswith("--"):
        raise ValueError(f"{extra[0]!r} belongs to no option; see gf-run --help")


def entrypoint() -> None:
    """Entry point of `gf-run`."""
    command, extra = tyro.cli(Run, prog="gf-run", return_unknown_args=True)
    run_program("gf-run", lambda: command.run(extra))


if __name__ == "__main__":
    entrypoint()
