"""How the surfel model answers nerfstudio's commands: cameras of all kinds, single rays, crops, colour with alpha.

`ns-render`, `ns-viewer` and `ns-export` were written for models that march along rays. What surfels can give is given;
the rest is refused with the reason.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components import renderers
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor

from genfusion_ns.geometry.cameras import c2w_to_viewmat, look_at
from genfusion_ns.geometry.clips import SOLID_ALPHA
from genfusion_ns.messages import say
from genfusion_ns.models.panorama import look_along
from genfusion_ns.models.views import View, without_background
from genfusion_ns.rendering.surfels import SurfelRender

_RAY_FOCAL = 1000.0
"""Focal length of the one-pixel camera that stands for a ray, pixels."""


class SurfelDoors(SplatfactoModel):
    """The part of `GenFusionModel` that nerfstudio's commands call; see the module."""

    _shown_in_viewer = False

    @abstractmethod
    def render(
        self, viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor | None = None
    ) -> SurfelRender:
        """See `GenFusionModel.render`."""

    @abstractmethod
    def view(self, viewmat: Tensor, K: Tensor, width: int, height: int, background: Tensor) -> View:
        """See `GenFusionModel.view`."""

    @abstractmethod
    def backdrop(self, directions: Tensor, background: Tensor) -> Tensor:
        """See `GenFusionModel.backdrop`."""

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Render one camera, perspective or equirectangular, without what lies outside of `obb_box`.

        A lens distortion of the camera is not drawn: photos are undistorted before anything is compared with them.

        Args:
            camera: of shape [1].
            obb_box: scene units; None: the whole scene.

        Returns:
            Images as `GenFusionModel.get_outputs` has them. Depths of a perspective camera are z, those of a panorama
            distances from the camera. With a box also rgba, which `ns-render` asks for by itself only without one.

        Raises:
            ValueError: another kind of camera, outside of the viewer; there the picture stays empty and the console
                says why, since an exception would end the thread that draws.
        """
        self.set_crop(obb_box)
        camera = camera.to(self.device)
        kind = CameraType(int(camera.camera_type.flatten()[0]))
        if kind is CameraType.PERSPECTIVE:
            outputs: dict[str, Tensor] = self.get_outputs(camera)  # type: ignore[assignment]
        elif kind is CameraType.EQUIRECTANGULAR:
            outputs = self._panorama(camera)
        else:
            outputs = self._refused(camera, kind)
        if obb_box is not None and not self._shown_in_viewer:
            outputs["rgba"] = self.get_rgba_image(outputs)
        return outputs

    @torch.no_grad()
    def get_outputs_for_camera_ray_bundle(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Refuse an image of rays, which `ns-export tsdf` and the textures of all meshes ask for."""
        raise ValueError(
            "surfels are not sampled along rays, so ns-export has no way to a mesh of them; gf-export mesh makes one, "
            "and gf-export splat or ns-export gaussian-splat write the surfels themselves"
        )

    def set_background(self, background_color: Float[Tensor, "3"]) -> None:
        """Background of the renders that follow; only nerfstudio's viewer calls this, before it draws."""
        self._shown_in_viewer = True
        super().set_background(background_color)

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Float[Tensor, "H W 4"]:
        """Colour without background, and coverage as alpha; straight, as PNG files have it. 0..1

        Raises:
            ValueError: for an output that is not the colour.
        """
        if output_name != "rgb":
            raise ValueError(f"{output_name} has no transparency; the output of that kind is rgba, made from rgb")
        return without_background(outputs["rgb"], outputs["accumulation"], outputs["background"])

    def display_background(self) -> Float[Tensor, "3"]:
        """Background of a render to look at: that of the crop where nerfstudio crops, else the model's own."""
        chosen = renderers.BACKGROUND_COLOR_OVERRIDE
        return (self.background_color if chosen is None else chosen).to(self.device)

    def _panorama(self, camera: Cameras) -> dict[str, Tensor]:
        background = self.display_background()
        directions = camera.generate_rays(camera_indices=0, keep_shape=True).directions
        height, width = directions.shape[:2]
        view = look_along(
            lambda viewmat, K, w, h: self.view(viewmat, K, w, h, background),
            camera.camera_to_worlds[0],
            directions,
            max(width / (2 * math.pi), height / math.pi),
        )
        return view.outputs()

    def _refused(self, camera: Cameras, kind: CameraType) -> dict[str, Tensor]:
        message = (
            f"the camera type is {kind.name.lower()}, and surfels are drawn by perspective cameras only, or by six of "
            "them as an equirectangular panorama; choose one of the two, in a camera path as its camera_type"
        )
        if not self._shown_in_viewer:
            raise ValueError(message)
        say(f"Nothing is drawn: {message}.", "yellow")
        background = self.display_background()
        return View.empty(int(camera.width.item()), int(camera.height.item()), background).outputs()

    @torch.no_grad()
    def outputs_along(self, rays: RayBundle) -> dict[str, Tensor]:
        """What single rays meet, as `ns-render --render-nearest-camera` asks.

        Args:
            rays: M of them; one without direction meets nothing.

        Returns:
            rgb [M, 3] with the background behind it, accumulation [M, 1], depth [M, 1] as the distance at which half of
            the light is gone, infinite where less is, and normals [M, 3] (world frame, mapped to 0..1).
        """
        origins, directions = (rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3))
        valid = torch.isfinite(directions).all(-1) & (directions.norm(dim=-1) > 0)
        forward = torch.where(valid[:, None], directions, directions.new_tensor([0.0, 0, 1]))
        up = torch.nn.functional.one_hot(forward.abs().argmin(dim=-1), 3).to(forward)
        viewmats = c2w_to_viewmat(look_at(origins, origins + forward, up))
        K = origins.new_tensor([[_RAY_FOCAL, 0, 0.5], [0, _RAY_FOCAL, 0.5], [0, 0, 1]]).expand(len(origins), 3, 3)
        render = self.render(viewmats, K.contiguous(), 1, 1)
        pixel = {name: getattr(render, name)[:, 0, 0] for name in ("rgb", "alpha", "median_depth", "normals")}
        pixel["rgb"] = pixel["rgb"] + (1 - pixel["alpha"]) * self.backdrop(forward, self.display_background())
        stopped = valid[:, None] & (pixel["alpha"] > SOLID_ALPHA)
        return {
            "rgb": pixel["rgb"].clamp(0, 1),
            "accumulation": pixel["alpha"],
            "depth": torch.where(stopped, pixel["median_depth"], torch.inf),
            "normals": (torch.nn.functional.normalize(pixel["normals"], dim=-1) + 1) / 2,
        }
