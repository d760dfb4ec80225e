"""Options of `gf-report`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class ReportSettings:
    """One HTML file that shows a finished run of surfels: the scene itself, its rounds, figures and settings."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, or its config.yml."""
    output: Path = Path("report.html")
    """File to write."""
    overwrite: bool = False
    """Replace the file where it exists."""
    max_megabytes: float = 20.0
    """The file becomes no larger than this (10^6 bytes); what is left out for it is said on the page."""
    video: Path | None = None
    """A video of the scene (.mp4) to show; by default the newest one in the folder of the run."""
    metrics: Path | None = None
    """What ns-eval --output-path has written; by default the newest such file in the folder of the run."""
    title: str = ""
    """Heading of the page; by default the name of the experiment."""

    def check(self) -> None:
        """Refuse what no report can have.

        Raises:
            ValueError: a setting out of range.
            FileNotFoundError: a file that is not there.
        """
        if not 0 < self.max_megabytes < math.inf:
            raise ValueError(f"--max-megabytes is {self.max_megabytes}; give a size above 0, such as 20")
        for flag, path in (("--video", self.video), ("--metrics", self.metrics)):
            if path is not None and not path.is_file():
                raise FileNotFoundError(f"{flag} {path} is not there; name a file, or leave the option out")

    def config_file(self) -> Path:
        """config.yml of the run.

        Raises:
            FileNotFoundError: there is none.
        """
        path = self.run / "config.yml" if self.run.is_dir() else self.run
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.run} is no run: {path} does not exist. Give the folder that ns-train has made, "
                "outputs/CAPTURE/METHOD/TIME, or the config.yml in it"
            )
        return path
