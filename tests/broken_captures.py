"""Tiny captures to damage, and the way a user's command reaches them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from tiny_capture import TinyCapture, make_capture, write_transforms

from genfusion_ns.data.datamanager import GenFusionDataManager, GenFusionDataManagerConfig

torch.set_num_threads(1)
COLMAP = ColmapDataParserConfig(colmap_path=Path("sparse/0"), downscale_factor=1)


def make_tiny(folder: Path, num_views: int = 6) -> TinyCapture:
    """Six small photos with transforms.json and a point cloud."""
    capture = make_capture(folder, num_views, num_points=150)
    write_transforms(capture)
    return capture


def set_up(folder: Path, parser: DataParserConfig | None = None, **options: object) -> GenFusionDataManager:
    """What `ns-train genfusion --data folder` does before it builds a scene."""
    config = GenFusionDataManagerConfig(data=folder, dataparser=parser or NerfstudioDataParserConfig(), **options)
    return config.setup(device="cpu", test_mode="val")


def edit_transforms(folder: Path, change: Callable[[dict], object], name: str = "transforms.json") -> None:
    """Apply `change`, in place or by its result, to the content of a JSON file."""
    path = folder / name
    content = json.loads(path.read_text())
    result = change(content)
    path.write_text(json.dumps(content if result is None else result))


def edited(capture: TinyCapture, change: Callable[[dict], object], name: str = "transforms.json") -> None:
    """Apply `change`, in place whatever its result, to the content of a JSON file."""

    def keep_in_place(content: dict) -> None:
        change(content)

    edit_transforms(capture.folder, keep_in_place, name)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(folder: Path, error: type[Exception], said: str, parser: DataParserConfig | None = None) -> str:
    """Setting up fails with exactly this kind of error and message, and leaves the capture as it was."""
    before = tree(folder) if folder.is_dir() else {}
    with pytest.raises(error, match=said) as caught:
        set_up(folder, parser)
    assert (tree(folder) if folder.is_dir() else {}) == before
    return str(caught.value)
