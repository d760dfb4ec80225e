"""A TripoSR is trained by the loop of all generators: it fits one object, resumes exactly, and its folders load."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genfusion_ns.data.objects.captures import object_captures, read_object
from genfusion_ns.data.objects.procedural import procedural_views
from genfusion_ns.data.objects.samples import ObjectDataset, ObjectSampling, draw_sample, in_frame, judged, window_on
from genfusion_ns.fusion.generator_training import TrainTripoSRConfig, read_config, train_generator
from genfusion_ns.fusion.object_data import mean_view, split_objects
from genfusion_ns.geometry.object_views import ObjectViews
from genfusion_ns.geometry.pixel_rays import intrinsics, meet_cube, orbit_poses, pixel_rays
from genfusion_ns.priors.training.lora import LoraSettings
from genfusion_ns.priors.training.settings import TripoSROptimisation, TripoSRSizes
from genfusion_ns.priors.training.triposr import TripoSRObjective, fresh_network, train
from genfusion_ns.priors.triposr.loading import PACKAGED_WEIGHTS, load_network
from genfusion_ns.priors.triposr.network import TripoSRNetwork
from genfusion_ns.seeds import seed_of, seeded_generator

SIZES = TripoSRSizes(
    image_size=32,
    vit_native_size=32,
    vit_width=32,
    vit_layers=1,
    vit_heads=2,
    vit_mlp_width=64,
    plane_size=8,
    plane_channels=32,
    heads=2,
    head_width=16,
    layers=1,
    features=8,
    decoder_width=24,
    decoder_layers=2,
    samples=24,
)
TINY = TripoSROptimisation(
    steps=6, batch_size=1, warmup=1, perceptual_weight=0, validate_every=6, checkpoint_every=2, network=SIZES
)
SAMPLING = ObjectSampling(windows=2, crop=8)


@pytest.fixture(scope="module")
def views():
    return procedural_views(3, 8, 32)


def training(views, output, optimisation=TINY, initial=None, sampling=SAMPLING):
    batches = ObjectDataset(
        [views], sampling, batch_size=optimisation.batch_size, batches=optimisation.batches(1), seed=optimisation.seed
    )
    kept = [judged(views, sampling, optimisation.validation_views)]
    return train(batches, kept, mean_view([views]), output, optimisation, initial=initial)


def test_objects_are_round_and_whole():
    for seed in range(5):
        views = procedural_views(seed, 6, 32)
        alpha = views.rgba[..., 3]
        border = torch.cat([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], dim=1)
        assert int(border.max()) == 0 and bool((alpha.flatten(1).amax(1) == 255).all())
        again = procedural_views(seed, 6, 32)
        assert torch.equal(views.rgba, again.rgba)


def test_the_given_view_stands_at_azimuth_zero(views):
    turned = views.seen_from(2)
    assert float(turned.c2w[2, 0, 3]) > 0 and abs(float(turned.c2w[2, 1, 3])) < 1e-5
    torch.testing.assert_close(turned.elevations(), views.elevations())
    between = lambda c2w: c2w[2].inverse() @ c2w[5]  # noqa: E731
    torch.testing.assert_close(between(turned.c2w), between(views.c2w), atol=1e-5, rtol=0)


FRAMES = [ObjectSampling(windows=3, crop=16, frame=frame) for frame in ("object", "image")]


@pytest.mark.parametrize("sampling", FRAMES, ids=lambda sampling: sampling.frame)
def test_nothing_changes_where_the_world_is_turned(views, sampling):
    angle = torch.tensor(1.3)
    turn = torch.eye(4)
    turn[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    turned = replace(views, c2w=turn @ views.c2w)
    one, other = (draw_sample(world, sampling, seeded_generator(2)) for world in (views, turned))
    torch.testing.assert_close(one.origins, other.origins, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.directions, other.directions, atol=1e-5, rtol=0)


def test_the_frame_of_the_image_does_not_depend_on_where_and_how_large_the_object_was(views):
    given = 2
    first = in_frame(views, given, FRAMES[1])
    moved = views.c2w.clone()
    moved[:, :3, 3] = 0.7 * moved[:, :3, 3]
    again = in_frame(replace(views, c2w=moved), given, FRAMES[1])
    torch.testing.assert_close(again.c2w, first.c2w, atol=1e-5, rtol=0)


@pytest.mark.parametrize("given", [0, 3, 5])
def test_in_the_frame_of_the_image_its_pixels_say_where_things_are(views, given):
    """The picture that the network gets is what a camera on the axis sees, on the plane through the middle."""
    framed = in_frame(views, given, FRAMES[1])
    origins, directions = pixel_rays(framed.c2w[given : given + 1], views.K, views.size)
    pose = framed.c2w[given]
    forward = -pose[:3, 2]
    along = -(origins @ forward) / (directions @ forward)  # to the plane through the middle, across the view
    met = (origins + along[..., None] * directions)[0]
    rows, columns = (views.rgba[given, ..., 3] > 0).nonzero(as_tuple=True)
    low = np.array([int(rows.min()), int(columns.min())])
    high = np.array([int(rows.max()), int(columns.max())])
    side = (high - low).max() / 0.85
    camera = 1.9 * np.tan(np.deg2rad(20))
    for row, column in ((low[0], low[1]), (high[0], high[1]), (low[0], high[1])):
        place = (np.array([row, column]) + 0.5 - (low + high) / 2) / side * 2
        right, up = (float(met[row, column] @ pose[:3, axis]) for axis in (0, 1))
        np.testing.assert_allclose([-up, right], place * camera, atol=1e-4)
    assert abs(float(pose[1, 3])) < 0.5 and float(pose[0, 3]) > 0


def test_a_mirrored_sample_is_one_of_the_mirrored_object():
    """Of a scene that is the same on both sides, the mirrored view shows what the turned-over rays see."""
    poses = torch.cat([orbit_poses(torch.tensor([azimuth]), 20.0, 1.9) for azimuth in (0.0, 50.0)])
    rgba = torch.zeros(2, 16, 16, 4, dtype=torch.uint8)
    rgba[:, 4:12, 2:7] = 255
    views = ObjectViews(rgba, poses, intrinsics(40.0, (16, 16)))
    sample = draw_sample(views, ObjectSampling(windows=1, crop=16, elevations=(0, 40)), seeded_generator(0))
    mirrored = sample.mirrored()
    torch.testing.assert_close(mirrored.origins.flip(2), sample.origins)
    torch.testing.assert_close(mirrored.directions.flip(2), sample.directions, atol=1e-6, rtol=0)
    assert torch.equal(mirrored.view.flip(1), sample.view) and torch.equal(mirrored.rgba, sample.rgba)


def test_rays_further_apart_are_those_of_the_same_window(views):
    alpha = views.rgba[0, ..., 3].float() / 255
    near = window_on(alpha, 16, seeded_generator(1), 1)
    far = window_on(alpha, 8, seeded_generator(1), 2)
    assert [(part.start, part.stop) for part in near] == [(part.start, part.stop) for part in far]
    assert alpha[far].shape == (8, 8) and torch.equal(alpha[far], alpha[near][::2, ::2])


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (3, 2)])
def test_a_fresh_network_looks_where_the_image_shows_a_place(row, column):
    """Of the plane that faces the camera, what changes most with a patch of the image is what lies behind it."""
    torch.manual_seed(0)
    network = fresh_network(replace(SIZES, plane_channels=96, head_width=24, heads=4, vit_width=96)).eval()
    grey = torch.full((1, 3, 32, 32), 0.5)
    changed = grey.clone()
    changed[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = torch.tensor([0.9, 0.2, 0.1])[
        None, :, None, None
    ]
    with torch.no_grad():
        difference = (network(changed) - network(grey))[0].square().sum(1)  # [3, 16, 16]
    facing = difference[2].view(4, 4, 4, 4).mean((1, 3))  # by z, y, as four squares along
    assert int(facing.argmax()) == 4 * (3 - row) + column
    assert int(difference[0].view(4, 4, 16).mean((1, 2)).argmax()) == column  # by y, x
    assert int(difference[1].view(4, 4, 16).mean((1, 2)).argmax()) == 3 - row  # by z, x


def test_rays_of_samples_see_what_they_say(views):
    sample = draw_sample(views, ObjectSampling(windows=4, crop=16), seeded_generator(0))
    alpha = sample.rgba[..., 3]
    solid = alpha > 0.99
    assert bool(solid.any())
    _, _, hits = meet_cube(sample.origins[solid], sample.directions[solid], 0.55)
    assert float(hits.float().mean()) == 1  # objects lie within this cube


def test_windows_are_drawn_towards_the_object():
    alpha = torch.zeros(64, 64)
    alpha[8:20, 8:20] = 1
    generator = seeded_generator(0)
    full = [float(alpha[window_on(alpha, 16, generator)].mean()) for _ in range(200)]
    anywhere = 144 / 64**2
    assert np.mean(full) > 4 * anywhere and min(full) < 0.05


def test_a_training_that_was_interrupted_goes_on_the_same(views, tmp_path):
    whole = training(views, tmp_path / "whole")
    training(views, tmp_path / "parts", replace(TINY, steps=4, schedule="constant"))
    assert whole is not None
    constant = replace(TINY, schedule="constant")
    training(views, tmp_path / "once", constant)
    training(views, tmp_path / "parts", constant)
    first, second = (load_network(str(tmp_path / name)).state_dict() for name in ("once", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_lora_changes_the_backbone_alone(views, tmp_path):
    torch.manual_seed(0)
    network = TripoSRNetwork(**SIZES.__dict__)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training(views, tmp_path, replace(TINY, lora=LoraSettings(rank=2)), initial=network)
    after = load_network(str(tmp_path)).state_dict()
    changed = {name for name in before if not torch.equal(before[name].half().float(), after[name])}
    assert changed and all(name.startswith("backbone.transformer_blocks") and ".attn" in name for name in changed)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_the_loss_leaves_the_pooler_alone(views):
    torch.manual_seed(0)
    objective = TripoSRObjective(TripoSRNetwork(**SIZES.__dict__), [], mean_view([views]), TINY)
    batch = ObjectDataset([views], SAMPLING, batch_size=2, batches=1, seed=0)[0]
    objective.loss(objective.network, batch, range(2)).backward()
    without = {name for name, value in objective.network.named_parameters() if value.grad is None}
    assert without == {f"network.image_tokenizer.model.pooler.dense.{kind}" for kind in ("weight", "bias")}


@pytest.mark.slow
def test_one_object_is_learned(views, tmp_path):
    optimisation = replace(TINY, steps=250, warmup=10, learning_rate=3e-3, ema=0.9, validate_every=250)
    report = training(views, tmp_path, optimisation, sampling=ObjectSampling(windows=5, crop=12))
    # The mean of its own views is a strong guess for an object that hardly changes from side to side.
    assert report.psnr > report.psnr_mean_image and report.mask_overlap > 0.8


def test_the_network_of_the_package_knows_objects_that_it_never_saw():
    made = [procedural_views(seed_of(0, "object", number), 8, 48) for number in (0, 10, 20, 1, 2, 3, 4)]
    sampling = ObjectSampling(frame="image", elevations=(0, 25))
    kept = [judged(views, sampling, 3) for views in made[:3]]
    network = load_network(str(PACKAGED_WEIGHTS))
    objective = TripoSRObjective(network, kept, mean_view(made[3:]), TINY)
    report = objective.validate(objective.network.state_dict()).report
    assert report.psnr > report.psnr_mean_image + 1 and report.mask_overlap > report.mask_overlap_mean_image + 0.04


def blender_capture(folder: Path, views, angle=0.6911112):
    folder.mkdir(parents=True)
    frames = []
    for index, (rgba, c2w) in enumerate(zip(views.rgba, views.c2w, strict=True)):
        Image.fromarray(rgba.numpy()).save(folder / f"r_{index}.png")
        scaled = c2w.clone()
        scaled[:3, 3] *= 4.0 / 1.9
        frames.append({"file_path": f"./r_{index}", "transform_matrix": scaled.tolist()})
    content = {"camera_angle_x": angle, "frames": frames}
    (folder / "transforms_train.json").write_text(json.dumps(content))


def test_captures_are_read_at_the_scale_of_the_network(views, tmp_path):
    blender_capture(tmp_path / "objects" / "one", views, angle=float(np.deg2rad(40)))
    read = read_object(tmp_path / "objects" / "one", 32)
    torch.testing.assert_close(read.c2w, views.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(read.K, views.K, atol=1e-3, rtol=0)
    difference = (read.rgba.int() - views.rgba.int()).abs()[views.rgba[..., 3] == 255]
    assert int(difference.max()) <= 1
    assert read_object(tmp_path / "objects" / "one", 16).rgba.shape == (8, 16, 16, 4)
    assert object_captures(tmp_path / "objects") == [tmp_path / "objects" / "one"]


def test_captures_without_alpha_are_refused(views, tmp_path):
    blender_capture(tmp_path / "one", views)
    for path in (tmp_path / "one").glob("*.png"):
        Image.open(path).convert("RGB").save(path)
    with pytest.raises(ValueError, match="no alpha channel"):
        read_object(tmp_path / "one", 32)
    with pytest.raises(FileNotFoundError, match=r"transforms_train\.json"):
        object_captures(tmp_path / "one" / "r_0.png")


def test_objects_are_held_out(views, tmp_path):
    for name in ("a", "b"):
        blender_capture(tmp_path / name, views)
    config = TrainTripoSRConfig(objects=tmp_path, held_out_objects=("b",), view_size=32)
    training_objects, held_out = split_objects(config)
    assert len(training_objects) == len(held_out) == 1
    with pytest.raises(ValueError, match="--held-out-objects c are not in"):
        split_objects(replace(config, held_out_objects=("c",)))
    with pytest.raises(ValueError, match="nothing is left to train on"):
        split_objects(replace(config, held_out_objects=("a", "b")))
    assert [len(part) for part in split_objects(TrainTripoSRConfig(procedural=11, views=2, view_size=16))] == [9, 2]


@pytest.mark.parametrize("name", ["triposr_small", "triposr_finetune"])
def test_configs_of_the_repository(name):
    config = read_config(Path(__file__).parents[2] / "configs" / "generator" / f"{name}.yaml")
    assert isinstance(config, TrainTripoSRConfig)
    config.sampling.check(config.view_size)
    config.optimisation.precision = "no"
    config.optimisation.check()


def test_the_command_trains_from_a_yaml(tmp_path, capsys):
    config = TrainTripoSRConfig(
        output=tmp_path, procedural=2, views=3, view_size=16, sampling=SAMPLING, optimisation=TINY
    )
    train_generator(config)
    assert "mean image" in capsys.readouterr().out
    assert load_network(str(tmp_path)).config["plane_size"] == 8
    assert (tmp_path / "samples.png").is_file()
