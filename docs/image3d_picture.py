"""An object that no training saw: its photo for gf-image3d, and what was made of it beside the truth as one picture.

    python docs/image3d_picture.py photo --object 20 --output solid.png
    gf-image3d solid.png --model small --output-dir out --fit --fit-steps 300
    python docs/image3d_picture.py sheet --object 20 --made out/0 \
        --run out/runs/0/genfusion/image/config.yml --output docs/images/image3d.jpg
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import trimesh
import tyro
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genfusion_ns.data.objects.procedural import ProceduralObject, procedural_views
from genfusion_ns.geometry.images import psnr
from genfusion_ns.geometry.object_views import DISTANCE, FOV_Y
from genfusion_ns.geometry.pixel_rays import intrinsics, orbit_poses, pixel_rays
from genfusion_ns.seeds import seed_of

_AZIMUTHS = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)
_ELEVATION = 10.0
_SIDE = 128
_PHOTO = 256
_VIEWS, _HEIGHT = 8, 12.5
"""Views of an object in training, and the middle of the heights that its network gets."""


@dataclass
class Photo:
    """Take the photo; every tenth object is kept out of the training."""

    output: Path
    object: int = 20
    """Number of the object."""

    def run(self) -> None:
        """Write it as RGBA."""
        views, given = _photos(self.object)
        Image.fromarray(views.rgba[given].numpy()).save(self.output)


@dataclass
class Sheet:
    """Draw the picture: the photo, and below one another the views of the mesh, of the run, and the truth."""

    made: Path
    """Folder that gf-image3d wrote, with a mesh.glb."""
    run_config: Annotated[Path, tyro.conf.arg(name="run")]
    """config.yml of the run that went on from it."""
    output: Path
    object: int = 20
    """Number of the object."""

    def run(self) -> None:
        """Write it, and print how near both are to the truth."""
        poses = torch.cat([orbit_poses(torch.tensor([angle]), _ELEVATION, DISTANCE) for angle in _AZIMUTHS])
        truth, photo = self._truth(poses)
        rows = {"mesh": _mesh_views(self.made / "mesh.glb", poses), "run": _run_views(self.run_config, poses)}
        for name, row in rows.items():
            solid, seen = truth[..., 3] > 0.5, row[..., 3] > 0.5
            overlap = float((solid & seen).sum() / (solid | seen).sum())
            error = float(psnr((_over_white(row) - _over_white(truth)).square().mean()))
            print(f"{name}: PSNR {error:.2f} dB, outlines {overlap:.3f}")
        lines = [torch.cat([*_over_white(row)], dim=1) for row in (*rows.values(), truth)]
        sheet = (torch.cat(lines).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        height = sheet.shape[0]
        left = Image.new("RGB", (_PHOTO + 24, height), (255, 255, 255))
        left.paste(photo, (12, (height - _PHOTO) // 2), photo)
        Image.fromarray(np.concatenate([np.asarray(left), sheet], axis=1)).save(self.output, quality=90)

    def _truth(self, poses: Float[Tensor, "V 4 4"]) -> tuple[Float[Tensor, "V H W 4"], Image.Image]:
        """Views of the object itself from cameras in the frame of the photo, and the photo."""
        views, given = _photos(self.object)
        framed = views.framed_by(given)
        turn = framed.c2w[given, :3, :3] @ views.c2w[given, :3, :3].T
        before, after = views.c2w[:, :3, 3] @ turn.T, framed.c2w[:, :3, 3]
        scale = (after - after.mean(0)).norm() / (before - before.mean(0)).norm()
        moved = poses.clone()
        moved[:, :3, 3] = (poses[:, :3, 3] - after.mean(0)) / scale + before.mean(0)
        moved[:, :3] = turn.T @ moved[:, :3]
        rgba = ProceduralObject.of(seed_of(0, "object", self.object)).views(moved, _SIDE).rgba
        return rgba.float() / 255, Image.fromarray(views.rgba[given].numpy())


def _photos(number: int) -> tuple[Any, int]:
    """The views of an object as in training, only larger, and which of them is given."""
    views = procedural_views(seed_of(0, "object", number), _VIEWS, _PHOTO)
    return views, int((views.elevations() - _HEIGHT).abs().argmin())


def _over_white(rgba: Float[Tensor, "V H W 4"]) -> Float[Tensor, "V H W 3"]:
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def _mesh_views(file: Path, poses: Float[Tensor, "V 4 4"]) -> Float[Tensor, "V H W 4"]:
    """The mesh in the colours of its vertices, without light, from cameras of a world with z up."""
    loaded: Any = trimesh.load(file, force="mesh", process=False)
    mesh: Any = trimesh.Trimesh(loaded.vertices, loaded.faces, process=False)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))  # a glb has y up
    colours = np.asarray(loaded.visual.vertex_colors, np.float32)[:, :3] / 255
    rows = []
    for origins, directions in zip(*pixel_rays(poses, intrinsics(FOV_Y, (_SIDE, _SIDE)), (_SIDE, _SIDE)), strict=True):
        rays = [part.reshape(-1, 3).double().numpy() for part in (origins, directions)]
        places, ray, face = mesh.ray.intersects_location(*rays, multiple_hits=False)
        weights = trimesh.triangles.points_to_barycentric(mesh.triangles[face], places)
        image = np.zeros((_SIDE * _SIDE, 4), np.float32)
        image[ray, :3] = (colours[mesh.faces[face]] * weights[..., None]).sum(1)
        image[ray, 3] = 1
        rows.append(torch.from_numpy(image).view(_SIDE, _SIDE, 4))
    return torch.stack(rows)


def _run_views(config: Path, poses: Float[Tensor, "V 4 4"]) -> Float[Tensor, "V H W 4"]:
    """What a run renders from these cameras, whose world is that of its capture."""
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.utils.eval_utils import eval_setup

    pipeline: Any = eval_setup(config)[1]
    parser = pipeline.datamanager.train_dataparser_outputs
    placed = torch.cat([parser.dataparser_transform, torch.tensor([[0.0, 0, 0, 1]])]) @ poses
    placed[:, :3, 3] *= parser.dataparser_scale
    K = intrinsics(FOV_Y, (_SIDE, _SIDE))
    cameras = Cameras(placed[:, :3], K[0, 0], K[1, 1], K[0, 2], K[1, 2], _SIDE, _SIDE)
    rows = []
    for index in range(len(poses)):
        with torch.no_grad():
            outputs = pipeline.model.get_outputs_for_camera(cameras[index : index + 1].to(pipeline.device))
        alpha = outputs["accumulation"].cpu().clamp(0, 1)
        colours = (outputs["rgb"].cpu() - (1 - alpha)) / alpha.clamp(min=1e-3)  # white is behind the object
        rows.append(torch.cat([colours.clamp(0, 1), alpha], dim=-1))
    return torch.stack(rows)


if __name__ == "__main__":
    tyro.cli(Photo | Sheet).run()
