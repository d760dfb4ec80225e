"""The camera of every frame of a transforms file, from keys in the frame and at the top of the file.

nerfstudio 1.1.5 lets the top override the frames, the instant-ngp and Blender dataparsers do not look into frames, and
none of them knows of camera models per frame. Here a frame's own values count before those at the top, key by key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genfusion_ns.data.captures.checks.views import IMAGE_WAY_OUT, is_number
from genfusion_ns.data.captures.image_files import CaptureError, raise_for, read_header
from genfusion_ns.messages import say

CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
"""Names of transforms.json's camera models that the surfel renderer can use once images are undistorted."""
INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
"""Pixels; every frame has them, itself or from the top of the file."""
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Lens distortion, in the order of distortion_params; 0 where nothing says otherwise."""
CAMERA_KEYS = (*INTRINSICS, *DISTORTION, "distortion_params", "camera_model")
"""What a dataparser takes from the top of the file or from a frame."""
_LARGEST = {"fl_x": 1e7, "fl_y": 1e7, "cx": 1e7, "cy": 1e7, "w": 1e5, "h": 1e5}
_ANGLES = {
    "fl_x": (("camera_angle_x", 1.0), ("x_fov", math.pi / 180)),
    "fl_y": (("camera_angle_y", 1.0), ("y_fov", math.pi / 180)),
}
_UNDISTORTED = ("SIMPLE_PINHOLE", "PINHOLE")
_FOREIGN = ("k5", "k6", "s1", "s2", "s3", "s4", "ftheta_p0", "ftheta_p1", "latlong", "equirectangular", "orthographic")
"""Lenses that instant-ngp and OpenCV know and that cannot be undistorted here, unless 0 or false."""

Frame = Mapping[str, Any]
Found = tuple[Any, str]
"""A value and where it was found, for the messages."""


def frames_with_cameras(
    path: Path, content: Mapping[str, Any], frames: list[dict[str, Any]], image_of: Callable[[Frame], Path]
) -> list[dict[str, Any]]:
    """The frames, each with all `INTRINSICS`, all `DISTORTION` and its camera_model.

    Focal lengths may also be given as camera_angle_x and camera_angle_y (radians) or x_fov and y_fov (degrees); pixels
    are square, the principal point is the middle and the size is that of the image file where nothing is said.

    Args:
        path: the transforms file, for the messages.
        content: what it contains.
        frames: its frames, whose names have been checked.
        image_of: the image file of a frame, which is opened only where its size is given nowhere.

    Raises:
        CaptureError: with every value that is missing, no number, out of range, contradictory or of a lens that cannot
            be undistorted.
    """
    _check_models(path, content, frames)
    intrinsics = [_Intrinsics(content, frame, image_of) for frame in frames]
    raise_for(
        [camera.unreadable for camera in intrinsics if camera.unreadable],
        f"{path}: w and h are not given, and images that would tell them cannot be read",
        f"Give w and h (pixels). {IMAGE_WAY_OUT}",
    )
    raise_for(
        _distinct(problem for camera in intrinsics for problem in camera.problems()),
        f"{path}: intrinsics that cannot be used",
        "fl_x, fl_y, cx, cy, w and h (pixels), or camera_angle_x (radians), must be numbers at the top of the file or "
        "in every frame.",
    )
    raise_for(
        _distinct(problem for level, where in _levels(content, frames) for problem in _lens_problems(level, where)),
        f"{path}: lens distortion that cannot be used",
        "k1 .. k4, p1 and p2 must be numbers, distortion_params a list of these six; others are not supported: "
        "undistort the images to a pinhole camera first.",
    )
    top = _lens(content)
    lenses = [{**dict.fromkeys(DISTORTION, 0.0), **top, **_lens(frame)} for frame in frames]
    models = [_model(content, frame) for frame in frames]
    raise_for(
        [
            f"{frame['file_path']} has {next(f'{k} {v:g}' for k, v in lens.items() if v)} and the camera_model {model}"
            for frame, lens, model in zip(frames, lenses, models, strict=True)
            if model in _UNDISTORTED and any(lens.values())
        ],
        f"{path}: lens distortion of cameras without distortion",
        "Name the camera_model OPENCV where the images are distorted, or remove the distortion where they are not.",
    )
    _say_overridden(path, content, frames)
    return [
        {**_without_camera(frame), **camera.values(), **lens, "camera_model": model}
        for frame, camera, lens, model in zip(frames, intrinsics, lenses, models, strict=True)
    ]


def _say_overridden(path: Path, content: Mapping[str, Any], frames: list[dict[str, Any]]) -> None:
    """Log camera keys that frames have otherwise than the top of the file, which nerfstudio's parsers would prefer."""
    differ = [
        key for key in CAMERA_KEYS if key in content and any(f.get(key, content[key]) != content[key] for f in frames)
    ]
    if differ:
        say(
            f"{path}: {', '.join(differ)} of frames differ from the top of the file; what a frame has counts.",
            colour="yellow",
        )


def _without_camera(frame: Frame) -> dict[str, Any]:
    return {key: value for key, value in frame.items() if key not in CAMERA_KEYS}


class _Intrinsics:
    """Pixels of one frame's camera, wherever they are said."""

    def __init__(self, content: Mapping[str, Any], frame: Frame, image_of: Callable[[Frame], Path]) -> None:
        self._levels = ((frame, f"of {frame['file_path']}"), (content, "at the top"))
        self._missing = f"of {frame['file_path']}"
        size: dict[str, Found | None] = {key: self._given(key) for key in ("w", "h")}
        self.unreadable: str | None = None
        if not all(size.values()):
            try:
                stored = read_header(image_of(frame)).size
            except CaptureError as error:
                stored, self.unreadable = (None, None), str(error)
            size = {key: size[key] or (side, "of the file") for key, side in zip(("w", "h"), stored, strict=True)}
        self._found: dict[str, Found | None] = {
            **{key: self._focal(key, size) for key in ("fl_x", "fl_y")},
            **{key: self._given(key) for key in ("cx", "cy")},
            **size,
        }
        if self._found["fl_y"] is None:
            self._found["fl_y"] = self._found["fl_x"]  # square pixels
        if self._found["cx"] is None and self._found["cy"] is None:
            for key, side in (("cx", "w"), ("cy", "h")):
                value, where = size[side] or (None, "")
                self._found[key] = (value / 2 if is_number(value) else value, where)

    def values(self) -> dict[str, float]:
        """The value of every intrinsic."""
        return {key: found[0] for key, found in self._found.items() if found is not None}

    def problems(self) -> list[str]:
        """What keeps the values from being a camera."""
        found = {key: self._found[key] or (None, self._missing) for key in INTRINSICS}
        if self._found["fl_x"] is None:
            del found["fl_y"]  # which would be the same
        problems = {key: _pixels_problem(key, value) for key, (value, _) in found.items()}
        return [f"{key} {found[key][1]} {problem}" for key, problem in problems.items() if problem]

    def _given(self, key: str) -> Found | None:
        return next(((level[key], where) for level, where in self._levels if key in level), None)

    def _focal(self, key: str, size: dict[str, Found | None]) -> Found | None:
        """A focal length as it is given, or from an angle at the same level."""
        side, _ = size["w" if key == "fl_x" else "h"] or (None, "")
        for level, where in self._levels:
            if key in level:
                return level[key], where
            for name, unit in _ANGLES[key]:
                if name in level and not (key == "fl_y" and "fl_x" in level):
                    angle = level[name]
                    if not is_number(angle) or not 1e-4 < angle * unit < math.pi:
                        return f"not known: {name} is {angle!r}, a field of view of 0..180 degrees is needed", where
                    return (0.5 * side / math.tan(0.5 * angle * unit) if is_number(side) else side), where
        return None


def _check_models(path: Path, content: Mapping[str, Any], frames: list[dict[str, Any]]) -> None:
    problems = []
    for level, where in _levels(content, frames):
        model = level.get("camera_model", "OPENCV")
        if model not in CAMERA_MODELS:
            problems.append(f"camera_model {where} is {model!r}")
    raise_for(
        problems,
        f"{path}: camera models that cannot be used",
        f"Allowed are {', '.join(CAMERA_MODELS)}. Undistort the images to a pinhole camera first.",
    )
    raise_for(
        [
            f"is_fisheye {where} is {str(level['is_fisheye'])[:60]!r}"
            for level, where in _levels(content, frames)
            if not isinstance(level.get("is_fisheye", False), (bool, int)) or level.get("is_fisheye", 0) not in (0, 1)
        ],
        f"{path}: lenses that are not told",
        "is_fisheye may be true or false.",
    )
    raise_for(
        _distinct(
            f"{frame['file_path']}: is_fisheye is {flag[0]!r}, camera_model is {model[0]}"
            for frame in frames
            if (flag := _first("is_fisheye", frame, content)) and (model := _first("camera_model", frame, content))
            if bool(flag[0]) != (model[0] == "OPENCV_FISHEYE")
        ),
        f"{path}: contradictory lenses",
        "Remove is_fisheye, or correct camera_model.",
    )


def _model(content: Mapping[str, Any], frame: Frame) -> str:
    model, flag = (_first(key, frame, content) for key in ("camera_model", "is_fisheye"))
    if model:
        return model[0]
    return "OPENCV_FISHEYE" if flag and flag[0] else "OPENCV"


def _first(key: str, *levels: Mapping[str, Any]) -> tuple[Any] | None:
    return next(((level[key],) for level in levels if key in level), None)


def _levels(content: Mapping[str, Any], frames: list[dict[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    return [(content, "at the top"), *((frame, f"of {frame['file_path']}") for frame in frames)]


def _lens(level: Mapping[str, Any]) -> dict[str, float]:
    """The distortion that one level gives."""
    listed = dict(zip(DISTORTION, level.get("distortion_params", ()), strict=False))
    return {**listed, **{key: level[key] for key in DISTORTION if key in level}}


def _lens_problems(level: Mapping[str, Any], where: str) -> list[str]:
    problems = [f"{key} {where} is {level[key]!r}" for key in DISTORTION if key in level and not is_number(level[key])]
    parameters = level.get("distortion_params", [0] * 6)
    if not isinstance(parameters, list) or len(parameters) != 6 or not all(map(is_number, parameters)):
        problems.append(f"distortion_params {where} is {str(parameters)[:60]}")
    elif not problems and "distortion_params" in level:
        problems += [
            f"{key} {where} is {level[key]!r}, but {listed!r} in distortion_params"
            for key, listed in zip(DISTORTION, parameters, strict=True)
            if level.get(key, listed) != listed
        ]
    return problems + [f"{key} {where} is {str(level[key])[:60]}" for key in _FOREIGN if level.get(key)]


def _distinct(problems: Any) -> list[str]:
    return list(dict.fromkeys(problems))


def _pixels_problem(key: str, value: object) -> str | None:
    if value is None:
        return "is missing"
    if not is_number(value):
        return f"is {str(value)[:100]}"
    largest = _LARGEST[key]
    if key in ("fl_x", "fl_y") and not 0 < value <= largest:
        return f"is {value}, it must be positive" if value <= 0 else f"is {value}, too large for a pinhole camera"
    if key in ("w", "h") and not (value == int(value) and 1 <= value <= largest):
        return f"is {value}, it must be a whole number of pixels, 1..{largest:.0f}"
    return None if abs(value) <= largest else f"is {value}, far outside any image"
