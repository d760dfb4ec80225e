"""Reads the camera paths that nerfstudio's viewer saves from its render panel.

The file holds poses in the world frame of the run that was shown, which is also the frame of its training cameras as
long as the capture, ``orientation_method``, ``center_method`` and ``auto_scale_poses`` are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from genfusion_ns.json_files import JsonValue, read_json

_RIGID_TOLERANCE = 1e-4
_FPS = (1e-2, 1e3)
_NARROWEST = 1e-2
"""Degrees; single precision knows no focal lengths of much narrower views."""
_ASPECTS = (0.1, 10.0)
_LARGEST_SIDE = 2**15
"""Of a render, in pixels; what viewers save is far below."""
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
    if not path.is_file():
        raise CameraPathError(
            f"The camera path {path} cannot be read: {'Is a directory' if path.is_dir() else 'No such file'}. Give the "
            "JSON file that the render panel of ns-viewer saves under camera_paths/ in the data folder."
        )
    content = read_json(path, _SAVE_AGAIN, CameraPathError, "The camera path")
    kind = content["camera_type"]
    # nerfstudio, too, takes a file without a type as perspective.
    if kind.is_given and not (isinstance(kind.value, str) and kind.value.lower() == "perspective"):
        kind.refuse("perspective", "Choose Perspective in the render panel and save again.")
    width, height = (_size(content[key]) for key in ("render_width", "render_height"))
    frames, shape = _frames(content["camera_path"]), width / height if width and height else None
    return CameraPath(
        c2w=torch.from_numpy(np.stack([_pose(frame["camera_to_world"]) for frame in frames])),
        fov_y=torch.tensor([_fov(frame["fov"]) for frame in frames], dtype=torch.float64),
        aspect=torch.tensor([_aspect(frame["aspect"], shape) for frame in frames], dtype=torch.float64),
        width=width,
        height=height,
        fps=_fps(content["fps"]),
    )


def _frames(value: JsonValue) -> list[JsonValue]:
    frames = value.entries("a list of frames")
    if not frames:
        value.refuse("a list of frames", "Add keyframes in the render panel and save.")
    if len(frames) == 1:
        replace(value, value="1 frame").refuse("at least 2 frames", "Add a second keyframe, or a longer duration.")
    return frames


def _size(value: JsonValue) -> int | None:
    allowed = f"a whole number of pixels, 1..{_LARGEST_SIDE}"
    return value.whole(allowed, 1, _LARGEST_SIDE) if value.is_given else None


def _pose(value: JsonValue) -> np.ndarray:
    allowed = "16 finite numbers, a 4 x 4 matrix row by row"
    entries = value.entries(allowed)
    if len(entries) != 16:
        replace(value, value=f"a list of {len(entries)}").refuse(allowed)
    pose = np.array([entry.number(allowed, lambda number: abs(number) < 1e9) for entry in entries]).reshape(4, 4)
    rotation = pose[:3, :3]
    if np.abs(pose[3] - [0, 0, 0, 1]).max() > _RIGID_TOLERANCE:
        shown = replace(value, value=pose[3].tolist())
        shown.refuse("0, 0, 0, 1 as the last row: a camera-to-world matrix by rows")
    if not (np.abs(rotation.T @ rotation - np.eye(3)).max() <= _RIGID_TOLERANCE and np.linalg.det(rotation) > 0):
        shown = replace(value, value=rotation.tolist())
        shown.refuse("a rotation in the upper left 3 x 3 block, without scale or mirror")
    return pose


def _fov(value: JsonValue) -> float:
    allowed = f"degrees of at least {_NARROWEST:g} and below 180"
    return math.radians(value.number(allowed, lambda fov: _NARROWEST <= fov < 180))


def _aspect(value: JsonValue, shape: float | None) -> float:
    given = replace(value, value=shape) if shape is not None and not value.is_given else value
    return given.number(f"width / height between {_ASPECTS[0]:g} and {_ASPECTS[1]:g}", _is_aspect)


def _is_aspect(number: float) -> bool:
    return _ASPECTS[0] <= number <= _ASPECTS[1]


def _fps(value: JsonValue) -> float | None:
    if not value.is_given:
        return None
    return value.number(f"{_FPS[0]:g}..{_FPS[1]:g} frames per second", lambda fps: _FPS[0] <= fps <= _FPS[1])
