"""Reads the camera paths that nerfstudio's viewer saves from its render panel.

The file holds poses in the world frame of the run that was shown, which is also the frame of its training cameras as
long as the capture, ``orientation_method``, ``center_method`` and ``auto_scale_poses`` are the same.
"""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

_RIGID_TOLERANCE = 1e-4
_ASPECTS = (0.1, 10.0)
_SAVE_AGAIN = "Save the path again from the render panel of ns-viewer."


class CameraPathError(ValueError):
    """A camera path file that cannot be read or that describes no path of perspective cameras."""


@dataclass(frozen=True)
class CameraPath:
    """M >= 2 perspective cameras, equally spaced in time."""

    c2w: Float[Tensor, "M 4 4"]
    """Camera-to-world, OpenGL axes, in the world frame of the run in which the path was saved; float64."""
    fov_y: Float[Tensor, " M"]
    """Vertical field of view, radians in (0, pi)."""
    aspect: Float[Tensor, " M"]
    """Width / height of the image."""
    width: int | None = None
    """Render size in pixels, where the file has it."""
    height: int | None = None
    fps: float | None = None
    """Frames per second, where the file has them."""

    def __len__(self) -> int:
        return len(self.c2w)

    def resampled(self, num: int) -> CameraPath:
        """The path from its first to its last frame in `num` equal steps of time.

        Positions and angles of view are interpolated linearly, rotations spherically between neighbouring frames, so
        that changes of speed survive. The size stays; the frame rate is lost.

        Raises:
            ValueError: num < 1.
        """
        if num < 1:
            raise ValueError(f"a path needs at least 1 frame, num is {num}")
        frames, at = np.arange(len(self)), np.linspace(0, len(self) - 1, num)

        def between(values: Tensor) -> Tensor:
            return torch.from_numpy(np.interp(at, frames, values.numpy()))

        c2w = torch.eye(4, dtype=torch.float64).repeat(num, 1, 1)
        rotation = Slerp(frames, Rotation.from_matrix(self.c2w[:, :3, :3].numpy()))(at).as_matrix()
        c2w[:, :3, :3] = torch.from_numpy(rotation)
        c2w[:, :3, 3] = torch.stack([between(self.c2w[:, axis, 3]) for axis in range(3)], dim=-1)
        return CameraPath(c2w, between(self.fov_y), between(self.aspect), self.width, self.height)


def read_camera_path(path: Path) -> CameraPath:
    """The camera path in a JSON file of nerfstudio's render panel (nerfstudio 1.1, also what ns-render takes).

    Read are ``camera_path`` (a list of frames with ``camera_to_world``, 16 numbers row by row, ``fov``, vertical, in
    degrees, and ``aspect``), ``camera_type``, ``render_width``, ``render_height`` and ``fps``; the last four may be
    missing, ``aspect`` only where there is a render size.

    Raises:
        CameraPathError: no such file, not JSON, or anything in it that is missing or out of range.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CameraPathError(
            f"The camera path {path} cannot be read: {error.strerror}. Give the JSON file that the render panel of "
            "ns-viewer saves under camera_paths/ in the data folder."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CameraPathError(f"The camera path {path} is not JSON: {error}. {_SAVE_AGAIN}") from error
    return _Reader(path).path_of(content)


@dataclass(frozen=True)
class _Reader:
    """Checks the parsed content of one file."""

    file: Path

    def path_of(self, content: Any) -> CameraPath:
        if not isinstance(content, dict):
            raise self._error("the file", content, "an object with the key camera_path")
        self._check_camera_type(content.get("camera_type"))
        width, height = (self._size(content, key) for key in ("render_width", "render_height"))
        shape = width / height if width is not None and height is not None else None
        frames = content.get("camera_path")
        if not isinstance(frames, list) or not frames:
            raise self._error("camera_path", frames, "a list of frames", "Add keyframes in the render panel and save.")
        if len(frames) == 1:
            raise self._error(
                "camera_path", "1 frame", "at least 2 frames", "Add a second keyframe, or a longer duration."
            )
        poses, fovs, aspects = [], [], []
        for index, frame in enumerate(frames):
            where = f"camera_path[{index}]"
            if not isinstance(frame, dict):
                raise self._error(where, frame, "an object with camera_to_world, fov and aspect")
            poses.append(self._pose(f"{where}.camera_to_world", frame.get("camera_to_world")))
            fovs.append(self._fov(f"{where}.fov", frame.get("fov")))
            aspects.append(self._aspect(f"{where}.aspect", frame.get("aspect", shape)))
        fps = content.get("fps")
        return CameraPath(
            c2w=torch.from_numpy(np.stack(poses)),
            fov_y=torch.tensor(fovs, dtype=torch.float64),
            aspect=torch.tensor(aspects, dtype=torch.float64),
            width=width,
            height=height,
            fps=None if fps is None else self._fps(fps),
        )

    def _check_camera_type(self, value: Any) -> None:
        # nerfstudio, too, takes a file without a type as perspective.
        if value is None or (isinstance(value, str) and value.lower() == "perspective"):
            return
        raise self._error("camera_type", value, "perspective", "Choose Perspective in the render panel and save again.")

    def _size(self, content: dict[str, Any], key: str) -> int | None:
        value = content.get(key)
        if value is None:
            return None
        number = _number(value)
        if not (number >= 1 and number == math.floor(number) and number < 2**31):
            raise self._error(key, value, "a whole number of pixels, at least 1")
        return int(number)

    def _pose(self, where: str, value: Any) -> np.ndarray:
        allowed = "16 finite numbers, a 4 x 4 matrix row by row"
        if not isinstance(value, list) or len(value) != 16:
            found = f"a list of {len(value)}" if isinstance(value, list) else value
            raise self._error(where, found, allowed)
        numbers = [_number(item) for item in value]
        for item, number in zip(value, numbers, strict=True):
            if not abs(number) < 1e9:
                raise self._error(where, item, allowed)
        pose = np.array(numbers).reshape(4, 4)
        rotation = pose[:3, :3]
        if np.abs(pose[3] - [0, 0, 0, 1]).max() > _RIGID_TOLERANCE:
            raise self._error(where, pose[3].tolist(), "0, 0, 0, 1 as the last row: a camera-to-world matrix by rows")
        if not (np.abs(rotation.T @ rotation - np.eye(3)).max() <= _RIGID_TOLERANCE and np.linalg.det(rotation) > 0):
            raise self._error(
                where, rotation.tolist(), "a rotation in the upper left 3 x 3 block, without scale or mirror"
            )
        return pose

    def _fov(self, where: str, value: Any) -> float:
        number = _number(value)
        if not 0 < number < 180:
            raise self._error(where, value, "degrees between 0 and 180, both exclusive")
        return math.radians(number)

    def _aspect(self, where: str, value: Any) -> float:
        number = _number(value)
        if not _ASPECTS[0] <= number <= _ASPECTS[1]:
            raise self._error(where, value, f"width / height between {_ASPECTS[0]:g} and {_ASPECTS[1]:g}")
        return number

    def _fps(self, value: Any) -> float:
        number = _number(value)
        if not 0 < number < math.inf:
            raise self._error("fps", value, "frames per second above 0")
        return number

    def _error(self, where: str, found: Any, allowed: str, way_out: str = _SAVE_AGAIN) -> CameraPathError:
        shown = "is missing" if found is None else f"is {reprlib.repr(found)}"
        return CameraPathError(f"Camera path {self.file}: {where} {shown}; allowed: {allowed}. {way_out}")


def _number(value: Any) -> float:
    """The number in a JSON value, nan where there is none or it is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
