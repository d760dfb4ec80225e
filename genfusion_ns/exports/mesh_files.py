"""Meshes with colours and normals of their vertices as ply, obj and glb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genfusion_ns.files import write_atomically
from genfusion_ns.geometry.meshes import Mesh

ENDINGS = (".ply", ".obj", ".glb")
Y_UP = (".glb",)
"""Formats that have y up."""


def write_mesh_file(path: Path, ending: str, mesh: Mesh) -> None:
    """Write a mesh, completely or not at all.

    Args:
        path: of the file.
        ending: one of `ENDINGS`, which chooses the format.
        mesh: with colours; for `Y_UP` formats in a frame with y up.

    Raises:
        WriteError: the disk is full or not writable.
    """
    import trimesh

    colours = None if mesh.colours is None else np.round(255 * mesh.colours.clip(0, 1)).astype(np.uint8)
    whole = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=mesh.vertex_normals(), vertex_colors=colours, process=False
    )
    asked = "vertex_normal" if ending == ".ply" else "include_normals"
    written: Any = whole.export(None, ending[1:], **{asked: True})
    write_atomically(path, written.encode() if isinstance(written, str) else bytes(written), "the mesh")
