"""How the surfel model answers nerfstudio's commands: cameras of all kinds, rays, crops and transparency."""

import math

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from nerfstudio.model_components.renderers import background_color_override_context
from torch.nn.functional import normalize

from genfusion_ns.models.surfel_model import GenFusionModel, GenFusionModelConfig

PLACE = torch.tensor([0.3, -0.2, 0.1])
POSE = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
POSE = POSE * torch.linalg.det(POSE)  # no axis of the cube is one of the world


def model_of(means: torch.Tensor, colours: torch.Tensor, scale: float, opacity: float = 0.99) -> GenFusionModel:
    """Discs that face `PLACE`, of one size and opacity, with plain colours."""
    config = GenFusionModelConfig(sh_degree=0, near_plane=0.01)
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    points = (means, torch.zeros_like(means))
    model = config.setup(scene_box=box, num_train_data=3, seed_points=points, device="cpu", metadata={}).eval()
    model.set_total_steps(100)
    towards = normalize(means - PLACE, dim=-1)
    # The rotation that takes z to the line of sight, by half of the angle between them.
    quats = torch.cat([1 + towards[:, 2:], -towards[:, 1:2], towards[:, :1], torch.zeros(len(means), 1)], dim=1)
    with torch.no_grad():
        model.gauss_params["quats"].copy_(quats)
        model.gauss_params["scales"].fill_(math.log(scale))
        model.gauss_params["opacities"].fill_(math.log(opacity / (1 - opacity)))
        model.gauss_params["features_dc"].copy_(torch.logit(colours.clamp(1e-6, 1 - 1e-6)))
    return model


def panorama_camera(height: int) -> Cameras:
    c2w = torch.cat([POSE, PLACE[:, None]], dim=1)[None]
    size = {"width": 2 * height, "height": height, "cx": float(height), "cy": height / 2}
    return Cameras(c2w, fx=float(height), fy=float(height), camera_type=CameraType.EQUIRECTANGULAR, **size)


def pinhole() -> Cameras:
    return Cameras(torch.eye(4)[None, :3], fx=30.0, fy=30.0, cx=16.0, cy=12.0, width=32, height=24)


def sphere(count: int) -> torch.Tensor:
    """Directions spread evenly. [count, 3]"""
    i = torch.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, i * math.pi * (1 + 5**0.5)
    return torch.stack([torch.cos(angle) * (1 - z**2).sqrt(), torch.sin(angle) * (1 - z**2).sqrt(), z], dim=1)


@pytest.mark.parametrize("index", range(14))
def test_a_surfel_lies_in_a_panorama_where_nerfstudio_looks_at_it(index):
    # Middles of the faces and corners of the cube, turned a little so that nothing falls on a border by luck.
    axes = torch.cat(
        [torch.eye(3), -torch.eye(3), torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])]
    )
    direction = normalize(POSE @ normalize(axes[index] + torch.tensor([0.02, -0.03, 0.01]), dim=0), dim=0)
    model = model_of(PLACE + 2.5 * direction[None], torch.tensor([[1.0, 0.0, 0.0]]), scale=0.15)
    camera = panorama_camera(64)
    outputs = model.get_outputs_for_camera(camera)
    looks = camera.generate_rays(camera_indices=0, keep_shape=True).directions
    solid_angle = (1 - (looks @ POSE[:, 1:2]).square()).sqrt()
    centre = normalize((outputs["accumulation"] * solid_angle * looks).sum((0, 1)), dim=0)
    angle = torch.rad2deg(torch.linalg.cross(centre, direction).norm())
    assert angle < 0.3, "a tenth of a pixel"
    solid = outputs["accumulation"][..., 0] > 0.5
    assert solid.any() and (looks[solid] @ direction > math.cos(math.radians(8))).all()
    for name in ("depth", "median_depth"):
        assert (outputs[name][solid] - 2.5).abs().max() < 0.03, "distance from the camera, on every face"


def test_a_closed_room_of_one_colour_has_no_seams():
    colour = torch.tensor([[0.2, 0.5, 0.8]])
    shell = PLACE + 2 * sphere(3000)
    model = model_of(shell, colour.expand(len(shell), 3), scale=0.12)
    outputs = model.get_outputs_for_camera(panorama_camera(48))
    assert outputs["rgb"].shape == (48, 96, 3)
    assert outputs["accumulation"].min() > 0.99
    torch.testing.assert_close(outputs["rgb"], colour.expand(48, 96, 3), atol=5e-3, rtol=0)
    assert (outputs["depth"] - 2).abs().max() < 0.05
    looks = panorama_camera(48).generate_rays(camera_indices=0, keep_shape=True).directions
    for name in ("normals", "normals_from_depth"):
        normals = normalize(2 * outputs[name] - 1, dim=-1)
        assert ((normals * looks).sum(-1) < -0.9).float().mean() > 0.98, f"{name} face the camera"
    # The left and the right border are one column of directions apart, as any two neighbours are.
    steps = (outputs["depth"] - outputs["depth"].roll(1, dims=1)).abs()
    assert steps[:, 0].max() <= steps[:, 1:].max()


KINDS = [kind for kind in CameraType if kind not in (CameraType.PERSPECTIVE, CameraType.EQUIRECTANGULAR)]


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_that_cannot_be_drawn_are_refused_but_not_in_the_viewer(kind, capsys):
    model = model_of(torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[1.0, 0.0, 0.0]]), scale=0.3)
    camera = pinhole()
    camera.camera_type = torch.full_like(camera.camera_type, kind.value)
    with pytest.raises(ValueError, match=f"{kind.name.lower()}.*perspective.*equirectangular"):
        model.get_outputs_for_camera(camera)
    background = torch.tensor([0.1, 0.2, 0.3])
    model.set_background(background)
    outputs = model.get_outputs_for_camera(camera)
    assert (outputs["rgb"] == background).all() and (outputs["accumulation"] == 0).all()
    assert "perspective" in capsys.readouterr().out


def test_rgba_does_not_depend_on_the_background():
    means = torch.tensor([[0.0, 0.0, -2.0], [0.3, 0.1, -2.2]])
    model = model_of(means, torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.4, 0.8]]), scale=0.3, opacity=0.6)
    pictures = []
    for level in (0.0, 0.4, 1.0):
        model.background_color = torch.full((3,), level)
        outputs = model.get_outputs_for_camera(pinhole())
        pictures.append(model.get_rgba_image(outputs))
        alpha = outputs["accumulation"]
        over = pictures[-1][..., :3] * alpha + (1 - alpha) * level
        torch.testing.assert_close(over, outputs["rgb"], atol=1e-5, rtol=0)
    seen = pictures[0][..., 3] > 0.01
    assert seen.any() and not seen.all()
    for picture in pictures[1:]:
        torch.testing.assert_close(picture[seen], pictures[0][seen], atol=1e-4, rtol=0)
        assert (picture[picture[..., 3] == 0] == 0).all()


def test_a_crop_has_its_own_background_and_transparency():
    """As `ns-render camera-path` asks for a path with a crop box."""
    means = torch.tensor([[0.0, 0.0, -2.0], [0.0, 0.0, -4.0]])
    model = model_of(means, torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.9, 0.1]]), scale=0.2)
    box = OrientedBox.from_params((0.0, 0.0, -4.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pink = torch.tensor([1.0, 0.5, 0.75])
    with background_color_override_context(pink), torch.no_grad():
        outputs = model.get_outputs_for_camera(pinhole(), obb_box=box)
    assert (outputs["rgb"][0, 0] == pink).all()
    assert outputs["rgb"][12, 16].argmax() == 1, "the surfel before the box is cut away"
    assert outputs["rgba"].shape == (24, 32, 4)
    with torch.no_grad():
        whole = model.get_outputs_for_camera(pinhole())
    assert whole["rgb"][12, 16].argmax() == 0 and "rgba" not in whole


def test_rays_meet_what_cameras_see():
    """As `ns-render --render-nearest-camera` asks whether a train camera is in sight."""
    model = model_of(torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.9, 0.2, 0.1]]), scale=0.3)
    directions = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0], [0.05, 0.0, -1.0], [torch.nan] * 3, [0.0, 0.0, 0.0]])
    one = torch.ones(5, 1)
    rays = RayBundle(origins=torch.zeros(5, 3), directions=directions, pixel_area=one, camera_indices=one.int())
    outputs = model.get_outputs(rays)
    assert outputs["depth"].shape == (5, 1) and outputs["rgb"].shape == (5, 3)
    assert outputs["depth"][0].item() == pytest.approx(2, abs=0.01)
    assert outputs["depth"][2].item() == pytest.approx(2 * math.hypot(1, 0.05), abs=0.05)
    assert torch.isinf(outputs["depth"][[1, 3, 4]]).all()
    assert torch.isfinite(outputs["rgb"]).all()
    with pytest.raises(ValueError, match="ns-export gaussian-splat"):
        model.get_outputs_for_camera_ray_bundle(rays)
