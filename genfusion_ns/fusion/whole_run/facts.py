"""What a run finds: whether its input has poses, what the capture holds, what the machine is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from torch import Tensor

from genfusion_ns.data.captures.capture import read_capture, whole_capture_config
from genfusion_ns.data.captures.formats import dataparser_of
from genfusion_ns.data.captures.image_files import CaptureError, read_header
from genfusion_ns.data.captures.image_sizes import loaded_header
from genfusion_ns.data.from_photos.sources import find_sources
from genfusion_ns.data.view_selection import select_views
from genfusion_ns.fusion.whole_run.choice import CaptureFacts, held_out_stride
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.priors.config import RepairerConfig, check_repairer

_COMMON = (1920, 1080)
"""Pixels of videos that are not opened for a plan."""


@dataclass(frozen=True)
class PosedCapture:
    """A capture with poses, as a training reads it."""

    facts: CaptureFacts
    c2w: Float[Tensor, "V 4 4"]
    """In the world of the run that is trained on it, OpenGL axes."""
    fov_y: float
    """Vertical angle of view of most photos, degrees."""
    reading: tuple[str, tuple[str, ...]]
    """Subcommand of ns-train that reads it, and its flags."""


def has_poses(inputs: Sequence[Path]) -> bool:
    """Whether the inputs are one folder that can be trained on as it is."""
    if len(inputs) != 1 or not inputs[0].is_dir():
        return False
    try:
        dataparser_of(inputs[0])
    except CaptureError:
        return False
    return True


def identity_of(inputs: Sequence[Path], out: Path) -> list[list[Any]]:
    """Names, sizes and times of change of all files that a run is made from: what changes when they do.

    Raises:
        CaptureError: photos and videos that cannot be used, see `find_sources`.
    """
    if not has_poses(inputs):
        return [fact for source in find_sources(inputs) for fact in source.identity()]
    (folder,), inside = inputs, out.resolve()
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and inside not in path.resolve().parents)
    return [[str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def read_posed(folder: Path, hold_out: int | None) -> PosedCapture:
    """What there is to know about a capture, from its camera files and the headers of its images.

    Args:
        folder: of the capture.
        hold_out: every n-th photo is held out; None as usual, see `held_out_stride`.

    Raises:
        CaptureError: it cannot be used.
    """
    given = dataparser_of(folder, None)
    config = whole_capture_config(_whole_size(given))
    parser = config.setup()
    capture = read_capture(parser, parser.get_dataparser_outputs(split="train"))
    outputs, cameras = capture.outputs, capture.outputs.cameras
    photos = len(capture.names)
    split = select_views(capture.names, folder, test_every=held_out_stride(photos, hold_out), declared=capture.declared)
    size = commonest_size([loaded_header(file, outputs.metadata).size for file in outputs.image_filenames])
    c2w = torch.eye(4).repeat(photos, 1, 1)
    c2w[:, :3] = cameras.camera_to_worlds
    half = cameras.height[:, 0] / 2 / cameras.fy[:, 0]
    return PosedCapture(
        CaptureFacts(
            photos, len(split.train_ids), size, outputs.mask_filenames is not None, capture.declared is not None
        ),
        c2w,
        float(2 * half.median().atan().rad2deg()),
        _subcommand(given),
    )


def expected_facts(inputs: Sequence[Path], frames: int, masked: bool, hold_out: int | None) -> CaptureFacts:
    """What a capture of these photos and videos holds if all goes well: every photo has a pose, a video all frames."""
    photos, sizes = 0, []
    for source in find_sources(inputs):
        photos += frames if source.is_video else len(source.files)
        sizes += [_COMMON] if source.is_video else [read_header(file).size for file in source.files]
    stride = held_out_stride(photos, hold_out)
    trained = photos - (-(-photos // stride) if stride else 0)
    return CaptureFacts(photos, trained, commonest_size(sizes), masked)


def published_generator() -> bool:
    """There is a GPU, and the converted published generator."""
    return torch.cuda.is_available() and check_repairer(RepairerConfig(), "cuda").kind == "dynamicrafter"


def _whole_size(config: DataParserConfig) -> DataParserConfig:
    if hasattr(config, "downscale_factor"):
        config.downscale_factor = 1  # type: ignore[attr-defined]
    return config


def _subcommand(config: DataParserConfig) -> tuple[str, tuple[str, ...]]:
    if isinstance(config, BlenderDataParserConfig):
        return "blender-data", ()
    if isinstance(config, ColmapDataParserConfig):
        return "colmap", ("--colmap-path", str(config.colmap_path))
    return "nerfstudio-data", ()
