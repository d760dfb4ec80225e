"""All registered views of a capture, as one of nerfstudio's dataparsers reads them, and subsets of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.utils.rich_utils import CONSOLE

from genfusion_ns.data.capture_checks import check_capture_files
from genfusion_ns.data.image_files import raise_for
from genfusion_ns.data.seed_points import SparseSources
from genfusion_ns.data.transforms_checks import SPLITS, read_json_object
from genfusion_ns.data.view_checks import check_views
from genfusion_ns.data.view_selection import ViewSplit

_NEARLY_ZERO = 1e-12
_CAMERA_FIELDS = (
    "camera_to_worlds",
    "fx",
    "fy",
    "cx",
    "cy",
    "width",
    "height",
    "distortion_params",
    "camera_type",
    "times",
)


@dataclass(frozen=True)
class Capture:
    """Every registered view, sorted by name; view id = position."""

    outputs: DataparserOutputs
    """Files and cameras of all views, normalised together."""
    names: tuple[str, ...]
    """Image paths relative to the folder that holds all images, the same at every downscale factor."""
    declared: ViewSplit | None
    """The split that the capture itself declares, if any."""


def whole_capture_config(config: DataParserConfig, check_images: bool = True) -> DataParserConfig:
    """A copy of a dataparser config that reads all registered views and no 3D points, of a capture that was checked.

    Points are read by `seed_points` instead, which knows which views are held out (and needs no open3d).

    Args:
        config: as the user wrote it.
        check_images: see `check_capture_files`; False where only cameras are wanted, as for rendering a path.

    Raises:
        CaptureError: the camera files cannot be used.
    """
    changes: dict[str, Any] = {}
    if hasattr(config, "eval_interval") and getattr(config, "eval_mode", "filename") != "filename":
        # Its train and test views together are all views; "all" would warn about a danger that is not there.
        changes["eval_mode"], changes["eval_interval"] = "interval", 8
    if hasattr(config, "load_3D_points"):
        changes["load_3D_points"] = False
    if isinstance(config, BlenderDataParserConfig):
        changes["ply_path"] = None
    if isinstance(config, ColmapDataParserConfig) and not (config.data / config.colmap_path).exists():
        for usual in (Path("sparse/0"), Path("colmap/sparse/0"), Path("sparse")):
            if (config.data / usual / "images.bin").exists() or (config.data / usual / "images.txt").exists():
                CONSOLE.log(f"No COLMAP model in {config.data / config.colmap_path}; reading {config.data / usual}.")
                changes["colmap_path"] = usual
                break
    whole = replace(config, **changes)
    check_capture_files(whole, check_images)
    return whole


def data_folder(config: DataParserConfig) -> Path:
    """Folder of the capture; `data` may also name the transforms.json in it."""
    return config.data.parent if config.data.suffix == ".json" else config.data


def point_sources(config: DataParserConfig) -> SparseSources:
    """Where the sparse points are of the capture that `config`, as the user wrote it, names."""
    folder = data_folder(config)
    if isinstance(config, BlenderDataParserConfig):
        poses = tuple(folder / f"transforms_{split}.json" for split in SPLITS)
        poses = tuple(file for file in poses if file.exists())
        return SparseSources(folder, poses, ply_path=config.ply_path, prefer_ply=config.ply_path is not None)
    poses = _transforms_file(config)
    pose_files = (poses,) if poses.exists() else ()
    if isinstance(config, NerfstudioDataParserConfig):
        ply = _read_transforms(config).get("ply_file_path")
        return SparseSources(folder, pose_files, ply_path=None if ply is None else Path(ply))
    return SparseSources(folder, pose_files, colmap_path=getattr(config, "colmap_path", None))


def read_capture(parser: DataParser, train: DataparserOutputs, check_images: bool = True) -> Capture:
    """All registered views of the capture that `parser` reads.

    Poses are normalised over all registered cameras, test views included, so that the frame is the same for every
    split; the held-out cameras' positions are known to training in this one respect.

    Args:
        parser: set up from a `whole_capture_config`.
        train: what the parser gave for its own train split.
        check_images: look at the headers of all image files.

    Raises:
        CaptureError: poses, intrinsics or image files that cannot be used, see `check_views`.
    """
    splits, are_declared = _parser_splits(parser.config)
    parts = {"train": train}
    parts.update((split, parser.get_dataparser_outputs(split=split)) for split in splits if split != "train")
    folder = data_folder(parser.config)
    files = [file for part in parts.values() for file in part.image_filenames]
    # Declared splits may share views; the parser's own train and test views are a partition.
    for group in [part.image_filenames for part in parts.values()] if are_declared else [files]:
        _refuse_duplicates(folder, group)
    first_of_file = {file: i for i, file in reversed(list(enumerate(files)))}
    names = _names(list(first_of_file))
    order = sorted(zip(names, first_of_file.values(), strict=True))
    outputs = select_outputs(_concatenate(list(parts.values())), [i for _, i in order])
    _mark_fisheye(outputs.cameras)
    check_views(outputs, [name for name, _ in order], folder, check_images)
    declared = _declared_split(parts, outputs.image_filenames) if are_declared else None
    return Capture(outputs, tuple(name for name, _ in order), declared)


def select_outputs(outputs: DataparserOutputs, ids: Sequence[int]) -> DataparserOutputs:
    """The views `ids` of `outputs`, in that order, with everything that is stored per view."""
    count = len(outputs.image_filenames)
    metadata = {
        key: [value[i] for i in ids] if isinstance(value, list) and len(value) == count else value
        for key, value in outputs.metadata.items()
    }
    masks = outputs.mask_filenames
    return replace(
        outputs,
        image_filenames=[outputs.image_filenames[i] for i in ids],
        mask_filenames=None if masks is None else [masks[i] for i in ids],
        cameras=outputs.cameras[torch.tensor(ids, dtype=torch.long)],
        metadata=metadata,
    )


def _parser_splits(config: DataParserConfig) -> tuple[list[str], bool]:
    """The parser's splits that together hold every view, and whether it is the capture that declares them."""
    if isinstance(config, BlenderDataParserConfig):
        return [split for split in SPLITS if (config.data / f"transforms_{split}.json").exists()], True
    declared: list[str] = []
    if isinstance(config, ColmapDataParserConfig):
        declared = [split for split in SPLITS if (config.data / f"{split}_list.txt").exists()]
    elif isinstance(config, NerfstudioDataParserConfig):
        meta = _read_transforms(config)
        declared = [split for split in SPLITS if meta.get(f"{split}_filenames")]
    elif not hasattr(config, "eval_interval"):
        declared = list(SPLITS)
    if not declared and getattr(config, "eval_mode", None) == "filename":
        declared = ["train", "test"]
    return (declared, True) if declared else (["train", "test"], False)


def _read_transforms(config: DataParserConfig) -> dict[str, Any]:
    return read_json_object(_transforms_file(config))


def _transforms_file(config: DataParserConfig) -> Path:
    return config.data if config.data.suffix == ".json" else config.data / "transforms.json"


def _declared_split(parts: dict[str, DataparserOutputs], files: Sequence[Path]) -> ViewSplit | None:
    held_out = "test" if "test" in parts else "val"
    if "train" not in parts or held_out not in parts:
        return None
    view = {file: i for i, file in enumerate(files)}
    train = {view[file] for file in parts["train"].image_filenames}
    test = {view[file] for file in parts[held_out].image_filenames}
    if train & test:
        CONSOLE.log(f"[yellow]The capture declares {len(train & test)} view(s) as both train and {held_out}; not used.")
        return None
    source = f"the capture's own train and {held_out} views"
    return ViewSplit(tuple(sorted(train)), tuple(sorted(test)), source)


def _names(files: Sequence[Path]) -> list[str]:
    # Camera files may mix absolute and relative names.
    paths = [Path(os.path.abspath(file)) for file in files]
    root = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(root).as_posix() for path in paths]


def _mark_fisheye(cameras: Cameras) -> None:
    """Give equidistant fisheye lenses a coefficient that is not zero, in place.

    nerfstudio takes images whose coefficients are all zero for undistorted, which is wrong for a fisheye lens.
    """
    is_fisheye = cameras.camera_type[:, 0] == CameraType.FISHEYE.value
    if is_fisheye.any():
        if cameras.distortion_params is None:
            cameras.distortion_params = torch.zeros(len(is_fisheye), 6)
        cameras.distortion_params[is_fisheye & (cameras.distortion_params == 0).all(dim=1), 0] = _NEARLY_ZERO


def _refuse_duplicates(folder: Path, files: Sequence[Path]) -> None:
    counts = Counter(files)
    raise_for(
        [f"{file} ({count} times)" for file, count in counts.items() if count > 1],
        f"{folder}: several registered images have one and the same file",
        "Downscaled images of nerfstudio captures lie in one folder: give them different names, or use "
        "--downscale-factor 1.",
    )


def _concatenate(parts: list[DataparserOutputs]) -> DataparserOutputs:
    metadata = dict(parts[0].metadata)
    for key in metadata:
        values: list[Any] = [part.metadata.get(key) for part in parts]
        sizes = [len(part.image_filenames) for part in parts]
        if all(isinstance(value, list) and len(value) == size for value, size in zip(values, sizes, strict=True)):
            metadata[key] = [item for value in values for item in value]
    has_masks = all(part.mask_filenames is not None for part in parts)
    return replace(
        parts[0],
        image_filenames=[file for part in parts for file in part.image_filenames],
        mask_filenames=[file for part in parts for file in part.mask_filenames or ()] if has_masks else None,
        cameras=_concatenate_cameras([part.cameras for part in parts]),
        metadata=metadata,
    )


def _concatenate_cameras(cameras: list[Cameras]) -> Cameras:
    fields = {}
    for name in _CAMERA_FIELDS:
        values = [getattr(part, name) for part in cameras]
        fields[name] = None if any(value is None for value in values) else torch.cat(values)
    metadata = dict(cameras[0].metadata or {})
    for key, value in metadata.items():
        if isinstance(value, torch.Tensor):
            metadata[key] = torch.cat([(part.metadata or {})[key] for part in cameras])
    return Cameras(**fields, metadata=metadata)
