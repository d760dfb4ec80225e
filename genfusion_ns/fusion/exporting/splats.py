"""The surfels of a run as a file of splats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from genfusion_ns.exports.errors import check_output
from genfusion_ns.exports.frames import Similarity, frame_of
from genfusion_ns.exports.harmonics import C0
from genfusion_ns.exports.splat_files import ENDINGS, Y_UP, check_libraries, write_splats
from genfusion_ns.exports.splats import Splats, usable
from genfusion_ns.fusion.exporting.settings import ExportSettings, SplatSettings
from genfusion_ns.fusion.pipeline import GenFusionPipeline
from genfusion_ns.fusion.run_config import load_run
from genfusion_ns.messages import say
from genfusion_ns.models.surfel_model import GenFusionModel


@torch.no_grad()
def splats_of(scene: GenFusionModel) -> Splats:
    """The surfels as they are drawn, with the 3D smoothing where there is one, in the frame of the scene."""
    parameters = {name: value.detach().cpu().float().numpy() for name, value in scene.gauss_params.items()}
    dc, rest = parameters["features_dc"], parameters["features_rest"]
    if scene.config.sh_degree == 0:
        dc, rest = (1 / (1 + np.exp(-dc)) - 0.5) / C0, rest[:, :0]
    quats = parameters["quats"].astype(np.float64)
    return Splats(
        means=parameters["means"],
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        log_scales=scene.scales.detach().cpu().float().numpy(),
        logits=scene.opacities.detach().cpu().float().numpy()[:, 0],
        dc=dc.astype(np.float32),
        rest=rest,
    )


def frame_of_run(pipeline: GenFusionPipeline, settings: ExportSettings, y_up: bool) -> Similarity:
    """Where an export of a run shall stand."""
    outputs = pipeline.datamanager.train_dataset._dataparser_outputs  # type: ignore[union-attr]
    transform = outputs.dataparser_transform.detach().cpu().numpy()
    return frame_of(settings.frame, transform, float(outputs.dataparser_scale), y_up)


def export_splats(settings: SplatSettings) -> Path:
    """Write the surfels of a run.

    Raises:
        ValueError: settings, a run or a scene that cannot be exported; `EmptyExportError` where nothing is left.
        OSError: the file exists, or cannot be written.
        ImportError: the library of a format is missing.
    """
    ending = check_output(settings.output, ENDINGS, settings.overwrite)
    settings.crop.check()
    check_libraries(ending)
    pipeline = load_run(settings.load_config)
    scene = pipeline.scene
    whole = splats_of(scene).up_to_degree(settings.sh_degree)
    inside = settings.crop.within(torch.from_numpy(whole.means)).numpy() if settings.crop.active else None
    splats, removed = usable(whole, inside)
    for reason, count in removed.items():
        if count:
            say(f"{count} of {len(whole)} surfels are left out: {reason}.")
    if scene.config.antialias == "mip":
        say(
            "The pixel filter of --pipeline.model.antialias is part of the camera and not of the file: other viewers "
            "draw small surfels larger than they were trained, unless they have a filter of their own (Mip-Splatting).",
            "yellow",
        )
    eyes = pipeline.datamanager.whole_train_cameras.camera_to_worlds[..., :3, 3].reshape(-1, 3).cpu().numpy()
    frame = frame_of_run(pipeline, settings, ending in Y_UP)
    normals = frame.directions(splats.normals(eyes))
    write_splats(settings.output, ending, splats.moved(frame), normals, settings.spz_version)
    say(f"{settings.output}: {len(splats)} splats, {settings.output.stat().st_size / 1e6:.1f} MB.")
    return settings.output
