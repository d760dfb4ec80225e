"""Captures whose views were made by a model, of which their camera files tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

from genfusion_ns.data.captures.checks.files import reads_camera_files, transforms_file
from genfusion_ns.json_files import read_json

_KEY = "generated"
POINTS_ON_SURFACE = "surface"
_WAY_OUT = "gf-image3d writes this entry; without it all views count as photos."


@dataclass(frozen=True)
class GeneratedViews:
    """What a capture says of views that no camera took."""

    names: frozenset[str]
    """Of their images, as the camera file has them."""
    background: tuple[float, float, float] | None = None
    """Colour behind the object, 0..1."""
    points: str | None = None
    """`POINTS_ON_SURFACE`: its points lie on the surface and have its normals."""

    def marks(self) -> dict[str, Any]:
        """The entry of a camera file that says so."""
        entry: dict[str, Any] = {"filenames": sorted(self.names)}
        if self.background is not None:
            entry["background"] = list(self.background)
        if self.points is not None:
            entry["points"] = self.points
        return {_KEY: entry}


def generated_views(config: DataParserConfig) -> GeneratedViews:
    """Which views of a capture were generated; none where it says nothing.

    Raises:
        JsonFileError: the entry of its camera file cannot be used.
    """
    file = _camera_file(config)
    if file is None or not file.is_file():
        return GeneratedViews(frozenset())
    entry = read_json(file, _WAY_OUT)[_KEY]
    if not entry.is_given:
        return GeneratedViews(frozenset())
    names = frozenset(name.text("names of images") for name in entry["filenames"].entries("a list of image names"))
    background = None
    if entry["background"].is_given:
        channels = entry["background"].entries("three numbers in 0..1")
        if len(channels) != 3:
            entry["background"].refuse("three numbers in 0..1")
        r, g, b = (channel.number("a number in 0..1", lambda value: 0 <= value <= 1) for channel in channels)
        background = (r, g, b)
    points = entry["points"].choice([POINTS_ON_SURFACE]) if entry["points"].is_given else None
    return GeneratedViews(names, background, points)


def _camera_file(config: DataParserConfig) -> Path | None:
    if not reads_camera_files(config):
        return None
    if isinstance(config, BlenderDataParserConfig):
        return config.data / "transforms_train.json"
    return transforms_file(config)
