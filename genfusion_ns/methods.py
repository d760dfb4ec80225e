"""The methods that this plugin adds to nerfstudio; the sole target of its entry points.

nerfstudio imports this module for every command, also for methods that have nothing to do with us. It therefore only
builds configuration objects: no rasteriser is compiled, no diffusion library imported, nothing downloaded.
"""

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from genfusion_ns.data.datamanager import GenFusionDataManagerConfig
from genfusion_ns.fusion.pipeline import GenFusionPipelineConfig
from genfusion_ns.fusion.trainer import GenFusionTrainerConfig
from genfusion_ns.models.optim import FusedAdamConfig, LogLinearDecayConfig
from genfusion_ns.models.surfel_model import GenFusionModelConfig


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


genfusion = MethodSpecification(
    config=GenFusionTrainerConfig(
        method_name="genfusion",
        max_num_iterations=7000,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=1000,
        steps_per_eval_all_images=0,
        pipeline=GenFusionPipelineConfig(
            datamanager=GenFusionDataManagerConfig(dataparser=NerfstudioDataParserConfig(load_3D_points=False)),
            model=GenFusionModelConfig(),
        ),
        optimizers=_optimizers(),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer+tensorboard",
    ),
    description="Sparse captures as 2D-Gaussian surfels, completed in a loop with an RGB-D video repairer (GenFusion).",
)
