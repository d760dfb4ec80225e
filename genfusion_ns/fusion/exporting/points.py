"""Points with colours and normals on the surfaces of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from genfusion_ns.data.points.ply_writer import write_points
from genfusion_ns.exports.errors import EmptyExportError, check_output
from genfusion_ns.exports.harmonics import C0
from genfusion_ns.exports.splats import usable
from genfusion_ns.files import replacing
from genfusion_ns.fusion.exporting.progress import told
from genfusion_ns.fusion.exporting.settings import PointSettings
from genfusion_ns.fusion.exporting.splats import frame_of_run, splats_of
from genfusion_ns.fusion.exporting.views import SurfaceViews, cameras_of_run
from genfusion_ns.fusion.run_config import load_run
from genfusion_ns.geometry.depth import depth_to_points
from genfusion_ns.messages import say
from genfusion_ns.seeds import seeded_generator


@dataclass(frozen=True)
class Points:
    """M points on surfaces."""

    xyz: Float[np.ndarray, "M 3"]
    normals: Float[np.ndarray, "M 3"]
    """Unit, towards a camera that saw the point."""
    rgb: Float[np.ndarray, "M 3"]
    """0..1."""

    def __len__(self) -> int:
        return len(self.xyz)


def export_points(settings: PointSettings) -> Path:
    """Write points of a run.

    Raises:
        ValueError: settings, a run or a scene that cannot be exported; `EmptyExportError` where nothing is left.
        OSError: the file exists, or cannot be written.
    """
    check_output(settings.output, (".ply",), settings.overwrite)
    settings.crop.check()
    settings.check()
    pipeline = load_run(settings.load_config)
    views = SurfaceViews(pipeline.scene, cameras_of_run(pipeline, settings, settings.load_config), settings)
    if settings.source == "depth":
        points = points_of_depth(views, settings)
        say(views.pixels.shares() + ".")
    else:
        points = points_of_surfels(views, settings)
    frame = frame_of_run(pipeline, settings, y_up=False)
    rgb = np.round(255 * points.rgb.clip(0, 1)).astype(np.uint8)
    with replacing(settings.output, "the points") as unfinished:
        write_points(unfinished, frame.points(points.xyz), rgb, frame.directions(points.normals))
    say(f"{settings.output}: {len(points)} points.")
    return settings.output


def points_of_depth(views: SurfaceViews, settings: PointSettings) -> Points:
    """Pixels of the depth maps, an even share of each view.

    Raises:
        EmptyExportError: no pixel counts; the message says why.
    """
    generator = seeded_generator(settings.seed)
    share = -(-settings.num_points // len(views.cameras))
    parts: list[tuple[np.ndarray, ...]] = []
    with told("Depth maps") as advance:
        for done, seen in enumerate(views, start=1):
            if seen is not None:
                rows, columns = seen.near.nonzero(as_tuple=True)
                chosen = torch.randperm(len(rows), generator=generator)[:share].to(rows.device)
                at = (rows[chosen], columns[chosen])
                places = depth_to_points(seen.view.depth[..., None], seen.view.K, seen.view.viewmat)
                parts.append(tuple(value[at].cpu().numpy() for value in (places, seen.normals, seen.view.rgb)))
            advance(done, len(views))
    points = Points(*(np.concatenate(values)[: settings.num_points] for values in zip(*parts, strict=True)))
    if not len(points):
        raise EmptyExportError(f"the export is empty: {views.pixels.shares()}")
    return points


def points_of_surfels(views: SurfaceViews, settings: PointSettings) -> Points:
    """Middles of surfels, drawn without replacement by opacity times area; all where there are no more than asked for.

    Raises:
        EmptyExportError: no surfel is left.
    """
    whole = splats_of(views.scene)
    inside = settings.crop.within(torch.from_numpy(whole.means)).numpy() if settings.crop.active else None
    splats, removed = usable(whole, inside)
    for reason, count in removed.items():
        if count:
            say(f"{count} of {len(whole)} surfels are left out: {reason}.")
    if len(splats) > settings.num_points:
        weight = torch.from_numpy(splats.log_scales[:, :2].sum(1) - np.log1p(np.exp(-splats.logits))).double()
        # Efraimidis and Spirakis (2006): the largest log(u) / w are a draw by w, here in logarithms.
        uniform = torch.rand(len(weight), generator=seeded_generator(settings.seed), dtype=torch.float64)
        keys = weight - torch.log(-torch.log(uniform.clamp_min(1e-300)))
        kept = np.zeros(len(splats), dtype=bool)
        kept[keys.topk(settings.num_points).indices.numpy()] = True
        splats = splats.only(kept)
    eyes = views.centres().cpu().numpy()
    return Points(splats.means, splats.normals(eyes), (0.5 + C0 * splats.dc).clip(0, 1))
