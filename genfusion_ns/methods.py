"""The methods that this plugin adds to nerfstudio; the sole target of its entry points.

nerfstudio imports this module for every command, also for methods that have nothing to do with us. It therefore only
builds configuration objects: no rasteriser is compiled, no diffusion library imported, nothing downloaded.
"""

from __future__ import annotations

from typing import Any

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from genfusion_ns.data.datamanager import GenFusionDataManagerConfig
from genfusion_ns.data.masking import MaskingConfig
from genfusion_ns.data.multiscale.ray_datamanager import RayDataManagerConfig
from genfusion_ns.fusion.cameras.completion import CompletionSamplerConfig
from genfusion_ns.fusion.cameras.masked import MaskedSamplerConfig
from genfusion_ns.fusion.cameras.sparse import SparseSamplerConfig
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.multiscale.pipeline import MipNerfPipelineConfig
from genfusion_ns.fusion.multiscale.trainer import MipNerfTrainerConfig
from genfusion_ns.fusion.photo_depth import MonoDepthConfig
from genfusion_ns.fusion.pipeline import GenFusionPipelineConfig
from genfusion_ns.fusion.samples.config import SampleConfig
from genfusion_ns.fusion.samples.nerfacto import SampledNerfactoPipelineConfig, SampledNerfactoTrainerConfig
from genfusion_ns.fusion.seeding import SeedingConfig
from genfusion_ns.fusion.trainer import GenFusionTrainerConfig
from genfusion_ns.models.nerfacto import SparseNerfactoModelConfig
from genfusion_ns.models.optim import FusedAdamConfig, LogLinearDecayConfig, WarmedDecayConfig
from genfusion_ns.models.run_length import PUBLISHED_STEPS
from genfusion_ns.models.surfel_model import GenFusionModelConfig
from genfusion_ns.priors.config import RepairerConfig
from genfusion_ns.priors.dynamicrafter.config import DynamiCrafterOptions
from genfusion_ns.priors.hub import PUBLISHED

_NEVER = 10**6
"""Refinements between opacity resets in tasks that do without them: more than any run has."""


_ANY_DECIBELS = 1000.0
"""A margin within which every clip and every round stays."""


_MOST_PACE, _MOST_SHAPE_PACE = 3.0, 6.0
"""How many times as large learning rates are at most in runs shorter than GenFusion's, of positions and of sizes and
directions: 1000 steps were over before surfels had found their shape. Colours gain nothing by it, they follow single
photos."""


def _optimizers(horizon: int = -1, paced_for: int = PUBLISHED_STEPS) -> dict[str, dict]:
    """Adam and learning rates of GenFusion.

    Args:
        horizon: steps until positions move least, -1: the run.
        paced_for: steps of runs in which surfels move and change their shapes at these rates, shorter runs have larger
            ones; 0: runs of any length have these.
    """

    def adam(lr: float) -> dict:
        return {"optimizer": FusedAdamConfig(lr=lr), "scheduler": None}

    def paced(lr: float, lr_final: float, most: float, max_steps: int = -1) -> dict:
        schedule = LogLinearDecayConfig(lr_final=lr_final, max_steps=max_steps, paced_for=paced_for, most_pace=most)
        return {"optimizer": FusedAdamConfig(lr=lr), "scheduler": schedule}

    return {
        "means": paced(1.6e-4, 1.6e-6, _MOST_PACE, horizon),
        "features_dc": adam(2.5e-3),
        "features_rest": adam(2.5e-3 / 20),
        "opacities": adam(0.05),
        "scales": paced(5e-3, 0.0, _MOST_SHAPE_PACE),
        "quats": paced(1e-3, 0.0, _MOST_SHAPE_PACE),
        "camera_opt": {"optimizer": FusedAdamConfig(lr=1e-4), "scheduler": LogLinearDecayConfig(lr_final=5e-7)},
    }


def _trainer(
    method_name: str, steps: int, pipeline: GenFusionPipelineConfig, optimizers: dict[str, dict] | None = None
) -> GenFusionTrainerConfig:
    return GenFusionTrainerConfig(
        method_name=method_name,
        max_num_iterations=steps,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=1000,
        steps_per_eval_all_images=0,
        pipeline=pipeline,
        optimizers=_optimizers() if optimizers is None else optimizers,
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer+tensorboard",
    )


def _model(**task: Any) -> GenFusionModelConfig:
    """The surfels of our own tasks; `task`: what differs between them."""
    return GenFusionModelConfig(unseen_sides="hidden", largest_size=0.04, **task)


def _dataparser() -> NerfstudioDataParserConfig:
    return NerfstudioDataParserConfig(load_3D_points=False)


genfusion = MethodSpecification(
    config=_trainer(
        "genfusion",
        0,
        GenFusionPipelineConfig(
            datamanager=GenFusionDataManagerConfig(dataparser=_dataparser()),
            model=_model(normal_weight=0.05, regularize_from=1 / 10, opacity_weight=0.01, few_photos=3),
            fusion=FusionConfig(
                framing="auto", blocks=0, better_only=True, least_shown=0.2, full_trust_shown=0.5, unshown_weight=None
            ),
        ),
    ),
    description="Sparse captures as 2D-Gaussian surfels, completed in a loop with an RGB-D video repairer (GenFusion).",
)

_SMALL_PRIOR: dict[str, Any] = {"weight": 0.03, "final_level": 0.7, "lpips_weight": 0.0}
"""How samples of the prior that the package has are used. Blurred ones count little, are drawn from much noise, where
they are best, and teach no detail. A prior of full size takes the paper's 1, 0 and 1."""

reconfusion = MethodSpecification(
    config=_trainer(
        "reconfusion",
        1000,
        GenFusionPipelineConfig(
            datamanager=GenFusionDataManagerConfig(dataparser=_dataparser()),
            model=_model(normal_weight=0.05, regularize_from=1 / 10, opacity_weight=0.01, few_photos=3),
            fusion=SampleConfig(**_SMALL_PRIOR),
            repairer=RepairerConfig(model="reconfusion"),
        ),
    ),
    description="Few photos, and at every step a sample of an image diffusion prior for a novel view (ReconFusion).",
)


def _field_optimizer() -> dict:
    return {"optimizer": FusedAdamConfig(lr=1e-2), "scheduler": LogLinearDecayConfig(lr_final=1e-3)}


reconfusion_nerfacto = MethodSpecification(
    config=SampledNerfactoTrainerConfig(
        method_name="reconfusion-nerfacto",
        max_num_iterations=1000,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=1000,
        steps_per_eval_all_images=0,
        pipeline=SampledNerfactoPipelineConfig(
            datamanager=RayDataManagerConfig(dataparser=_dataparser(), train_num_rays_per_batch=1024),
            model=SparseNerfactoModelConfig(
                num_proposal_samples_per_ray=(96, 48), num_nerf_samples_per_ray=32, log2_hashmap_size=17
            ),
            fusion=SampleConfig(sample_every=4, **_SMALL_PRIOR),
            repairer=RepairerConfig(model="reconfusion"),
        ),
        optimizers={"fields": _field_optimizer(), "proposal_networks": _field_optimizer()},
        viewer=ViewerConfig(num_rays_per_chunk=1 << 12),
        vis="viewer+tensorboard",
    ),
    description="Few photos as a radiance field (nerfacto), with samples of an image diffusion prior (ReconFusion).",
)

genfusion_masked = MethodSpecification(
    config=_trainer(
        "genfusion-masked",
        7000,
        GenFusionPipelineConfig(
            datamanager=GenFusionDataManagerConfig(
                dataparser=_dataparser(), train_every=2, masking=MaskingConfig(source="windows")
            ),
            model=_model(
                warmup_length=1 / 7,
                stop_split_at=1.0,
                reset_alpha_every=_NEVER,
                sparsity_aware=True,
            ),
            fusion=FusionConfig(
                framing="auto",
                blocks=0,
                better_only=True,
                start=3 / 7,
                full_weight_photos=0,
                unshown_weight=None,
                continued_weight=None,
                sampler=MaskedSamplerConfig(),
            ),
        ),
    ),
    description="Captures of which each photo shows only a part: crop windows or masks (GenFusion, masked task).",
)

genfusion_completion = MethodSpecification(
    config=_trainer(
        "genfusion-completion",
        26000,
        GenFusionPipelineConfig(
            datamanager=GenFusionDataManagerConfig(dataparser=_dataparser()),
            repairer=RepairerConfig(dynamicrafter=DynamiCrafterOptions(task_guidance_scale=2.2)),
            model=_model(warmup_length=1 / 52, stop_split_at=1.0, reset_alpha_every=_NEVER),
            fusion=FusionConfig(
                framing="auto",
                start=5 / 26,
                every=4 / 26,
                final_weight=0.0,
                full_weight_photos=0,
                unseen_only=True,
                keep_rounds=3,
                clearing=0.5,
                sampler=CompletionSamplerConfig(),
                seeding=SeedingConfig(enabled=True),
            ),
        ),
    ),
    description="A scene continued beyond its photos, along a camera path or around it (GenFusion, completion task).",
)


# As published: every value of the official README and scripts; docs/published.md has them side by side.


def _published_model(run: int, **task: Any) -> GenFusionModelConfig:
    """The surfels of all three tasks in a run of so many steps; `task`: what differs between them."""
    return GenFusionModelConfig(
        background_color="black",
        num_downscales=0,
        sh_degree_interval=1000 / run,
        cull_scale_thresh=0.1,
        distortion_form="published",
        lpips_net="vgg",
        **task,
    )


def _published_data(**task: Any) -> GenFusionDataManagerConfig:
    """Sparse points that train views see, and no others."""
    return GenFusionDataManagerConfig(dataparser=_dataparser(), backdrop_points=False, surface_points=False, **task)


def _published_fusion(**task: Any) -> FusionConfig:
    """The loop of all three tasks: every clip is believed, and supervises in full."""
    return FusionConfig(
        final_weight=0.0,
        full_weight_photos=0,
        depth_weight=1.0,
        blocks=1,
        framing="pixels",
        linked=False,
        keep_photos=False,
        use_confidence=False,
        better_only=False,
        densify=False,
        least_shown=0.0,
        full_trust_shown=0.0,
        unshown_weight=1.0,
        continued_weight=0.0,
        reject_margin=_ANY_DECIBELS,
        withdraw_margin=_ANY_DECIBELS,
        **task,
    )


def _published_repairer(guidance_scale: float) -> RepairerConfig:
    return RepairerConfig(
        model=PUBLISHED,
        steps=25,
        resolution=(960, 512),
        dynamicrafter=DynamiCrafterOptions(task_guidance_scale=guidance_scale),
    )


_HORIZON = 30000
"""Steps over which GenFusion lets the learning rate of positions fall, whatever the run's length."""

genfusion_published = MethodSpecification(
    config=_trainer(
        "genfusion-published",
        7000,
        GenFusionPipelineConfig(
            datamanager=_published_data(),
            repairer=_published_repairer(3.2),
            mono_depth=MonoDepthConfig(model="repairer"),
            model=_published_model(
                7000,
                warmup_length=100 / 7000,
                refine_every=500,
                stop_split_at=5000 / 7000,
                reset_alpha_every=6,
                ssim_lambda=0.5,
                distortion_weight=10.0,
                regularize_from=5000 / 7000,
            ),
            fusion=_published_fusion(
                start=1000 / 7000,
                every=1000 / 7000,
                weight=1.0,
                ssim_weight=0.5,
                regularize=True,
                sampler=SparseSamplerConfig(
                    kind="ellipse", num_frames=85, num_references=1, windows="published", ellipse_scale=1.2
                ),
            ),
        ),
        _optimizers(_HORIZON, paced_for=0),
    ),
    description="Few photos with every setting that GenFusion published for them; needs its generator and a GPU.",
)

genfusion_masked_published = MethodSpecification(
    config=_trainer(
        "genfusion-masked-published",
        7000,
        GenFusionPipelineConfig(
            datamanager=_published_data(train_every=2, masking=MaskingConfig(source="windows")),
            repairer=_published_repairer(3.2),
            model=_published_model(
                7000,
                warmup_length=1000 / 7000,
                stop_split_at=1.0,
                reset_alpha_every=_NEVER,
                sparsity_aware=True,
                ssim_lambda=0.8,
            ),
            fusion=_published_fusion(
                start=3000 / 7000,
                every=1000 / 7000,
                weight=0.5,
                ssim_weight=0.8,
                sampler=MaskedSamplerConfig(num_references=1, references="random", windows="published"),
            ),
        ),
        _optimizers(_HORIZON, paced_for=0),
    ),
    description="Photos seen in part with every setting that GenFusion published; needs its generator and a GPU.",
)

genfusion_completion_published = MethodSpecification(
    config=_trainer(
        "genfusion-completion-published",
        26000,
        GenFusionPipelineConfig(
            datamanager=_published_data(),
            repairer=_published_repairer(2.2),
            model=_published_model(
                26000,
                warmup_length=500 / 26000,
                stop_split_at=12000 / 26000,
                reset_alpha_every=_NEVER,
                ssim_lambda=0.2,
            ),
            fusion=_published_fusion(
                start=5000 / 26000,
                every=4000 / 26000,
                until=30000,
                weight=1.0,
                ssim_weight=0.2,
                sampler=CompletionSamplerConfig(
                    num_references=1,
                    references="random",
                    path_scale=1.0,
                    rotation_angle=90.0,
                    position_z_offset=0.5,
                    distance=-0.2,
                ),
                seeding=SeedingConfig(enabled=True),
            ),
        ),
        _optimizers(_HORIZON, paced_for=0),
    ),
    description="A scene continued with every setting that GenFusion published; needs its generator and a GPU.",
)

mipnerf_multiscale = MethodSpecification(
    config=MipNerfTrainerConfig(
        method_name="mipnerf-multiscale",
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=1000,
        steps_per_eval_all_images=0,
        pipeline=MipNerfPipelineConfig(),
        optimizers={
            "fields": {
                "optimizer": FusedAdamConfig(lr=0.0, eps=1e-8),
                "scheduler": WarmedDecayConfig(lr_final=0.0),
            }
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 12),
        vis="viewer+tensorboard",
    ),
    description="mip-NeRF: one radiance field for images of every scale, by integrated positional encoding.",
)
