"""Camera paths: rigid, equivariant, looking where they should; windows that partition a path."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_files import real_capture, recorded

from genfusion_ns.geometry.cameras import look_at
from genfusion_ns.geometry.capture_shape import capture_shape, focus_point, mean_up, pose_distances, surrounds_focus
from genfusion_ns.geometry.trajectories import ellipse_path, follow_path, orbit_path, spline_path, visiting_order
from genfusion_ns.geometry.windows import clip_windows, published_windows

torch.set_num_threads(1)
CAPTURES = ("ring", "arc", "three", "fox", "stone_horse")


def ring(count: int, seed: int = 0, span: float = 2 * math.pi, axes=(3.0, 2.0)) -> torch.Tensor:
    """Cameras on an uneven horizontal ellipse around (1, -2, 0.5), looking at its middle; z is up."""
    generator = torch.Generator().manual_seed(seed)
    angle = span * (torch.arange(count) + 0.3 * torch.rand(count, generator=generator)) / count
    height = 1.0 + 0.4 * torch.rand(count, generator=generator)
    position = torch.stack([axes[0] * angle.cos(), axes[1] * angle.sin(), height], dim=-1).double()
    center = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return look_at(position + center, center, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


def scene(name: str) -> torch.Tensor:
    folder = real_capture(name)
    frames = sorted(json.loads((folder / "transforms.json").read_text())["frames"], key=lambda f: f["file_path"])
    return torch.tensor([f["transform_matrix"] for f in frames], dtype=torch.float64)


def capture(name: str) -> torch.Tensor:
    synthetic = {"ring": (11, 0), "arc": (7, 1, 1.2), "three": (3, 2)}
    return ring(*synthetic[name]) if name in synthetic else scene(name)


def similarity(seed: int) -> tuple[torch.Tensor, float]:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = rotation * torch.linalg.det(rotation)
    motion[:3, 3] = 5 * torch.randn(3, generator=generator, dtype=torch.float64)
    return motion, float(torch.rand(1, generator=generator)) * 3 + 0.2


def moved(c2w: torch.Tensor, motion: torch.Tensor, unit: float) -> torch.Tensor:
    scaled = c2w.clone()
    scaled[:, :3, 3] *= unit
    return motion @ scaled


def make_path(kind: str, c2w: torch.Tensor, num: int = 24) -> torch.Tensor:
    if kind == "ellipse":
        return ellipse_path(c2w, num, height_variation=0.8, phase=0.3, tilt=0.05)
    if kind == "spline":
        return spline_path(c2w, num)
    if kind == "orbit":
        return orbit_path(c2w, num, 0.9, rotation_angle=0.4, position_z_offset=0.3, distance=0.2)
    return follow_path(c2w, num, torch.Generator().manual_seed(4), position_jitter=0.3, turn_jitter=0.1)


@pytest.mark.parametrize("kind", ["ellipse", "spline", "follow", "orbit"])
@pytest.mark.parametrize("name", CAPTURES)
def test_paths_are_rigid_and_never_mirrored(kind, name):
    path = make_path(kind, capture(name))
    rotation = path[:, :3, :3]
    identity = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, identity, rtol=0, atol=1e-9)
    assert (torch.linalg.det(rotation) > 0).all()
    assert torch.equal(path[:, 3], torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(24, 4))
    assert make_path(kind, capture(name).float()).dtype == torch.float32


@pytest.mark.parametrize("kind", ["ellipse", "spline", "follow", "orbit"])
@pytest.mark.parametrize("name", CAPTURES)
def test_moving_the_capture_moves_the_path(kind, name):
    c2w = capture(name)
    motion, unit = similarity(9)
    expected = moved(make_path(kind, c2w), motion, unit)
    torch.testing.assert_close(make_path(kind, moved(c2w, motion, unit)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["ellipse", "spline", "follow"])
def test_frames_follow_each_other_closely(kind):
    path = make_path(kind, capture("ring"), num=60)
    steps = path[:, :3, 3].diff(dim=0).norm(dim=-1)
    assert steps.max() < 3 * steps.mean()
    turns = 1 - (path[1:, :3, 2] * path[:-1, :3, 2]).sum(-1)
    assert turns.max() < 1 - math.cos(math.radians(25))


def test_ellipse_looks_at_the_focus_upright_and_closes():
    c2w = capture("ring")
    shape = capture_shape(c2w)
    path = ellipse_path(c2w, 30)
    toward = torch.nn.functional.normalize(shape.focus - path[:, :3, 3], dim=-1)
    torch.testing.assert_close(-path[:, :3, 2], toward)
    assert (path[:, :3, 0] @ shape.up).abs().max() < 1e-9 and (path[:, :3, 1] @ shape.up).min() > 0
    steps = torch.cat([path, path[:1]])[:, :3, 3].diff(dim=0).norm(dim=-1)
    assert (steps - steps.mean()).abs().max() < 0.02 * steps.mean()


def test_ellipse_of_an_exact_ellipse():
    # Densely photographed, the path comes back to the cameras' own curve; |cos| exceeds 0.988 a tenth of the time.
    c2w = ring(400)
    c2w[:, :3, 3] = c2w[:, :3, 3] * torch.tensor([1.0, 1.0, 0.0]) + torch.tensor([0.0, 0.0, 2.0])
    focus = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    c2w = look_at(c2w[:, :3, 3], focus, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    path = ellipse_path(c2w, 40)[:, :3, 3] - focus
    radius = (path[:, 0] / 3).square() + (path[:, 1] / 2).square()
    assert radius.min() > 0.988**2 - 0.005 and radius.max() < 1.005
    torch.testing.assert_close(path[:, 2], torch.full_like(path[:, 2], 1.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["ring", "three", "stone_horse"])
def test_ellipse_comes_no_nearer_to_the_focus_than_the_cameras(name):
    c2w = capture(name)
    shape = capture_shape(c2w)

    def distances(poses):
        offset = poses[:, :3, 3] - shape.focus
        return (offset - (offset @ shape.up)[:, None] * shape.up).norm(dim=-1)

    assert distances(ellipse_path(c2w, 60)).min() >= distances(c2w).min() - 1e-9
    assert distances(ellipse_path(c2w, 60)).max() <= distances(c2w).max() * 1.1
    half = distances(ellipse_path(c2w, 60, scale=0.5)) / distances(ellipse_path(c2w, 60))
    torch.testing.assert_close(half, torch.full_like(half, 0.5), rtol=0, atol=0.02)


def test_ellipse_of_a_lopsided_capture_is_lopsided():
    # Far cameras on one side, near ones on the other: the loop must not send far cameras to the near side.
    direction = torch.tensor([[4.0, 0.3, 1], [3.5, -1.5, 1], [3.5, 1.5, 1], [-1.0, 0.4, 1], [-0.9, -0.6, 1]]).double()
    path = ellipse_path(
        look_at(direction, torch.tensor([0.0, 0.0, 1.0]).double(), torch.tensor([0.0, 0, 1]).double()), 40
    )
    assert path[:, 0, 3].min() > -1.2 and 3.5 < path[:, 0, 3].max() < 4.2


def test_ellipse_heights_scale_the_deviation_not_the_height():
    c2w = capture("ring")
    up = mean_up(c2w)
    heights = c2w[:, :3, 3] @ up
    low, high = torch.quantile(heights, torch.tensor([0.1, 0.9], dtype=torch.float64))
    for variation in (0.0, 0.5, 1.0):
        path = ellipse_path(c2w, 64, height_variation=variation)[:, :3, 3] @ up
        torch.testing.assert_close((path.max() + path.min()) / 2, (low + high) / 2, rtol=0, atol=0.01)
        torch.testing.assert_close(path.max() - path.min(), variation * (high - low), rtol=0, atol=0.01)


def test_tilt_raises_the_view():
    c2w = capture("ring")
    level, raised = ellipse_path(c2w, 8), ellipse_path(c2w, 8, tilt=0.2)
    torch.testing.assert_close(raised[:, :3, 3], level[:, :3, 3])
    cosine = (level[:, :3, 2] * raised[:, :3, 2]).sum(-1)
    torch.testing.assert_close(cosine, torch.full_like(cosine, math.cos(0.2)))
    assert ((level[:, :3, 2] - raised[:, :3, 2]) @ mean_up(c2w) > 0).all()


def level_ring(radius: float = 2.0, height: float = 0.0, count: int = 36) -> torch.Tensor:
    """Cameras on a circle about the vertical through (1, -2, 0.5), looking at that point; z is up."""
    angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    center = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    circle = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.full_like(angle, height)], dim=-1)
    return look_at(center + circle, center, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("path_scale", [0.3, 1.0, 1.5])
def test_orbit_of_a_ring_is_a_ring_of_the_scaled_radius(path_scale):
    c2w = level_ring(height=0.6)
    focus = focus_point(c2w)
    offset = orbit_path(c2w, 20, path_scale)[:, :3, 3] - focus
    torch.testing.assert_close(offset[:, :2].norm(dim=1), torch.full((20,), 2.0 * path_scale, dtype=torch.float64))
    torch.testing.assert_close(offset[:, 2], torch.full((20,), 0.6, dtype=torch.float64))


@pytest.mark.parametrize("height", [0.0, 0.8])
def test_orbit_turned_by_a_right_angle_looks_along_the_loop_to_its_left(height):
    c2w = level_ring(height=height)
    path = orbit_path(c2w, 16, 1.0, rotation_angle=math.pi / 2)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    inward = torch.nn.functional.normalize((focus_point(c2w) - path[:, :3, 3]) * torch.tensor([1.0, 1.0, 0.0]), dim=-1)
    left = torch.linalg.cross(up.expand_as(inward), inward)
    level = torch.nn.functional.normalize(-path[:, :3, 2] * torch.tensor([1.0, 1.0, 0.0]), dim=-1)
    torch.testing.assert_close(level, left)
    assert path[:, 2, 0].abs().max() < 1e-12, "the cameras must not roll"


def test_orbit_shifts_are_in_units_of_the_distance_to_the_focus():
    c2w = level_ring(radius=3.0, height=4.0)
    focus, plain = focus_point(c2w), orbit_path(c2w, 12, 1.0)
    raised = orbit_path(c2w, 12, 1.0, position_z_offset=0.2)
    expected = plain[:, :3, 3] + torch.tensor([0.0, 0.0, 0.2 * 5.0], dtype=torch.float64)
    torch.testing.assert_close(raised[:, :3, 3], expected)
    for distance in (0.4, -0.4):
        moved_away = orbit_path(c2w, 12, 1.0, distance=distance)[:, :3, 3] - focus
        torch.testing.assert_close(moved_away, (1 + distance) * (plain[:, :3, 3] - focus))
    toward = torch.nn.functional.normalize(focus - raised[:, :3, 3], dim=-1)
    torch.testing.assert_close(-raised[:, :3, 2], toward)


def test_orbit_refuses_a_scale_that_leaves_no_loop():
    with pytest.raises(ValueError, match=r"path_scale is 0\.0; it must be above 0"):
        orbit_path(level_ring(), 8, 0.0)
    with pytest.raises(ValueError, match=r"distance is -0\.5; it must be above -0\.5, where cameras pass"):
        orbit_path(level_ring(), 8, 0.5, distance=-0.5)


def test_up_is_vertical_although_cameras_look_down_from_one_side():
    c2w = ring(5, span=1.8)
    c2w = look_at(
        c2w[:, :3, 3] + torch.tensor([0.0, 0.0, 2.0]),
        torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64),
        torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
    )
    plain = torch.nn.functional.normalize(c2w[:, :3, 1].mean(0), dim=0)
    assert plain[2] < math.cos(math.radians(20))
    assert mean_up(c2w)[2] > math.cos(math.radians(4))


def test_up_needs_a_common_vertical():
    c2w = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    c2w[1, :3, :3] = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="2 cameras cancel"):
        mean_up(c2w)
    assert capture_shape(c2w).up is None and not surrounds_focus(c2w)


def test_focus_of_converging_and_of_parallel_axes():
    torch.testing.assert_close(focus_point(ring(6)), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    parallel = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    parallel[:, 0, 3] = torch.tensor([0.0, 1.0, 5.0])
    torch.testing.assert_close(focus_point(parallel), torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64))


def test_focus_agrees_with_the_published_path_helper():
    data = np.load(recorded("siblings/novel_view_paths.npz"))
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(data["poses"]), 1, 1)
    c2w[:, :3] = torch.from_numpy(data["poses"])
    torch.testing.assert_close(focus_point(c2w), torch.from_numpy(data["focus"]), rtol=0, atol=1e-8)


def test_which_captures_surround_their_focus():
    assert surrounds_focus(ring(12)) and surrounds_focus(ring(3))
    assert not surrounds_focus(ring(12, span=2.0))
    outward = ring(12)
    outward[:, :3, [0, 2]] *= -1  # half a turn about the own up axis
    assert not surrounds_focus(outward)
    single = ring(1)
    assert capture_shape(single).largest_gap == pytest.approx(2 * math.pi)
    assert not surrounds_focus(single)


def test_real_captures_are_told_apart():
    for name, surrounded in (("stone_horse", True), ("lego", True), ("fox", False)):
        c2w = scene(name)
        assert surrounds_focus(c2w) == surrounded
        for views in (3, 6, 9):
            split = json.loads((real_capture(name) / f"train_test_split_{views}.json").read_text())
            assert surrounds_focus(c2w[split["train_ids"]]) == surrounded, (name, views)


def test_spline_starts_and_ends_at_its_keyframes_and_passes_the_others():
    c2w = capture("arc")
    path = spline_path(c2w, 400)
    torch.testing.assert_close(path[0], c2w[0])
    torch.testing.assert_close(path[-1], c2w[-1])
    assert pose_distances(c2w, path).min(dim=1).values.max() < 0.01


def test_spline_of_degenerate_keyframes():
    c2w = capture("arc")
    assert torch.equal(spline_path(c2w[:1], 5), c2w[:1].expand(5, 4, 4))
    torch.testing.assert_close(spline_path(c2w[[0, 0, 1, 1, 1, 2]], 9), spline_path(c2w[:3], 9))
    turning = c2w[:3].clone()
    turning[:, :3, 3] = turning[0, :3, 3]
    path = spline_path(turning, 7)
    torch.testing.assert_close(path[:, :3, 3], turning[:1, :3, 3].expand(7, 3))
    steps = (path[1:, :3, :3] - path[:-1, :3, :3]).flatten(1).norm(dim=1)
    assert (steps - steps.mean()).abs().max() < 0.05 * steps.mean()


def test_visiting_order_undoes_a_shuffle_of_a_line():
    c2w = torch.eye(4, dtype=torch.float64).repeat(9, 1, 1)
    place = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    c2w[:, 0, 3] = place.double()
    steps = place[visiting_order(c2w)].diff()
    assert (steps == 1).all() or (steps == -1).all()


def test_following_without_jitter_visits_every_view_and_is_seeded():
    c2w = capture("arc")
    path = follow_path(c2w, 200, torch.Generator().manual_seed(0))
    assert pose_distances(c2w, path).min(dim=1).values.max() < 0.05
    jittered = [make_path("follow", c2w) for _ in range(2)]
    assert torch.equal(*jittered)
    other = follow_path(c2w, 24, torch.Generator().manual_seed(5), position_jitter=0.3, turn_jitter=0.1)
    assert not torch.allclose(other, jittered[0], atol=1e-3)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**20), st.floats(0.0, 1.0))
def test_departures_stay_within_the_jitter(seed, jitter):
    c2w = capture("arc")
    spacing = float(torch.cdist(c2w[:, :3, 3], c2w[:, :3, 3]).fill_diagonal_(math.inf).amin(1).median())
    base = follow_path(c2w, 40, torch.Generator().manual_seed(seed))
    path = follow_path(c2w, 40, torch.Generator().manual_seed(seed), position_jitter=jitter)
    assert (path - base)[:, :3, 3].norm(dim=-1).max() <= math.sqrt(3) * jitter * spacing + 1e-9


def test_paths_need_a_frame():
    for build in (lambda: ellipse_path(ring(4), 0), lambda: spline_path(ring(4), 0)):
        with pytest.raises(ValueError, match="num is 0"):
            build()


@given(st.integers(1, 400), st.integers(1, 24))
def test_windows_partition_the_path_without_redundancy(num_frames, length):
    windows = clip_windows(num_frames, length)
    assert [frame for w in windows for frame in w.new_frames(num_frames)] == list(range(num_frames))
    assert len(windows) == math.ceil(num_frames / length)
    assert all(len(w.new_frames(num_frames)) > 0 for w in windows)
    assert all(len(w.frames(num_frames)) == length and max(w.frames(num_frames)) < num_frames for w in windows)
    overlaps = [w.new_from for w in windows[1:]]
    assert not overlaps or max(overlaps) - min(overlaps) <= 1


def test_windows_in_particular():
    assert [(w.start, w.new_from) for w in clip_windows(16)] == [(0, 0)]
    assert [w.start for w in clip_windows(85)] == [0, 14, 28, 41, 55, 69]
    assert clip_windows(3)[0].frames(3) == [0, 1, 2, *[2] * 13]
    assert [(w.start, w.new_from) for w in clip_windows(80, max_windows=3)] == [(0, 0), (32, 0), (64, 0)]
    for arguments in ((0,), (10, 0), (10, 4, 0)):
        with pytest.raises(ValueError, match="is 0"):
            clip_windows(*arguments)


def test_no_more_windows_than_the_published_rule():
    windows = json.loads(recorded("generation/overlap_windows.json").read_text())
    for frames, (starts, _) in windows.items():
        ours = clip_windows(int(frames))
        assert len(ours) <= len(starts)
        assert (ours[0].start, ours[-1].start) == (starts[0], starts[-1])


def test_the_published_windows_are_those_that_were_recorded():
    windows = json.loads(recorded("generation/overlap_windows.json").read_text())
    for frames, (starts, overlaps) in windows.items():
        ours = published_windows(int(frames))
        assert [window.start for window in ours] == starts
        assert [window.new_from for window in ours] == overlaps


@given(st.integers(1, 500), st.integers(2, 24))
def test_published_windows_hold_each_frame_once(num_frames, length):
    windows = published_windows(num_frames, length)
    assert [frame for w in windows for frame in w.new_frames(num_frames)] == list(range(num_frames))
    assert len(windows) >= len(clip_windows(num_frames, length))
    assert all(w.start >= 0 and w.new_from <= w.length == length for w in windows)
