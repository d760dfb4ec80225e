"""`MipNerfModel`: mip-NeRF as a nerfstudio model (Barron et al., ICCV 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components import renderers
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap, apply_depth_colormap
from nerfstudio.utils.colors import get_color
from torch import Tensor
from torch.nn import Parameter
from tyro.conf import Suppress

from genfusion_ns.geometry.cone_rays import BASE_RADIUS
from genfusion_ns.geometry.images import psnr
from genfusion_ns.models.metrics import ImageMetrics
from genfusion_ns.models.mipnerf.encoding import integrated_encoding, plain_encoding
from genfusion_ns.models.mipnerf.field import MipNerfMLP
from genfusion_ns.models.mipnerf.sampling import (
    Composed,
    activated,
    compose,
    contracted,
    fence_posts,
    frustum_gaussians,
    resampled,
)
from genfusion_ns.perceptual import LpipsNet
from genfusion_ns.seeds import seed_of
from genfusion_ns.stored_config import StoredConfig

PAPER = {"width": 256, "depth": 8, "view_width": 128, "degrees": 16, "num_samples": 128}
"""Sizes of the paper, which 0 in the settings means."""
_BEYOND = 1000.0
"""Far plane of a scene without end, in radii of what is shown well."""


@dataclass
class MipNerfModelConfig(StoredConfig, ModelConfig):
    """mip-NeRF. Sizes of 0 are those of the paper with a GPU, and smaller ones without."""

    _target: type = field(default_factory=lambda: MipNerfModel)
    width: int = 0
    """Width of the hidden layers; the paper has 256."""
    depth: int = 0
    """Number of hidden layers; the paper has 8."""
    view_width: int = 0
    """Width of the layer that sees the viewing direction; the paper has 128."""
    degrees: int = 0
    """Frequencies of the encoded positions; the paper has 16. Of small images the highest are never seen."""
    num_samples: int = 0
    """Intervals of a ray in each of the two passes; the paper has 128."""
    resample_padding: float = 0.01
    """Added to the weights of the first pass before the second samples by them."""
    coarse_loss_weight: float = 0.1
    """Weight of the first pass's loss."""
    loss_multipliers: bool = True
    """Weigh pixels by the area that they cover, so that each image counts alike whatever its size."""
    scene: Literal["auto", "bounded", "unbounded"] = "auto"
    """bounded: all lies between near and far; unbounded: space is contracted around the cameras, and samples are even
    in disparity. auto: bounded for photos with an alpha channel, which show an object before nothing."""
    near_plane: float = 0.0
    """Depth at which rays begin, scene units; 0: what the data say."""
    far_plane: float = 0.0
    """Depth at which rays end, scene units; 0: what the data say."""
    background: Literal["auto", "white", "black"] = "auto"
    """What lies behind; auto: the colour that the dataparser puts behind transparent pixels, black without such."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers of the network; auto: float32, but bfloat16, which is a little coarser, on processors that multiply such
    matrices several times faster (AMX) where there is no GPU."""
    samples_seed: int = 0
    """Seed of the jitter of samples."""
    lpips_net: LpipsNet = "alex"
    """Backbone of the metric `lpips` at evaluation, as of the surfel model."""
    eval_num_rays_per_chunk: int = 4096
    """Rays that are rendered at once."""

    enable_collider: Suppress[bool] = False
    collider_params: Suppress[dict[str, float] | None] = None
    loss_coefficients: Suppress[dict[str, float]] = field(default_factory=dict)
    prompt: Suppress[str | None] = None


class MipNerfModel(Model):
    """One network for both passes; pixels are cones, so that one model serves images of any size.

    Where rays begin and end, the background and the contraction are measured when training begins and are part of
    checkpoints. Outputs: rgb, depth (along the optical axis), accumulation, and those of the first pass with _coarse.
    """

    config: MipNerfModelConfig
    near: Tensor
    far: Tensor
    centre: Tensor
    radius: Tensor
    background: Tensor
    unbounded: Tensor

    def populate_modules(self) -> None:
        """Build the network.

        Raises:
            ValueError: settings out of range.
        """
        super().populate_modules()
        sizes = {name: getattr(self.config, name) or usual for name, usual in PAPER.items()}
        for name, value in sizes.items():
            if not 1 <= value <= 4096:
                raise ValueError(f"--pipeline.model.{name.replace('_', '-')} is {value}; allowed are 1..4096")
        self.num_samples = sizes.pop("num_samples")
        self.field = MipNerfMLP(**sizes)
        self._degrees = (0, sizes["degrees"])
        for name, value in self._measures().items():
            self.register_buffer(name, value)
        self.image_metrics = ImageMetrics(self.config.lpips_net)
        self.step = 0

    def _measures(self) -> dict[str, Tensor]:
        known, config = self.kwargs.get("metadata") or {}, self.config
        transparent = bool(known.get("transparent", False))
        unbounded = not transparent if config.scene == "auto" else config.scene == "unbounded"
        radius = float(known.get("scene_radius", 1.0))
        near, far = known.get("depth_range", (2.0, 6.0))
        near, far = config.near_plane or near, config.far_plane or (_BEYOND * radius if unbounded else far)
        if not 0 <= near < far or (unbounded and near == 0):
            raise ValueError(
                f"rays would begin at depth {near:g} and end at {far:g}; --pipeline.model.near-plane must be above 0, "
                "and --pipeline.model.far-plane beyond it"
            )
        if config.background != "auto":
            background = get_color(config.background)
        elif transparent:
            found = known.get("alpha_color")
            background = torch.ones(3) if found is None else torch.as_tensor(found)
        else:
            background = torch.zeros(3)
        return {
            "near": torch.tensor(float(near)),
            "far": torch.tensor(float(far)),
            "centre": torch.as_tensor(known.get("scene_centre", torch.zeros(3))).float(),
            "radius": torch.tensor(radius),
            "background": background.float(),
            "unbounded": torch.tensor(unbounded),
        }

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """All parameters in one group."""
        return {"fields": list(self.field.parameters())}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Note the step, of which the jitter of samples depends."""
        return [TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._note_step)]

    def _note_step(self, step: int) -> None:
        self.step = step

    def _generator(self) -> torch.Generator | None:
        if not self.training:
            return None
        return torch.Generator(self.device).manual_seed(seed_of(self.config.samples_seed, "samples", self.step))

    def get_outputs(self, ray_bundle: RayBundle | Cameras) -> dict[str, Any]:
        """Render rays, see the class.

        Args:
            ray_bundle: unit directions; metadata may hold directions_norm, radii, near and far. [N]

        Raises:
            ValueError: cameras in place of rays.
        """
        if not isinstance(ray_bundle, RayBundle):
            raise ValueError("mip-NeRF renders rays; use get_outputs_for_camera for a camera")
        config = self.config
        own_ends = not bool(self.unbounded) and config.near_plane == 0 and config.far_plane == 0
        rays = _Rays.of(ray_bundle, self.near, self.far, own_ends)
        generator = self._generator()
        t = fence_posts(rays.near, rays.far, self.num_samples, bool(self.unbounded), generator)
        coarse = self._pass(rays, t)
        t = resampled(t, coarse.weights, padding=config.resample_padding, generator=generator)
        fine = self._pass(rays, t)
        outputs = {"rgb": fine.rgb, "depth": fine.depth, "accumulation": fine.accumulation}
        outputs |= {"rgb_coarse": coarse.rgb, "depth_coarse": coarse.depth}
        outputs["accumulation_coarse"] = coarse.accumulation
        if not self.training:
            outputs |= {name: value.clamp(0, 1) for name, value in outputs.items() if name.startswith("rgb")}
        return outputs

    def _pass(self, rays: _Rays, t: Float[Tensor, "N posts"]) -> Composed:
        unbounded = bool(self.unbounded)
        gaussians = frustum_gaussians(t, rays.origins, rays.directions, rays.radii, diagonal=not unbounded)
        if unbounded:
            gaussians = contracted(gaussians, self.centre, self.radius)
        positions, views = integrated_encoding(*gaussians, self._degrees), plain_encoding(rays.unit)
        half = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            rgb, density = self.field(positions, views)
        colour, density = activated(rgb.float(), density.float())
        return compose(colour, density, t, rays.directions, self._backdrop())

    def _backdrop(self) -> Tensor:
        """Background; in the viewer and in ns-render what nerfstudio asks for."""
        chosen = None if self.training else renderers.BACKGROUND_COLOR_OVERRIDE
        return self.background if chosen is None else chosen.to(self.device)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Render one camera of any kind; the cones of its pixels have the width that its focal length says."""
        rays = camera.generate_rays(camera_indices=0, keep_shape=True, obb_box=obb_box)
        if CameraType(int(camera.camera_type.flatten()[0])) is CameraType.PERSPECTIVE:
            focal = (camera.fx.flatten()[0] * camera.fy.flatten()[0]).sqrt()
            rays.metadata["radii"] = torch.full_like(rays.pixel_area, float(BASE_RADIUS / focal))
        return self.get_outputs_for_camera_ray_bundle(rays)

    def _target(self, batch: dict[str, Any]) -> Tensor:
        image = batch["image"].to(self.device)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        if image.shape[-1] == 3:
            return image
        return image[..., :3] * image[..., 3:] + (1 - image[..., 3:]) * self.background

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Squared errors of both passes, pixels weighted by the area that they cover (section 3.3 of the paper)."""
        target = self._target(batch)
        weight = batch["lossmult"].to(target) if self.config.loss_multipliers and "lossmult" in batch else None
        losses = {"fine": squared_error(outputs["rgb"], target, weight)}
        losses["coarse"] = self.config.coarse_loss_weight * squared_error(outputs["rgb_coarse"], target, weight)
        return losses

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """PSNR of the rays of a step."""
        return {"psnr": psnr((outputs["rgb"].detach().clamp(0, 1) - self._target(batch)).square().mean())}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of one held-out view, and pictures for the log."""
        target = self._target(batch)
        images = {
            "img": torch.cat([target, outputs["rgb"]], dim=1),
            "accumulation": apply_colormap(outputs["accumulation"]),
            "depth": apply_depth_colormap(
                outputs["depth"], outputs["accumulation"], colormap_options=ColormapOptions("turbo")
            ),
        }
        return self.image_metrics(outputs["rgb"], target), images

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Float[Tensor, "H W 4"]:
        """Colour without background, and coverage as alpha; straight, as PNG files have it. 0..1"""
        alpha = outputs[output_name.replace("rgb", "accumulation")]
        own = outputs[output_name] - (1 - alpha) * self._backdrop().to(alpha)
        return torch.cat([(own / alpha.clamp_min(1e-6)).clamp(0, 1), alpha], dim=-1)


class _Rays(NamedTuple):
    """Rays as the passes see them; depths along the optical axis."""

    origins: Tensor
    directions: Tensor
    unit: Tensor
    radii: Tensor
    near: Tensor
    far: Tensor

    @classmethod
    def of(cls, bundle: RayBundle, near: Tensor, far: Tensor, own_ends: bool) -> _Rays:
        """Rays that begin and end where the model says, or their camera where `own_ends`; a crop box cuts them."""
        metadata, unit = bundle.metadata, bundle.directions
        length = metadata.get("directions_norm", torch.ones_like(unit[..., :1]))
        # nerfstudio's pixel areas are of unit directions, on which a pixel away from the axis takes less room.
        radii = metadata.get("radii", BASE_RADIUS * (bundle.pixel_area * length**3).sqrt())
        near, far = near.expand_as(length), far.expand_as(length)
        if own_ends:
            near, far = metadata.get("near", near).to(near), metadata.get("far", far).to(far)
        if bundle.nears is not None and bundle.fars is not None:
            near = torch.minimum(torch.maximum(near, bundle.nears / length), far)
            far = torch.maximum(torch.minimum(far, bundle.fars / length), near)
        return cls(bundle.origins, unit * length, unit, radii, near, far)


def squared_error(
    image: Float[Tensor, "N 3"], target: Float[Tensor, "N 3"], weight: Float[Tensor, "N 1"] | None = None
) -> Float[Tensor, ""]:
    """Weighted mean over pixels of the squared error, summed over its three channels."""
    error = (image - target).square().sum(-1, keepdim=True)
    return error.mean() if weight is None else (weight * error).sum() / weight.sum()
