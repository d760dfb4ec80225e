"""``gf-capture INPUT... OUT``: a video, photos, or several of both as a capture with poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.errors import run_program


@dataclass
class Capture(CaptureFromPhotosSettings):
    """Make a posed capture of videos, photos and folders of photos, for ns-train to go on from.

    A rerun with the same inputs goes on where the last one was stopped, and does again only what other settings change.
    Captures that have poses (ns-process-data, Polycam, Record3D, COLMAP) need none of this.
    """

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """INPUT... OUT: videos, photos or folders of photos, and last the folder to write."""
    overwrite: bool = False
    """Replace what OUT holds of an earlier gf-capture of other inputs."""

    def run(self) -> None:
        """Make the capture, and say what came out.

        Raises:
            ValueError: inputs or settings that cannot be used; photos of which no poses are found.
            ImportError: pycolmap is not installed.
            OSError: files that are missing or cannot be written.
        """
        if len(self.paths) < 2:
            given = f"only {self.paths[0]} is given" if self.paths else "nothing is given"
            raise ValueError(f"{given}; name a video or a folder of photos, and last the folder to write")
        # Takes seconds to import, which --help should not.
        from genfusion_ns.data.from_photos.capture import make_capture

        *inputs, out = self.paths
        with _Bars() as bars:
            report = make_capture(inputs, out, self, bars.begin, self.overwrite)
        for origin, damage in report.damaged:
            print(f"note: {origin} {damage}")
        for origin, reason in report.left_out:
            print(f"left out: {origin} {reason}")
        print(
            f"Wrote {report.registered} of {report.photos} photos with poses and {report.points} points to {out} "
            f"(reprojection error {report.error:.2f} pixels, lens of {report.focal:.0f} mm for 35 mm film)"
        )
        print(f"Go on with: ns-train genfusion --data {out}")


class _Bars:
    """Context manager: a bar for each part of the work, with the time that remains."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        text = TextColumn("{task.description}", markup=False)
        self._progress = Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, title: str, total: int | None) -> Callable[[], object]:
        """A new bar; what is returned moves it by one."""
        task = self._progress.add_task(title, total=total)
        return lambda: self._progress.advance(task)


def entrypoint() -> None:
    """Entry point of `gf-capture`."""
    command = tyro.cli(Capture, prog="gf-capture")
    run_program("gf-capture", command.run)


if __name__ == "__main__":
    entrypoint()
