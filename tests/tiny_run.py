"""Runs of the real trainer at toy size."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genfusion_ns.fusion.contract import SupervisionConfig
from genfusion_ns.fusion.trainer import GenFusionTrainer
from genfusion_ns.methods import genfusion


def make_trainer(
    capture_folder: Path,
    output: Path,
    model: str,
    steps: int = 12,
    views: int = 5,
    load_dir: Path | None = None,
    load_step: int | None = None,
    method: Any = genfusion,
    fusion: SupervisionConfig | None = None,
    vis: str = "",
    resolution: tuple[int, int] | None = (32, 24),
    **model_settings: Any,
) -> GenFusionTrainer:
    """A trainer set up as `ns-train genfusion` does, on few small images, with rounds from step 4 on or as `fusion`."""
    # Imported on its own, before the trainer, the writer module does not load.
    from nerfstudio.utils import writer

    writer.EVENT_WRITERS.clear()
    config = copy.deepcopy(method.config)
    config.data = config.pipeline.datamanager.data = capture_folder
    config.pipeline.datamanager.dataparser.downscale_factor = 1
    config.pipeline.datamanager.surface_points = False  # the points of the tiny capture fill a slab
    if method is genfusion:
        config.pipeline.datamanager.num_views = views
        config.pipeline.fusion.sampler.num_frames = 20
    config.pipeline.repairer = replace(config.pipeline.repairer, model=model, steps=1, resolution=resolution)
    config.pipeline.model = replace(config.pipeline.model, **model_settings)
    config.pipeline.fusion.start = config.pipeline.fusion.every = 4
    config.pipeline.fusion.save_videos = False
    config.pipeline.fusion.least_shown = 0.0  # after so few steps photos show little of any clip
    if fusion is not None:
        config.pipeline.fusion = fusion
    config.max_num_iterations, config.vis, config.output_dir = steps, vis, output
    config.steps_per_eval_image, config.load_dir, config.load_step = 0, load_dir, load_step
    config.set_timestamp()
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def toy_network(seed: int = 0, trained: bool = False) -> Any:
    """A compact network of toy size. Untrained it returns its input; `trained` stirs the layers that start at zero."""
    from genfusion_ns.priors.compact.unet import CompactUNet

    torch.manual_seed(seed)
    network = CompactUNet(channels=(16, 16, 32), reference_channels=8)
    if trained:
        for parameter in (*network.head.parameters(), *network.gate.parameters()):
            torch.nn.init.normal_(parameter, std=0.02)
    return network


def save_toy_generator(folder: Path, trained: bool = False) -> Path:
    """A generator of the kind compact as `toy_network` makes it; untrained it returns its input."""
    from genfusion_ns.priors.training import save_network

    save_network(toy_network(trained=trained), folder)
    return folder


def without_checksums(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as versions without checksums wrote it."""
    pipeline = dict(state["pipeline"])
    pipeline["_extra_state"] = {name: value for name, value in pipeline["_extra_state"].items() if name != "digest"}
    return {name: value for name, value in state.items() if name != "digest"} | {"pipeline": pipeline}
