"""``gf-render-scales``: a run along a path at 1, 1/2, 1/4 and 1/8 of its size, a video of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from genfusion_ns.errors import run_program


@dataclass
class RenderScales:
    """Render any run of this package on a circle around its scene, or at the cameras of a camera path, by scale."""

    load_config: Path
    """config.yml of the run."""
    output_path: Path = Path("renders/scales")
    """Folder for the videos."""
    scale: int = 4
    """How many scales: 4 are 1, 1/2, 1/4 and 1/8."""
    camera_path: Path | None = None
    """Camera path as nerfstudio's viewer writes it; the circle by default."""
    num_views: int = 120
    """Poses on the circle."""
    radius: float = 4.0
    """Of the circle, scene units; 4 is where Blender's cameras stand."""
    elevation: float = 36.0
    """Degrees above the plane of the ground."""
    frames_per_second: float = 30.0
    """Of the videos."""
    images: bool = False
    """Write frames as pictures too, in folders 1, 2, 4 and 8."""

    def run(self) -> None:
        """Render all scales.

        Raises:
            ValueError: settings out of range.
            FileNotFoundError: there is no such run.
        """
        if not 1 <= self.scale <= 8 or self.num_views < 1 or self.radius <= 0:
            raise ValueError("--scale must be in 1..8, --num-views at least 1 and --radius above 0")
        if not self.load_config.is_file():
            raise FileNotFoundError(f"--load-config {self.load_config} does not exist")
        # Takes seconds to import, which --help should not.
        from nerfstudio.cameras.camera_paths import get_path_from_json
        from nerfstudio.utils.eval_utils import eval_setup
        from rich.progress import Progress

        from genfusion_ns.fusion.multiscale.paths import circle, path_cameras, render_scales
        from genfusion_ns.json_files import read_json

        _, pipeline, _, _ = eval_setup(self.load_config, test_mode="inference")
        if self.camera_path is not None:
            cameras = get_path_from_json(read_json(self.camera_path, what="--camera-path").value)
        else:
            largest = pipeline.datamanager.train_dataset.cameras  # type: ignore[union-attr]
            like = largest[int(largest.width.argmax())]
            cameras = path_cameras(like, circle(self.num_views, self.radius, self.elevation))
        scales = tuple(2**level for level in range(self.scale))
        with Progress() as progress:
            task = progress.add_task("Rendering", total=len(cameras) * len(scales))
            for path in render_scales(
                pipeline,
                cameras,
                scales,
                self.output_path,
                self.frames_per_second,
                self.images,
                lambda: progress.advance(task),
            ):
                print(path)


def entrypoint() -> None:
    """Command line."""
    run_program("gf-render-scales", lambda: tyro.cli(RenderScales).run())


if __name__ == "__main__":
    entrypoint()
