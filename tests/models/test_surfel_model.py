"""The surfel model: seeding, rendering through nerfstudio's camera, losses, reload and densification."""

import math

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from tiny_model import make_model

from genfusion_ns.geometry.cameras import c2w_to_viewmat
from genfusion_ns.geometry.depth import depth_to_normals
from genfusion_ns.rendering.thread_pool import num_threads, set_num_threads


@pytest.fixture
def camera():
    c2w = torch.eye(4)[None, :3].clone()
    c2w[0, 2, 3] = 2.0
    return Cameras(c2w, fx=30.0, fy=30.0, cx=16.0, cy=12.0, width=32, height=24)


@pytest.mark.parametrize(("limit", "count"), [(0, 200), (120, 120), (500, 200)])
def test_of_more_seed_points_than_surfels_are_allowed_an_even_share_is_taken(limit, count):
    everything, model = make_model(), make_model(max_surfels=limit)
    assert model.num_points == count
    kept = (everything.means[:, None] == model.means[None]).all(-1).any(1).nonzero()[:, 0]
    assert len(kept) == count and kept.diff().max() <= 2
    assert make_model(max_surfels=limit, random_init=True, num_random=200).num_points == count


def test_a_limit_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"--pipeline\.model\.max-surfels is -1; allowed are numbers of 0 or more"):
        make_model(max_surfels=-1)


OUT_OF_RANGE = [
    ("refine_every", 0),
    ("sh_degree", -1),
    ("sh_degree", 4),
    ("num_downscales", -1),
    ("num_downscales", 99),
    ("normal_weight", -1.0),
    ("opacity_weight", -5.0),
    ("few_photos", -3),
    ("ssim_lambda", 7.0),
    ("densify_grad_thresh", -1.0),
    ("cull_alpha_thresh", 2.0),
    ("cpu_threads", 0),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_numbers_that_no_scene_has(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"--pipeline.model.{name.replace('_', '-')} is {value}; allowed are"):
        make_model(**{name: value})


def test_outputs_that_the_viewer_shows(camera):
    model = make_model().eval()
    outputs = model.get_outputs_for_camera(camera)
    for name in ("rgb", "accumulation", "depth", "median_depth", "normals", "normals_from_depth", "distortion"):
        assert outputs[name].shape[:2] == (24, 32), name
        assert torch.isfinite(outputs[name]).all(), name
    for name in ("rgb", "accumulation", "normals", "normals_from_depth"):
        assert outputs[name].min() >= 0 and outputs[name].max() <= 1 + 1e-5, name
    seen = outputs["accumulation"] > 0.5
    assert seen.any() and (outputs["depth"][seen] - 2).abs().max() < 0.5


def test_surfels_before_the_near_plane_are_not_drawn(camera):
    assert make_model(near_plane=1.0).eval().get_outputs_for_camera(camera)["accumulation"].max() > 0.5
    assert make_model(near_plane=3.0).eval().get_outputs_for_camera(camera)["accumulation"].max() == 0


def test_rendering_changes_nothing(camera):
    model = make_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    size = (camera.width.clone(), camera.height.clone(), camera.fx.clone())
    model.get_outputs_for_camera(camera)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(size, (camera.width, camera.height, camera.fx), strict=True))


def test_training_starts_at_a_reduced_size_and_fits_the_image(camera):
    model = make_model(num_downscales=1, resolution_schedule=10, background_color="black").train()
    batch = {"image": torch.full((24, 32, 3), 0.7)}
    assert model.get_outputs(camera)["rgb"].shape == (12, 16, 3)
    model.step = 10
    assert model.get_outputs(camera)["rgb"].shape == (24, 32, 3)
    optimizer = torch.optim.Adam(model.gauss_params.values(), lr=0.02)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model.get_loss_dict(model.get_outputs(camera), batch)["main_loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_third_scale_stays_flat_and_gets_no_gradient(camera):
    model = make_model().train()
    model.get_outputs(camera)["rgb"].sum().backward()
    gradient = model.gauss_params["scales"].grad
    assert gradient[:, :2].abs().max() > 0 and gradient[:, 2].abs().max() == 0


def test_reload_with_another_number_of_surfels_keeps_the_parameter_objects(camera):
    small, other = make_model(), make_model()
    state = {
        name: value[:50] if name.startswith("gauss_params") else value for name, value in small.state_dict().items()
    }
    held = dict(other.gauss_params.items())
    other.load_state_dict(state)
    assert other.num_points == 50
    assert all(other.gauss_params[name] is held[name] for name in held)


def test_regularizers_start_when_the_schedule_says(camera):
    model = make_model(distortion_weight=1.0, normal_weight=1.0, num_downscales=0).train()
    batch = {"image": torch.zeros(24, 32, 3)}
    model.step = 0
    assert set(model.get_loss_dict(model.get_outputs(camera), batch)) == {"main_loss"}
    model.step = 80
    losses = model.get_loss_dict(model.get_outputs(camera), batch)
    assert {"distortion", "normal"} <= set(losses)
    assert torch.isfinite(losses["normal"]) and losses["distortion"] >= 0


def test_the_mean_opacity_counts_from_the_first_step_on(camera):
    model = make_model(opacity_weight=0.5, num_downscales=0).train()
    batch = {"image": torch.zeros(24, 32, 3)}
    model.gauss_params["opacities"].data.fill_(math.log(3))  # sigmoid 3/4
    losses = model.get_loss_dict(model.get_outputs(camera), batch)
    assert losses["opacity"].item() == pytest.approx(0.5 * 0.75)
    losses["opacity"].backward()
    gradient = model.gauss_params["opacities"].grad
    assert torch.allclose(gradient, torch.full_like(gradient, 0.5 * 0.75 * 0.25 / model.num_points))
    model.load_state_dict({n: v[:0] if n.startswith("gauss_params") else v for n, v in model.state_dict().items()})
    assert model.get_loss_dict(model.get_outputs(camera), batch)["opacity"] == 0


def test_the_published_distortion_is_without_unit_and_far_smaller(camera):
    batch = {"image": torch.zeros(24, 32, 3)}
    found = {}
    for form in ("scene", "published"):
        model = make_model(distortion_weight=1.0, distortion_form=form, num_downscales=0).train()
        model.step = 80
        found[form] = model.get_loss_dict(model.get_outputs(camera), batch)["distortion"]
        found[form].backward()
        assert model.gauss_params["means"].grad.abs().max() > 0
    assert 600 < found["scene"] / found["published"] < 75_000, "of what docs and help say"


def test_the_normal_term_pulls_as_that_of_2dgs_does(camera):
    """2DGS takes one minus the cosine, ours alpha minus it: a constant apart, which pulls at nothing."""
    gradients = []
    for published in (False, True):
        model = make_model(normal_weight=1.0, num_downscales=0).train()
        model.step = 80
        outputs = model.get_outputs(camera)
        if published:
            render, K, viewmat = outputs["render"], outputs["K"], outputs["viewmat"]
            normals = depth_to_normals(render.depth, K, viewmat)[0] * render.alpha[0].detach()
            loss = (1 - (render.normals[0] * normals).sum(-1)).mean()
        else:
            loss = model.regularizers(outputs["render"], outputs["K"], outputs["viewmat"])["normal"]
        loss.backward()
        gradients.append(model.gauss_params["means"].grad)
    torch.testing.assert_close(*gradients)


def test_regularisers_of_few_photos_fall_with_their_number(camera):
    batch = {"image": torch.zeros(24, 32, 3)}
    found = {}
    for few in (0, 1, 1000):
        model = make_model(normal_weight=1.0, opacity_weight=1.0, few_photos=few, num_downscales=0).train()
        model.step = 80
        found[few] = model.get_loss_dict(model.get_outputs(camera), batch)
    photos = model.num_train_data
    assert photos > 1 and "opacity" not in found[1] and {"opacity"} <= set(found[0]) & set(found[1000])
    assert found[1]["normal"].item() == pytest.approx(found[0]["normal"].item() / photos, rel=1e-4)
    assert found[1000]["normal"].item() == pytest.approx(found[0]["normal"].item(), rel=1e-4)


def test_a_scene_without_surfels_is_background_and_outlives_training_steps(camera):
    model = make_model(num_downscales=0, refine_every=10, reset_alpha_every=2, background_color="white").train()
    model.load_state_dict({n: v[:0] if n.startswith("gauss_params") else v for n, v in model.state_dict().items()})
    model.strategy.pause_refine_after_reset = 0
    model.optimizers = {name: torch.optim.Adam([parameter], lr=1e-3) for name, parameter in model.gauss_params.items()}
    for step in (1, 10, 20):
        model.step = step
        backward_of_a_render(model, camera, False, 1.0)
        backward_of_a_render(model, camera, True, 1.0)
        model.step_post_backward(step)
    outputs = model.eval().get_outputs_for_camera(camera)
    assert model.num_points == 0
    assert (outputs["rgb"] == 1).all() and (outputs["accumulation"] == 0).all() and (outputs["depth"] == 0).all()


def test_mask_silences_the_pixels_outside(camera):
    model = make_model(num_downscales=0, background_color="black").train()
    mask = torch.zeros(24, 32, 1)
    image = torch.rand(24, 32, 3)
    assert model.get_loss_dict(model.get_outputs(camera), {"image": image, "mask": mask})["main_loss"] == 0


@pytest.mark.parametrize("training", [False, True])
def test_mixed_precision_changes_neither_poses_nor_renders_nor_losses(camera, training):
    model = make_model(camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"), num_downscales=0, normal_weight=1.0)
    model.train(training).step = 90
    model.config.background_color = "black"
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment.copy_(torch.linspace(-0.1, 0.1, 18).view(3, 6))
    camera.metadata = {"cam_idx": 1}
    batch = {"image": torch.full((24, 32, 3), 0.7)}
    everything = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            outputs = model.get_outputs(camera)
            everything.append(outputs | (model.get_loss_dict(outputs, batch) if training else {}))
    for name, value in everything[0].items():
        assert not torch.is_tensor(value) or torch.equal(value, everything[1][name]), name
    assert not training or not torch.equal(everything[0]["viewmat"], c2w_to_viewmat(camera.camera_to_worlds))


def backward_of_a_render(model, camera, generated: bool, weight: float) -> None:
    outputs = model.get_outputs(camera)
    model.observe_render(outputs["render"], generated)
    (weight * outputs["rgb"].square().mean()).backward()


def test_observed_and_generated_views_feed_densification_apart(camera):
    model = make_model(num_downscales=0).train()
    model.optimizers = {name: torch.optim.Adam([parameter], lr=1e-3) for name, parameter in model.gauss_params.items()}
    for step in (1, 2):
        model.step = step
        backward_of_a_render(model, camera, False, 1.0)
        backward_of_a_render(model, camera, True, 1e-3)
        model.step_post_backward(step)
    state = model.strategy_state
    assert state["count"].max() == state["generated_count"].max() == 2
    assert 0 < state["generated_grad2d"].max() < 0.1 * state["grad2d"].max()


@pytest.mark.parametrize(("observed", "generated"), [(1.0, 1e-6), (1e-6, 1.0)])
def test_either_kind_of_view_makes_surfels_grow(camera, observed, generated):
    model = make_model(num_downscales=0, densify_grad_thresh=1e-6, cull_alpha_thresh=0.0).train()
    model.strategy.refine_stop_iter = 1000
    model.optimizers = {name: torch.optim.Adam([parameter], lr=1e-3) for name, parameter in model.gauss_params.items()}
    model.step = 200
    backward_of_a_render(model, camera, False, observed)
    backward_of_a_render(model, camera, True, generated)
    for optimizer in model.optimizers.values():
        optimizer.step()
    before = model.num_points
    model.step_post_backward(200)
    assert model.num_points > before
    assert model.strategy_state["grad2d"].max() == 0 and "generated_grad2d" not in model.strategy_state


def test_threads_by_flag():
    threads = torch.get_num_threads()
    try:
        make_model(cpu_threads=3)
        assert (num_threads(), torch.get_num_threads()) == (3, 3)
        make_model()  # a run that does not ask changes nothing
        assert (num_threads(), torch.get_num_threads()) == (3, 3)
        with pytest.raises(ValueError, match=r"--pipeline\.model\.cpu-threads is 0; allowed are 1"):
            make_model(cpu_threads=0)
    finally:
        set_num_threads(None)
        torch.set_num_threads(threads)
