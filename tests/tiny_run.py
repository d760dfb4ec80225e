"""Runs of the real trainer at toy size."""

import copy
from dataclasses import replace
from pathlib import Path

import torch

from genfusion_ns.fusion.trainer import GenFusionTrainer
from genfusion_ns.methods import genfusion


def make_trainer(
    capture_folder: Path, output: Path, model: str, steps: int = 12, views: int = 5, load_dir: Path | None = None
) -> GenFusionTrainer:
    """A trainer set up as `ns-train genfusion` does, on few small images, with rounds from step 4 on."""
    # Imported on its own, before the trainer, the writer module does not load.
    from nerfstudio.utils import writer

    writer.EVENT_WRITERS.clear()
    config = copy.deepcopy(genfusion.config)
    config.data = config.pipeline.datamanager.data = capture_folder
    config.pipeline.datamanager.dataparser.downscale_factor = 1
    config.pipeline.datamanager.num_views = views
    config.pipeline.repairer = replace(config.pipeline.repairer, model=model, steps=1, resolution=(32, 24))
    config.pipeline.fusion.sampler.num_frames = 20
    config.pipeline.fusion.start = config.pipeline.fusion.every = 4
    config.pipeline.fusion.save_videos = False
    config.max_num_iterations, config.vis, config.output_dir = steps, "", output
    config.steps_per_eval_image, config.load_dir = 0, load_dir
    config.set_timestamp()
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer
