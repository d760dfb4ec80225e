"""Settings of `gf-run`; the command line shows them, so nothing here imports a library that takes long to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.ranges import require_ranges

Method = Literal[
    "auto",
    "genfusion",
    "genfusion-masked",
    "genfusion-completion",
    "genfusion-published",
    "genfusion-masked-published",
    "genfusion-completion-published",
]
STAGES = ("capture", "train", "evaluate", "video", "splat", "compact", "mesh", "report")
"""In order. The first two rest on each other, the report on what is there, all others on the training alone."""


@dataclass
class WholeRunSettings:
    """What is decided by the user; all else follows from the photos and the machine."""

    output: Path | None = None
    """Folder for everything; by default the name of the input with _scene, in the working folder."""
    minutes: float = 15.0
    """Without a GPU: how long all of it may take; decides the size of the photos and the number of steps. With a GPU
    photos are large and runs have their usual length, whatever stands here."""
    method: Method = "auto"
    """auto: genfusion, or genfusion-masked for captures with masks. Completion and the published settings, which need a
    GPU, are for those who ask for them."""
    steps: int | None = None
    """Length of the training; by default as many as suit the number of photos and fit into the minutes."""
    downscale: int | None = None
    """Train at this part of the photos' size; by default as large as fits into the minutes."""
    rounds: Literal["auto", "yes", "no"] = "auto"
    """Rounds of generated views. auto: where they count: with few photos, masks, or the published generator."""
    hold_out: int | None = None
    """Every n-th photo is held out to judge the scene by; 0: none, all are trained on. By default 8 where there are 8
    photos or more, and the photos that the capture itself holds out."""
    stages: tuple[str, ...] = ()
    """Do these alone: capture, train, evaluate, video, splat, compact, mesh, report; all by default."""
    skip: tuple[str, ...] = ()
    """Leave these out."""
    redo: tuple[str, ...] = ()
    """Do these again although they are done, and what rests on them."""
    dry_run: bool = False
    """Print the plan with its commands, and do nothing."""
    capture: CaptureFromPhotosSettings = field(default_factory=CaptureFromPhotosSettings)
    """Settings of gf-capture, for videos and photos without poses."""

    def check(self) -> None:
        """Refuse what no run can have.

        Raises:
            ValueError: with the flag, the value and what is allowed.
        """
        require_ranges(
            self, {"minutes": (1, 100_000), "steps": (1, 10**7), "downscale": (1, 64), "hold_out": (0, 10_000)}
        )
        if self.hold_out == 1:
            raise ValueError("--hold-out is 1, which would leave no photo to train on; allowed are 0, or 2 and more")
        for name in ("stages", "skip", "redo"):
            for stage in getattr(self, name):
                if stage not in STAGES:
                    raise ValueError(
                        f"--{name} names {stage!r}, which is no stage; allowed are {', '.join(STAGES)} (the video or "
                        "folder stands before all flags)"
                    )
        left_out = sorted(set(self.redo) - set(self.chosen()))
        if left_out:
            raise ValueError(f"--redo {' '.join(left_out)} is left out by --stages or --skip; name it in one of them")
        if not self.chosen():
            raise ValueError("--stages and --skip leave nothing to do")
        self.capture.check()

    def chosen(self) -> tuple[str, ...]:
        """The stages to do, in order."""
        return tuple(stage for stage in STAGES if (not self.stages or stage in self.stages) and stage not in self.skip)
