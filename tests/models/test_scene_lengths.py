"""Nothing depends on the unit of length: what has a length is a share of what the capture measures."""

from __future__ import annotations

import copy

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.optimizers import Optimizers

from genfusion_ns.data.camera_conversion import viewmats_to_cameras
from genfusion_ns.data.clips.procedural import random_world, render_world
from genfusion_ns.data.points.scene_extent import SceneExtent
from genfusion_ns.geometry.cameras import c2w_to_viewmat
from genfusion_ns.geometry.clips import References
from genfusion_ns.geometry.warping import warp_references
from genfusion_ns.methods import genfusion
from genfusion_ns.models.insertion import FLAT_LOG_SCALE
from genfusion_ns.models.losses import disparity_loss
from genfusion_ns.models.optim import in_scene_units
from genfusion_ns.models.surfel_model import _UNMEASURED, GenFusionModel, GenFusionModelConfig

UNITS = (1e-4, 1.0, 1e4)
K = torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])


def row_of_cameras(unit: float, count: int = 4) -> Cameras:
    """Cameras side by side, half a unit apart, that look along -z (OpenGL) from z = 2."""
    c2w = torch.eye(4).repeat(count, 1, 1)[:, :3]
    c2w[:, 0, 3] = unit * (0.5 * torch.arange(count) - 0.25 * (count - 1))
    c2w[:, 2, 3] = 2 * unit
    return viewmats_to_cameras(c2w_to_viewmat(c2w), K.repeat(count, 1, 1), (32, 24))


def slab(unit: float, count: int = 300) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return unit * (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([2.0, 1.5, 0.4])


@pytest.mark.parametrize("unit", UNITS)
def test_lengths_are_the_depths_of_what_the_cameras_see(unit: float) -> None:
    extent = SceneExtent.of(row_of_cameras(unit), slab(unit))
    assert extent.length == pytest.approx(2 * unit, rel=0.05)
    assert 0.2 * 1.8 * unit <= extent.near_plane <= 0.25 * 1.9 * unit


def test_stray_poses_and_points_change_no_length() -> None:
    cameras, points = row_of_cameras(1.0, count=8), slab(1.0)
    clean = SceneExtent.of(cameras, points)
    strayed = copy.deepcopy(cameras)
    strayed.camera_to_worlds[0, :, 3] = torch.tensor([300.0, 0.0, 2.0])
    stray = torch.tensor([[0.0, 0.0, 1.99], [0.1, 0.0, -900.0]])
    found = SceneExtent.of(strayed, torch.cat([points, stray]))
    assert found.length == pytest.approx(clean.length, rel=0.02)
    assert found.near_plane == pytest.approx(clean.near_plane, rel=0.1)


def test_near_walls_bring_the_near_plane_nearer() -> None:
    """A long hall: most points are far down it, some of each view are right beside the camera."""
    cameras = row_of_cameras(1.0)
    beside = slab(1.0, 60) * torch.tensor([0.05, 0.05, 0.1]) + torch.tensor([-0.25, 0.0, 1.8])
    far = slab(1.0) - torch.tensor([0.0, 0.0, 10.0])
    assert SceneExtent.of(cameras, far).near_plane > 2
    assert SceneExtent.of(cameras, torch.cat([far, beside])).near_plane < 0.2


def test_without_points_in_view_the_axes_give_the_length() -> None:
    turned = row_of_cameras(100.0)
    assert SceneExtent.of(turned, torch.full((5, 3), 1e6)).length == pytest.approx(
        100 * SceneExtent.of(row_of_cameras(1.0), torch.full((5, 3), 1e6)).length, rel=1e-4
    )


def make_model(unit: float, cameras: Cameras, points: torch.Tensor, **changes) -> GenFusionModel:
    torch.manual_seed(0)
    extent = SceneExtent.of(cameras, points)
    config = GenFusionModelConfig(num_downscales=0, background_color="black", refine_every=10, **changes)
    model = config.setup(
        scene_box=SceneBox(aabb=unit * torch.tensor([[-1.0, -1, -1], [1, 1, 1]])),
        num_train_data=len(cameras),
        seed_points=(points, 128 + 127 * torch.sin(9 * points / unit)),
        device="cpu",
        metadata={"scene_length": extent.length, "near_plane": extent.near_plane},
    )
    model.set_total_steps(60)
    return model.train()


def trained(unit: float) -> tuple[GenFusionModel, list[float]]:
    """Sixty steps of the real optimisers, losses and strategy; the truth is a scene of other points."""
    cameras = row_of_cameras(unit)
    with torch.no_grad():
        truth = make_model(unit, cameras, slab(unit, 900)).eval()
        photos = [truth.get_outputs_for_camera(cameras[i : i + 1])["rgb"] for i in range(len(cameras))]
    model = make_model(
        unit, cameras, slab(unit), distortion_weight=1.0, densify_grad_thresh=2e-5, reset_alpha_every=3, sh_degree=1
    )
    groups = {name: list(group) for name, group in model.get_gaussian_param_groups().items()}
    optimizers = Optimizers(in_scene_units(genfusion.config.optimizers, model.length), groups)
    model.optimizers = optimizers.optimizers
    losses = []
    for step in range(60):
        model.step = step
        optimizers.zero_grad_all()
        view = step % len(cameras)
        outputs = model.get_outputs(cameras[view : view + 1])
        model.observe_render(outputs["render"])
        loss = torch.stack(list(model.get_loss_dict(outputs, {"image": photos[view]}).values())).sum()
        loss.backward()
        optimizers.optimizer_step_all()
        optimizers.scheduler_step_all(step)
        model.step_post_backward(step)
        losses.append(float(loss.detach()))
    return model, losses


def test_a_scene_trains_alike_in_every_unit() -> None:
    runs = {unit: trained(unit) for unit in UNITS}
    model, losses = runs[1.0]
    assert model.num_points != 300, "growth and pruning belong to what is compared"
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    for other, theirs in runs.values():
        assert theirs == pytest.approx(losses, rel=0.03)
        assert other.num_points == pytest.approx(model.num_points, rel=0.05)
        assert sum(theirs[-8:]) == pytest.approx(sum(losses[-8:]), rel=0.01)


@pytest.mark.parametrize("unit", UNITS)
def test_surfels_are_flat_discs_in_every_unit(unit: float) -> None:
    scales = make_model(unit, row_of_cameras(unit), slab(unit)).gauss_params["scales"].exp()
    assert (scales[:, 2] < 1e-3 * scales[:, 0]).all()
    alone = make_model(unit, row_of_cameras(unit), slab(unit, 1)).gauss_params["scales"].exp()
    assert 0.01 * unit < alone[0, 0] < unit


def test_the_camera_optimiser_moves_in_scene_lengths() -> None:
    cameras = row_of_cameras(1e4)
    cameras.metadata = {"cam_idx": 2}
    pose_steps = CameraOptimizerConfig(mode="SO3xR3")
    model = make_model(1e4, row_of_cameras(1e4), slab(1e4), camera_optimizer=pose_steps)
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment[2, 0] = 1e-3
    moved = model.camera_optimizer.apply_to_camera(cameras[2:3])[0, :, 3] - cameras.camera_to_worlds[2, :, 3]
    assert moved.tolist() == pytest.approx([1e-3 * model.length, 0, 0], rel=1e-3)


def test_lengths_are_those_of_the_checkpoint() -> None:
    first = make_model(1.0, row_of_cameras(1.0), slab(1.0))
    other = make_model(7.0, row_of_cameras(7.0), slab(7.0))
    other.load_state_dict(first.state_dict())
    assert (other.near, other.length) == (first.near, first.length)
    chosen = make_model(1.0, row_of_cameras(1.0), slab(1.0), near_plane=0.05)
    other.load_state_dict(chosen.state_dict())
    assert other.near == chosen.near == 0.05, "a near plane that was asked for once stays when a run is resumed"
    explicit = make_model(1.0, row_of_cameras(1.0), slab(1.0), near_plane=0.07)
    explicit.load_state_dict(first.state_dict())
    assert explicit.near == 0.07


def test_checkpoints_from_before_lengths_were_measured_render_as_before() -> None:
    model = make_model(7.0, row_of_cameras(7.0), slab(7.0))
    old = {name: value for name, value in model.state_dict().items() if name not in _UNMEASURED}
    model.load_state_dict(old)
    assert (model.near, model.length) == (0.2, 1.0)


@pytest.mark.parametrize("near", [-0.1, float("nan"), float("inf")])
def test_a_near_plane_that_is_no_length_is_refused(near: float) -> None:
    with pytest.raises(ValueError, match=r"--pipeline\.model\.near-plane is"):
        make_model(1.0, row_of_cameras(1.0), slab(1.0), near_plane=near)


@pytest.mark.parametrize("unit", UNITS)
def test_the_depth_term_has_no_unit(unit: float) -> None:
    generator = torch.Generator().manual_seed(1)
    depth = 1 + torch.rand(24, 30, 1, generator=generator)
    target = torch.rand(24, 30, 1, generator=generator)
    valid = torch.ones(24, 30, 1, dtype=torch.bool)
    torch.testing.assert_close(disparity_loss(unit * depth, target, valid), disparity_loss(depth, target, valid))


@pytest.mark.parametrize("unit", UNITS)
def test_photos_are_warped_alike_in_every_unit(unit: float) -> None:
    world = random_world(torch.Generator().manual_seed(0))
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, 0, 3] = -0.1
    clip = render_world(world, viewmats, K.repeat(2, 1, 1), (32, 24))
    scaled = viewmats.clone()
    scaled[:, :3, 3] *= unit
    plain, other = (
        warp_references(depth[:1], poses[:1], K[None], References(clip.rgb[1:], poses[1:], K[None]))
        for depth, poses in ((clip.depth, viewmats), (unit * clip.depth, scaled))
    )
    assert bool(plain.valid.any())
    assert (plain.valid == other.valid).float().mean() > 0.99
    both = (plain.valid & other.valid)[..., 0]
    torch.testing.assert_close(plain.rgb[both], other.rgb[both], atol=1e-3, rtol=0)


def test_only_the_steps_of_centres_are_lengths() -> None:
    plain, scaled = genfusion.config.optimizers, in_scene_units(genfusion.config.optimizers, 50.0)
    assert scaled["means"]["optimizer"].lr == pytest.approx(50 * plain["means"]["optimizer"].lr)
    assert scaled["means"]["scheduler"].lr_final == pytest.approx(50 * plain["means"]["scheduler"].lr_final)
    assert all(scaled[name] is plain[name] for name in plain if name != "means")
    assert FLAT_LOG_SCALE == -12.0
