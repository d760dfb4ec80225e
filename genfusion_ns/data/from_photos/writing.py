"""A capture on disk, from a reconstruction: what nerfstudio, COLMAP's readers and this package read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genfusion_ns.data.captures.checks.colmap import check_colmap
from genfusion_ns.data.captures.image_files import load_pixels
from genfusion_ns.data.captures.image_sizes import shrink
from genfusion_ns.data.from_photos.colmap_library import load_colmap
from genfusion_ns.data.from_photos.photos import Advance
from genfusion_ns.data.points.ply_writer import write_points
from genfusion_ns.data.points.sparse_model import read_colmap_model
from genfusion_ns.data.sample_scene.files import APPLIED_TRANSFORM

FACTORS = (2, 4, 8)
MODEL = Path("colmap/sparse/0")
"""Where the COLMAP model of a capture is, as ns-process-data writes it."""
_QUALITY = 95
_LAST = "transforms.json"


def write_capture(
    model: Path, images: Path, masks: Path | None, folder: Path, undistort: bool, names: Sequence[str], advance: Advance
) -> None:
    """Lay a reconstruction out as a capture.

    Args:
        model: folder of the COLMAP model.
        images: folder of the photos.
        masks: folder with NAME.png for each photo; None where the capture is to have none.
        folder: empty, for the capture.
        undistort: write pinhole photos.
        names: of the photos in the model.
        advance: called for each photo.
    """
    target = folder / MODEL
    target.parent.mkdir(parents=True)
    (folder / "images").mkdir()
    if undistort:
        _undistort(model, images, masks, folder, names)
    else:
        shutil.copytree(model, target)
        for name in names:
            _link(images / name, folder / "images" / name)
            if masks is not None:
                (folder / "masks").mkdir(exist_ok=True)
                _link(masks / f"{name}.png", folder / "masks" / f"{name}.png")
    for name in names:
        _write_smaller(folder, name)
        advance()
    points = read_colmap_model(target)
    write_points(folder / "sparse_pc.ply", points.xyz @ APPLIED_TRANSFORM[:, :3].T, points.rgb)
    content = json.dumps(transforms_of(folder, has_masks=masks is not None), indent=1)
    (folder / _LAST).write_text(content, encoding="utf-8")


def publish(folder: Path, out: Path) -> None:
    """Move a finished capture to its place; transforms.json, without which it is none, goes first and comes last."""
    (out / _LAST).unlink(missing_ok=True)
    for old in ("masks", "images", "colmap", *(f"images_{factor}" for factor in FACTORS)):
        shutil.rmtree(out / old, ignore_errors=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == _LAST):
        os.replace(path, out / path.name)
    folder.rmdir()


def transforms_of(folder: Path, has_masks: bool) -> dict[str, Any]:
    """The content of transforms.json for the COLMAP model in a capture, in the frame that ns-process-data gives it."""
    frames, _ = check_colmap(folder / MODEL, folder)
    to_world = np.eye(4)
    to_world[:3] = APPLIED_TRANSFORM
    cameras = []
    written = []
    for frame in sorted(frames, key=lambda frame: frame["file_path"]):
        name = frame.pop("file_path")
        pose = to_world @ np.array(frame.pop("transform_matrix"))
        named = {"file_path": f"images/{name}"}
        if has_masks:
            named["mask_path"] = f"masks/{name}.png"
        written.append({**named, "transform_matrix": pose.tolist()})
        cameras.append(frame)
    same = all(camera == cameras[0] for camera in cameras)
    top = cameras[0] if same else {"camera_model": cameras[0]["camera_model"]}
    if not same:
        written = [{**frame, **camera} for frame, camera in zip(written, cameras, strict=True)]
    world = {"applied_transform": APPLIED_TRANSFORM.tolist(), "ply_file_path": "sparse_pc.ply"}
    return {**top, **world, "frames": written}


def _write_smaller(folder: Path, name: str) -> None:
    pixels = load_pixels(folder / "images" / name)
    for factor in FACTORS:
        if min(pixels.shape[:2]) < factor:
            continue
        target = folder / f"images_{factor}" / name
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(shrink(pixels, factor)).save(target, quality=_QUALITY)


def _undistort(model: Path, images: Path, masks: Path | None, folder: Path, names: Sequence[str]) -> None:
    colmap = load_colmap()
    flat = folder / "undistorted"
    colmap.undistort_images(flat, model, images, jpeg_quality=_QUALITY)
    if masks is not None:
        (folder / "masks").mkdir()
        reconstruction = colmap.Reconstruction(str(model))
        for name in names:
            camera = reconstruction.find_image_with_name(name).camera
            seen = colmap.Bitmap.from_array(load_pixels(masks / f"{name}.png")[..., 0])
            straight, _ = colmap.undistort_image(colmap.UndistortCameraOptions(), seen, camera)
            seen_now = np.asarray(straight.to_array()).reshape(straight.height, straight.width) > 127
            Image.fromarray(np.where(seen_now, np.uint8(255), np.uint8(0))).save(folder / "masks" / f"{name}.png")
    for name in names:
        os.replace(flat / "images" / name, folder / "images" / name)
    os.replace(flat / "sparse", folder / MODEL)
    shutil.rmtree(flat)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, which takes no room; a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
