"""Inserted surfels: aligned with optimisers and statistics, rendered as asked, pruned and grown like all others."""

import math

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from scipy.spatial.transform import Rotation

from genfusion_ns.geometry.cameras import c2w_to_viewmat
from genfusion_ns.geometry.free_space import Clearings
from genfusion_ns.models.insertion import NewSurfels, facing_quats
from genfusion_ns.models.optim import FusedAdamConfig
from genfusion_ns.models.surfel_model import GenFusionModelConfig

torch.set_num_threads(1)
OLD = 40


def make_model(total_steps: int = 100, **changes):
    torch.manual_seed(0)
    points = torch.rand(OLD, 3) * torch.tensor([1.0, 1.0, 0.2]) - torch.tensor([0.5, 0.5, 0.1])
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    seeds = (points, torch.randint(0, 256, (OLD, 3)).float())
    config = GenFusionModelConfig(num_downscales=0, background_color="black", **changes)
    model = config.setup(scene_box=box, num_train_data=2, seed_points=seeds, device="cpu", metadata={})
    model.set_total_steps(total_steps)
    groups = model.get_gaussian_param_groups()
    model.optimizers = {name: FusedAdamConfig(lr=1e-3).setup(params=group) for name, group in groups.items()}
    return model.train()


@pytest.fixture
def camera():
    c2w = torch.eye(4)[None, :3].clone()
    c2w[0, 2, 3] = 2.0
    return Cameras(c2w, fx=30.0, fy=30.0, cx=16.0, cy=12.0, width=32, height=24)


def wall(side: int = 24, z: float = -1.0, opacity: float = 0.5) -> NewSurfels:
    """A dense plane across the view of the camera, whose colour is (0.2, 0.6, 0.9)."""
    line = torch.linspace(-2.4, 2.4, side)
    x, y = torch.meshgrid(line, line, indexing="xy")
    means = torch.stack([x.flatten(), y.flatten(), torch.full((side * side,), z)], dim=-1)
    colours = torch.tensor([0.2, 0.6, 0.9]).expand(len(means), 3)
    radius = torch.full((len(means),), float(line[1] - line[0]))
    return NewSurfels(means, colours, radius, torch.tensor([0.0, 0.0, 2.0]).expand(len(means), 3), opacity)


def step(model, camera, number, generated: bool = False) -> None:
    """One training step, all the way through the strategy."""
    model.step = number
    for optimizer in model.optimizers.values():
        optimizer.zero_grad()
    outputs = model.get_outputs(camera)
    model.observe_render(outputs["render"])
    loss = (outputs["rgb"] - 0.5).square().mean()
    if generated:
        again = model.get_outputs(camera)
        model.observe_render(again["render"], generated=True)
        loss = loss + 0.5 * again["rgb"].square().mean()
    loss.backward()
    for optimizer in model.optimizers.values():
        optimizer.step()
    model.step_post_backward(number)


def check_aligned(model) -> None:
    count = model.num_points
    for name, parameter in model.gauss_params.items():
        held = model.optimizers[name].param_groups[0]["params"]
        assert len(held) == 1 and held[0] is parameter and parameter.requires_grad
        assert len(parameter) == count
        for key, value in model.optimizers[name].state[parameter].items():
            assert key == "step" or value.shape == parameter.shape, (name, key)
        assert len(model.optimizers[name].state) == 1
    for key in ("grad2d", "count", "generated_grad2d", "generated_count"):
        value = model.strategy_state.get(key)
        assert value is None or value.shape == (count,), key


def test_parameters_moments_and_statistics_are_appended(camera):
    model = make_model()
    for number in (1, 2):
        step(model, camera, number, generated=True)
    values = {name: parameter.detach().clone() for name, parameter in model.gauss_params.items()}
    moments = {
        (name, key): model.optimizers[name].state[parameter][key].clone()
        for name, parameter in model.gauss_params.items()
        for key in ("exp_avg", "exp_avg_sq", "step")
    }
    statistics = {key: value.clone() for key, value in model.strategy_state.items() if torch.is_tensor(value)}
    assert len(statistics) == 4
    new = wall()
    assert model.insert_surfels(new) == len(new)
    check_aligned(model)
    assert model.num_points == OLD + len(new)
    for name, old in values.items():
        assert torch.equal(model.gauss_params[name][:OLD], old)
    torch.testing.assert_close(model.gauss_params["means"][OLD:], new.means)
    for (name, key), old in moments.items():
        value = model.optimizers[name].state[model.gauss_params[name]][key]
        assert torch.equal(value if key == "step" else value[:OLD], old)
        assert key == "step" or value[OLD:].abs().sum() == 0
    for key, old in statistics.items():
        assert torch.equal(model.strategy_state[key][:OLD], old) and model.strategy_state[key][OLD:].sum() == 0


def test_insertion_before_the_first_step_and_training_after_it(camera):
    model = make_model()
    model.insert_surfels(wall())
    check_aligned(model)
    before = model.gauss_params["features_dc"][OLD:].detach().clone()
    for number in (1, 2, 3):
        step(model, camera, number, generated=number > 1)
    check_aligned(model)
    moved = (model.gauss_params["features_dc"][OLD:] - before).abs().amax(dim=1)
    assert (moved > 0).float().mean() > 0.3
    assert all(torch.isfinite(parameter).all() for parameter in model.gauss_params.values())


@pytest.mark.parametrize("sh_degree", [0, 2])
def test_an_inserted_plane_is_rendered_where_and_as_it_was_asked_for(camera, sh_degree):
    model = make_model(sh_degree=sh_degree)
    model.gauss_params["means"].data[:, 2] += 50  # the old surfels go behind the camera
    turn = torch.from_numpy(Rotation.from_rotvec([0.4, -0.3, 0.2]).as_matrix()).float()
    flat = wall(side=60, z=0.0)
    offset = torch.tensor([0.0, 0.0, -1.0])
    model.insert_surfels(
        NewSurfels(2 * flat.means @ turn.T + offset, flat.colours, 2 * flat.radius, -flat.normals @ turn.T, 0.9)
    )
    render = model.render(c2w_to_viewmat(camera.camera_to_worlds), camera.get_intrinsics_matrices(), 32, 24)
    normal = turn[:, 2]
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    rays = torch.stack([(x - 16) / 30, -(y - 12) / 30, -torch.ones_like(x)], dim=-1)
    depth = ((offset - torch.tensor([0.0, 0.0, 2.0])) @ normal) / (rays @ normal)
    inner = (slice(3, -3), slice(3, -3))
    assert render.alpha[0][inner].min() > 0.99
    torch.testing.assert_close(render.depth[0, ..., 0][inner], depth[inner], rtol=2e-3, atol=0)
    facing = torch.nn.functional.normalize(render.normals[0], dim=-1)[inner]
    torch.testing.assert_close(facing, normal.expand_as(facing), rtol=0, atol=2e-3)
    colour = render.rgb[0][inner] / render.alpha[0][inner]
    torch.testing.assert_close(colour, torch.tensor([0.2, 0.6, 0.9]).expand_as(colour), rtol=0, atol=2e-3)


def test_quats_face_the_normals_from_either_side():
    generator = torch.Generator().manual_seed(1)
    normals = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    normals[:4] = torch.tensor([[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0]])
    quats = facing_quats(normals)
    axis = Rotation.from_quat(quats[:, [1, 2, 3, 0]].numpy()).as_matrix()[:, :, 2]
    cosine = (torch.from_numpy(axis) * torch.nn.functional.normalize(normals, dim=-1)).sum(-1)
    torch.testing.assert_close(cosine.abs(), torch.ones(200, dtype=torch.float64))
    torch.testing.assert_close(quats.norm(dim=-1), torch.ones(200, dtype=torch.float64))


def test_the_limit_of_surfels_holds_and_the_rest_covers_the_same_area():
    new = wall()
    model = make_model(max_surfels=OLD + 100)
    assert model.insert_surfels(new) == 100 and model.num_points == OLD + 100
    check_aligned(model)
    inserted = model.gauss_params["scales"][OLD:, :2].detach().exp()
    assert float(inserted.square().sum()) == pytest.approx(2 * float(new.radius.square().sum()), rel=1e-4)
    spread = model.gauss_params["means"][OLD:, :2].std(dim=0) / new.means[:, :2].std(dim=0)
    assert (spread - 1).abs().max() < 0.1
    assert model.insert_surfels(new) == 0 and model.num_points == OLD + 100
    check_aligned(model)


def test_inserted_surfels_grow_and_die_with_the_real_strategy(camera):
    # The first refinement after step 5 is at step 10.
    model = make_model(refine_every=10, densify_grad_thresh=1e-7, reset_alpha_every=100)
    model.strategy.pause_refine_after_reset = 0
    step(model, camera, 1)
    faint = wall(side=8, opacity=0.01)
    visible = wall(side=6, z=0.5, opacity=0.3)
    model.insert_surfels(faint)
    model.insert_surfels(visible)
    before = model.num_points
    for number in range(2, 10):
        step(model, camera, number, generated=True)
    assert model.num_points == before
    step(model, camera, 10)
    check_aligned(model)
    z, opacity = model.gauss_params["means"][:, 2], torch.sigmoid(model.gauss_params["opacities"][:, 0])
    assert not (z < -0.5).any() and opacity.min() > 0.04, "those below the pruning threshold must be gone"
    assert (z > 0.3).sum() > len(visible), "those in the view must have been cloned or split"
    step(model, camera, 11, generated=True)
    check_aligned(model)


def test_nothing_outlives_a_refinement_in_places_that_are_kept_empty(camera):
    model = make_model(refine_every=10, densify_grad_thresh=1e-7, reset_alpha_every=100)
    model.strategy.pause_refine_after_reset = 0
    step(model, camera, 1, generated=True)
    places = Clearings(torch.tensor([[0.0, 0.0, 2.0], [0.5, 0.5, 0.0]]), torch.tensor([1.0, 0.3]))
    means = model.gauss_params["means"].detach().clone()
    outside = (means - places.centers[1]).norm(dim=-1) >= 0.3
    assert 0 < int((~outside).sum()) == model.keep_empty(places)
    check_aligned(model)
    assert torch.equal(model.gauss_params["means"], means[outside])
    before_the_camera = wall(side=6, z=1.5, opacity=0.3)
    assert model.is_kept_empty(before_the_camera.means).any()
    model.insert_surfels(before_the_camera)
    for number in range(2, 11):
        step(model, camera, number, generated=True)
    check_aligned(model)
    assert model.num_points > len(before_the_camera), "the others grow on"
    # Children of a split may land anywhere near their parent; they are removed with the refinement that made them.
    assert not places.hold(model.gauss_params["means"]).any()
    assert model.keep_empty(None) == 0 and not model.is_kept_empty(before_the_camera.means).any()


BAD = {
    "means of other shape": ({"means": torch.zeros(3, 2)}, r"means of the new surfels has shape \(3, 2\)"),
    "too few colours": ({"colours": torch.zeros(2, 3)}, r"colours .* shape \(2, 3\)"),
    "nan": ({"means": torch.full((3, 3), math.nan)}, "means of the new surfels holds values that are not finite"),
    "radius 0": ({"radius": torch.tensor([1.0, 0.0, 1.0])}, "radius of the new surfels goes down to 0;"),
    "no normal": ({"normals": torch.zeros(3, 3)}, "normals of the new surfels contain zero vectors"),
    "opacity 1": ({"opacity": 1.0}, r"opacity of the new surfels is 1\.0"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_surfels_are_refused_and_nothing_changes(name):
    change, message = BAD[name]
    model = make_model()
    good = {
        "means": torch.zeros(3, 3),
        "colours": torch.zeros(3, 3),
        "radius": torch.ones(3),
        "normals": torch.ones(3, 3),
    }
    with pytest.raises(ValueError, match=message):
        model.insert_surfels(NewSurfels(**{**good, **change}))
    assert model.num_points == OLD
    for name, parameter in model.gauss_params.items():
        assert model.optimizers[name].param_groups[0]["params"][0] is parameter
