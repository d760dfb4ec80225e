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
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from genfusion_ns.data.captures.checks.colmap import usual_colmap_folder
from genfusion_ns.data.captures.checks.files import reads_camera_files, transforms_file
from genfusion_ns.data.captures.checks.transforms import SPLITS, read_json_object
from genfusion_ns.data.captures.checks.views import check_views
from genfusion_ns.data.captures.file_lookup import FileLookup
from genfusion_ns.data.captures.image_files import raise_for
from genfusion_ns.data.captures.location import config_file, located
from genfusion_ns.data.captures.parser import CaptureParser
from genfusion_ns.data.points.sparse_model import SparseSources
from genfusion_ns.data.view_selection import ViewSplit
from genfusion_ns.messages import say

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


def located_capture(config: DataParserConfig) -> DataParserConfig:
    """A copy of a dataparser config with the absolute path of its capture, which may have been moved since training.

    The data of dataparsers that answer for themselves need not be a path.

    Raises:
        CaptureError: a run whose data are not found, see `located`.
    """
    return replace(config, data=located(config.data, config_file())) if reads_camera_files(config) else config


def whole_capture_config(config: DataParserConfig) -> DataParserConfig:
    """A copy of a dataparser config that reads all registered views and no 3D points.

    Captures for the nerfstudio, instant-ngp, COLMAP and Blender dataparsers are read by `CaptureParser`; others answer
    for themselves. Points are read by `seed_points`, which knows which views are held out (and needs no open3d).
    """
    changes: dict[str, Any] = {}
    if isinstance(config, ColmapDataParserConfig) and not (config.data / config.colmap_path).exists():
        usual = usual_colmap_folder(config.data)
        if usual is not None:
            say(f"No COLMAP model in {config.data / config.colmap_path}; reading {config.data / usual}.")
            changes["colmap_path"] = usual
    if reads_camera_files(config):
        return replace(config, **changes, _target=CaptureParser)
    if _may_give_all(config):
        # Its train views are all views; "all" would warn about a danger that is not there.
        changes["eval_mode"], changes["train_split_fraction"] = "fraction", 1.0
    if hasattr(config, "load_3D_points"):
        changes["load_3D_points"] = False
    return replace(config, **changes)


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
    poses = transforms_file(config)
    pose_files = (poses,) if poses.exists() else ()
    if isinstance(config, (NerfstudioDataParserConfig, InstantNGPDataParserConfig)):
        ply = read_json_object(poses).get("ply_file_path")
        return SparseSources(folder, pose_files, ply_path=None if ply is None else FileLookup(folder).find(ply))
    colmap_path, ply_path = (getattr(config, name, None) for name in ("colmap_path", "ply_path"))
    return SparseSources(folder, pose_files, colmap_path, ply_path, prefer_ply=ply_path is not None)


def read_capture(parser: DataParser, train: DataparserOutputs, check_images: bool = True) -> Capture:
    """All registered views of the capture that `parser` reads.

    Poses are normalised over all registered cameras, test views included, so that the frame is the same for every
    split; the held-out cameras' positions are known to training in this one respect.

    Args:
        parser: set up from a `whole_capture_config`.
        train: what the parser gave for its train split.
        check_images: look at the headers of all image files; False where only cameras are wanted, as for rendering.

    Raises:
        CaptureError: poses, intrinsics or image files that cannot be used, see `check_views`.
    """
    folder = data_folder(parser.config)
    if isinstance(parser, CaptureParser):
        outputs, declared, full_size = train, parser.declared, parser.full_size
    else:
        outputs, declared = _all_splits(parser, train)
        full_size = outputs.image_filenames
    for group in (*declared.values(), outputs.image_filenames):
        _refuse_duplicates(folder, group)
    names = _names(full_size)
    listed = {file for group in declared.values() for file in group}
    order = sorted((name, i) for i, name in enumerate(names) if not declared or full_size[i] in listed)
    outputs = select_outputs(outputs, [i for _, i in order])
    _mark_fisheye(outputs.cameras)
    check_views(outputs, [name for name, _ in order], folder, check_images)
    split = _declared_split(declared, [full_size[i] for _, i in order])
    return Capture(outputs, tuple(name for name, _ in order), split)


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


def _all_splits(parser: DataParser, train: DataparserOutputs) -> tuple[DataparserOutputs, dict[str, list[Path]]]:
    """Every view of a dataparser that answers for itself, and the splits, if it is the capture that declares them."""
    if _may_give_all(parser.config):
        return train, {}
    held_out = ["test"] if hasattr(parser.config, "eval_mode") else [split for split in SPLITS if split != "train"]
    parts = {"train": train, **{split: parser.get_dataparser_outputs(split=split) for split in held_out}}
    outputs = _concatenate(list(parts.values()))
    first_of_file = {file: i for i, file in reversed(list(enumerate(outputs.image_filenames)))}
    declared = {split: part.image_filenames for split, part in parts.items()}
    return select_outputs(outputs, sorted(first_of_file.values())), declared


def _may_give_all(config: DataParserConfig) -> bool:
    """Whether a dataparser that answers for itself splits by numbers, which the user did not ask to be by names."""
    return hasattr(config, "train_split_fraction") and getattr(config, "eval_mode", "filename") != "filename"


def _declared_split(declared: dict[str, list[Path]], files: Sequence[Path]) -> ViewSplit | None:
    held_out = "test" if "test" in declared else "val"
    if "train" not in declared or held_out not in declared:
        return None
    view = {file: i for i, file in enumerate(files)}
    train = {view[file] for file in declared["train"]}
    test = {view[file] for file in declared[held_out]}
    if train & test:
        say(f"The capture declares {len(train & test)} view(s) as both train and {held_out}; not used.", "yellow")
        return None
    source = f"the capture's own train and {held_out} views"
    return ViewSplit(tuple(sorted(train)), tuple(sorted(test)), source)


def _names(files: Sequence[Path]) -> list[str]:
    # Camera files may mix absolute and relative names.
    paths = [Path(os.path.abspath(file)) for file in files]
    root = os.path.commonpath([path.parent for path in paths])
    # Text is UTF-8 whatever the locale decodes file names with.
    return [os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "surrogateescape") for path in paths]


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
    counts = Counter(os.path.normpath(file) for file in files)
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
