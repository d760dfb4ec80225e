"""What the camera files of a capture say, checked and completed, whichever of nerfstudio's dataparsers they are for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import Blender, BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGP, InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig

from genfusion_ns.data.captures.checks.colmap import COLMAP_FOLDERS, check_colmap
from genfusion_ns.data.captures.checks.transforms import SPLITS, check_blender, check_transforms
from genfusion_ns.data.captures.file_lookup import FileLookup
from genfusion_ns.data.captures.image_files import CaptureError, raise_for
from genfusion_ns.messages import say

_FILE_KEYS = ("file_path", "mask_path", "depth_file_path")
_OLD_COLMAP_WORLD = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
"""From COLMAP's world to that of transforms files of old versions of ns-process-data, which do not say it."""
_COLMAP_WORLD = [[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]
"""From COLMAP's world, whose y axis usually points down, to nerfstudio's."""


KnownConfig = NerfstudioDataParserConfig | InstantNGPDataParserConfig | BlenderDataParserConfig | ColmapDataParserConfig


@dataclass(frozen=True)
class CameraFiles:
    """All registered views of a capture."""

    content: dict[str, Any]
    """As transforms.json has them, every frame with the absolute paths of its files, its whole camera and its lens."""
    images: Path
    """Folder of the images; downscaled ones lie beside it in folders of its name with _2, _4, ..."""
    declared: dict[str, list[Path]] = field(default_factory=dict)
    """Images of each split that the capture declares."""


def reads_camera_files(config: DataParserConfig) -> TypeGuard[KnownConfig]:
    """Whether `read_camera_files` knows the files of this dataparser; those derived from one answer for themselves."""
    return config._target in (Nerfstudio, InstantNGP, Blender, ColmapDataParser)


def read_camera_files(config: KnownConfig) -> CameraFiles:
    """Read and check the camera files for the nerfstudio, instant-ngp, Blender or COLMAP dataparser.

    Raises:
        CaptureError: with the file, the value found, what is allowed and the way out.
    """
    if isinstance(config, ColmapDataParserConfig):
        files = _read_colmap(config)
    elif isinstance(config, BlenderDataParserConfig):
        files = _read_blender(config)
    else:
        files = _read_transforms(config)
    if getattr(config, "eval_mode", None) == "filename":
        return CameraFiles(files.content, files.images, _split_by_name(config.data, files.content["frames"]))
    return files


def transforms_file(config: DataParserConfig) -> Path:
    """transforms.json of a capture, or the .json file that `data` itself names."""
    return config.data if config.data.suffix == ".json" else config.data / "transforms.json"


def checked_factor(factor: object) -> int | None:
    """The downscale factor that the user gave.

    Raises:
        CaptureError: no whole number in 1..64.
    """
    if factor is None:
        return None
    if isinstance(factor, (int, float)) and factor in range(1, 65):  # ns-render dataset gives 2.0
        return int(factor)
    raise CaptureError(
        f"--downscale-factor is {factor}; allowed are 1..64, or none to choose by the size of the images."
    )


def _read_transforms(config: NerfstudioDataParserConfig | InstantNGPDataParserConfig) -> CameraFiles:
    _require_data(config.data, takes_json=True)
    path = transforms_file(config)
    if not path.exists():
        is_nerfstudio = isinstance(config, NerfstudioDataParserConfig)
        raise _nothing_for(config.data, "transforms.json", "nerfstudio" if is_nerfstudio else "instant-ngp")
    content = check_transforms(path)
    folder = _absolute(path.parent)
    frames = _with_files(path, folder, content["frames"])
    file_of = {
        Path(old["file_path"]): Path(new["file_path"]) for old, new in zip(content["frames"], frames, strict=True)
    }
    lists = {split: content.pop(f"{split}_filenames", None) for split in SPLITS}
    declared = {
        split: [file_of[Path(name)] for name in dict.fromkeys(names)] for split, names in lists.items() if names
    }
    if "applied_transform" not in content and (config.data / "colmap/sparse/0").exists():
        content["applied_transform"] = _OLD_COLMAP_WORLD
    return CameraFiles({**content, "frames": frames}, folder / "images", declared)


def _read_blender(config: BlenderDataParserConfig) -> CameraFiles:
    _require_data(config.data)
    if not (config.data / "transforms_train.json").exists():
        raise _nothing_for(config.data, "transforms_train.json", "blender")
    folder = _absolute(config.data)
    frames: dict[str, dict[str, Any]] = {}
    declared: dict[str, list[Path]] = {}
    for split, part in check_blender(config.data).items():
        found = _with_files(config.data / f"transforms_{split}.json", folder, part)
        declared[split] = [Path(frame["file_path"]) for frame in found]
        frames = {**{frame["file_path"]: _four_rows(frame) for frame in found}, **frames}
    return CameraFiles({"frames": list(frames.values())}, folder, declared)


def _read_colmap(config: ColmapDataParserConfig) -> CameraFiles:
    _require_data(config.data)
    model = config.data / config.colmap_path
    if not model.exists():
        raise _nothing_for(config.data, f"COLMAP model in {config.colmap_path}", "colmap")
    named, lists = check_colmap(model, config.data)
    for frame in named:
        for key, folder in (("mask_path", config.masks_path), ("depth_file_path", config.depths_path)):
            if folder is not None:
                file = _absolute(config.data / folder) / frame["file_path"]
                frame[key] = str(file.with_suffix(".png"))
    content: dict[str, Any] = {}
    if config.assume_colmap_world_coordinate_convention:
        content["applied_transform"] = _COLMAP_WORLD
        for frame in named:
            x, y, z, last = frame["transform_matrix"]
            frame["transform_matrix"] = [x, z, [-value for value in y], last]
    images = _absolute(config.data / config.images_path)
    frames = _with_files(model, images, named)
    file_of = {old["file_path"]: Path(new["file_path"]) for old, new in zip(named, frames, strict=True)}
    declared = {
        split: [file_of[name] for name in dict.fromkeys(names)] for split, names in lists.items() if split in SPLITS
    }
    return CameraFiles({**content, "frames": frames}, images, declared)


def _with_files(source: Path, folder: Path, frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The frames with the files that their names mean; says once which were found under other names."""
    lookup = FileLookup(folder)
    found = [{**frame, **{key: str(lookup.find(frame[key])) for key in _FILE_KEYS if key in frame}} for frame in frames]
    written = [Path(os.path.normpath(folder / frame["file_path"])) for frame in frames]
    other = [
        f"{frame['file_path']!r} is {Path(new['file_path']).name}"
        for frame, new, path in zip(frames, found, written, strict=True)
        if Path(os.path.normpath(new["file_path"])) != path
    ]
    if other:
        say(f"{source} names {len(other)} images otherwise than the disk: {other[0]}")
    return found


def _four_rows(frame: dict[str, Any]) -> dict[str, Any]:
    return {**frame, "transform_matrix": [*frame["transform_matrix"][:3], [0, 0, 0, 1]]}


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _require_data(data: Path, takes_json: bool = False) -> None:
    if not data.exists():
        raise CaptureError(f"--data {data} does not exist. Name the folder of a capture.")
    if data.is_file() and not (takes_json and data.suffix == ".json"):
        raise CaptureError(
            f"--data {data} is a file; name the folder of a capture{', or its .json file' if takes_json else ''}."
        )
    if data.is_dir() and next(data.iterdir(), None) is None:
        raise CaptureError(f"--data {data} is an empty folder. Name the folder of a capture.")


def _nothing_for(data: Path, wanted: str, kind: str) -> CaptureError:
    """The error for a folder without camera files of one kind, which says what other kinds it has."""
    others = {
        "nerfstudio": (data / "transforms.json").exists(),
        "blender": (data / "transforms_train.json").exists(),
        "colmap": any((data / folder / "cameras.bin").exists() for folder in COLMAP_FOLDERS)
        or any((data / folder / "cameras.txt").exists() for folder in COLMAP_FOLDERS),
    }
    found = [f"{other}-data" if other != "colmap" else other for other, there in others.items() if there]
    advice = (
        f"It can be read with another dataparser: append {' or '.join(found)} to the command."
        if found
        else "Find the poses of photos or a video first, with gf-capture or ns-process-data, or correct --data."
    )
    return CaptureError(f"--data {data} has no {wanted}, which the {kind} dataparser needs. {advice}")


def _split_by_name(data: Path, frames: Sequence[dict[str, Any]]) -> dict[str, list[Path]]:
    """nerfstudio's --eval-mode filename: images with train in their names train, those with eval are held out."""
    files = [Path(frame["file_path"]) for frame in frames]
    raise_for(
        [file.name for file in files if "train" not in file.name and "eval" not in file.name],
        f"{data}: --eval-mode filename needs images with train or eval in their names",
        "Rename them, or leave --eval-mode as it is.",
    )
    return {
        "train": [file for file in files if "train" in file.name],
        "test": [file for file in files if "train" not in file.name],
    }
