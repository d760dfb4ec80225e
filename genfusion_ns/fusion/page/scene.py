"""What the viewer of the page is told about a scene besides its surfels: cameras, surroundings, rules of drawing."""

from __future__ import annotations

from typing import Any

import numpy as np

from genfusion_ns.data.camera_conversion import camera_sizes, cameras_to_viewmats
from genfusion_ns.fusion.exporting.views import ExportCamera
from genfusion_ns.fusion.page.rounds import RecordedRound
from genfusion_ns.fusion.pipeline import GenFusionPipeline
from genfusion_ns.geometry.cameras import viewmat_to_c2w


def photo_cameras(pipeline: GenFusionPipeline) -> list[ExportCamera]:
    """Cameras of the train photos, of the part of them that was shown in training."""
    _ = pipeline.datamanager.whole_train_cameras  # reading the photos is what undistorts and crops the cameras
    cameras = pipeline.datamanager.train_dataset.cameras  # type: ignore[union-attr]
    viewmats, Ks = cameras_to_viewmats(cameras)
    return [ExportCamera(*parts) for parts in zip(viewmats, Ks, camera_sizes(cameras), strict=True)]


def scene_facts(
    pipeline: GenFusionPipeline, cameras: list[ExportCamera], rounds: list[RecordedRound]
) -> dict[str, Any]:
    """Ready for JSON; see `web/viewer.js`."""
    scene = pipeline.scene
    shown = [camera_facts(camera) for camera in cameras]
    for facts, name in zip(shown, pipeline.datamanager.train_names, strict=True):
        facts["name"] = name
    ups = np.array([np.array(facts["c2w"])[:, 1] for facts in shown]).sum(0)
    length = float(np.linalg.norm(ups))
    background = scene.display_background()
    return {
        "near": scene.near,
        "variance": -1.0 if scene.pixel_variance is None else scene.pixel_variance,
        "mean": background.tolist(),
        "around": scene.shown_surroundings(background).tolist(),
        "up": (ups / length).tolist() if length > 1e-6 else [0.0, 0.0, 1.0],
        "distance": scene.length,
        "photos": len(cameras),
        "cameras": shown,
        "generated": [
            {"round": found.index, "cameras": [_path_camera(found, frame) for frame in found.accepted_frames()]}
            for found in rounds
            if found.accepted
        ],
    }


def camera_facts(camera: ExportCamera) -> dict[str, Any]:
    """Pose (OpenGL axes) and lens of a camera."""
    return _facts(viewmat_to_c2w(camera.viewmat)[:3].double().tolist(), camera.K.tolist(), camera.size)


def _path_camera(found: RecordedRound, frame: int) -> dict[str, Any]:
    K = found.Ks[frame]
    # Records do not hold the size; clips look through the middle of their pictures.
    return _facts(found.poses[frame, :3].tolist(), K.tolist(), (round(2 * K[0, 2]), round(2 * K[1, 2])))


def _facts(c2w: list[list[float]], K: list[list[float]], size: tuple[int, int]) -> dict[str, Any]:
    lens = {"fx": K[0][0], "fy": K[1][1], "cx": K[0][2], "cy": K[1][2]}
    return {"c2w": c2w, **lens, "width": size[0], "height": size[1]}
