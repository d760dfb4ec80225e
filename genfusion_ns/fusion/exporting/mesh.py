"""A mesh of a run: median depth from many views, fused into signed distances, and their surface as triangles."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from genfusion_ns.exports.errors import EmptyExportError, check_output
from genfusion_ns.exports.mesh_files import ENDINGS, Y_UP, write_mesh_file
from genfusion_ns.exports.surface import decimated, surface_of_blocks, without_small_parts
from genfusion_ns.fusion.exporting.progress import told
from genfusion_ns.fusion.exporting.settings import MeshSettings
from genfusion_ns.fusion.exporting.splats import frame_of_run
from genfusion_ns.fusion.exporting.views import SurfaceViews, cameras_of_run
from genfusion_ns.fusion.run_config import load_run
from genfusion_ns.geometry.meshes import Mesh
from genfusion_ns.geometry.voxel_blocks import BYTES_PER_BLOCK, VolumeFullError, VoxelBlocks
from genfusion_ns.messages import say

_PIXELS_PER_VOXEL = 2.0
"""Depth of surfels is noisy by about a pixel from view to view."""


@dataclass(frozen=True)
class FusedMesh:
    """A mesh in the frame of the scene, and how it came about."""

    mesh: Mesh
    voxel: float
    """Scene units."""
    views: int
    blocks: int
    notes: tuple[str, ...]
    """What was left out, in words."""


def export_mesh(settings: MeshSettings) -> Path:
    """Write a mesh of a run.

    Raises:
        ValueError: settings, a run or a scene that cannot be exported; `EmptyExportError` where nothing is left.
        OSError: the file exists, or cannot be written.
        ImportError: --max-faces without its library.
    """
    ending = check_output(settings.output, ENDINGS, settings.overwrite)
    settings.crop.check()
    settings.check()
    if settings.max_faces:
        decimated(Mesh(np.zeros((0, 3)), np.zeros((1, 3), np.int64)), 0)
    pipeline = load_run(settings.load_config)
    views = SurfaceViews(pipeline.scene, cameras_of_run(pipeline, settings, settings.load_config), settings)
    fused = fuse(views, settings)
    for note in fused.notes:
        say(note)
    frame = frame_of_run(pipeline, settings, ending in Y_UP)
    mesh = replace(fused.mesh, vertices=frame.points(fused.mesh.vertices))
    write_mesh_file(settings.output, ending, mesh)
    say(
        f"{settings.output}: {len(mesh.vertices)} vertices, {len(mesh.faces)} triangles, "
        f"{settings.output.stat().st_size / 1e6:.1f} MB, from {fused.views} views in voxels of {fused.voxel:.4g}."
    )
    return settings.output


def fuse(views: SurfaceViews, settings: MeshSettings) -> FusedMesh:
    """Fuse all views and take out the surface.

    Raises:
        EmptyExportError: nothing is left; the message says why.
        ValueError: the voxels need more memory than there may be; the message says which would fit.
    """
    voxel = settings.voxel or _PIXELS_PER_VOXEL * pixel_at(views)
    memory = 1e9 * settings.max_memory or 0.5 * free_memory(views.scene.device)
    field = VoxelBlocks(voxel, settings.truncation * voxel, views.scene.device, max(1, int(memory / BYTES_PER_BLOCK)))
    with told("Depth maps") as advance:
        for done, seen in enumerate(views, start=1):
            if seen is not None:
                try:
                    field.integrate(seen.view, seen.near)
                except VolumeFullError as error:
                    raise ValueError(_too_fine(error, voxel, memory, done / len(views))) from error
            advance(done, len(views))
    notes = [views.pixels.shares() + "."]
    if not len(field):
        raise EmptyExportError(f"the export is empty: {views.pixels.shares()}")
    with told("Surface") as advance:
        mesh = surface_of_blocks(field, advance=advance)
    before = len(mesh.faces)
    if settings.crop.active and before:
        corners = settings.crop.within(torch.from_numpy(mesh.vertices)).numpy()
        mesh = mesh.only(corners[mesh.faces].all(1))
        notes.append(f"{before - len(mesh.faces)} of {before} triangles are outside of the crop box.")
    cleaned = without_small_parts(mesh, settings.least_part, settings.largest_parts)
    if cleaned.removed_parts:
        notes.append(
            f"{cleaned.removed_parts} of {cleaned.parts} parts are removed, {100 * cleaned.removed_area:.1f} % of the "
            "area (--least-part, --largest-parts)."
        )
    mesh = cleaned.mesh
    if not len(mesh.faces):
        raise EmptyExportError(
            f"the export is empty: {len(field)} blocks of voxels hold no surface. {' '.join(notes)} Try a "
            f"smaller --voxel than {voxel:.4g}"
        )
    if settings.max_faces and len(mesh.faces) > settings.max_faces:
        notes.append(f"{len(mesh.faces)} triangles are simplified (--max-faces).")
        mesh = decimated(mesh, settings.max_faces)
    return FusedMesh(mesh, voxel, len(views.cameras), len(field), tuple(notes))


def pixel_at(views: SurfaceViews) -> float:
    """What a pixel covers at the depth that photos show, scene units."""
    focal = torch.stack([camera.K[0, 0] for camera in views.cameras]).float().median()
    return views.scene.length / float(focal)


def free_memory(device: torch.device | str) -> float:
    """Bytes that are free on a device."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    except (ValueError, OSError, AttributeError):  # not on every system
        return 4e9


def _too_fine(error: VolumeFullError, voxel: float, memory: float, share: float) -> str:
    """What to say, with a voxel that would fit: blocks go with the area over the squared voxel."""
    wanted = error.blocks * BYTES_PER_BLOCK / max(share, 1e-3)
    fitting = voxel * math.sqrt(1.2 * wanted / memory)
    return (
        f"voxels of {voxel:.4g} scene units need more than the {memory / 1e9:.3g} GB that they may have: "
        f"{error.blocks * BYTES_PER_BLOCK / 1e9:.3g} GB after {100 * share:.0f} % of the views. --voxel {fitting:.3g} "
        "would fit; or raise --max-memory, lower --reach, or crop (--crop.obb-center, --crop.obb-scale)"
    )
