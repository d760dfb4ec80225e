"""Depth maps of a scene for its surface: from where they are looked at, and which of their pixels count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes, cameras_to_viewmats
from genfusion_ns.fusion.exporting.settings import ViewSettings
from genfusion_ns.fusion.pipeline import GenFusionPipeline
from genfusion_ns.fusion.rounds.generated_views import load_views
from genfusion_ns.geometry.cameras import c2w_to_viewmat, camera_centers, resize_intrinsics, rigid_poses
from genfusion_ns.geometry.clips import SOLID_ALPHA
from genfusion_ns.geometry.depth import depth_to_points
from genfusion_ns.geometry.trajectories import spline_path
from genfusion_ns.geometry.voxel_blocks import DepthView
from genfusion_ns.models.surfel_model import GenFusionModel
from genfusion_ns.rendering.surfels import SurfelRender

_WITNESSES = 12
"""Depth maps that pixels are compared with; kept in memory whatever the number of views."""
_GRAZING = 0.1
"""Cosine of the angle between a ray and a normal below which a pixel does not count."""
_NEAREST_WEIGHT = 4.0
"""A view from near counts more, with the area of its pixels, up to this."""


@dataclass(frozen=True)
class ExportCamera:
    """Where a depth map is rendered from."""

    viewmat: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]
    size: tuple[int, int]
    """Width and height in pixels."""


@dataclass
class PixelCount:
    """Pixels that did not count, and why."""

    all: int = 0
    kept: int = 0
    removed: dict[str, int] = field(default_factory=dict)

    def shares(self) -> str:
        """In words."""
        parts = [f"{100 * count / max(self.all, 1):.1f} % {reason}" for reason, count in self.removed.items() if count]
        return "; ".join([f"{100 * self.kept / max(self.all, 1):.1f} % of the pixels count", *parts])


@dataclass(frozen=True)
class SurfaceView:
    """One depth map, and which of its pixels show the surface."""

    view: DepthView
    """Depth 0 where the surface is not known."""
    normals: Float[Tensor, "H W 3"]
    """Unit, in the world, towards the camera."""
    near: Bool[Tensor, "H W"]
    """Pixels that count, within reach and box."""


def cameras_of_run(pipeline: GenFusionPipeline, settings: ViewSettings, run: Path) -> list[ExportCamera]:
    """The cameras of the photos, those of accepted generated views, and those of a path, as far as asked for."""
    photos = pipeline.datamanager.whole_train_cameras
    viewmats, Ks = cameras_to_viewmats(photos)
    cameras = [ExportCamera(*parts) for parts in zip(viewmats, Ks, camera_sizes(photos), strict=True)]
    if settings.extra_views:
        cameras += _between(photos.camera_to_worlds, cameras, settings.extra_views)
    if settings.generated_views:
        folders = sorted(run.parent.glob("genfusion/round_*/views.safetensors"))
        if not folders:
            raise ValueError(
                f"--generated-views: {run.parent} has none, it was trained without rounds or they were all rejected; "
                "leave it out, or give --extra-views"
            )
        cameras += [ExportCamera(view.viewmat, view.K, view.size) for view in load_views(folders[-1])]
    if settings.downscale > 1:
        cameras = [_smaller(camera, settings.downscale) for camera in cameras]
    return cameras


def _between(c2w: Tensor, cameras: list[ExportCamera], count: int) -> list[ExportCamera]:
    if len(cameras) < 2:
        raise ValueError("--extra-views needs two photos or more to go between")
    poses = rigid_poses(c2w[:, :3, :3].double(), c2w[:, :3, 3].double())
    path = c2w_to_viewmat(spline_path(poses, count)).float()
    middle = cameras[0]
    return [ExportCamera(viewmat.to(middle.viewmat), middle.K, middle.size) for viewmat in path]


def _smaller(camera: ExportCamera, factor: int) -> ExportCamera:
    size = (max(camera.size[0] // factor, 2), max(camera.size[1] // factor, 2))
    return ExportCamera(camera.viewmat, resize_intrinsics(camera.K, camera.size, size), size)


class SurfaceViews:
    """Renders depth maps one after the other, and keeps only a few of them to compare with."""

    def __init__(self, scene: GenFusionModel, cameras: list[ExportCamera], settings: ViewSettings) -> None:
        """`cameras` as `cameras_of_run` gives them."""
        self.scene, self.cameras, self.settings = scene, cameras, settings
        self.pixels = PixelCount()
        self._witnesses: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Of all renders that there will be."""
        return len(self.cameras) + (len(self._chosen()) if self.settings.agreement > 0 else 0)

    def centres(self) -> Float[Tensor, "C 3"]:
        """Where the cameras stand."""
        return camera_centers(torch.stack([camera.viewmat for camera in self.cameras]))

    def _chosen(self) -> list[int]:
        count = len(self.cameras)
        among = min(count, _WITNESSES)
        return sorted({round(i * (count - 1) / max(among - 1, 1)) for i in range(among)})

    @torch.no_grad()
    def __iter__(self) -> Iterator[SurfaceView | None]:
        """Every depth map; None after each render of one to compare with, which is not handed out."""
        self.pixels, self._witnesses = PixelCount(), {}
        if self.settings.agreement > 0:
            for index in self._chosen():
                camera = self.cameras[index]
                render = self._render(camera)
                depth = torch.where(render.alpha > SOLID_ALPHA, render.median_depth, 0.0)[0, ..., 0]
                self._witnesses[index] = (depth, *self._placed(camera))
                yield None
        for index in range(len(self.cameras)):
            yield self._surface(index)

    def _placed(self, camera: ExportCamera) -> tuple[Tensor, Tensor]:
        device = self.scene.device
        return camera.viewmat.to(device).float(), camera.K.to(device).float()

    def _render(self, camera: ExportCamera) -> SurfelRender:
        viewmat, K = self._placed(camera)
        return self.scene.render_shown(viewmat, K, *camera.size)

    def _surface(self, index: int) -> SurfaceView:
        settings, camera = self.settings, self.cameras[index]
        viewmat, K = self._placed(camera)
        render = self._render(camera)
        depth, mean = render.median_depth[0, ..., 0], render.depth[0, ..., 0]
        points = depth_to_points(depth[..., None], K, viewmat)
        normals = torch.nn.functional.normalize(render.normals[0], dim=-1)
        centre = camera_centers(viewmat)
        distance = (centre - points).norm(dim=-1)
        facing = ((centre - points) * normals).sum(-1) / distance.clamp_min(1e-12)
        reach = settings.reach * self.scene.length
        tests = {
            "show nothing": (render.alpha[0, ..., 0] > SOLID_ALPHA) & (depth > 0),
            "show no one surface": (mean - depth).abs() <= (settings.spread or torch.inf) * depth,
            "graze a surface": facing > _GRAZING,
            "disagree with other views": self._agrees(index, points),
            "are beyond --reach": distance <= reach,
            "are outside of the crop box": settings.crop.within(points),
        }
        known, near = self._counted(tests)
        relative = (self.scene.length / depth.clamp_min(1e-6)).square().clamp(max=_NEAREST_WEIGHT)
        view = DepthView(
            depth=torch.where(known, depth, 0.0),
            rgb=render.rgb[0].clamp(0, 1),
            weight=facing.clamp_min(0) * relative,
            viewmat=viewmat,
            K=K,
        )
        return SurfaceView(view, normals, near)

    def _counted(self, tests: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Pixels whose depth is known, and those of them that are wanted; counts both."""
        kept = torch.ones_like(next(iter(tests.values())))
        known = kept
        for reason, good in tests.items():
            removed = int((kept & ~good).sum())
            self.pixels.removed[reason] = self.pixels.removed.get(reason, 0) + removed
            kept = kept & good
            if reason == "disagree with other views":
                known = kept
        self.pixels.all += kept.numel()
        self.pixels.kept += int(kept.sum())
        return known, kept

    def _agrees(self, index: int, points: Float[Tensor, "H W 3"]) -> Bool[Tensor, "H W"]:
        """Whether another view has its surface in the same place, or none shows that place."""
        shown = torch.zeros_like(points[..., 0], dtype=torch.bool)
        agreed = shown.clone()
        for other, (depth, viewmat, K) in self._witnesses.items():
            if other == index:
                continue
            height, width = depth.shape
            camera = points @ viewmat[:3, :3].T + viewmat[:3, 3]
            z = camera[..., 2]
            column, row = ((camera @ K.T)[..., :2] / z.clamp_min(1e-9)[..., None]).unbind(-1)
            inside = (z > 0) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
            found = torch.zeros_like(z)
            found[inside] = depth[row[inside].long(), column[inside].long()]
            tolerance = self.settings.agreement * z
            agreed |= inside & (found > 0) & ((found - z).abs() <= tolerance)
            # Where the other view has something before the place, it says nothing about it.
            shown |= inside & (found > z + tolerance)
        return agreed | ~shown
