"""A scene of surfels as a nerfstudio model that renders itself, and what its renders take from the photos."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from genfusion_ns.geometry.clips import Clip
from genfusion_ns.models.doors import SurfelDoors
from genfusion_ns.models.seen_sides import PhotoViewmats, seen_sides, shown_from
from genfusion_ns.models.size_limit import limit_sizes
from genfusion_ns.models.surfel_settings import StepSchedule, SurfelSettings
from genfusion_ns.rendering.filters import smoothed_surfels, smoothing_variance
from genfusion_ns.rendering.surfels import SurfelRender, Surfels, rasterize_surfels

_FEW_TO_LOOK_AT = 30
"""Photos up to which a run follows the sides that they see and limits sizes by them. Of more photos sides are found for
checkpoints alone, as a render for each photo would take a good part of the time between two looks, and more photos
leave no room for surfels that are too large."""


class RenderedSurfels(SurfelDoors):
    """The part of `GenFusionModel` that renders, with the buffers that renders depend on."""

    config: SurfelSettings  # type: ignore[assignment]
    schedule: StepSchedule
    near: float
    smoothing: Tensor
    sides: Tensor
    _photos: PhotoViewmats | None

    def begin_without_photos(self) -> None:
        """Create the buffers of what renders take from photos, none of which is known yet."""
        # Variances of the 3D smoothing, scene units squared; of no surfel where there is none.
        self.register_buffer("smoothing", torch.zeros(self.num_points if self.config.smoothing_3d else 0))
        # From which sides photos see the surfels, see `seen_sides`; of no surfel where that is not asked or known.
        self.register_buffer("sides", torch.zeros(0, dtype=torch.uint8))
        self.register_state_dict_post_hook(_keep_sides)
        self._photos = None

    def surfels(self, selected: Tensor | None = None) -> Surfels:
        """The scene with activations applied: scales in scene units, opacities in 0..1.

        Args:
            selected: mask or indices of the surfels wanted; all by default. [N] or [M]
        """
        parameters = {name: value if selected is None else value[selected] for name, value in self.gauss_params.items()}
        surfels = Surfels(
            means=parameters["means"],
            quats=parameters["quats"],
            scales=torch.exp(parameters["scales"][:, :2]),
            opacities=torch.sigmoid(parameters["opacities"][:, 0]),
            features_dc=parameters["features_dc"]
            if self.config.sh_degree > 0
            else torch.sigmoid(parameters["features_dc"]),
            features_rest=parameters["features_rest"] if self.config.sh_degree > 0 else None,
        )
        if not self.config.smoothing_3d:
            return surfels
        return smoothed_surfels(surfels, self.smoothing if selected is None else self.smoothing[selected])

    @property
    def scales(self) -> Tensor:
        """Logarithms of the sizes, as exported: with the 3D smoothing."""
        raw = self.gauss_params["scales"]
        return torch.cat([self.surfels().scales.log(), raw[:, 2:]], -1) if self.config.smoothing_3d else raw

    @property
    def opacities(self) -> Tensor:
        """Logits of the opacities, as exported: with the 3D smoothing."""
        if not self.config.smoothing_3d:
            return self.gauss_params["opacities"]
        return torch.logit(self.surfels().opacities, eps=1e-7)[:, None]

    def sample_photos_of(self, cameras: PhotoViewmats) -> None:
        """Take these photos as what the 3D smoothing and the sides that they see are measured by; smoothing is measured
        at once when it never was.
        """
        self._photos = cameras
        if not self.follows_photos:  # those of a checkpoint, which a run that was never stopped does without
            self.sides = self.sides.new_zeros(0)
        if len(self.smoothing) != self.num_points or not self.smoothing.any():
            self.smooth()

    def look(self) -> None:
        """Take from the photos what depends on where the surfels are by now."""
        self.smooth()
        if self.follows_photos:
            self.find_sides()

    @property
    def follows_photos(self) -> bool:
        """Whether there are photos, few enough to be looked at again and again."""
        return self._photos is not None and len(self._photos.sizes) <= _FEW_TO_LOOK_AT

    def limit_sizes(self) -> None:
        """Shrink surfels that are larger than the setting allows; not in runs on many photos."""
        share, photos = self.config.largest_size, self._photos
        if share and photos is not None and self.follows_photos:
            limit_sizes(self.gauss_params["scales"], self.gauss_params["means"], photos, self.near, share)

    def find_sides(self) -> None:
        """Note from which sides photos see the surfels as they are."""
        self.sides = self.sides_now()

    def sides_now(self) -> UInt8[Tensor, " M"]:
        """From which sides photos see the surfels as they are; of none where that is not asked."""
        photos = self._photos
        if self.config.unseen_sides == "shown" or photos is None or self.num_points == 0:
            return self.sides.new_zeros(0)
        return seen_sides(self.gauss_params["means"], self.gauss_params["quats"], photos, self.near, self.render)

    @property
    def _knows_sides(self) -> bool:
        return self.config.unseen_sides == "hidden" and 0 < len(self.sides) == self.num_points

    def shown_sides(self) -> UInt8[Tensor, " N"]:
        """From which sides surfels are shown, see `seen_sides`; 0: from both."""
        return self.sides if self._knows_sides else self.sides.new_zeros(self.num_points)

    def shown_from(self, viewmat: Float[Tensor, "4 4"]) -> Bool[Tensor, " N"] | None:
        """Which surfels a camera shows, by the sides that photos see; None where all are shown."""
        if not self._knows_sides:
            return None
        return shown_from(viewmat, self.gauss_params["means"], self.gauss_params["quats"], self.sides)

    def smooth(self) -> None:
        """Measure the 3D smoothing of the surfels as they are; without photos to measure by there is none."""
        if not self.config.smoothing_3d:
            return
        means = self.gauss_params["means"].detach()
        photos = self._photos
        if photos is None:
            self.smoothing = means.new_zeros(len(means))
            return
        self.smoothing = smoothing_variance(
            means, photos.viewmats.to(means), photos.Ks.to(means), photos.sizes, self.near
        )

    def render(
        self,
        viewmats: Float[Tensor, "C 4 4"],
        Ks: Float[Tensor, "C 3 3"],
        width: int,
        height: int,
        *,
        background: Float[Tensor, "3"] | None = None,
        selected: Tensor | None = None,
    ) -> SurfelRender:
        """Render the scene from C cameras; see `rasterize_surfels`. Background defaults to black."""
        return self.rasterize(
            self.surfels(selected),
            viewmats,
            Ks,
            width,
            height,
            background=background,
            sh_degree=self._degree,
        )

    def render_shown(
        self,
        viewmat: Float[Tensor, "4 4"],
        K: Float[Tensor, "3 3"],
        width: int,
        height: int,
        *,
        background: Float[Tensor, "3"] | None = None,
    ) -> SurfelRender:
        """Render one camera without the sides that no photo sees; statistics of the render are of all surfels."""
        surfels, shown = self.surfels(), self.shown_from(viewmat)
        if shown is not None:
            surfels = replace(surfels, opacities=surfels.opacities * shown)
        return self.rasterize(
            surfels, viewmat[None], K[None], width, height, background=background, sh_degree=self._degree
        )

    @property
    def drawn_degree(self) -> int:
        """Of the spherical harmonics in renders by now."""
        return min(self.step // self.schedule.sh_interval, self.config.sh_degree)

    @property
    def _degree(self) -> int | None:
        """As the rasteriser takes it; None: colours without harmonics."""
        return self.drawn_degree if self.config.sh_degree > 0 else None

    @property
    def pixel_variance(self) -> float | None:
        """Of the pixel filter of renders, pixels squared; None: the low-pass disc."""
        return self.config.mip_kernel if self.config.antialias == "mip" else None

    def rasterize(
        self,
        surfels: Surfels,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        *,
        sh_degree: int | None,
        background: Tensor | None = None,
    ) -> SurfelRender:
        """Any surfels as this model renders its own."""
        return rasterize_surfels(
            surfels,
            viewmats,
            Ks,
            width,
            height,
            background=background,
            sh_degree=sh_degree,
            near=self.near,
            depth_at=self.config.depth_at,
            pixel_variance=self.pixel_variance,
            backend=self.config.backend,
        )

    @torch.no_grad()
    def render_clip(
        self, viewmats: Float[Tensor, "T 4 4"], Ks: Float[Tensor, "T 3 3"], size: tuple[int, int], normals: bool = False
    ) -> Clip:
        """Artifact clip of the scene as it is now, on black, at (width, height) `size` in pixels."""
        viewmats, Ks = viewmats.to(self.device), Ks.to(self.device)
        frames = [self.render_shown(viewmat, K, *size) for viewmat, K in zip(viewmats, Ks, strict=True)]
        return Clip(
            rgb=torch.cat([frame.rgb for frame in frames]).clamp(0, 1),
            depth=torch.cat([frame.depth for frame in frames]),
            alpha=torch.cat([frame.alpha for frame in frames]),
            viewmats=viewmats,
            Ks=Ks,
            normals=torch.nn.functional.normalize(torch.cat([f.normals for f in frames]), dim=-1) if normals else None,
        )


def _keep_sides(model: RenderedSurfels, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Put the sides into a checkpoint of a run that does not follow them; the run goes on without.

    After the last step it has them already.
    """
    if model._photos is not None and not model.follows_photos and len(model.sides) == 0:
        state[f"{prefix}sides"] = model.sides_now()
