"""`SparseNerfactoModel`: nerfstudio's nerfacto for a few photos, and renders of whole views that have a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap, apply_depth_colormap
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from genfusion_ns.geometry.cameras import viewmat_to_c2w
from genfusion_ns.geometry.clips import RenderedView
from genfusion_ns.models.metrics import ImageMetrics
from genfusion_ns.perceptual import LpipsNet, lpips_without_backbone
from genfusion_ns.stored_config import StoredConfig

_WARMED_UP = 10
"""Steps from which on nerfacto does not train its proposal networks in every one."""


@dataclass
class SparseNerfactoModelConfig(StoredConfig, NerfactoModelConfig):
    """nerfacto without what many photos are needed for: appearance of each photo, corrected poses."""

    _target: type = field(default_factory=lambda: SparseNerfactoModel)
    use_appearance_embedding: bool = False
    """Whether each photo has an appearance of its own; a novel view then has the mean of all."""
    average_init_density: float = 0.01
    """Density of the empty field."""
    proposal_warmup: int = 1000
    """Steps over which the proposal networks come to be trained less often."""
    implementation: Literal["tcnn", "torch"] = "torch"
    """What encodes positions: torch anywhere, tcnn, which has to be installed, faster on a GPU."""
    eval_num_rays_per_chunk: int = 4096
    """Rays that are rendered at once, also where a gradient is wanted."""
    lpips_net: LpipsNet = "alex"
    """Backbone of the metric `lpips` at evaluation, as of the surfel model."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))
    """Correction of poses, off by default."""


class SparseNerfactoModel(NerfactoModel):
    """nerfacto whose views can be rendered whole while it trains.

    Such a render is that of a view which is no photo: without jitter of samples, by the mean appearance, and without
    any effect on when the proposal networks are trained, which learn from photos alone.
    """

    config: SparseNerfactoModelConfig

    def populate_modules(self) -> None:
        """Build the networks; without the metric whose weights nerfacto would download."""
        with lpips_without_backbone():
            super().populate_modules()
        del self.lpips
        self.image_metrics = ImageMetrics(self.config.lpips_net)

    def look(self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]) -> RenderedView:
        """One view of (width, height) `size`, without gradient."""
        rays = self._rays(viewmat, K, size)
        with torch.no_grad():
            chunks = [self._rendered(part) for part in self._parts(rays)]
        rgb, alpha, distance = (torch.cat(parts).view(size[1], size[0], -1) for parts in zip(*chunks, strict=True))
        depth = distance / rays.metadata["directions_norm"]
        return RenderedView(rgb.clamp(0, 1), depth, alpha, viewmat, K)

    def show(
        self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]
    ) -> Float[Tensor, "H W 3"]:
        """Colours of one view, with a gradient that takes the memory of one chunk of rays.

        Rays are rendered without a graph. The gradient of a loss of the whole image comes first; each chunk is rendered
        again when its turn comes, and its part of that gradient followed back to the parameters.
        """
        parts = self._parts(self._rays(viewmat, K, size))
        colours = [checkpoint(self._colours, part, use_reentrant=False) for part in parts]
        return torch.cat(colours).view(size[1], size[0], 3)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def _colours(self, rays: RayBundle) -> Tensor:
        return self._rendered(rays)[0]

    def _rendered(self, rays: RayBundle) -> tuple[Tensor, Tensor, Tensor]:
        """Colour, coverage, and distance along each ray."""
        with self._as_for_no_photo():
            outputs = self(rays)
        return outputs["rgb"], outputs["accumulation"], outputs["expected_depth"]

    @contextmanager
    def _as_for_no_photo(self) -> Iterator[None]:
        sampler, training = self.proposal_sampler, self.training
        before = sampler._steps_since_update, sampler._step
        sampler._steps_since_update, sampler._step = 0, max(_WARMED_UP, sampler._step)
        self.eval()
        try:
            yield
        finally:
            self.train(training)
            sampler._steps_since_update, sampler._step = before

    def _rays(self, viewmat: Tensor, K: Tensor, size: tuple[int, int]) -> RayBundle:
        camera = Cameras(
            viewmat_to_c2w(viewmat)[:3].float(),
            *(float(K[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2))),
            width=size[0],
            height=size[1],
            camera_type=CameraType.PERSPECTIVE,
        )
        return camera.to(self.device).generate_rays(camera_indices=0, keep_shape=True)

    def _parts(self, rays: RayBundle) -> list[RayBundle]:
        flat, step = rays.flatten(), self.config.eval_num_rays_per_chunk
        return [flat[start : start + step] for start in range(0, len(flat), step)]  # type: ignore[arg-type, misc]

    def training_state(self) -> dict[str, int]:
        """What a resumed run needs beyond the parameters."""
        return {"since_update": self.proposal_sampler._steps_since_update, "step": self.proposal_sampler._step}

    def restore_training(self, state: dict[str, int]) -> None:
        """Go on where `training_state` was taken."""
        self.proposal_sampler._steps_since_update = int(state["since_update"])
        self.proposal_sampler._step = int(state["step"])

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM and, when its weights can be had, LPIPS of one held-out view; pictures for the log."""
        image = batch["image"].to(self.device)
        target = self.renderer_rgb.blend_background(image.float() / 255 if image.dtype == torch.uint8 else image)
        depth = apply_depth_colormap(
            outputs["depth"], outputs["accumulation"], colormap_options=ColormapOptions("turbo")
        )
        images = {
            "img": torch.cat([target, outputs["rgb"]], dim=1),
            "accumulation": apply_colormap(outputs["accumulation"]),
            "depth": depth,
        }
        return self.image_metrics(outputs["rgb"], target), images
