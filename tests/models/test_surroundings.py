"""What is shown where a scene is empty."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.model_components import renderers
from tiny_model import make_model

from genfusion_ns.data.points.backdrop import directional_colours
from genfusion_ns.geometry.cameras import c2w_to_viewmat
from genfusion_ns.models.surroundings import Surroundings, beyond

torch.set_num_threads(1)


def directions_of(count: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def red_above(directions: torch.Tensor) -> torch.Tensor:
    red = 0.5 + 0.4 * directions[:, 2:]
    return torch.cat([red, torch.full_like(red, 0.3), 1 - red], dim=-1)


def looking(towards: tuple[float, float, float], kind: CameraType = CameraType.PERSPECTIVE, width: int = 8) -> Cameras:
    back = -torch.tensor(towards) / torch.tensor(towards).norm()
    right = torch.linalg.cross(torch.tensor([0.3, 0.5, 0.1]), back)
    right = right / right.norm()
    c2w = torch.stack([right, torch.linalg.cross(back, right), back, torch.tensor([0.0, 0.0, 50.0])], dim=-1)
    return Cameras(c2w[None], fx=10.0, fy=10.0, cx=width / 2, cy=3.0, width=width, height=6, camera_type=kind)


def test_colours_that_vary_slowly_come_back_but_for_the_pull() -> None:
    # Seen from all sides, all harmonics have the same mean square as the constant one: each is shrunk by 1 / 1.3.
    directions = directions_of(40000)
    around = Surroundings.fit(directions, red_above(directions))
    others = directions_of(50, seed=1)
    shown = beyond(others, around.mean.float(), around.coefficients)
    expected = around.mean.float() + (red_above(others) - torch.tensor([0.5, 0.3, 0.5])) / 1.3
    torch.testing.assert_close(shown, expected, atol=0.01, rtol=0)


def test_where_no_photo_looked_the_mean_is_not_far() -> None:
    directions = directions_of(4000)
    directions = directions[directions[:, 0] > 0.9]
    noisy = red_above(directions) + 0.2 * torch.randn(len(directions), 3, generator=torch.Generator().manual_seed(2))
    around = Surroundings.fit(directions, noisy.clamp(0, 1))
    away = beyond(torch.tensor([[-1.0, 0.0, 0.0]]), around.mean.float(), around.coefficients)
    assert float((away - around.mean).abs().max()) < 0.25


def seen_model() -> torch.nn.Module:
    model = make_model()
    directions = directions_of(2000)
    model.kwargs["metadata"] = {"directional_colours": (directions, red_above(directions))}
    for name, value in model._measured().items():
        setattr(model, name, value)
    model._take_measures()
    return model.eval()


def test_a_hole_shows_what_the_photos_have_in_that_direction() -> None:
    model = seen_model()
    for towards, red in (((0.1, 0.0, 1.0), 0.8), ((1.0, 0.1, 0.0), 0.5)):
        outputs = model.get_outputs_for_camera(looking(towards))
        assert float(outputs["accumulation"].max()) == 0
        assert torch.equal(outputs["rgb"], outputs["background"])
        assert abs(float(outputs["rgb"][..., 0].mean()) - red) < 0.1


def test_what_is_composited_can_be_taken_apart_again() -> None:
    model = seen_model()
    outputs = model.get_outputs_for_camera(looking((0.05, 0.0, -1.0), width=40))
    rgba = model.get_rgba_image(outputs)
    back = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]) * outputs["background"]
    torch.testing.assert_close(back, outputs["rgb"], atol=2e-3, rtol=0)


def test_a_panorama_and_rays_show_the_same() -> None:
    model = seen_model()
    panorama = model.get_outputs_for_camera(looking((0.0, 1.0, 0.2), CameraType.EQUIRECTANGULAR, width=16))
    rays = looking((0.0, 1.0, 0.2), CameraType.EQUIRECTANGULAR, width=16).generate_rays(0, keep_shape=True)
    single = model.outputs_along(rays.flatten())["rgb"].view(6, 16, 3)
    empty = panorama["accumulation"][..., 0] == 0
    assert int(empty.sum()) > 40
    torch.testing.assert_close(panorama["rgb"][empty], single[empty], atol=0.03, rtol=0)


def test_a_crop_keeps_its_own_background() -> None:
    model = seen_model()
    with renderers.background_color_override_context(torch.tensor([0.0, 1.0, 0.0])):
        outputs = model.get_outputs_for_camera(looking((0.0, 1.0, 0.2)))
    assert torch.equal(outputs["rgb"], torch.tensor([0.0, 1.0, 0.0]).expand_as(outputs["rgb"]))


@pytest.mark.parametrize("colour", ["black", "white"])
def test_a_chosen_background_stays(colour: str) -> None:
    model = seen_model()
    model.config.background_color = colour
    model._take_measures()
    outputs = model.get_outputs_for_camera(looking((0.0, 1.0, 0.2)))
    assert torch.equal(outputs["rgb"], torch.full_like(outputs["rgb"], float(colour == "white")))


def test_checkpoints_keep_it_and_older_ones_have_one_colour() -> None:
    model, fresh, old = seen_model(), make_model().eval(), make_model().eval()
    state = model.state_dict()
    fresh.load_state_dict(state)
    camera = looking((0.1, 0.0, 1.0))
    assert torch.equal(fresh.get_outputs_for_camera(camera)["rgb"], model.get_outputs_for_camera(camera)["rgb"])
    del state["surroundings"]
    old.load_state_dict(state)
    shown = old.get_outputs_for_camera(camera)["rgb"]
    assert torch.equal(shown, shown[:1, :1].expand_as(shown))


def test_directions_of_photos_are_those_of_their_cameras() -> None:
    cameras = looking((0.2, 1.0, 0.1), width=48)
    image = torch.full((6, 48, 3), 90, dtype=torch.uint8)
    directions, colours = directional_colours(cameras, [{"image": image}])
    forward = c2w_to_viewmat(cameras.camera_to_worlds)[0, 2, :3]
    assert float((directions @ forward).min()) > 0
    assert float(torch.nn.functional.normalize(directions.mean(0), dim=0) @ forward) > 0.99
    torch.testing.assert_close(colours, torch.full_like(colours, 90 / 255))
    hidden, _ = directional_colours(cameras, [{"image": image, "mask": torch.zeros(6, 48, 1, dtype=torch.bool)}])
    assert len(hidden) == 0
