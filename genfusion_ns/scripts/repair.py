"""`gf-repair`: repair frames, a video or renders of a run, without any training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.seeds import seeded_generator

if TYPE_CHECKING:
    from genfusion_ns.fusion.repairs.sources import ClipSource
    from genfusion_ns.priors.base import VideoRepairer
    from genfusion_ns.priors.mono_depth import MonoDepth

_FILES_FPS = 24.0
"""Playing speed of frames that come without one."""


@dataclass
class Repair:
    """Repair the artifacts of rendered frames with the video generator, without any training.

    Give one input: --frames, --video, or --load-config with --camera-path. Frames from files have no cameras, so
    photos cannot be warped into them, and the repairer sees the photos only as a whole. The compact repairer was made
    to copy from warped photos: it hardly changes such frames, about 0.01 of the colour range, where it changes renders
    of a run by 0.05 to 0.2. With --load-config it knows the cameras and does what it does in training. Without --depth
    or --mono-depth the depth of frames from files is unknown to the repairer, too.
    """

    output: Path
    """Folder for frames/, disparity/ (16-bit PNG, where depth is known), repaired.mp4, side_by_side.mp4 (input left)
    and repair.json, new or empty."""
    frames: Path | None = None
    """Folder of images of one size, in natural order (frame_2 before frame_10)."""
    video: Path | None = None
    """Video file."""
    load_config: Path | None = None
    """config.yml of a trained genfusion run, to be rendered along --camera-path."""
    camera_path: Path | None = None
    """Camera path saved by the render panel of ns-viewer for that run."""
    depth: Path | None = None
    """Folder with a depth map per frame of --frames or --video, in natural order: z depth (not disparity) in any one
    unit, 0 where unknown, as .npy or as .png with one 16-bit channel."""
    mono_depth: str = "none"
    """Estimate the depth of --frames or --video: folder or hub name of a transformers depth model (depth_anything, dpt,
    glpn), repairer (a first pass of a generator that makes depth, which compact does not), or none."""
    references: tuple[Path, ...] = ()
    """Photos of the scene. By default the first frame of files, and the nearest train photos of a run; photos given
    here come without cameras and are stretched to the shape of the frames."""
    num_references: int = 3
    """Train photos per clip of a run."""
    model: str = "auto"
    """Repairer: auto (the best that this installation has), compact (comes with the package), or a folder that
    gf-train-generator or gf-convert-generator wrote."""
    steps: int | None = None
    """Denoising steps per clip; by default what the repairer is made for, 1 with compact."""
    seed: int = 0
    """Seed of everything random."""
    device: str | None = None
    """Device of the repairer, such as cpu or cuda:1; by default a GPU where there is one."""
    size: tuple[int, int] | None = None
    """Width and height whose area the repairer works at; larger frames are shrunk to it, with their shape, and their
    repair is enlarged again. By default what it was trained at, 256 144 with compact."""
    overlap: int = 4
    """Frames shared by neighbouring clips at least, over which one fades into the next; 0 is fastest."""
    keep_detail: bool = True
    """Enlarge the change instead of the repaired picture: detail finer than --size survives, artifacts among it."""
    fps: float | None = None
    """Frames per second of the videos; by default those of the input, and 24 where it has none."""
    overwrite: bool = False
    """Replace an earlier repair in --output."""

    def run(self) -> None:
        """Repair and write; see `genfusion_ns.fusion.repairs.folder` for the files.

        Raises:
            ValueError: settings that contradict each other or are out of range, or inputs that cannot be read.
            OSError: files that are missing, or an output folder that cannot be used.
            ImportError: the depth model needs a library that is not installed.
            RuntimeError: ffmpeg failed.
        """
        self._check()
        # These take seconds to import, which --help should not.
        import torch
        from rich.progress import track

        from genfusion_ns.fusion.repairs.folder import prepare_folder, write_repair
        from genfusion_ns.fusion.repairs.sequence import repair_sequence, repair_windows
        from genfusion_ns.priors.config import KINDS, RepairerConfig, build_repairer, check_repairer

        chosen = {"steps": self.steps, "device": self.device, "resolution": self.size}
        given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        config = RepairerConfig(self.model, **given)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        found = check_repairer(config, device)
        if KINDS[found.kind].draws_views:
            raise ValueError(
                f"--model {self.model} is of the kind {found.kind}, which draws single views and repairs no "
                "clips; take compact, or another repairer"
            )
        repairer = build_repairer(config, device)
        if self.load_config is not None and self.camera_path is not None:
            source = self._run_clips(repairer, self.load_config, self.camera_path)
        else:
            source = self._file_clips(repairer, device)
        prepare_folder(self.output, self.overwrite)
        count = len(repair_windows(len(source), repairer.clip_length, self.overlap))
        print(f"{len(source)} frames of {source.size[0]} x {source.size[1]} in {count} clips, {repairer.name} repairer")
        generator = seeded_generator(self.seed)
        parts = repair_sequence(source, repairer, generator, self.overlap, self.keep_detail)
        fps = self.fps or source.fps or _FILES_FPS
        settings = {name: _plain(value) for name, value in asdict(self).items()} | {"repairer": repairer.name}
        if self.load_config is None and repairer.capabilities.needs_cameras:
            print(f"note: without cameras {repairer.name} hardly changes anything; --load-config gives it cameras")
        parts = track(parts, "Repairing", total=count)
        with_disparity = source.has_depth or repairer.capabilities.makes_depth
        write_repair(self.output, parts, source, fps, settings, with_disparity=with_disparity)
        print(f"{self.output}: repaired.mp4, side_by_side.mp4, {len(source)} frames, repair.json")

    def _check(self) -> None:
        given = [flag for flag in ("frames", "video", "load_config") if getattr(self, flag) is not None]
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        if len(given) != 1:
            raise ValueError(f"one of --frames, --video and --load-config is needed, found {flags or 'none'}")
        is_run = self.load_config is not None
        if is_run != (self.camera_path is not None):
            raise ValueError("--load-config and --camera-path belong together; one of them is missing")
        if is_run and (self.depth is not None or self.mono_depth != "none"):
            raise ValueError("--depth and --mono-depth are for files; a run renders its own depth, so leave them out")
        if self.depth is not None and self.mono_depth != "none":
            raise ValueError("--depth and --mono-depth exclude each other; leave one of them out")
        if self.num_references < 1:
            raise ValueError(f"--num-references is {self.num_references}; at least 1 is needed")
        if self.overlap < 0:
            raise ValueError(f"--overlap is {self.overlap}; 0 or more frames are allowed")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"--fps is {self.fps}; allowed are values above 0 up to 1000")
        output = self.output.resolve()
        for path in (self.frames, self.video, self.depth, self.camera_path, *self.references):
            if path is not None and output in (path.resolve(), *path.resolve().parents):
                raise ValueError(f"the input {path} lies in --output {self.output}; name another output folder")

    def _file_clips(self, repairer: VideoRepairer, device: str) -> ClipSource:
        from genfusion_ns.data.media.frame_sequences import DepthFolder, ImageFolder, VideoFile
        from genfusion_ns.fusion.repairs.sources import FileClips

        mono = self._mono_depth(repairer, device)
        # `_check` has made sure that one of the two is given.
        frames = ImageFolder(self.frames) if self.frames is not None else VideoFile(cast(Path, self.video))
        depth = None if self.depth is None else DepthFolder(self.depth, len(frames))
        return FileClips(frames, repairer.resolution, self.references, depth, mono)

    def _mono_depth(self, repairer: VideoRepairer, device: str) -> MonoDepth | None:
        if self.mono_depth == "none":
            return None
        if self.mono_depth != "repairer":
            from genfusion_ns.priors.mono_depth_transformers import TransformersMonoDepth

            return TransformersMonoDepth(self.mono_depth, self.device or device)
        from genfusion_ns.priors.mono_depth import RepairerMonoDepth

        if not repairer.capabilities.makes_depth:
            raise ValueError(
                f"--mono-depth repairer needs a repairer that makes depth of clips without, which {repairer.name} does "
                "not; give a transformers depth model, depth maps with --depth, or leave it out"
            )
        return RepairerMonoDepth(repairer)

    def _run_clips(self, repairer: VideoRepairer, config: Path, camera_path: Path) -> ClipSource:
        if not config.is_file():
            raise ValueError(f"--load-config {config} does not exist; ns-train writes a config.yml per run")
        from genfusion_ns.data.camera_path import read_camera_path
        from genfusion_ns.fusion.repairs.sources import RunClips
        from genfusion_ns.fusion.run_config import load_run

        path = read_camera_path(camera_path)
        pipeline = load_run(config, "render it with ns-render and give the video to --video")
        return RunClips.of(pipeline, path, repairer.resolution, self.references, self.num_references)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def entrypoint() -> None:
    """Entry point of `gf-repair`."""
    command = tyro.cli(Repair, prog="gf-repair")
    run_program("gf-repair", command.run, _with_own_flags)


def _with_own_flags(message: str) -> str:
    """The checks of the repairer speak of ns-train, where the same settings have longer names."""
    return message.replace("--pipeline.repairer.resolution", "--size").replace("--pipeline.repairer.", "--")


if __name__ == "__main__":
    entrypoint()
