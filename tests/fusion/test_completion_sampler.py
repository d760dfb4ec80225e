"""Completion walks along the user's path with the user's lens, or along a loop, and explains paths of other worlds."""

import json
import math

import pytest
import torch

from genfusion_ns.data.camera_path import CameraPathError, read_camera_path
from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras, choose_references, clip_intrinsics
from genfusion_ns.fusion.cameras.completion import CompletionSamplerConfig
from genfusion_ns.fusion.cameras.path_check import path_misses_scene
from genfusion_ns.geometry.cameras import look_at
from genfusion_ns.geometry.trajectories import orbit_path

torch.set_num_threads(1)
UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
CENTER = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
RESOLUTION = (128, 80)


def arc(count: int, radius: float, height: float = 0.3, start: float = 0.0, span: float = 2 * math.pi) -> torch.Tensor:
    angle = start + span * torch.arange(count, dtype=torch.float64) / count
    circle = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.full_like(angle, height)], dim=-1)
    return look_at(CENTER + circle, CENTER, UP)


def views(c2w: torch.Tensor) -> PhotoCameras:
    K = torch.tensor([[90.0, 0, 48], [0, 90, 32], [0, 0, 1]], dtype=torch.float64)
    return PhotoCameras(c2w, K.expand(len(c2w), 3, 3).clone(), [(96, 64)] * len(c2w))


def ring() -> PhotoCameras:
    return views(arc(20, 1.0))


def walk() -> PhotoCameras:
    """A corridor along +x, looking ahead."""
    positions = torch.stack([torch.linspace(0, 3, 12), torch.zeros(12), torch.zeros(12)], dim=-1).double()
    return views(look_at(positions, positions + torch.tensor([1.0, 0.1, 0.0], dtype=torch.float64), UP))


@pytest.fixture
def saved(tmp_path):
    def to_file(c2w: torch.Tensor, fov: float = 60.0, aspect: float = 2.0):
        frames = [{"camera_to_world": pose.flatten().tolist(), "fov": fov, "aspect": aspect} for pose in c2w]
        file = tmp_path / "path.json"
        file.write_text(json.dumps({"camera_type": "perspective", "camera_path": frames}))
        return file

    return to_file


def sample(observed, round=0, is_clear=None, clip_length=16, **config):
    sampler = CompletionSamplerConfig(**config).setup(clip_length=clip_length, resolution=RESOLUTION)
    return sampler.sample(observed, round, torch.Generator().manual_seed(0), is_clear)


def test_rounds_walk_along_the_path_and_start_again(saved):
    path = arc(48, 0.9, span=4.0)
    file = saved(path)
    for round, first in ((0, 0), (1, 16), (2, 32), (3, 0)):
        sampled = sample(ring(), round, camera_path=file)
        torch.testing.assert_close(sampled.c2w, path[first : first + 16])
        assert sampled.log["path_frames"] == [first, first + 16] and len(sampled.K) == 16
        assert [w.frames(16) for w in sampled.windows] == [list(range(16))]


def test_a_path_that_does_not_divide_ends_with_a_shorter_part(saved):
    parts = [sample(ring(), k, camera_path=saved(arc(60, 0.9)), num_frames=40) for k in range(4)]
    assert [len(part.c2w) for part in parts] == [16, 16, 8, 16]
    assert parts[2].windows[0].frames(8) == list(range(8)) + [7] * 8
    assert [len(sample(ring(), frames_per_round=48, clip_length=8).windows)] == [6]


@pytest.mark.parametrize(("fov", "aspect"), [(60.0, 2.0), (35.0, 16 / 9), (90.0, 0.6)])
def test_angles_of_view_of_the_path_are_kept_exactly(saved, fov, aspect):
    sampled = sample(ring(), camera_path=saved(arc(20, 0.9), fov, aspect))
    width, height = sampled.size
    assert width / height == pytest.approx(aspect, rel=0.06) and width % 8 == height % 8 == 0
    assert width * height == pytest.approx(RESOLUTION[0] * RESOLUTION[1], rel=0.25)
    half = math.tan(math.radians(fov) / 2)
    for K in sampled.K:
        assert height / 2 / float(K[1, 1]) == pytest.approx(half)
        assert width / 2 / float(K[0, 0]) == pytest.approx(aspect * half)
        assert (float(K[0, 2]), float(K[1, 2])) == (width / 2, height / 2)


def test_a_loop_from_parameters_has_the_lens_of_the_photos():
    observed = ring()
    values = {"path_scale": 0.8, "rotation_angle": 90.0, "position_z_offset": 0.2, "distance": 0.1}
    sampled = sample(observed, round=1, num_frames=32, **values)
    expected = orbit_path(observed.c2w, 32, 0.8, rotation_angle=math.pi / 2, position_z_offset=0.2, distance=0.1)[16:]
    torch.testing.assert_close(sampled.c2w, expected)
    frame, K = clip_intrinsics(observed, RESOLUTION)
    size = frame.size
    assert sampled.size == size and torch.equal(sampled.K, K.expand(16, 3, 3))
    assert {name: sampled.log[name] for name in values} == values
    json.dumps(sampled.log)


def test_references_are_the_photos_nearest_to_each_clip():
    observed = ring()
    sampled = sample(observed, path_scale=1.0, rotation_angle=0.0, distance=0.0, frames_per_round=32, num_references=2)
    for window, chosen in zip(sampled.windows, sampled.reference_ids, strict=True):
        frames = sampled.c2w[window.start : window.start + 16]
        assert chosen == choose_references(observed.c2w, frames, 2) and len(set(chosen)) == 2


def test_loops_stay_in_free_space_and_paths_of_the_user_stay_as_they_are(saved):
    def is_clear(poses):
        return poses[:, 0, 3] <= 0.9

    clear_ring = views(arc(20, 1.0)[6:15])
    loop = sample(clear_ring, is_clear=is_clear, path_scale=1.0, distance=0.0, num_frames=16)
    assert is_clear(loop.c2w).all() and loop.log["pulled_frames"] > 0
    plain = sample(clear_ring, path_scale=1.0, distance=0.0, num_frames=16)
    direction, nearest = loop.c2w[:, :3, 2], plain.c2w[:, :3, 2]
    assert (direction @ nearest.T).amax(1).min() > math.cos(math.radians(12)), "cameras keep looking where they were to"
    path = arc(16, 1.0)
    followed = sample(clear_ring, is_clear=is_clear, camera_path=saved(path), num_frames=16)
    torch.testing.assert_close(followed.c2w, path)
    assert followed.log["frames_in_walls"] == int((~is_clear(path)).sum()) > 0


def moved(c2w: torch.Tensor, turn: torch.Tensor, unit: float, shift: tuple[float, float, float]) -> torch.Tensor:
    result = c2w.clone()
    result[:, :3, :3] = turn @ c2w[:, :3, :3]
    result[:, :3, 3] = unit * c2w[:, :3, 3] @ turn.T + torch.tensor(shift, dtype=torch.float64)
    return result


IDENTITY = torch.eye(3, dtype=torch.float64)
UPSIDE_DOWN = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("observed", "turn", "unit", "shift"),
    [
        (ring(), IDENTITY, 1.0, (30.0, 0.0, 0.0)),
        (ring(), IDENTITY, 12.0, (4.0, 1.0, -6.0)),
        (walk(), IDENTITY, 1.0, (0.0, 40.0, 0.0)),
        (walk(), torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)), 1.0, (-8.0, 0.0, 0.0)),
        (ring(), UPSIDE_DOWN, 8.0, (0.0, 0.0, 5.0)),
    ],
)
def test_paths_of_another_world_are_explained(saved, observed, turn, unit, shift):
    file = saved(moved(observed.c2w[:10], turn, unit, shift))
    with pytest.raises(ValueError, match="misses the scene") as error:
        sample(observed, camera_path=file)
    for word in (str(file), "orientation_method", "auto_scale_poses", "leave camera_path out"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    "path",
    [arc(12, 0.4), arc(12, 3.0), arc(12, 1.2, height=2.0), arc(9, 1.0, start=1.0, span=0.5)],
    ids=["close", "far", "above", "short"],
)
def test_paths_around_the_scene_are_accepted(saved, path):
    assert path_misses_scene(read_camera_path(saved(path)), ring()) is None


def test_a_path_may_look_away_as_long_as_one_camera_sees_the_scene(saved):
    away = arc(12, 1.0)
    away[:, :3, [0, 2]] *= -1  # half a turn about the own up axis
    outside = views(arc(12, 1.0)[:3])
    away_from_three = away[:2].clone()
    away_from_three[:, :3, 3] += 0.5 * away_from_three[:, :3, 3]
    problem = path_misses_scene(read_camera_path(saved(away_from_three)), outside)
    assert problem is not None and "looks at anything" in problem
    one_turned = torch.cat([away_from_three, arc(12, 1.0)[1:2]])
    assert path_misses_scene(read_camera_path(saved(one_turned)), outside) is None


def test_verdict_does_not_depend_on_the_unit_of_length(saved):
    def verdict(unit, path):
        scaled = moved(ring().c2w, IDENTITY, unit, (0.0, 0.0, 0.0))
        return path_misses_scene(read_camera_path(saved(moved(path, IDENTITY, unit, (0.0, 0.0, 0.0)))), views(scaled))

    near, far = arc(8, 3.0), moved(arc(8, 1.0), IDENTITY, 1.0, (9.0, 0.0, 0.0))
    for unit in (1e-2, 1.0, 1e3):
        assert verdict(unit, near) is None and verdict(unit, far) is not None


def test_a_single_photo_gives_nothing_to_judge_a_path_by(saved):
    far = moved(arc(8, 1.0), IDENTITY, 1.0, (90.0, 0.0, 0.0))
    assert path_misses_scene(read_camera_path(saved(far)), views(arc(1, 1.0))) is None


def test_a_path_with_another_vertical_is_noted(saved, capsys):
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    sampled = sample(ring(), camera_path=saved(moved(arc(12, 1.0), turn, 1.0, (0.0, 0.0, 0.0))))
    assert sampled.log["tilt_degrees"] == pytest.approx(90, abs=1)
    assert "another orientation_method" in capsys.readouterr().out
    assert sample(ring(), camera_path=saved(arc(12, 1.0))).log["tilt_degrees"] < 1


def test_bad_files_fail_before_training(tmp_path):
    with pytest.raises(CameraPathError, match="cannot be read"):
        CompletionSamplerConfig(camera_path=tmp_path / "none.json").setup(clip_length=16, resolution=RESOLUTION)
