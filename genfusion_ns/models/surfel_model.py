"""`GenFusionModel`: a scene of 2D-Gaussian surfels as a nerfstudio model.

A `SplatfactoModel` by type, because nerfstudio's viewer, exporter and renderer look for that class; the parameters
keep its names (``gauss_params``) and shapes. The third scale of every surfel is a constant far below a pixel: renderers
of volumetric Gaussians then show the exported scene as the flat discs that it is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap, apply_depth_colormap
from nerfstudio.utils.colors import get_color
from torch import Tensor
from torch.nn import Parameter

from genfusion_ns.geometry.cameras import c2w_to_viewmat, full_precision, resize_intrinsics, viewmat_to_c2w
from genfusion_ns.geometry.depth import depth_to_normals
from genfusion_ns.geometry.free_space import Clearings
from genfusion_ns.geometry.images import WHOLLY_SEEN, psnr
from genfusion_ns.geometry.pixel_rays import pixel_rays
from genfusion_ns.messages import say
from genfusion_ns.models.densification import SurfelStrategy
from genfusion_ns.models.insertion import NewSurfels, evenly_picked, insert_surfels
from genfusion_ns.models.losses import charbonnier_loss, normal_consistency_loss, photometric_loss
from genfusion_ns.models.metrics import ImageMetrics
from genfusion_ns.models.rendered_surfels import RenderedSurfels
from genfusion_ns.models.starting_points import StartingPoints
from genfusion_ns.models.surfel_settings import StepSchedule, SurfelSettings
from genfusion_ns.models.surroundings import BANDS, Surroundings, beyond
from genfusion_ns.models.views import View
from genfusion_ns.rendering.contract import RasterSettings
from genfusion_ns.rendering.distortion import published_distortion
from genfusion_ns.rendering.surfels import SurfelRender
from genfusion_ns.rendering.thread_pool import set_num_threads

_PARAMETERS = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
_VIEWER_BACKGROUND = (0.1490, 0.1647, 0.2157)
_UNMEASURED: dict[str, Any] = {
    "scene_length": 1.0,
    "near_plane": 0.2,
    "backdrop_color": _VIEWER_BACKGROUND,
    "surroundings": [[0.0] * 3] * BANDS,
}
"""Lengths in scene units, and what is behind renders, of models without a capture and of checkpoints from before they
were measured."""
_LOOK_EVERY, _SMOOTH_FROZEN = 100, 100
"""Steps between two looks at what the photos sample and which sides they see, and steps at the end that keep the last
sampling."""
_LIMIT_EVERY = 10
"""Steps between two looks at sizes, in which they can grow by a third in short runs."""


@dataclass
class GenFusionModelConfig(SurfelSettings):
    """Surfel scene. Step counts above 1 are steps; from 0 to 1 they are shares of the run (--max-num-iterations)."""

    _target: type = field(default_factory=lambda: GenFusionModel)


class GenFusionModel(RenderedSurfels):
    """Surfel scene with GenFusion's losses; rendering changes nothing in it.

    The rasteriser's record of a training render travels in ``outputs["render"]``; the pipeline decides which renders
    reach the densification strategy through `observe_render`.
    """

    config: GenFusionModelConfig  # type: ignore[assignment]
    scene_length: Tensor
    near_plane: Tensor
    backdrop_color: Tensor
    surroundings: Tensor
    background_color: Tensor

    def populate_modules(self) -> None:
        """Create the surfels from seed points, or at random when there are none.

        Raises:
            ValueError: a setting that no scene can have.
        """
        self.config.check()
        # The viewer renders in a thread of its own; two threads that import numba at once can see it half made.
        import genfusion_ns.models.photometric_kernels
        import genfusion_ns.rendering.backends.cpu  # noqa: F401

        _use_threads(self.config.cpu_threads)
        for name, value in self._measured().items():
            self.register_buffer(name, value)
        self._take_measures()
        self.gauss_params = torch.nn.ParameterDict(self._initial_parameters())
        self.begin_without_photos()
        self.camera_optimizer = self.config.camera_optimizer.setup(num_cameras=self.num_train_data, device="cpu")
        self.camera_optimizer.register_forward_hook(self._in_scene_units)
        self.image_metrics = ImageMetrics(self.config.lpips_net)
        self.step = 0
        self.crop_box: OrientedBox | None = None
        self._observed_infos: list[dict[str, Any]] = []
        self._generated_infos: list[dict[str, Any]] = []
        self.set_total_steps(30000)

    def set_total_steps(self, total_steps: int) -> None:
        """Fix the length of the run, of which step counts may be shares, and start densification afresh."""
        config = self.config
        self.schedule = StepSchedule.resolve(config, total_steps)
        self.strategy = SurfelStrategy(
            prune_opa=config.cull_alpha_thresh,
            grow_grad2d=config.densify_grad_thresh,
            grow_scale3d=config.densify_size_thresh,
            prune_scale3d=config.cull_scale_thresh,
            refine_scale2d_stop_iter=0,
            refine_start_iter=self.schedule.warmup,
            refine_stop_iter=self.schedule.stop_refining,
            reset_every=config.reset_alpha_every * config.refine_every,
            refine_every=config.refine_every,
            pause_refine_after_reset=self.num_train_data + config.refine_every,
            max_surfels=config.max_surfels,
            sparsity_aware=config.sparsity_aware,
            total_steps=total_steps,
        )
        self.strategy_state = self.strategy.initialize_state(scene_scale=self.length)

    @property
    def _metadata(self) -> dict[str, Any]:
        """What the datamanager says about the capture."""
        return self.kwargs.get("metadata") or {}

    def _measured(self) -> dict[str, Tensor]:
        """What is measured once and kept with the checkpoints, under the names of its buffers."""
        known = {name: value for name in _UNMEASURED if (value := self._metadata.get(name)) is not None}
        if self.config.near_plane > 0:
            known["near_plane"] = self.config.near_plane
        seen = self._metadata.get("directional_colours")
        if seen is not None and len(seen[0]):
            around = Surroundings.fit(*seen)
            known |= {"backdrop_color": around.mean, "surroundings": around.coefficients}
        return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in (_UNMEASURED | known).items()}

    def _take_measures(self) -> None:
        """The measured values as plain numbers: a look at a buffer would make a GPU wait at every render."""
        self.length = float(self.scene_length)
        """What sizes, steps and depths are shares of: the depth that photos show, scene units."""
        self.near = self.config.near_plane if self.config.near_plane > 0 else float(self.near_plane)
        """Near plane of every render, scene units."""
        chosen = self.config.background_color
        colour = self.backdrop_color.float() if chosen == "random" else get_color(chosen).to(self.backdrop_color.device)
        self.has_surroundings = chosen == "random" and bool(self.surroundings.any())
        """Whether what is behind everything has the colours that photos have in that direction."""
        # A buffer, so that it lies on the device and is not sent there in every step.
        self.register_buffer("background_color", colour, persistent=False)

    def _in_scene_units(self, _: torch.nn.Module, __: Any, correction: Tensor) -> Tensor:
        """Translations of the camera optimiser, which has one step size for all scenes, count in scene lengths."""
        return torch.cat([correction[..., :3], self.length * correction[..., 3:]], dim=-1)

    def _initial_parameters(self) -> dict[str, Parameter]:
        limit = self.config.max_surfels
        if self.seed_points is not None and not self.config.random_init:
            start = StartingPoints.of(self.seed_points, self._metadata)
            if 0 < limit < len(start.means):
                say(f"Seed points: {limit} of {len(start.means)} are taken (--pipeline.model.max-surfels).")
                start = start.chosen(evenly_picked(len(start.means), limit))
        else:
            count = min(self.config.num_random, limit or self.config.num_random)
            means = (torch.rand(count, 3) - 0.5) * self.config.random_scale * self.length
            start = StartingPoints(means, torch.rand(len(means), 3))
        values = start.parameter_values(self.config.sh_degree, self.length)
        return {name: Parameter(values[name].contiguous()) for name in _PARAMETERS}

    def load_state_dict(self, dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a checkpoint with any number of surfels into the same parameters.

        The parameters stay the objects that the optimisers already hold, so that training goes on after a resume.
        Lengths stay those that the run was begun with, whatever the capture would measure today.
        """
        self.step = 30000
        dict = {name: torch.tensor(value, dtype=torch.float64) for name, value in _UNMEASURED.items()} | dict
        count = dict["gauss_params.means"].shape[0]
        for parameter in self.gauss_params.values():
            parameter.data = parameter.data.new_zeros((count, *parameter.shape[1:]))
        self.smoothing = self.smoothing.new_zeros(count if self.config.smoothing_3d else 0)
        dict.setdefault("smoothing", self.smoothing)
        self.sides = dict.setdefault("sides", self.sides.new_zeros(0)).to(self.sides)
        result = torch.nn.Module.load_state_dict(self, dict, **kwargs)
        self._take_measures()
        return result

    @full_precision()
    def get_outputs(self, camera: Cameras | RayBundle) -> dict[str, Any]:
        """Render one perspective camera, see `nerfstudio.models.base_model.Model.get_outputs`.

        Args:
            camera: of shape [1]; for rays see `outputs_along`.

        Returns:
            rgb, accumulation, depth, median_depth, normals and normals_from_depth (world frame, mapped to 0..1),
            distortion, background; while training instead rgb, accumulation, background and what the losses need: the
            `SurfelRender` ``render`` with its ``K`` [1, 3, 3] and ``viewmat`` [1, 4, 4].
        """
        if isinstance(camera, RayBundle):
            return self.outputs_along(camera)
        pose = self.camera_optimizer.apply_to_camera(camera) if self.training else camera.camera_to_worlds
        width, height = self._size_of(camera)
        K = _intrinsics_of(camera).to(self.device)
        factor = self._get_downscale_factor()
        if factor > 1:
            small = (max(width // factor, 1), max(height // factor, 1))
            # Rows and columns that do not fill a block of pixels are dropped by the image's own reduction.
            K = resize_intrinsics(K, (small[0] * factor, small[1] * factor), small)
            width, height = small
        background = self._get_background_color()
        viewmat = c2w_to_viewmat(pose.to(self.device))
        if not self.training:
            view = self.view(viewmat, K, width, height, background)
            return (view.continued() if self._continues(background) else view).outputs()
        render = self.render(viewmat, K, width, height, background=background)
        return {
            "rgb": render.rgb[0],
            "accumulation": render.alpha[0],
            "background": background,
            "render": render,
            "K": K,
            "viewmat": viewmat,
        }

    def _size_of(self, camera: Cameras) -> tuple[int, int]:
        """(width, height) in pixels. Train views bring theirs along, so that no step waits for the GPU to tell it."""
        known = (camera.metadata or {}) if self.training else {}
        return known.get("size") or (int(camera.width.item()), int(camera.height.item()))

    def view(
        self,
        viewmat: Float[Tensor, "1 4 4"],
        K: Float[Tensor, "1 3 3"],
        width: int,
        height: int,
        background: Float[Tensor, "3"],
    ) -> View:
        """One perspective view to look at, without sides that no photo sees and what is outside of the crop box."""
        selected = self.shown_from(viewmat[0])
        if self.crop_box is not None:
            inside = self.crop_box.within(self.means).squeeze(-1)
            selected = inside if selected is None else inside & selected
        render = self.render(viewmat, K, width, height, background=background, selected=selected)
        view = View.of(render, K, viewmat, background)
        if not self._shows_surroundings(background):
            return view
        return view.before(self.around(viewmat[0], K[0], width, height))

    def around(
        self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], width: int, height: int
    ) -> Float[Tensor, "H W 3"]:
        """What is behind everything in one perspective view, whatever background the viewer or a crop asks for."""
        directions = pixel_rays(viewmat_to_c2w(viewmat.cpu()[None]), K.cpu(), (width, height))[1][0]
        own = self.backdrop_color.to(self.means)
        return self.backdrop(directions.to(own), own)

    def _continues(self, background: Float[Tensor, "3"]) -> bool:
        """Whether what is beside a hole goes on into it; not where a box cuts the scene."""
        return self.config.holes == "continued" and self.crop_box is None and self._shows_surroundings(background)

    def _shows_surroundings(self, background: Float[Tensor, "3"]) -> bool:
        """Not before a background that a crop, the viewer or the configuration asks for."""
        return self.has_surroundings and torch.equal(background, self.backdrop_color.to(background))

    def shown_surroundings(self, background: Float[Tensor, "3"]) -> Float[Tensor, "9 3"]:
        """Harmonics of what `backdrop` adds to a background; 0 where that stays one colour."""
        return self.surroundings * self._shows_surroundings(background)

    def backdrop(
        self, directions: Float[Tensor, "*shape 3"], background: Float[Tensor, "3"]
    ) -> Float[Tensor, "*shape 3"]:
        """What is behind everything in world directions, before a background of one colour."""
        if not self._shows_surroundings(background):
            return background.expand_as(directions)
        return beyond(directions, background, self.surroundings)

    def training_background(self) -> Float[Tensor, "3"]:
        """Background of the next training render: fixed, or drawn anew when the configuration says random."""
        if self.config.background_color == "random":
            return torch.rand(3, device=self.device)
        return self.background_color.to(self.device)

    def _get_background_color(self) -> Tensor:
        return self.training_background() if self.training else self.display_background()

    def _get_downscale_factor(self) -> int:
        if not self.training:
            return 1
        return 2 ** max(self.config.num_downscales - self.step // self.schedule.resolution, 0)

    @full_precision()
    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Photometric loss of an observed view plus the regularisers; masked pixels do not count."""
        target, weight = self._target(outputs, batch)
        if self.config.photo_loss == "charbonnier":
            losses = {"main_loss": charbonnier_loss(outputs["rgb"], target, weight)}
        else:
            losses = {"main_loss": photometric_loss(outputs["rgb"], target, self.config.ssim_lambda, weight)}
        if self.training:
            losses |= self.regularizers(outputs["render"], outputs["K"], outputs["viewmat"])
            if self.config.opacity_weight > 0 and self._need() == 1:
                opacities = torch.sigmoid(self.gauss_params["opacities"])
                losses["opacity"] = self.config.opacity_weight * opacities.sum() / max(self.num_points, 1)
            self.camera_optimizer.get_loss_dict(losses)
        return losses

    def _need(self) -> float:
        """How far so few photos need the regularisers of sparse captures, 0..1."""
        few = self.config.few_photos
        return 1.0 if few <= 0 else min(1.0, few / max(self.num_train_data, 1))

    def _target(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The photo at the size of the render, and 1 where it may be seen; what a mask hides is the render itself."""
        target = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        if "mask" not in batch:
            return target, None
        weight = (self._downscale_if_required(batch["mask"].float()).to(self.device) > WHOLLY_SEEN).float()
        # The structural term looks beyond the mask's edge, where it must find nothing to change.
        return torch.where(weight > 0, target, outputs["rgb"].detach()), weight

    def regularizers(
        self, render: SurfelRender, K: Float[Tensor, "1 3 3"], viewmat: Float[Tensor, "1 4 4"]
    ) -> dict[str, Tensor]:
        """The terms of 2DGS for one training render, ``distortion`` and ``normal``; none before their first step.

        Args:
            render: of one camera.
            K, viewmat: that camera.
        """
        config = self.config
        if self.step < self.schedule.regularize_from:
            return {}
        losses = {}
        if config.distortion_weight > 0:
            losses["distortion"] = config.distortion_weight * self._distortion(render, K, viewmat)
        if config.normal_weight > 0:
            normals = depth_to_normals(render.depth, K, viewmat)
            losses["normal"] = (
                config.normal_weight
                * self._need()
                * normal_consistency_loss(render.normals[0], normals[0], render.alpha[0])
            )
        return losses

    def _distortion(self, render: SurfelRender, K: Tensor, viewmat: Tensor) -> Tensor:
        """Mean distortion in the form of the settings, without unit."""
        if self.config.distortion_form == "scene":
            return render.distortion.mean() / self.length
        height, width = render.alpha.shape[1:3]
        settings = RasterSettings(width, height, None, self.near, 1e10, self.config.depth_at)
        draw = partial(self.rasterize, viewmats=viewmat, Ks=K, width=width, height=height, sh_degree=None)
        return published_distortion(self.surfels(), viewmat[0], K[0], settings, self.length, draw).mean()

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """PSNR of the view and the number of surfels."""
        target, weight = self._target(outputs, batch)
        with torch.no_grad():
            error = (outputs["rgb"].clamp(0, 1) - target).square().mean()
            if weight is not None:  # what is hidden has no error, so only the number of pixels is to be mended
                error = error / weight.mean().clamp_min(1e-6)
        metrics = {"psnr": psnr(error), "gaussian_count": self.num_points}
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM and, when its weights can be had, LPIPS of one held-out view; pictures for the log."""
        target = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        metrics = self.image_metrics(outputs["rgb"], target)
        images = {
            "img": torch.cat([target, outputs["rgb"]], dim=1),
            "accumulation": apply_colormap(outputs["accumulation"]),
            "depth": apply_depth_colormap(
                outputs["depth"], outputs["accumulation"], colormap_options=ColormapOptions("turbo")
            ),
            "normals": outputs["normals"],
        }
        return metrics, images

    def observe_render(self, render: SurfelRender, generated: bool = False) -> None:
        """Let a training render of this step count for densification; call it before the backward pass.

        Args:
            render: of an observed view, at most one per step, or of a generated one.
            generated: which of the two it is.
        """
        render.info["gradient_2dgs"].retain_grad()
        (self._generated_infos if generated else self._observed_infos).append(render.info)

    def insert_surfels(self, new: NewSurfels) -> int:
        """Append surfels between two training steps, as many as `max_surfels` leaves room for; see `insert_surfels`.

        Call it before the first render of a step: statistics of renders belong to the surfels that they showed.

        Returns:
            How many were inserted.
        """
        if self.config.max_surfels:
            new = new.thinned(max(0, self.config.max_surfels - self.num_points))
        optimizers = {name: self.optimizers[name] for name in _PARAMETERS}
        insert_surfels(
            self.gauss_params,
            optimizers,
            self.strategy_state,
            new,
            sh_degree=self.config.sh_degree,
            scene_length=self.length,
        )
        if len(new):
            self.look()
        return len(new)

    def keep_empty(self, places: Clearings | None) -> int:
        """Remove the surfels in these places, now and at each refinement that follows; None: no place is kept empty.

        Call it before the first render of a step, as `insert_surfels`.

        Returns:
            How many were removed now.
        """
        self.strategy.kept_empty = places
        if places is None:
            return 0
        optimizers = {name: self.optimizers[name] for name in _PARAMETERS}
        removed = self.strategy.empty_places(self.gauss_params, optimizers, self.strategy_state)
        if removed:
            self.look()
        return removed

    def is_kept_empty(self, points: Float[Tensor, "M 3"]) -> Bool[Tensor, " M"]:
        """Which points lie in the places of `keep_empty`. [M]"""
        places = self.strategy.kept_empty
        return points.new_zeros(len(points), dtype=torch.bool) if places is None else places.hold(points)

    def step_post_backward(self, step: int) -> None:
        """Feed the renders of this step to the densification strategy and refine when it is time."""
        observed, self._observed_infos = self._observed_infos, []
        generated, self._generated_infos = self._generated_infos, []
        for info in generated:
            self.strategy.accumulate_generated(self.gauss_params, self.strategy_state, step, info)
        before = self.gauss_params["means"]
        self.strategy.step_post_backward(
            params=self.gauss_params,
            optimizers={name: self.optimizers[name] for name in _PARAMETERS},
            state=self.strategy_state,
            step=step,
            info=observed[0],
        )
        self._look_again(step, others=self.gauss_params["means"] is not before)

    def _look_again(self, step: int, others: bool) -> None:
        """After a step: what was taken from the photos holds for a while, and not for other surfels.

        Args:
            step: which.
            others: surfels went or came, be they as many as before.
        """
        last = self.strategy.total_steps - 1
        if step % _LIMIT_EVERY == 0 or step == last:
            self.limit_sizes()
        due = step % _LOOK_EVERY == 0
        if (due and step <= last - _SMOOTH_FROZEN) or others:
            self.smooth()
        if step == last or (self.follows_photos and (due or others)):
            self.find_sides()


def _intrinsics_of(camera: Cameras) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics in pixels on the device of the camera; nerfstudio's own method fetches every entry to the CPU."""
    K = torch.zeros(*camera.shape, 3, 3, device=camera.device)
    entries = {(0, 0): camera.fx, (1, 1): camera.fy, (0, 2): camera.cx, (1, 2): camera.cy}
    for (row, column), values in entries.items():
        K[..., row, column] = values.squeeze(-1)
    K[..., 2, 2] = 1.0
    return K


def _use_threads(threads: int | None) -> None:
    if threads is None:
        return
    set_num_threads(threads)
    torch.set_num_threads(threads)
