"""The loop continues from what gf-image3d writes: surfels on the surface, white behind, views that fade."""

import json

import numpy as np
import pytest
import torch
from image_start import ball_object, write_ball_capture
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from tiny_run import make_trainer

from genfusion_ns.data.captures.generated import generated_views
from genfusion_ns.data.datamanager import GenFusionDataManagerConfig
from genfusion_ns.fusion.image_start.orbit import orbit_of
from genfusion_ns.fusion.image_start.photo_pose import place_photo
from genfusion_ns.fusion.image_start.supervision import FadingViews
from genfusion_ns.geometry.pixel_rays import intrinsics, orbit_poses
from genfusion_ns.rendering.homographies import rotation_matrices


@pytest.fixture(scope="session")
def ball_folder(made_once):
    return made_once("ball", write_ball_capture)


@pytest.fixture(scope="session")
def ball_with_photo(made_once):
    return made_once("ball_with_photo", lambda folder: write_ball_capture(folder, photo=True))


def datamanager_of(parser):
    return GenFusionDataManagerConfig(dataparser=parser).setup(
        device="cpu", test_mode="val", world_size=1, local_rank=0
    )


def parser_of(kind, folder):
    if kind == "blender":
        return BlenderDataParserConfig(data=folder, alpha_color=None, ply_path="points.ply")
    return NerfstudioDataParserConfig(data=folder, load_3D_points=False)


@pytest.mark.parametrize("kind", ["nerfstudio", "blender"])
def test_what_is_written_is_a_capture(ball_folder, kind):
    manager = datamanager_of(parser_of(kind, ball_folder))
    assert manager.train_names == tuple(f"render_{k:03d}.png" for k in range(10) if k != 3)
    assert manager.test_names == ("render_003.png",)
    assert manager.generated_train_views == frozenset(range(9))
    assert manager.seeds.kind == "visible" and len(manager.seeds.xyz) == 600
    centre = manager.seeds.xyz.mean(0)
    outwards = torch.nn.functional.normalize(manager.seeds.xyz - centre, dim=-1)
    cosine = (outwards * manager.seeds.normals).sum(-1)  # facets of a coarse grid are not quite those of a ball
    assert float(cosine.min()) > 0.5 and float(cosine.mean()) > 0.93
    torch.testing.assert_close(manager.train_dataset.metadata["backdrop_color"], torch.ones(3))


def test_views_have_straight_colours_and_alpha(ball_folder):
    views = [np.asarray(Image.open(ball_folder / f"render_{k:03d}.png")) / 255 for k in range(3)]
    assert all(view.shape == (32, 32, 4) for view in views)
    orbit = orbit_of(10, (0.0, 25.0), 32)
    seen = ball_object().views(orbit.c2w[:3], orbit.K, orbit.size)
    for view, rgb in zip(views, seen.rgb.numpy(), strict=True):
        over_white = view[..., :3] * view[..., 3:] + 1 - view[..., 3:]
        np.testing.assert_allclose(over_white, rgb, atol=0.01)
        assert view[..., 3].min() == 0 and view[..., 3].max() > 0.99


def test_rings_are_spread_and_turned():
    orbit = orbit_of(7, (0.0, 20.0), 64)
    height = torch.asin(orbit.c2w[:, 2, 3] / 1.9) * 180 / torch.pi
    torch.testing.assert_close(height, torch.tensor([0.0] * 4 + [20.0] * 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(orbit.c2w[:, :3, 3].norm(dim=-1), torch.full((7,), 1.9))
    torch.testing.assert_close(orbit.c2w[0, :3, 3], torch.tensor([1.9, 0.0, 0.0]), atol=1e-6, rtol=0)
    for views, heights, said in ((2, (0.0,), "--num-views is 2"), (3, (0.0, 90.0), "--elevations is 0 90")):
        with pytest.raises(ValueError, match=said):
            orbit_of(views, heights, 64)


def test_damaged_marks_are_refused(ball_folder, tmp_path):
    content = json.loads((ball_folder / "transforms.json").read_text())
    for change, said in (
        ({"filenames": "all"}, "generated.filenames"),
        ({"background": [1, 2, 3]}, "a number in 0..1"),
        ({"points": "cloud"}, "surface"),
    ):
        wrong = {**content, "generated": {**content["generated"], **change}}
        (tmp_path / "transforms.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=said):
            generated_views(NerfstudioDataParserConfig(data=tmp_path))


def trainer_on(folder, output, generator_folder, **settings):
    return make_trainer(folder, output, str(generator_folder), views=0, **settings)


def test_surfels_start_on_the_surface(ball_folder, generator_folder, tmp_path):
    trainer = trainer_on(ball_folder, tmp_path, generator_folder)
    scene, seeds = trainer.pipeline.scene, trainer.pipeline.datamanager.seeds
    surfels = scene.surfels()
    axis = rotation_matrices(surfels.quats)[..., 2].detach()
    cosine = (axis * seeds.normals).sum(-1).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-4, rtol=0)
    torch.testing.assert_close(surfels.opacities.detach(), torch.full((600,), 0.5))
    shown = surfels.features_dc.detach() * 0.28209479 + 0.5
    torch.testing.assert_close(shown, seeds.rgb.float() / 255, atol=1e-4, rtol=0)
    torch.testing.assert_close(scene.display_background(), torch.ones(3))


def test_generated_views_fade_and_photos_do_not(ball_with_photo, generator_folder, tmp_path):
    trainer = trainer_on(ball_with_photo, tmp_path, generator_folder)
    pipeline = trainer.pipeline
    names = pipeline.datamanager.train_names
    photo, generated = names.index("photo.png"), names.index("render_000.png")
    supervision = pipeline.supervision
    assert isinstance(supervision, FadingViews)
    weights = [supervision.photo_weight(step, generated) for step in range(12)]
    assert weights[0] == 1 and weights[-1] == pytest.approx(0.1)
    np.testing.assert_allclose(np.diff(weights), np.diff(weights)[0])
    assert all(supervision.photo_weight(step, photo) == 1 for step in range(12))


def test_the_weight_is_that_of_the_loss(ball_folder, generator_folder, tmp_path):
    pipeline = trainer_on(ball_folder, tmp_path, generator_folder).pipeline
    pipeline.train()
    found = []
    for step in (0, 11):
        pipeline.datamanager.train_unseen_cameras = [2, 0]
        torch.manual_seed(5)
        found.append(float(pipeline.get_train_loss_dict(step)[1]["main_loss"].detach()))
        pipeline.scene._observed_infos.clear()
    assert found[1] == pytest.approx(0.1 * found[0], rel=1e-4)


@pytest.mark.slow
def test_a_run_continues_from_the_object(ball_folder, generator_folder, tmp_path):
    trainer = trainer_on(ball_folder, tmp_path, generator_folder, steps=30)
    before = trainer.pipeline.get_average_eval_image_metrics()
    trainer.train()
    after = trainer.pipeline.get_average_eval_image_metrics()
    assert after["psnr"] > max(15.0, before["psnr"])
    assert trainer.pipeline.supervision.results > 0  # rounds took place


def test_the_place_of_a_photo_is_found():
    made = ball_object()
    side, true_height = 96, 25.0
    c2w, K = orbit_poses(torch.zeros(1), true_height, 1.9), intrinsics(40.0, (side, side))
    K[:2] *= 1.3  # nearer, and off the middle
    K[0, 2] += 7.0
    seen = made.views(c2w, K, (side, side))
    straight = ((seen.rgb - 1 + seen.alpha) / seen.alpha.clamp(min=1e-3)).clamp(0, 1)
    placed = place_photo(made, torch.cat([straight, seen.alpha], dim=-1)[0])
    assert placed is not None and placed.overlap > 0.85  # outlines of 64 pixels
    assert abs(placed.elevation - true_height) <= 5
    assert float(placed.photo.K[0, 0]) == pytest.approx(float(K[0, 0]), rel=0.06)
    torch.testing.assert_close(placed.photo.K[:2, 2], K[:2, 2], atol=4, rtol=0)  # two of those pixels
