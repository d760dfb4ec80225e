"""A flight through a scene, as nerfstudio's viewer would save it and `ns-render camera-path` takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.files import write_atomically
from genfusion_ns.geometry.trajectories import spline_path, visiting_order

FRAMES = 144
FPS = 24
_KEYFRAMES = 12
"""Photos that the flight passes; between more of them it would follow the shake of the hand."""
_LARGEST_SIDE = 1280


def flight_poses(c2w: Float[Tensor, "V 4 4"], frames: int = FRAMES) -> Float[Tensor, "frames 4 4"]:
    """A smooth flight at constant speed past photos, in a short order in which to visit them."""
    order = visiting_order(c2w)
    chosen = torch.linspace(0, len(order) - 1, min(len(order), _KEYFRAMES)).round().long()
    return spline_path(c2w[[order[int(i)] for i in chosen]], frames)


def write_flight(path: Path, c2w: Float[Tensor, "V 4 4"], fov_y: float, size: tuple[int, int]) -> None:
    """Write the flight past photos.

    Args:
        path: of the file.
        c2w: poses of the photos in the world of the run, OpenGL axes.
        fov_y: vertical angle of view, degrees.
        size: width and height in pixels of the photos that were trained on.

    Raises:
        WriteError: the disk is full or not writable.
    """
    width, height = video_size(size)
    content: dict[str, Any] = {
        "camera_type": "perspective",
        "render_width": width,
        "render_height": height,
        "fps": FPS,
        "seconds": FRAMES / FPS,
        "camera_path": [
            {"camera_to_world": pose.flatten().tolist(), "fov": fov_y, "aspect": width / height}
            for pose in flight_poses(c2w)
        ],
    }
    write_atomically(path, json.dumps(content).encode(), "the flight")


def video_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a video of photos of this size: even, as encoders want it, and of 1280 pixels at most.

    >>> video_size((481, 271)), video_size((4000, 3000))
    ((480, 270), (1280, 960))
    """
    share = min(1.0, _LARGEST_SIDE / max(size))
    return max(2, round(size[0] * share) // 2 * 2), max(2, round(size[1] * share) // 2 * 2)
