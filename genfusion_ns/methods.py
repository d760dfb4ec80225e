"""The methods that this plugin adds to nerfstudio; the sole target of its entry points.

nerfstudio imports this module for every command, also for methods that have nothing to do with us. It therefore only
builds configuration objects: no rasteriser is compiled, no diffusion library imported, nothing downloaded.
"""

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from genfusion_ns.data.datamanager import GenFusionDataManagerConfig
from genfusion_ns.data.masking import MaskingConfig
from genfusion_ns.fusion.cameras.completion import CompletionSamplerConfig
from genfusion_ns.fusion.cameras.masked import MaskedSamplerConfig
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.multiscale.pipeline import MipNerfPipelineConfig
from genfusion_ns.fusion.multiscale.trainer import MipNerfTrainerConfig
from genfusion_ns.fusion.pipeline import GenFusionPipelineConfig
from genfusion_ns.fusion.seeding import SeedingConfig
from genfusion_ns.fusion.trainer import GenFusionTrainerConfig
from genfusion_ns.models.optim import FusedAdamConfig, LogLinearDecayConfig, WarmedDecayConfig
from genfusion_ns.models.surfel_model import GenFusionModelConfig
from genfusion_ns.priors.config import RepairerConfig
from genfusion_ns.priors.dynamicrafter.config import DynamiCrafterOptions

_NEVER = 10**6
"""Refinements between opacity resets in tasks that do without them: more than any run has."""


def _optimizers() -> dict[str, dict]:
    def adam(lr: float) -> dict:
        return {"optimizer": FusedAdamConfig(lr=lr), "scheduler": None}

    return {
        "means": {"optimizer": FusedAdamConfig(lr=1.6e-4), "scheduler": LogLinearDecayConfig(lr_final=1.6e-6)},
        "features_dc": adam(2.5e-3),
        "features_rest": adam(2.5e-3 / 20),
        "opacities": adam(0.05),
        "scales": adam(5e-3),
        "quats": adam(1e-3),
        "camera_opt": {"optimizer": FusedAdamConfig(lr=1e-4), "scheduler": LogLinearDecayConfig(lr_final=5e-7)},
    }


def _trainer(method_name: str, steps: int, pipeline: GenFusionPipelineConfig) -> GenFusionTrainerConfig:
    return GenFusionTrainerConfig(
        method_name=method_name,
        max_num_iterations=steps,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=1000,
        steps_per_eval_all_images=0,
        pipeline=pipeline,
        optimizers=_optimizers(),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer+tensorboard",
    )


def _dataparser() -> NerfstudioDataParserConfig:
    return NerfstudioDataParserConfig(load_3D_points=False)


genfusion = MethodSpecification(
    config=_trainer(
        "genfusion",
        0,
        GenFusionPipelineConfig(
            datamanager=GenFusionDataManagerConfig(dataparser=_dataparser()),
            fusion=FusionConfig(blocks=0, better_only=True, least_shown=0.2, full_trust_shown=0.5, unshown_weight=0.25),
        ),
    ),
    description="Sparse captures as 2D-Gaussian surfels, completed in a loop with an RGB-D video repairer (GenFusion).",
)

genfusion_masked = MethodSpecification(
    config=_trainer(
        "genfusion-masked",
        7000,
        GenFusionPipelineConfig(
            datamanager=GenFusionDataManagerConfig(
                dataparser=_dataparser(), train_every=2, masking=MaskingConfig(source="windows")
            ),
            model=GenFusionModelConfig(
                warmup_length=1 / 7,
                stop_split_at=1.0,
                reset_alpha_every=_NEVER,
                sparsity_aware=True,
            ),
            fusion=FusionConfig(start=3 / 7, full_weight_photos=0, sampler=MaskedSamplerConfig()),
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
            model=GenFusionModelConfig(warmup_length=1 / 52, stop_split_at=1.0, reset_alpha_every=_NEVER),
            fusion=FusionConfig(
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
