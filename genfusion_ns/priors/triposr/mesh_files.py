"""Meshes on the disk, as other programs read them: obj, glb and ply, with colours of vertices or a texture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from genfusion_ns.files import replacing_files
from genfusion_ns.priors.triposr.mesh import Mesh
from genfusion_ns.priors.triposr.texture import TexturedMesh

Format = Literal["obj", "glb", "ply"]
_UP_TO_Y = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""From z up to the y up of glTF."""


def write_mesh(folder: Path, mesh: Mesh | TexturedMesh, kind: Format) -> Path:
    """Write ``mesh.KIND``, with what belongs to it, completely or not at all.

    The obj and the ply keep the frame of the field, z up; a glb has y up, as its format demands. A texture goes into
    the glb, or lies beside the obj.

    Args:
        folder: for the files; made when missing.
        mesh: with colours, or with a texture, which ply cannot have.
        kind: of the file.

    Returns:
        The mesh's file.

    Raises:
        ValueError: a texture in a ply file.
        WriteError: the disk is full or not writable.
    """
    if kind == "ply" and isinstance(mesh, TexturedMesh):
        raise ValueError("--bake-texture needs --format obj or glb; a ply has colours of vertices only")
    name = f"mesh.{kind}"
    scene = _trimesh_of(mesh, turned=kind == "glb")
    with replacing_files(folder, "the mesh") as staging:
        if kind == "obj":
            _write_obj(staging, scene)
        else:
            (staging / name).write_bytes(scene.export(file_type=kind))
    return folder / name


def _write_obj(folder: Path, scene: Any) -> None:
    from trimesh.exchange.obj import export_obj

    text, others = export_obj(scene, return_texture=True, mtl_name="mesh.mtl", include_normals=False)
    (folder / "mesh.obj").write_text(text, encoding="utf-8")
    for name, content in others.items():
        (folder / name).write_bytes(content)


def _trimesh_of(mesh: Mesh | TexturedMesh, turned: bool) -> Any:
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    vertices = mesh.vertices @ _UP_TO_Y.T if turned else mesh.vertices
    if isinstance(mesh, TexturedMesh):
        from PIL import Image

        material = PBRMaterial(
            name="texture",
            baseColorTexture=Image.fromarray(_bytes(mesh.texture)),
            metallicFactor=0.0,
            roughnessFactor=1.0,
        )
        visual: Any = TextureVisuals(uv=mesh.uv, material=material)
        if not turned:  # an obj file knows no such material
            visual = TextureVisuals(uv=mesh.uv, material=material.to_simple())
        return trimesh.Trimesh(vertices, mesh.faces, visual=visual, process=False)
    colours = None if mesh.colours is None else _bytes(mesh.colours)
    return trimesh.Trimesh(vertices, mesh.faces, vertex_colors=colours, process=False)


def _bytes(values: Float[np.ndarray, "*shape"]) -> np.ndarray:
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
