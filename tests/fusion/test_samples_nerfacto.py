"""nerfacto as the backbone of samples: exact gradients in chunks, and runs that are stopped, resumed and evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from tiny_run import make_trainer
from view_priors import BlendConfig

from genfusion_ns.fusion.samples.losses import SampleLoss
from genfusion_ns.fusion.samples.nerfacto import NerfactoScene
from genfusion_ns.fusion.trainer import GenFusionTrainer
from genfusion_ns.geometry.cameras import c2w_to_viewmat, look_at
from genfusion_ns.methods import reconfusion_nerfacto
from genfusion_ns.models.nerfacto import SparseNerfactoModel, SparseNerfactoModelConfig

SMALL = {
    "num_levels": 4,
    "log2_hashmap_size": 10,
    "max_res": 64,
    "hidden_dim": 16,
    "hidden_dim_color": 16,
    "num_proposal_samples_per_ray": (16, 8),
    "num_nerf_samples_per_ray": 8,
    "proposal_net_args_list": [
        {"hidden_dim": 8, "log2_hashmap_size": 8, "num_levels": 3, "max_res": 32, "use_linear": False}
    ],
}
STEPS = 14


def field(chunk: int) -> SparseNerfactoModel:
    torch.manual_seed(0)
    config = SparseNerfactoModelConfig(**SMALL, eval_num_rays_per_chunk=chunk, average_init_density=1.0)
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    return config.setup(scene_box=box, num_train_data=3, device="cpu", metadata={}).train()


def camera(size: int) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    place, up = torch.tensor([[0.6, -0.5, 0.3]]), torch.tensor([0.0, 0.0, 1.0])
    K = torch.tensor([[size, 0.0, size / 2], [0.0, size, size / 2], [0.0, 0.0, 1.0]])
    return c2w_to_viewmat(look_at(place, torch.zeros(3), up))[0], K, (size, size)


def gradients(model: SparseNerfactoModel, image: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a loss that looks at neighbouring pixels together, so that no chunk could be compared by itself."""
    absolute, perceptual = SampleLoss(1.0, "vgg", (16, 16), "cpu")(image, target)
    model.zero_grad()
    (absolute + perceptual).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_the_gradient_in_chunks_is_that_of_one_render():
    place, target = camera(16), torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(1))
    whole = field(chunk=256)
    direct = whole._colours(whole._rays(*place).flatten()).view(16, 16, 3)
    expected = gradients(whole, direct, target)
    chunked = field(chunk=37)
    image = chunked.show(*place)
    torch.testing.assert_close(image, direct)
    found = gradients(chunked, image, target)
    assert found.keys() == expected.keys() and any(float(value.abs().max()) > 0 for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-8, msg=name)


def test_a_render_leaves_the_training_of_the_field_as_it_is():
    model = field(chunk=100)
    model.proposal_sampler._steps_since_update, model.proposal_sampler._step = 7, 3
    scene = NerfactoScene(model)
    state = torch.get_rng_state()
    view = scene.look(*camera(16))
    scene.show(*camera(16)).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.training_state() == {"since_update": 7, "step": 3}
    assert all(parameter.grad is None for parameter in model.proposal_networks.parameters())
    assert not view.rgb.requires_grad


def test_the_depth_of_a_view_is_along_the_optical_axis():
    model = field(chunk=4096)
    viewmat, K, size = camera(16)
    view = model.look(viewmat, K, size)
    rays = model._rays(viewmat, K, size)
    with torch.no_grad():
        _, alpha, distance = model._rendered(rays.flatten())
    points = rays.origins + rays.directions * distance.view(16, 16, 1)
    depth = points @ viewmat[2, :3] + viewmat[2, 3]
    torch.testing.assert_close(view.depth[..., 0], depth, rtol=1e-4, atol=1e-5)
    assert view.size == size and torch.equal(view.alpha.flatten(), alpha.flatten())


def trainer_of(capture: Path, output: Path, load_dir: Path | None = None) -> GenFusionTrainer:
    fusion = BlendConfig(sample_every=2, reuse=2)
    trainer = make_trainer(
        capture, output, "none", STEPS, load_dir=load_dir, method=reconfusion_nerfacto, fusion=fusion, **SMALL
    )
    trainer.config.steps_per_save = 5
    return trainer


def test_a_run_learns_from_photos_and_samples_and_resumes_exactly(capture_folder, tmp_path):
    whole = trainer_of(capture_folder, tmp_path / "whole")
    supervision = whole.pipeline.supervision
    supervision.before_step(0)
    _, losses, _ = whole.pipeline.get_train_loss_dict(0)
    assert {"rgb_loss", "sample_rgb", "sample_lpips"} <= set(losses)
    whole = trainer_of(capture_folder, tmp_path / "anew")
    whole.train()
    first = trainer_of(capture_folder, tmp_path / "first")

    def stop(step: int) -> None:
        first.stop_training = step >= 8

    first.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], stop))
    first.train()
    torch.manual_seed(99)
    second = trainer_of(capture_folder, tmp_path / "second", first.checkpoint_dir)
    assert 0 < second._start_step <= 9
    second.train()
    for (name, value), other in zip(
        whole.pipeline.model.named_parameters(), second.pipeline.model.parameters(), strict=True
    ):
        torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-7, msg=name)


def test_a_run_is_evaluated_without_a_prior(capture_folder, tmp_path):
    from nerfstudio.utils.eval_utils import eval_setup

    trainer = trainer_of(capture_folder, tmp_path)
    trainer.config.max_num_iterations = 4
    trainer.config.save_config()
    trainer.train()
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml")
    with pytest.raises(ValueError, match="loaded to evaluate or render"):
        _ = pipeline.supervision
    metrics = pipeline.get_average_eval_image_metrics()
    assert metrics["psnr"] > 0 and metrics["test_views"]
