"""Checks of transforms.json (nerfstudio) and transforms_train.json (Blender) before nerfstudio parses them.

nerfstudio 1.1.5 meets malformed files with bare key errors and asserts, and some with a wrong result.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from genfusion_ns.data.captures.checks.intrinsics import CAMERA_KEYS, frames_with_cameras
from genfusion_ns.data.captures.checks.views import (
    MIN_VIEWS,
    check_positions,
    is_number,
    matrix_problem,
    rigidity_problem,
)
from genfusion_ns.data.captures.file_lookup import FileLookup
from genfusion_ns.data.captures.image_files import CaptureError, raise_for

SPLITS = ("train", "val", "test")
_ORIENTATIONS = ("pca", "up", "vertical", "none")
_POSE_WAY_OUT = "A pose is a rigid camera-to-world matrix; export the poses again or remove these frames."


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CaptureError: missing, unreadable, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CaptureError(f"{path} cannot be read as JSON: {error}. Write it again, or restore a copy.") from error
    if not isinstance(content, dict):
        raise CaptureError(f"{path} contains a {type(content).__name__}; an object with the key frames is needed.")
    return content


def read_frames(path: Path, content: Mapping[str, Any], rows: tuple[int, ...] = (4,)) -> list[dict[str, Any]]:
    """The frames of a transforms file, each with a usable file_path and a rigid transform_matrix.

    Args:
        path: the file, for messages.
        content: what it contains.
        rows: allowed numbers of rows of a pose.

    Raises:
        CaptureError: no frames, or frames without a name or a rigid pose, or an image that is registered twice.
    """
    frames = content.get("frames")
    if not isinstance(frames, list):
        found = f"a {type(frames).__name__}" if "frames" in content else f"nothing (keys: {sorted(content)[:12]})"
        raise CaptureError(f"{path}: frames must be a list of registered images, found {found}.")
    nameless = [f"frames[{i}]" for i, frame in enumerate(frames) if not _has_name(frame)]
    raise_for(
        nameless, f"{path}: {len(nameless)} frames without file_path", "Each frame is an object that names its image."
    )
    poses = [(frame["file_path"], _pose_problem(frame, rows)) for frame in frames]
    wrong = [f"the transform_matrix of {name} {problem}" for name, problem in poses if problem]
    raise_for(wrong, f"{path}: {len(wrong)} of {len(frames)} poses cannot be used", _POSE_WAY_OUT)
    counts = Counter(Path(frame["file_path"]).as_posix() for frame in frames)
    raise_for(
        [f"{name} ({count} times)" for name, count in counts.items() if count > 1],
        f"{path}: images that are registered more than once",
        "Keep the one frame with the right pose.",
    )
    return frames


def check_transforms(path: Path) -> dict[str, Any]:
    """Check a transforms.json of nerfstudio or instant-ngp.

    Returns:
        Its content, with all about cameras in the frames and nothing at the top (see `frames_with_cameras`).

    Raises:
        CaptureError: anything that nerfstudio's dataparser would trip over or get wrong.
    """
    content = read_json_object(path)
    frames = read_frames(path, content)
    check_count(path, len(frames))
    lookup = FileLookup(path.parent)
    complete = frames_with_cameras(path, content, frames, lambda frame: lookup.find(frame["file_path"]))
    _check_options(path, content, frames)
    check_positions(path, [frame["file_path"] for frame in frames], _centers(frames))
    _check_lists(path, content, frames)
    return {**{key: value for key, value in content.items() if key not in CAMERA_KEYS}, "frames": complete}


def check_blender(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Check the transforms files of a Blender capture.

    Returns:
        The frames of each split, complete like those of `check_transforms`.

    Raises:
        CaptureError: see `check_transforms`.
    """
    paths = {split: folder / f"transforms_{split}.json" for split in SPLITS}
    lookup = FileLookup(folder)
    frames: dict[str, list[dict[str, Any]]] = {}
    for split, path in paths.items():
        if not path.exists():
            continue
        content = read_json_object(path)
        named = read_frames(path, content, rows=(3, 4))
        if not named:
            raise CaptureError(f"{path}: frames is empty; add the registered images, or remove the file.")
        frames[split] = frames_with_cameras(path, content, named, lambda frame: lookup.find(frame["file_path"]))
    every = [frame for part in frames.values() for frame in part]
    check_count(folder, len(every))
    check_positions(folder, [frame["file_path"] for frame in every], _centers(every))
    return frames


def check_count(where: Path, count: int) -> None:
    """Refuse captures with too few views to train and to judge.

    Raises:
        CaptureError: fewer than three.
    """
    if count < MIN_VIEWS:
        raise CaptureError(
            f"{where}: {count} image(s) are registered, at least {MIN_VIEWS} are needed: two to train on and one held "
            "out. Add images, or register more of them with ns-process-data or COLMAP."
        )


def check_names(where: str, entries: object, known: Iterable[str]) -> None:
    """Refuse a declared list of views that is no list of registered image names.

    Raises:
        CaptureError: wrong type, or names that no registered image has.
    """
    if not isinstance(entries, list) or any(not isinstance(entry, str) for entry in entries):
        raise CaptureError(f"{where} must be a list of image names, found {str(entries)[:60]!r}.")
    names = {Path(name) for name in known}
    unknown = [repr(entry) for entry in entries if Path(entry) not in names]
    raise_for(
        unknown,
        f"{where} has {len(unknown)} name(s) that no registered image has",
        f"Write them as the camera file does, such as {min(names).as_posix()!r}, or remove them.",
    )


def _centers(frames: list[dict[str, Any]]) -> Float[np.ndarray, "V 3"]:
    return np.array([[row[3] for row in frame["transform_matrix"][:3]] for frame in frames], dtype=np.float64)


def _has_name(frame: object) -> bool:
    return isinstance(frame, dict) and _is_name(frame.get("file_path"))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _pose_problem(frame: dict[str, Any], rows: tuple[int, ...]) -> str | None:
    if "transform_matrix" not in frame:
        return "is missing"
    matrix = frame["transform_matrix"]
    return matrix_problem(matrix, rows) or rigidity_problem(np.array(matrix, dtype=np.float64))


def _check_options(path: Path, content: Mapping[str, Any], frames: list[dict[str, Any]]) -> None:
    checks = {
        "applied_transform": lambda value: matrix_problem(value, rows=(3,)),
        "applied_scale": lambda value: None if is_number(value) and value > 0 else "must be a positive number",
        "orientation_override": lambda value: None if value in _ORIENTATIONS else f"may be {', '.join(_ORIENTATIONS)}",
        "ply_file_path": lambda value: (
            None if isinstance(value, str) and value.isprintable() else "must be a file name"
        ),
        "fisheye_crop_radius": lambda value: None if is_number(value) else "must be a number",
    }
    found = {key: check(content[key]) for key, check in checks.items() if key in content}
    raise_for(
        [f"{key} is {str(content[key])[:60]}: {problem}" for key, problem in found.items() if problem],
        f"{path}: options that cannot be used",
        "Correct or remove them.",
    )
    for key in ("mask_path", "depth_file_path"):
        with_key = [frame for frame in frames if isinstance(frame.get(key), str)]
        if len(with_key) < sum(key in frame for frame in frames) or 0 < len(with_key) < len(frames):
            raise CaptureError(
                f"{path}: {len(with_key)} of {len(frames)} frames name a file as {key}; either all do or none does."
            )


def _check_lists(path: Path, content: Mapping[str, Any], frames: list[dict[str, Any]]) -> None:
    lists = {key: content[key] for key in (f"{split}_filenames" for split in SPLITS) if key in content}
    for key, entries in lists.items():
        check_names(f"{path}: {key}", entries, (frame["file_path"] for frame in frames))
    if lists and not lists.get("train_filenames"):
        raise CaptureError(
            f"{path}: {', '.join(lists)} declare a split without train views; add train_filenames or remove the others."
        )
