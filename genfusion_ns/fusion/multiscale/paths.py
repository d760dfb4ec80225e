"""The camera path of the source, rendered at several scales, a video of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.pipelines.base_pipeline import Pipeline
from PIL import Image
from torch import Tensor

from genfusion_ns.data.media.video_writer import VideoWriter
from genfusion_ns.files import replacing
from genfusion_ns.geometry.images import to_bytes
from genfusion_ns.geometry.pixel_rays import evenly_around, orbit_poses

VIEWS, RADIUS, ELEVATION = 120, 4.0, 36.0
"""Poses of the source's path, its radius in scene units and its elevation in degrees."""


def circle(views: int = VIEWS, radius: float = RADIUS, elevation: float = ELEVATION) -> Float[Tensor, "T 3 4"]:
    """Poses around the origin, z up, that look at it; the last is not the first again.

    Args:
        views: T.
        radius: distance from the origin, scene units.
        elevation: above the xy plane, degrees.
    """
    return orbit_poses(evenly_around(views) - 180, elevation, radius)[:, :3]


def path_cameras(like: Cameras, poses: Float[Tensor, "T 3 4"]) -> Cameras:
    """Cameras with these poses and the intrinsics of one of a capture. [T]"""
    count = len(poses)
    fields = {name: getattr(like, name).reshape(1, 1).repeat(count, 1) for name in ("fx", "fy", "cx", "cy")}
    sizes = {name: getattr(like, name).reshape(1, 1).repeat(count, 1) for name in ("width", "height")}
    return Cameras(camera_to_worlds=poses.to(like.fx), **fields, **sizes)


def at_scale(cameras: Cameras, scale: int) -> Cameras:
    """The same cameras with images whose sides are divided by `scale`, rounded down."""
    small = replace(cameras, **{name: getattr(cameras, name) / scale for name in ("fx", "fy", "cx", "cy")})
    for name in ("width", "height"):
        setattr(small, name, (getattr(cameras, name) // scale).clamp_min(1))
    return small


def render_scales(
    pipeline: Pipeline,
    cameras: Cameras,
    scales: tuple[int, ...],
    folder: Path,
    frames_per_second: float = 30.0,
    images: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Render cameras at several scales.

    Args:
        pipeline: of a run.
        cameras: at full size. [T]
        scales: by which sides are divided.
        folder: for scale_1.mp4, scale_2.mp4, ... and, with `images`, folders 1, 2, ... of pictures.
        frames_per_second: of the videos.
        images: write the frames as pictures too.
        advance: called after each frame.

    Returns:
        The videos.
    """
    folder.mkdir(parents=True, exist_ok=True)
    videos = []
    for scale in scales:
        small = at_scale(cameras, scale).to(pipeline.device)
        path = folder / f"scale_{scale}.mp4"
        with VideoWriter(path, (int(small.width[0]), int(small.height[0])), frames_per_second) as video:
            for number in range(len(small)):
                rgb = pipeline.model.get_outputs_for_camera(small[number : number + 1])["rgb"]
                video.append(rgb[None].cpu())
                if images:
                    with replacing(folder / str(scale) / f"{number:04d}.png", "the picture") as unfinished:
                        Image.fromarray(to_bytes(rgb).numpy()).save(unfinished)
                advance()
        videos.append(path)
    return videos
