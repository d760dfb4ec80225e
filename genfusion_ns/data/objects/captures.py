"""Views of objects from captures in Blender's format, whose images have alpha."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genfusion_ns.data.captures.checks.transforms import check_blender
from genfusion_ns.data.captures.file_lookup import FileLookup
from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.geometry.cameras import resize_intrinsics
from genfusion_ns.geometry.object_views import DISTANCE, ObjectViews


def object_captures(folder: Path) -> list[Path]:
    """The captures of a folder: itself, or its sub-folders, where they have a transforms_train.json.

    Raises:
        FileNotFoundError: there is none.
    """
    name = "transforms_train.json"
    found = [folder] if (folder / name).is_file() else sorted(file.parent for file in folder.glob(f"*/{name}"))
    if not found:
        raise FileNotFoundError(
            f"--objects {folder}: neither it nor a folder in it has a {name}, as captures in Blender's format do"
        )
    return found


def read_object(folder: Path, side: int) -> ObjectViews:
    """All views of a capture, as squares of `side` pixels, scaled so that the cameras stand as the network's do.

    The object must be around the origin, with z up, and cut out by alpha; all views share one camera.

    Raises:
        CaptureError: poses or images that cannot be used, images without alpha, several cameras.
    """
    lookup = FileLookup(folder)
    frames = {frame["file_path"]: frame for part in check_blender(folder).values() for frame in part}
    images, poses, cameras = [], [], []
    for name, frame in frames.items():
        path = lookup.find(name)
        with Image.open(path) as image:
            if "A" not in image.getbands():
                raise CaptureError(
                    f"{path} has no alpha channel, which cuts the object out; objects to train on need it"
                )
            cameras.append(_square_camera(frame, image.size, side))
            images.append(_square(image.convert("RGBA"), side))
        poses.append([*frame["transform_matrix"][:3], [0, 0, 0, 1]])
    K = torch.stack(cameras)
    if not torch.allclose(K, K[:1], rtol=1e-3, atol=1e-3):
        raise CaptureError(f"{folder}: its views have several cameras; objects to train on need one for all")
    c2w = torch.tensor(poses, dtype=torch.float32)
    c2w[:, :3, 3] *= DISTANCE / float(c2w[:, :3, 3].norm(dim=-1).median())
    return ObjectViews(torch.stack(images), c2w, K[0])


def _square(image: Image.Image, side: int) -> Tensor:
    """The middle of an image, averaged down with alpha in mind."""
    rgba = np.asarray(image, dtype=np.float32) / 255
    edge = min(rgba.shape[:2])
    top, left = ((length - edge) // 2 for length in rgba.shape[:2])
    rgba = torch.from_numpy(rgba[top : top + edge, left : left + edge])
    premultiplied = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], dim=-1).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(premultiplied, (side, side), mode="bilinear", antialias=True)[0]
    straight = torch.cat([small[:3] / small[3:].clamp(min=1e-3), small[3:]]).permute(1, 2, 0)
    return (straight.clamp(0, 1) * 255).round().to(torch.uint8)


def _square_camera(frame: dict, size: tuple[int, int], side: int) -> Float[Tensor, "3 3"]:
    """Intrinsics of the middle of an image, shrunk to a square."""
    edge = min(size)
    scale = size[0] / frame.get("w", size[0])
    K = torch.tensor(
        [
            [frame["fl_x"] * scale, 0.0, edge / 2],
            [0.0, frame.get("fl_y", frame["fl_x"]) * scale, edge / 2],
            [0.0, 0.0, 1.0],
        ]
    )
    return resize_intrinsics(K, (edge, edge), (side, side))
