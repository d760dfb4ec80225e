"""The object of a known ball as a capture, as `gf-image3d` would write it."""

from __future__ import annotations

from pathlib import Path

import torch
from triposr_toys import Ball

from genfusion_ns.fusion.image_start.capture_files import Photo, write_capture
from genfusion_ns.fusion.image_start.orbit import orbit_of
from genfusion_ns.geometry.pixel_rays import intrinsics, orbit_poses
from genfusion_ns.priors.triposr.objects import MadeObject, StageTimes
from genfusion_ns.priors.triposr.occupancy import Occupancy


def ball_object() -> MadeObject:
    """The field of the ball, as if a network had made it."""
    field = Ball().field()
    return MadeObject(field, Occupancy.of(field), samples=128, chunk=8192, times=StageTimes())


def write_ball_capture(folder: Path, side: int = 32, photo: bool = False) -> None:
    """Views of 10 cameras, 600 points, and on request a photo from azimuth 0."""
    made, orbit = ball_object(), orbit_of(10, (0.0, 25.0), side)
    mesh = made.mesh(32, 5.0)
    taken = None
    if photo:
        c2w, K = orbit_poses(torch.zeros(1), 10.0, 1.9), intrinsics(40.0, (side, side))
        seen = made.views(c2w, K, (side, side))
        straight = (seen.rgb - 1 + seen.alpha) / seen.alpha.clamp(min=1e-3)
        taken = Photo(torch.cat([straight.clamp(0, 1), seen.alpha], dim=-1)[0], c2w[0], K)
    folder.mkdir(parents=True, exist_ok=True)
    write_capture(folder, orbit, made.views(orbit.c2w, orbit.K, orbit.size), made.points(mesh, 600, 0), taken)
