"""The model of mip-NeRF: rays, loss, schedule, backgrounds and scenes without end."""

import math

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from safetensors.torch import load_file
from shared_files import recorded

from genfusion_ns.geometry.cone_rays import BASE_RADIUS, cone_rays
from genfusion_ns.models.mipnerf.model import MipNerfModel, MipNerfModelConfig, squared_error
from genfusion_ns.models.optim import WarmedDecayConfig


def toy_model(metadata: dict | None = None, **settings: object) -> MipNerfModel:
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 3, "view_width": 8, "num_samples": 8}
    config = MipNerfModelConfig(**(sizes | settings))
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    known = {"transparent": True} if metadata is None else metadata
    return MipNerfModel(config, scene_box=box, num_train_data=3, metadata=known).eval()


def camera(size: int = 12, focal: float = 20.0) -> Cameras:
    c2w = torch.eye(4)[None, :3].clone()
    c2w[:, 2, 3] = 4
    return Cameras(c2w, focal, focal, size / 2, size / 2, size, size, camera_type=CameraType.PERSPECTIVE)


@pytest.mark.parametrize("level", [0, 3])
def test_cones_are_those_of_the_port(level):
    with np.load(recorded("siblings/multiscale_blender.npz")) as ref:
        height, width = ref[f"rays_radii_l{level}"].shape[:2]
        focal = float(ref["meta_focal"][level])
        intrinsics = torch.tensor([focal, focal, width / 2, height / 2])
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        c2w = torch.from_numpy(ref["meta_cam2world"][level, :3]).float()
        rays = cone_rays(c2w, intrinsics, torch.stack([x, y], -1))
        for name in ("origins", "directions", "radii"):
            value = getattr(rays, name).expand(height, width, -1).numpy()
            np.testing.assert_allclose(value, ref[f"rays_{name}_l{level}"], atol=2e-6, rtol=1e-5)


def test_losses_are_those_of_the_port():
    io = load_file(recorded("siblings/mipnerf_small_io.safetensors"))
    both = [[io[f"{level}_level{number}_rgb"] for level in ("l0", "l3")] for number in range(2)]
    pixels, weight = (torch.cat([io[f"{level}_{name}"] for level in ("l0", "l3")]) for name in ("pixels", "lossmult"))
    model = toy_model()
    outputs = {"rgb_coarse": torch.cat(both[0]), "rgb": torch.cat(both[1])}
    losses = model.get_loss_dict(outputs, {"image": pixels, "lossmult": weight})
    assert float(losses["fine"]) == pytest.approx(float(io["loss_levels"][1]), abs=2e-5)
    assert float(losses["coarse"]) == pytest.approx(0.1 * float(io["loss_levels"][0]), abs=2e-5)
    assert float(sum(losses.values())) == pytest.approx(float(io["loss_total"]), abs=2e-5)


def test_an_image_counts_alike_at_every_scale():
    wrong = torch.cat([torch.full((64, 3), 0.1), torch.full((16, 3), 0.3)])
    weight = torch.cat([torch.ones(64, 1), torch.full((16, 1), 4.0)])
    expected = 3 * (0.1**2 + 0.3**2) / 2
    assert float(squared_error(wrong, torch.zeros(80, 3), weight)) == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_is_that_of_the_authors():
    with np.load(recorded("siblings/mipnerf_reference.npz")) as ref:
        steps, values = ref["lr_steps"].tolist(), ref["lr_values"].tolist()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
    schedule = WarmedDecayConfig(max_steps=1_000_000).setup().get_scheduler(optimizer, 5e-4)
    (factor,) = schedule.lr_lambdas
    for step, value in zip(steps, values, strict=True):
        assert 5e-4 * factor(step) == pytest.approx(value, rel=1e-6)
    short = WarmedDecayConfig(max_steps=100).setup().get_scheduler(optimizer, 5e-4).lr_lambdas[0]
    assert short(25) == pytest.approx(0.01**0.25)  # the warm-up is over


def test_a_camera_gives_the_outputs_of_both_passes():
    model = toy_model()
    outputs = model.get_outputs_for_camera(camera())
    assert set(outputs) == {f"{name}{end}" for name in ("rgb", "depth", "accumulation") for end in ("", "_coarse")}
    assert outputs["rgb"].shape == (12, 12, 3) and outputs["depth"].shape == (12, 12, 1)
    assert bool((outputs["depth"] >= 2).all()) and bool((outputs["depth"] <= 6).all())
    alone = toy_model(eval_num_rays_per_chunk=7).get_outputs_for_camera(camera())
    torch.testing.assert_close(alone["rgb"], outputs["rgb"])


def test_cones_of_a_camera_are_as_wide_as_its_pixels():
    """A coarser image is rendered as such: the mean over a smooth image's pixels is the coarse pixel."""
    model = toy_model()
    seen = []
    model.field.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model.get_outputs_for_camera(camera(12, 20.0))
    model.get_outputs_for_camera(camera(12, 40.0))
    high = slice(9, 18)  # sines of degrees 3 to 5: pixels are about as wide as their waves
    assert float(seen[0][..., high].abs().mean()) < float(seen[2][..., high].abs().mean())


def test_rays_without_radii_have_nearly_those_of_their_pixels():
    model, seen = toy_model(), []
    model.field.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    bundle = camera().generate_rays(camera_indices=0)
    known = camera().generate_rays(camera_indices=0)
    known.metadata["radii"] = torch.full_like(known.pixel_area, BASE_RADIUS / 20)
    model.get_outputs(bundle), model.get_outputs(known)
    torch.testing.assert_close(seen[0], seen[2], atol=0.01, rtol=0)


def test_alpha_is_composed_in_full_precision_over_the_background():
    model = toy_model({"transparent": True, "alpha_color": torch.tensor([0.0, 0.5, 1.0])})
    image = torch.tensor([[255, 255, 255, 0], [100, 100, 100, 51]], dtype=torch.uint8)
    target = model._target({"image": image})
    torch.testing.assert_close(target[0], torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(target[1], 0.2 * 100 / 255 + 0.8 * torch.tensor([0.0, 0.5, 1.0]))
    assert toy_model({}).background.tolist() == [0, 0, 0]
    assert toy_model().background.tolist() == [1, 1, 1]


def test_what_rays_pass_without_hitting_is_the_background():
    model = toy_model()
    torch.nn.init.constant_(model.field.density_layer.bias, -200.0)
    outputs = model.get_outputs_for_camera(camera())
    torch.testing.assert_close(outputs["rgb"], torch.ones(12, 12, 3))
    assert float(outputs["accumulation"].abs().max()) == 0
    assert float(model.get_rgba_image(outputs)[..., 3].max()) == 0


def test_photos_without_alpha_are_of_a_scene_without_end():
    model = toy_model({"depth_range": (0.1, 5.0), "scene_radius": 2.0})
    assert bool(model.unbounded) and float(model.near) == pytest.approx(0.1) and float(model.far) == 2000
    outputs = model.get_outputs_for_camera(camera())
    assert bool(outputs["rgb"].isfinite().all()) and bool(outputs["depth"].isfinite().all())
    model.train()
    bundle = camera().generate_rays(camera_indices=0).flatten()
    outputs = model.get_outputs(bundle)
    loss = sum(model.get_loss_dict(outputs, {"image": torch.rand(len(bundle), 3)}).values())
    loss.backward()
    assert all(bool(value.grad.isfinite().all()) for value in model.field.parameters())


def test_the_jitter_of_a_step_depends_on_its_number_alone():
    model = toy_model().train()
    bundle = camera().generate_rays(camera_indices=0).flatten()
    first = model.get_outputs(bundle)["depth"]
    torch.manual_seed(5)
    torch.testing.assert_close(model.get_outputs(bundle)["depth"], first, atol=0, rtol=0)
    model.step = 1
    assert not torch.equal(model.get_outputs(bundle)["depth"], first)


def test_a_crop_box_cuts_rays_and_leaves_the_others_empty():
    model = toy_model()
    box = OrientedBox(R=torch.eye(3), T=torch.zeros(3), S=torch.full((3,), 0.5))
    outputs = model.get_outputs_for_camera(camera(), obb_box=box)
    assert float(outputs["accumulation"][0, 0]) == 0
    depth = outputs["depth"][6, 6]
    assert 3.7 < float(depth) < 4.3


def test_near_and_far_of_a_camera_hold_unless_they_are_set():
    for settings, expected in (({}, (3, 5)), ({"near_plane": 1.0, "far_plane": 9.0}, (1, 9))):
        model = toy_model(**settings)
        bundle = camera().generate_rays(camera_indices=0).flatten()
        bundle.metadata |= {"near": torch.full((144, 1), 3.0), "far": torch.full((144, 1), 5.0)}
        torch.nn.init.constant_(model.field.density_layer.bias, -200.0)
        assert model.get_outputs(bundle)["depth"].unique().tolist() == [expected[0]]
        torch.nn.init.constant_(model.field.density_layer.bias, 5.0)
        assert float(model.get_outputs(bundle)["depth"].max()) < expected[1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"width": -1}, "--pipeline.model.width"), ({"near_plane": 7.0}, "far-plane"), ({"num_samples": 9999}, "samples")],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        toy_model(**settings)


def test_lower_precision_is_nearly_the_same():
    torch.manual_seed(1)
    exact, coarse = (
        toy_model(precision=kind).get_outputs_for_camera(camera())["rgb"] for kind in ("float32", "bfloat16")
    )
    assert 0 < float((exact - coarse).abs().max()) < 0.02


def test_it_learns_a_colour():
    model = toy_model().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    bundle = camera().generate_rays(camera_indices=0).flatten()
    batch = {"image": torch.tensor([0.9, 0.2, 0.1]).expand(len(bundle), 3)}
    losses = []
    for step in range(60):
        model.step = step
        optimizer.zero_grad()
        loss = sum(model.get_loss_dict(model.get_outputs(bundle), batch).values())
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.05 * losses[0] and math.isfinite(losses[-1])
