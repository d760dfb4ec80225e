"""What is made of an image, as a capture: views with alpha, their poses in both usual styles, points with normals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genfusion_ns.data.captures.generated import POINTS_ON_SURFACE, GeneratedViews
from genfusion_ns.data.media.video_writer import VideoWriter
from genfusion_ns.data.points.ply_writer import write_points
from genfusion_ns.fusion.image_start.orbit import Orbit
from genfusion_ns.geometry.images import to_bytes
from genfusion_ns.priors.triposr.marching import RayImages
from genfusion_ns.priors.triposr.mesh import SurfacePoints

POINTS, PHOTO = "points.ply", "photo.png"
_FPS = 12.0
_SHEET_COLUMNS = 6
_LEAST_ALPHA = 1e-3


@dataclass(frozen=True)
class Photo:
    """The input image as one of a camera whose place is known."""

    rgba: Float[Tensor, "H W 4"]
    """Straight colours and alpha, 0..1."""
    c2w: Float[Tensor, "4 4"]
    """Pose, OpenGL axes."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels."""


def write_capture(folder: Path, orbit: Orbit, images: RayImages, points: SurfacePoints, photo: Photo | None) -> None:
    """Write the views of an object and all that makes a capture of them, into an existing folder.

    ``render_XXX.png`` (RGBA), ``transforms_{train,val,test}.json`` in Blender's style and ``transforms.json`` in
    nerfstudio's, which name the same views, ``points.ply`` with normals and colours, ``orbit.mp4`` and ``views.jpg``.

    Args:
        folder: to write to.
        orbit: cameras of the views.
        images: the views.
        points: on the surface.
        photo: where the pose of the input image is known.
    """
    names = [f"render_{index:03d}.png" for index in range(len(orbit))]
    rgba = with_straight_alpha(images)
    for name, view in zip(names, rgba, strict=True):
        Image.fromarray(to_bytes(view).numpy()).save(folder / name)
    if photo is not None:
        Image.fromarray(to_bytes(photo.rgba).numpy()).save(folder / PHOTO)
    _write_transforms(folder, orbit, names, photo)
    colours = np.round(np.clip(points.rgb, 0, 1) * 255).astype(np.uint8)
    write_points(folder / POINTS, points.xyz, colours, points.normals)
    _write_video(folder / "orbit.mp4", images.rgb, orbit.size)
    contact_sheet(images.rgb).save(folder / "views.jpg", quality=92)


def with_straight_alpha(images: RayImages) -> Float[Tensor, "V H W 4"]:
    """Views as RGBA, their colours not multiplied by alpha; those of empty pixels are white."""
    over_black = images.rgb - (1 - images.alpha)
    straight = torch.where(images.alpha > _LEAST_ALPHA, over_black / images.alpha.clamp(min=_LEAST_ALPHA), 1.0)
    return torch.cat([straight.clamp(0, 1), images.alpha.clamp(0, 1)], dim=-1)


def _write_transforms(folder: Path, orbit: Orbit, names: Sequence[str], photo: Photo | None) -> None:
    held_out = set(orbit.held_out)
    train = [index for index in range(len(names)) if index not in held_out]
    marks = GeneratedViews(frozenset(names), (1.0, 1.0, 1.0), POINTS_ON_SURFACE).marks()
    width, height = orbit.size
    focal = float(orbit.K[0, 0])
    frames = [_frame(name, pose, orbit.K, orbit.size) for name, pose in zip(names, orbit.c2w, strict=True)]
    photos = []
    if photo is not None:
        shape = (photo.rgba.shape[1], photo.rgba.shape[0])
        photos = [_frame(PHOTO, photo.c2w, photo.K, shape)]
    nerfstudio = {
        "camera_model": "OPENCV",
        "ply_file_path": POINTS,
        "frames": [*photos, *frames],
        "train_filenames": [*(frame["file_path"] for frame in photos), *(names[index] for index in train)],
        "val_filenames": [names[index] for index in sorted(held_out)],
        "test_filenames": [names[index] for index in sorted(held_out)],
        **marks,
    }
    _write_json(folder / "transforms.json", nerfstudio)
    angle = 2 * math.atan(0.5 * width / focal)
    for split, chosen in (("train", train), ("val", sorted(held_out)), ("test", sorted(held_out))):
        listed = [
            {"file_path": f"./{Path(names[index]).stem}", "transform_matrix": orbit.c2w[index].tolist()}
            for index in chosen
        ]
        content = {"camera_angle_x": angle, "w": width, "h": height, "frames": listed}
        _write_json(folder / f"transforms_{split}.json", content | marks)


def _frame(name: str, c2w: Tensor, K: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "file_path": name,
        "transform_matrix": c2w.tolist(),
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "w": size[0],
        "h": size[1],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_video(path: Path, frames: Float[Tensor, "V H W 3"], size: tuple[int, int]) -> None:
    with VideoWriter(path, size, _FPS) as video:
        video.append(frames)


def contact_sheet(frames: Float[Tensor, "V H W 3"]) -> Image.Image:
    """All views as one picture, row by row."""
    columns = min(_SHEET_COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    blank = torch.ones(rows * columns - len(frames), *frames.shape[1:])
    grid = torch.cat([frames, blank]).unflatten(0, (rows, columns))
    return Image.fromarray(to_bytes(grid.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)).numpy())
