"""A forward-facing capture with three views: no camera of any round stands behind a wall or inside an object."""

import json

import numpy as np
import pytest
import torch
from tiny_run import make_trainer

from genfusion_ns.data.points.similarity import fit_similarity
from genfusion_ns.data.sample_scene.capture import SampleSceneConfig, build_scene, write_sample_scene
from genfusion_ns.fusion.schedule import FusionSchedule
from genfusion_ns.priors.compact.unet import CompactUNet
from genfusion_ns.priors.training import save_network


@pytest.mark.parametrize("seed", [0, 4])
def test_cameras_of_all_rounds_stand_in_free_space(tmp_path, seed):
    config = SampleSceneConfig(
        layout="forward", seed=seed, num_views=16, width=96, height=54, samples=1, num_points=800, light_spacing=1.0
    )
    write_sample_scene(config, tmp_path / "scene", progress=False)
    torch.manual_seed(0)
    save_network(CompactUNet(channels=(16, 16, 32), reference_channels=8), tmp_path / "generator")
    trainer = make_trainer(tmp_path / "scene", tmp_path / "runs", str(tmp_path / "generator"), steps=90, views=3)
    fusion = trainer.config.pipeline.fusion
    trainer.pipeline.supervision.schedule = FusionSchedule.resolve(30, 30, 90, fusion.weight, total_steps=90)
    fusion.sampler.num_frames = 48
    trainer.train()

    datamanager = trainer.pipeline.datamanager
    frames = json.loads((tmp_path / "scene" / "transforms.json").read_text())["frames"]
    world = np.array([frame["transform_matrix"] for frame in sorted(frames, key=lambda frame: frame["file_path"])])
    normalised = datamanager.capture.outputs.cameras.camera_to_worlds.double().numpy()
    to_room = fit_similarity(normalised, world[:, :3])
    room = build_scene("forward", seed, light_spacing=1.0)
    assert room.is_free(world[:, :3, 3], margin=0.0).all(), "the check itself must accept the photographer"
    records = sorted((trainer.base_dir / "genfusion").glob("round_*/round.json"))
    assert len(records) == 2
    for record in records:
        centres = np.array(json.loads(record.read_text())["c2w"])[:, :3, 3]
        free = room.is_free(to_room.apply(centres), margin=0.0)
        assert free.all(), f"{record.parent.name}: frames {np.flatnonzero(~free)} stand in something"
