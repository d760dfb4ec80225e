"""Novel views: the paths of the recording, and what holds for any capture."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from shared_files import recorded

from genfusion_ns.geometry.cameras import look_at, rigid_poses
from genfusion_ns.geometry.capture_shape import focus_point
from genfusion_ns.geometry.novel_views import Ellipse, NovelViews, nearest_cameras, pose_spline

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
STILL = {"position_jitter": 0.0, "up_jitter": 0.0, "lookat_jitter": 0.0}


@pytest.fixture(scope="module")
def recording() -> dict[str, torch.Tensor]:
    """Nine poses, and what the path helpers of multinerf make of them."""
    with np.load(recorded("siblings/novel_view_paths.npz")) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def near(value: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(value, expected, atol=1e-8, rtol=0)


def test_the_focus_is_that_of_the_recording(recording):
    near(focus_point(recording["poses"]), recording["focus"])


def test_ellipses_are_those_of_the_recording(recording):
    ellipse = Ellipse.of(recording["poses"])
    angles = torch.linspace(0, 2 * math.pi, 13, dtype=torch.float64)[:-1]
    near(ellipse.positions(angles), recording["ellipse_positions"])
    near(ellipse.positions(angles, 1.0, 0.25), recording["ellipse_zvar_positions"])
    near(ellipse.poses(ellipse.positions(angles))[:, :3], recording["ellipse_poses_opengl"])


def test_splines_are_those_of_the_recording(recording):
    near(pose_spline(recording["poses"], 32)[:, :3], recording["spline_poses"])
    exact = pose_spline(recording["poses"], 32, degree=3, smoothing=0.0)[:, :3]
    near(exact, recording["spline_exact_poses"])
    torch.testing.assert_close(exact[0], recording["poses"][0], atol=1e-6, rtol=0)


def ring(count: int, turn: float = 2 * math.pi) -> torch.Tensor:
    angles = torch.arange(count, dtype=torch.float64) * turn / count
    heights = 0.4 + 0.2 * torch.sin(2 * angles + 1)
    places = torch.stack([2.0 * torch.cos(angles), 1.5 * torch.sin(angles), heights], dim=1)
    return look_at(places, torch.zeros(3, dtype=torch.float64), UP)


def row(count: int) -> torch.Tensor:
    """Cameras beside each other that look ahead, slightly inwards."""
    x = torch.linspace(-1, 1, count, dtype=torch.float64)
    places = torch.stack([x, torch.zeros_like(x), 0.1 * torch.cos(3 * x)], dim=1)
    return look_at(places, torch.tensor([0.0, 5.0, 0.0], dtype=torch.float64), UP)


def walk(count: int) -> torch.Tensor:
    """Cameras that turn about themselves while they walk: no common focus."""
    t = torch.arange(count, dtype=torch.float64)
    places = torch.stack([t, 0.3 * torch.sin(t), 1 + 0.1 * torch.cos(t)], dim=1)
    ahead = torch.stack([torch.cos(1.3 * t), torch.sin(1.3 * t), 0 * t], dim=1)
    return look_at(places, places + ahead, UP)


CAPTURES = {"ellipse": ring(9), "forward": row(5), "spline": walk(8)}


@pytest.mark.parametrize("kind", CAPTURES)
def test_a_capture_gets_the_path_of_its_kind(kind):
    assert NovelViews.of(CAPTURES[kind]).kind == kind


@pytest.mark.parametrize("count", [2, 3, 4, 30])
@pytest.mark.parametrize("capture", [ring, row, walk])
def test_any_number_of_photos_has_rigid_novel_views(capture, count):
    views, generator = NovelViews.of(capture(count)), torch.Generator().manual_seed(0)
    for _ in range(20):
        pose = views.draw(generator)
        near(pose[:3, :3] @ pose[:3, :3].T, torch.eye(3, dtype=torch.float64))
        assert float(torch.linalg.det(pose[:3, :3])) > 0 and bool(torch.isfinite(pose).all())


@pytest.mark.parametrize("kind", CAPTURES)
def test_novel_views_move_turn_and_grow_with_the_capture(kind):
    rotation = torch.from_numpy(Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix())
    motion = rigid_poses(rotation, torch.tensor([3.0, -2.0, 7.0], dtype=torch.float64))
    moved = motion @ CAPTURES[kind]
    moved[:, :3, 3] *= 40
    here, there = NovelViews.of(CAPTURES[kind]), NovelViews.of(moved)
    for seed in range(8):
        expected = motion @ here.draw(torch.Generator().manual_seed(seed))
        expected[:3, 3] *= 40
        found = there.draw(torch.Generator().manual_seed(seed))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)


def test_without_jitter_they_lie_on_the_ellipse_and_look_at_the_focus():
    capture, generator = ring(9), torch.Generator().manual_seed(1)
    views = NovelViews.of(capture)
    for _ in range(10):
        pose = views.draw(generator, **STILL)
        towards = torch.nn.functional.normalize(focus_point(capture) - pose[:3, 3], dim=0)
        near(-pose[:3, 2], towards)
        assert abs(float(pose[2, 0])) < 1e-5, "the right axis is level"
        inside = (torch.linalg.inv(views.to_world) @ pose)[:2, 3] / views.scale
        on = ((inside - views.ellipse.focus[:2]) / views.ellipse.half_axes[:2]).square().sum()
        assert float(on) == pytest.approx(1, abs=1e-9)


def test_views_from_one_side_stand_beside_the_photos_and_look_ahead():
    capture, generator = row(5), torch.Generator().manual_seed(2)
    views = NovelViews.of(capture)
    ahead = -capture[:, :3, 2].mean(0)
    for _ in range(20):
        pose = views.draw(generator, **STILL, height_variation=0.0)
        assert float(-pose[:3, 2] @ ahead) > math.cos(math.radians(30))
        assert abs(float((pose[:3, 3] - capture[:, :3, 3].mean(0)) @ ahead)) < 1e-9


def test_the_jitter_is_as_large_as_it_says():
    capture = ring(9)
    views, generator = NovelViews.of(capture), torch.Generator().manual_seed(3)
    distance = float((capture[:, :3, 3] - focus_point(capture)).norm(dim=1).mean())
    assert views.distance * views.scale == pytest.approx(distance)
    settings = {"up_jitter": 0.0, "lookat_jitter": 0.0, "height_variation": 0.0}
    offsets = []
    for _ in range(400):
        pose = torch.linalg.inv(views.to_world) @ views.draw(generator, position_jitter=0.1, **settings)
        offsets.append(float(pose[2, 3]))
    assert max(map(abs, offsets)) <= 0.1 * distance and max(offsets) > 0.09 * distance > -min(offsets) / 1.2


@pytest.mark.parametrize("poses", [ring(1), ring(3)[:1].expand(4, 4, 4)])
def test_photos_from_one_place_have_no_novel_views(poses):
    with pytest.raises(ValueError, match="photos from several places"):
        NovelViews.of(poses)


def test_an_ellipse_needs_a_focus_before_the_cameras():
    with pytest.raises(ValueError, match="use spline"):
        NovelViews.of(walk(8), "ellipse")
    assert NovelViews.of(walk(8), "spline").kind == "spline"


def test_the_nearest_cameras_are_those_whose_centres_are_nearest():
    poses = ring(12)
    pose = poses[4].clone()
    pose[:3, 3] += 0.01 * pose[:3, 0]
    chosen = nearest_cameras(poses, pose, 3)
    assert chosen[0] == 4 and set(chosen) == {3, 4, 5}
    assert nearest_cameras(poses[:2], pose, 3) == nearest_cameras(poses[:2], pose, 2)


def test_of_equally_near_cameras_the_one_that_looks_more_alike_comes_first():
    places = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    targets = places + torch.tensor([[0.0, -1.0, 0.0], [0.1, 1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    pose = look_at(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), UP)[0]
    assert nearest_cameras(look_at(places, targets, UP), pose, 3) == [2, 1, 0]
