"""``gf-image3d``: objects from single images: mesh, views, points, and a capture to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.fusion.image_start.inputs import find_images
from genfusion_ns.fusion.image_start.settings import Image3dSettings


@dataclass
class Image3d(Image3dSettings):
    """Make a 3D object of each image by TripoSR, and write it as a mesh, as views around it, and as a capture.

    The object must be cut out: RGBA images, or --remove-background. Objects are written to folders 0, 1, ... of
    --output-dir, in the order of the images; ns-train genfusion --data OUTPUT_DIR/0 goes on from there.
    """

    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files, folders of them, or patterns in quotes."""
    output_dir: Path = Path("image3d")
    """Folder for the objects."""
    fit: bool = False
    """Go on at once with ns-train genfusion from each object, to OUTPUT_DIR/runs."""
    fit_steps: int = 1500
    """Steps of --fit."""

    def run(self) -> None:
        """Make, write and fit.

        Raises:
            ValueError: settings out of range, or images of which nothing could be made; the others are written.
            OSError: files that are missing or cannot be written.
            ImportError: a library for a chosen option is not installed.
        """
        if not self.images:
            raise ValueError("no image is given; name image files, folders of them, or patterns in quotes")
        if self.fit_steps < 1:
            raise ValueError(f"--fit-steps is {self.fit_steps}; at least 1 is needed")
        self.check()
        images = find_images(self.images)
        from genfusion_ns.fusion.image_start.fit import fit_object
        from genfusion_ns.fusion.image_start.job import Image3dJob, report

        outcomes = Image3dJob(self).run(images, self.output_dir)
        for outcome in outcomes:
            if self.fit and outcome.failure is None:
                fit_object(outcome.folder, self.output_dir / "runs", self.fit_steps)
        report(outcomes)


def entrypoint() -> None:
    """Entry point of `gf-image3d`."""
    command = tyro.cli(Image3d, prog="gf-image3d")
    run_program("gf-image3d", command.run)


if __name__ == "__main__":
    entrypoint()
