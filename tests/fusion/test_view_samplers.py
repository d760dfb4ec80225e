"""Sampled cameras stay in free space, condition on sensible views and keep the shape of the photos."""

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_files import real_capture

from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras, choose_references, clip_intrinsics
from genfusion_ns.fusion.cameras.framing import clip_size
from genfusion_ns.fusion.cameras.sparse import SparseSamplerConfig
from genfusion_ns.geometry.cameras import c2w_to_viewmat, look_at
from genfusion_ns.geometry.clear_paths import move_jumps, pull_to_clear
from genfusion_ns.geometry.depth import depth_to_points
from genfusion_ns.geometry.free_space import SeenSurfaces, clearance_test, clearings, free_space_test
from genfusion_ns.geometry.trajectories import follow_path

torch.set_num_threads(1)
UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
WIDTH, HEIGHT = 96, 64


@dataclass
class BoxRoom:
    """An empty room with solid boxes in it, whose depth maps are known in closed form."""

    size: torch.Tensor
    """Half extents of the room around the origin. [3]"""
    boxes: torch.Tensor
    """Lower and upper corners. [B, 2, 3]"""

    def is_free(self, points: torch.Tensor) -> torch.Tensor:
        inside = ((points[:, None] > self.boxes[:, 0]) & (points[:, None] < self.boxes[:, 1])).all(-1).any(1)
        return (points.abs() < self.size).all(-1) & ~inside

    def depth(self, viewmat: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
        y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
        rays = torch.stack([x, y, torch.ones_like(x)], dim=-1).double() @ torch.linalg.inv(K).T @ viewmat[:3, :3]
        origin = -viewmat[:3, :3].T @ viewmat[:3, 3]
        wall = torch.maximum((self.size - origin) / rays, (-self.size - origin) / rays).amin(-1)
        corners = (self.boxes[:, None, None] - origin) / rays[None, :, :, None]
        enter, leave = corners.amin(3).amax(-1), corners.amax(3).amin(-1)
        hit = torch.where((enter < leave) & (enter > 0), enter, torch.inf).amin(0)
        # z of a ray written as K^-1 (x, y, 1) is the ray parameter itself.
        return torch.minimum(wall, hit)[..., None]


def room() -> BoxRoom:
    """6 x 4 x 3 with a cupboard right before the middle of the view and a pillar between two of the cameras."""
    boxes = [[[0.6, -0.4, -1.5], [1.4, 0.5, 0.6]], [[-1.7, 0.35, -1.5], [-1.5, 0.6, 1.5]]]
    return BoxRoom(torch.tensor([3.0, 2.0, 1.5], dtype=torch.float64), torch.tensor(boxes, dtype=torch.float64))


def three_views() -> PhotoCameras:
    """Photographer between the wall x = -3 and the pillar, looking along +x through an 80 degree lens."""
    positions = torch.tensor([[-2.7, -1.2, 0.0], [-2.3, 0.1, 0.3], [-0.8, 0.9, -0.1]], dtype=torch.float64)
    c2w = look_at(positions, torch.tensor([2.0, 0.2, 0.0], dtype=torch.float64), UP)
    focal = 0.5 * WIDTH / math.tan(math.radians(40))
    K = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    return PhotoCameras(c2w, K.expand(3, 3, 3).clone(), [(WIDTH, HEIGHT)] * 3)


def seen(observed: PhotoCameras, scene: BoxRoom) -> SeenSurfaces:
    viewmats = c2w_to_viewmat(observed.c2w)
    depths = torch.stack([scene.depth(v, K) for v, K in zip(viewmats, observed.Ks, strict=True)])
    return SeenSurfaces(viewmats, observed.Ks, depths, torch.ones_like(depths))


def sample(observed, seed=0, round=0, is_clear=None, **config):
    sampler = SparseSamplerConfig(**config).setup(clip_length=16, resolution=(128, 80))
    return sampler.sample(observed, round, torch.Generator().manual_seed(seed), is_clear)


def test_free_space_is_never_claimed_where_there_is_none():
    scene, observed = room(), three_views()
    points = torch.rand(20000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    points = points * 1.3 * scene.size
    clear = free_space_test(points, seen(observed, scene), radius=0.15)
    assert scene.is_free(points[clear]).all()
    # And it is not shy: the larger part of the room that three lenses see between the boxes is recognised.
    assert clear[scene.is_free(points) & (points[:, 0] > -1.5)].double().mean() > 0.6


def test_free_space_around_and_between_cameras():
    scene, observed = room(), three_views()
    first, second, third = observed.c2w[:, :3, 3]
    data = seen(observed, scene)
    beside = first - torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.25, 0.0, 0.0]])
    assert free_space_test(beside, data, radius=0.15).tolist() == [True, True, False]
    # Nobody looks at the way between the first two cameras, but it is short of any surface.
    assert free_space_test(((first + second) / 2)[None], data, radius=0.15).all()
    # The pillar stands on the way between the last two, and the photographer cannot have walked through it.
    way = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    walk = second + way * (third - second)
    inside = ~scene.is_free(walk)
    assert inside.any() and not free_space_test(walk[inside], data, radius=0.05).any()


def test_uncovered_pixels_are_no_evidence():
    scene, observed = room(), three_views()
    surfaces = seen(observed, scene)
    nothing = replace(surfaces, alphas=0 * surfaces.alphas)
    point = torch.tensor([[-1.0, 0.0, 0.0]], dtype=torch.float64)
    assert free_space_test(point, surfaces, radius=0.1).item()
    assert not free_space_test(point, nothing, radius=0.1).item()


def test_what_views_see_is_worked_out_once_for_all_tests_of_places():
    surfaces = seen(three_views(), room())
    covered = torch.rand(surfaces.alphas.shape, generator=torch.Generator().manual_seed(0)) > 0.1
    surfaces = replace(surfaces, alphas=covered.double())
    around = torch.nn.functional.pad((surfaces.depths * covered)[..., 0], (1, 1, 1, 1), value=torch.inf)
    expected = around.unfold(1, 3, 1).unfold(2, 3, 1).amin((-1, -2))
    assert torch.equal(surfaces.nearest, expected)
    assert surfaces.nearest is surfaces.nearest and surfaces.walks[0] is surfaces.walks[0]


def test_only_frames_that_may_move_are_tested():
    """The frames near a blocked one are asked about again and again; those far from it once."""
    path = torch.eye(4, dtype=torch.float64).repeat(60, 1, 1)
    path[:, 0, 3] = torch.linspace(0, 6, 60)
    asked: list[int] = []

    def is_clear(poses: torch.Tensor) -> torch.Tensor:
        asked.append(len(poses))
        return (poses[:, :3, 3] - torch.tensor([3.0, 0.0, 0.0])).norm(dim=-1) > 0.25

    observed = torch.eye(4, dtype=torch.float64)[None].clone()
    observed[0, :3, 3] = torch.tensor([3.0, 1.0, 0.0])
    pulled = pull_to_clear(path, observed, is_clear, reach=8)
    blocked = int((pulled.pull > 0).sum())
    assert asked[0] == 60 and set(asked[1:8]) == {blocked} and set(asked[8:]) == {blocked + 16}
    still = torch.arange(60)[((path[:, 0, 3] - 3).abs() > 1.2)]
    assert torch.equal(pulled.c2w[still], path[still]) and bool(is_clear(pulled.c2w).all())


def test_clearings_hold_cameras_and_no_surface_that_is_seen():
    scene, observed = room(), three_views()
    surfaces = seen(observed, scene)
    clear = clearings(surfaces, 0.5)
    points = depth_to_points(surfaces.depths, surfaces.Ks, surfaces.viewmats).reshape(-1, 3)
    assert not clear.hold(points).any()
    wider = clearings(surfaces, 1.05)
    assert (torch.cdist(wider.centers, points) < wider.radii[:, None]).any(1).all(), (
        "nor are they smaller than they say"
    )
    assert clear.hold(observed.c2w[:, :3, 3]).all()
    torch.testing.assert_close(clearings(surfaces, 0.25).radii, clear.radii / 2)
    nothing = clearings(replace(surfaces, alphas=0 * surfaces.alphas), 0.5)
    assert not nothing.hold(points).any(), "background tells nothing"


def test_a_clearing_ends_before_what_another_camera_sees():
    """One camera looks at a wall 4 units away; 1 unit behind it another looks at something 0.6 units before itself."""
    away = torch.tensor([[-1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, -1], [0, 0, 0, 1]])
    K = torch.tensor([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]]).expand(2, 3, 3)
    depths = torch.full((2, 24, 32, 1), 4.0)
    alone = clearings(SeenSurfaces(torch.eye(4)[None], K[:1], depths[:1], torch.ones(1, 24, 32, 1)), 0.5)
    assert alone.radii.tolist() == pytest.approx([2.0], rel=1e-2)
    depths[1] = 0.6
    both = clearings(SeenSurfaces(torch.stack([torch.eye(4), away]), K, depths, torch.ones(2, 24, 32, 1)), 0.5)
    assert both.centers.tolist() == [[0, 0, 0], [0, 0, -1]]
    assert both.radii.tolist() == pytest.approx([0.8, 0.3], rel=1e-2)


@pytest.mark.parametrize("seed", range(6))
def test_forward_facing_views_keep_clear_of_walls_and_objects(seed):
    scene, observed = room(), three_views()
    # Departures larger than the room allows, so that the test has something to prevent.
    config = {"position_jitter": 1.0, "turn_jitter": 10.0, "num_frames": 48}
    free = sample(observed, seed, **config)
    kept = sample(observed, seed, is_clear=clearance_test(seen(observed, scene)), **config)
    assert kept.log["kind"] == "follow"
    assert scene.is_free(kept.c2w[:, :3, 3]).all()
    torch.testing.assert_close(torch.linalg.det(kept.c2w[:, :3, :3]), torch.ones(48, dtype=torch.float64))
    changed = (kept.c2w != free.c2w).flatten(1).any(1)
    assert changed.any() and kept.log["pulled_frames"] >= (~scene.is_free(free.c2w[:, :3, 3])).sum()
    # Where the pillar stands in the way there may be a jump, but never within a clip.
    steps = kept.c2w[:, :3, 3].diff(dim=0).norm(dim=-1)
    jumps = (steps > 3 * free.c2w[:, :3, 3].diff(dim=0).norm(dim=-1).max()).nonzero()[:, 0] + 1
    assert set(jumps.tolist()) <= {16, 32} and len(jumps) == kept.log["jumps"]


def test_the_room_does_catch_unchecked_paths():
    scene, observed = room(), three_views()
    paths = [sample(observed, seed, position_jitter=1.0, num_frames=48).c2w[:, :3, 3] for seed in range(6)]
    assert not scene.is_free(torch.cat(paths)).all()


def test_around_a_subject_hidden_is_allowed_but_behind_walls_is_not():
    scene = BoxRoom(
        torch.tensor([3.0, 3.0, 1.5], dtype=torch.float64),
        torch.tensor([[[-0.5, -0.5, -1.5], [0.5, 0.5, 0.5]]], dtype=torch.float64),
    )
    angle = 2 * math.pi * torch.arange(3) / 3 + 0.2
    positions = torch.stack([2.2 * angle.cos(), 2.2 * angle.sin(), 0.4 + 0 * angle], dim=-1).double()
    c2w = look_at(positions, torch.zeros(3, dtype=torch.float64), UP)
    observed = PhotoCameras(c2w, three_views().Ks, [(WIDTH, HEIGHT)] * 3)
    is_clear = clearance_test(seen(observed, scene))
    around = sample(observed, num_frames=32, is_clear=is_clear)
    assert around.log["kind"] == "arc" and around.log["pulled_frames"] == 0
    wide = sample(observed, num_frames=32, kind="ellipse", ellipse_scale=1.6, height_variation=0.0)
    kept = sample(observed, num_frames=32, kind="ellipse", ellipse_scale=1.6, height_variation=0.0, is_clear=is_clear)
    outside = ~scene.is_free(wide.c2w[:, :3, 3])
    assert outside.any() and scene.is_free(kept.c2w[:, :3, 3]).all()


def test_pull_leaves_clear_paths_alone_and_ends_at_a_camera_at_worst():
    observed = three_views().c2w
    path = follow_path(observed, 20, torch.Generator().manual_seed(1), position_jitter=0.3)
    untouched = pull_to_clear(path, observed, lambda c2w: torch.ones(len(c2w), dtype=torch.bool))
    assert torch.equal(untouched.c2w, path) and untouched.pull.max() == 0
    nowhere = pull_to_clear(path, observed, lambda c2w: torch.zeros(len(c2w), dtype=torch.bool))
    nearest = torch.cdist(nowhere.c2w.flatten(1), observed.flatten(1)).amin(1)
    assert nearest.max() == 0 and nowhere.pull.min() == 1


def test_pull_is_no_more_than_needed():
    observed = torch.eye(4, dtype=torch.float64)[None]
    path = torch.eye(4, dtype=torch.float64).repeat(41, 1, 1)
    path[:, 0, 3] = torch.linspace(-2, 2, 41)
    pulled = pull_to_clear(path, observed, lambda c2w: c2w[:, 0, 3] < 1)
    assert pulled.c2w[:, 0, 3].max() < 1 and pulled.c2w[-1, 0, 3] > 0.9
    assert torch.equal(pulled.c2w[:22], path[:22])
    assert pulled.c2w[:, 0, 3].diff().abs().max() < 0.11


def test_jumps_move_to_the_next_border_and_nothing_else_changes():
    path = torch.eye(4, dtype=torch.float64).repeat(32, 1, 1)
    path[:, 0, 3] = torch.arange(32)
    path[12:, 0, 3] += 50
    moved = move_jumps(path, [0, 16], 3.0, lambda c2w: torch.ones(len(c2w), dtype=torch.bool))
    torch.testing.assert_close(moved[:16, 0, 3], torch.linspace(0, 11, 16, dtype=torch.float64))
    torch.testing.assert_close(moved[16:, 0, 3], torch.linspace(62, 81, 16, dtype=torch.float64))
    smooth = path[:12]
    torch.testing.assert_close(move_jumps(smooth, [0], 3.0, lambda c2w: c2w[:, 0, 3] > -1), smooth)
    # Too near the end for a clip of its own: the shorter piece goes.
    path[:, 0, 3] = torch.arange(32)
    path[28:, 0, 3] += 50
    assert move_jumps(path, [0, 16], 3.0, lambda c2w: c2w[:, 0, 3] > -1)[:, 0, 3].max() == 27


def test_a_single_photo_gives_a_camera_that_stays():
    observed = three_views()
    single = PhotoCameras(observed.c2w[:1], observed.Ks[:1], observed.sizes[:1])
    views = sample(single, num_frames=16, turn_jitter=0.0)
    torch.testing.assert_close(views.c2w, observed.c2w[:1].expand(16, 4, 4))
    assert views.reference_ids == [[0]]


def around(count: int, focal: float) -> PhotoCameras:
    angle = 2 * math.pi * torch.arange(count) / count
    positions = torch.stack([angle.cos(), angle.sin(), 0.3 * angle.sin()], dim=-1).double()
    c2w = look_at(positions, torch.zeros(3, dtype=torch.float64), UP)
    K = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    return PhotoCameras(c2w, K.expand(count, 3, 3), [(WIDTH, HEIGHT)] * count)


@pytest.mark.parametrize(("kind", "sway"), [("arc", "sway"), ("ellipse", "height_variation")])
def test_rounds_differ_as_configured(kind, sway):
    logs = [sample(around(5, focal=20.0), round=k, kind=kind).log for k in range(7)]
    assert [abs(log["tilt_degrees"]) for log in logs] == pytest.approx([0, 2, 4, 6, 8, 10, 10])
    assert [log[sway] for log in logs] == pytest.approx([1.5, 1.3, 1.1, 0.9, 0.7, 0.5, 0.5])


def test_arcs_grow_outwards_from_round_to_round():
    reach = [sample(around(5, focal=20.0), round=k, kind="arc").log["beyond_degrees"] for k in range(6)]
    assert reach == [10, 15, 20, 25, 30, 30]


@pytest.mark.parametrize("kind", ["arc", "ellipse", "follow"])
def test_the_subject_stays_in_the_view_of_a_long_lens(kind):
    observed = around(5, focal=8 * HEIGHT)  # 7 degrees high
    for k in range(8):
        views = sample(observed, round=k, kind=kind, position_jitter=0.0)
        w2c = c2w_to_viewmat(views.c2w)
        subject = w2c[:, :3, 3] @ views.K[0].T
        pixels = subject[:, :2] / subject[:, 2:]
        assert ((pixels > 0) & (pixels < torch.tensor(views.size))).all()


def test_first_reference_is_the_view_itself_and_the_rest_add_coverage():
    angle = torch.arange(12) * math.pi / 6
    c2w = look_at(
        torch.stack([angle.cos(), angle.sin(), 0.2 + 0 * angle], dim=-1).double(),
        torch.zeros(3, dtype=torch.float64),
        UP,
    )
    for view in range(12):
        assert choose_references(c2w, c2w[view : view + 1].expand(16, 4, 4), 1) == [view]
    # Views 2 to 6 lie along the window; neighbours of the middle one would add less than its ends.
    chosen = choose_references(c2w, c2w[[2, 2, 2, 4, 6, 6, 6]], 3)
    assert chosen[0] == 4 and set(chosen[1:]) == {2, 6}
    assert sorted(choose_references(c2w, c2w[:3], 99)) == list(range(12))


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 1e3))
def test_references_do_not_depend_on_the_unit_of_length(unit):
    observed, path = (
        three_views().c2w,
        follow_path(three_views().c2w, 16, torch.Generator().manual_seed(2), position_jitter=0.2),
    )
    expected = choose_references(observed, path, 3)
    observed[:, :3, 3] *= unit
    path[:, :3, 3] *= unit
    assert choose_references(observed, path, 3) == expected


@settings(deadline=None)
@given(
    st.tuples(st.integers(100, 4000), st.integers(100, 4000)).filter(lambda s: 0.4 < s[0] / s[1] < 2.5),
    st.sampled_from([(256, 144), (512, 320), (960, 512)]),
    st.sampled_from([8, 16]),
)
def test_clip_size_keeps_shape_and_pixel_count(photo, resolution, multiple):
    width, height = clip_size(photo, resolution, multiple)
    assert width % multiple == 0 and height % multiple == 0
    assert width / height == pytest.approx(photo[0] / photo[1], rel=0.12)
    assert width * height == pytest.approx(resolution[0] * resolution[1], rel=0.3)


def test_clip_size_of_known_photos():
    assert clip_size((960, 512), (960, 512)) == (960, 512)
    width, height = clip_size((270, 480), (256, 144))
    assert (width, height) == (144, 256)
    with pytest.raises(ValueError, match=r"\(0, 10\)"):
        clip_size((0, 10), (256, 144))


def test_clip_intrinsics_are_the_median_of_the_commonest_size():
    K = torch.tensor([[100.0, 0, 48], [0, 101, 32], [0, 0, 1]])
    Ks = torch.stack([K, 1.1 * K, 0.9 * K, 50 * K])
    Ks[:, 2, 2] = 1
    observed = PhotoCameras(torch.eye(4).repeat(4, 1, 1), Ks, [(96, 64)] * 3 + [(4800, 3200)])
    frame, clip_K = clip_intrinsics(observed, (192, 128))
    size = frame.size
    assert size == (192, 128)
    torch.testing.assert_close(clip_K, torch.tensor([[200.0, 0, 96], [0, 202, 64], [0, 0, 1]]))


@pytest.mark.parametrize(("name", "kind"), [("fox", "follow"), ("stone_horse", "arc")])
@pytest.mark.parametrize("views", [3, 9])
def test_real_captures(name, kind, views):
    folder = real_capture(name)
    meta = json.loads((folder / "transforms.json").read_text())
    frames = sorted(meta["frames"], key=lambda f: f["file_path"])
    train = json.loads((folder / f"train_test_split_{views}.json").read_text())["train_ids"]
    c2w = torch.tensor([frames[i]["transform_matrix"] for i in train])
    K = torch.tensor([[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1]])
    observed = PhotoCameras(c2w, K.expand(views, 3, 3), [(meta["w"], meta["h"])] * views)
    for round in (0, 5):
        sampled = sample(observed, round=round)
        assert sampled.log["kind"] == kind
        assert sampled.size[0] / sampled.size[1] == pytest.approx(meta["w"] / meta["h"], rel=0.06)
        # Near the photographer: no further from the nearest photo than the photos are from each other at most.
        position, path = c2w[:, :3, 3], sampled.c2w[:, :3, 3]
        assert torch.cdist(path, position).amin(1).max() < torch.cdist(position, position).max()
        # The first reference of each window looks nearly as much the same way as any photo does.
        for window, ids in zip(sampled.windows, sampled.reference_ids, strict=True):
            angles = torch.arccos((c2w[:, :3, 2] @ sampled.c2w[window.start + 8, :3, 2]).clamp(-1, 1))
            assert angles[ids[0]] < angles.min() + math.radians(45)
            assert len(set(ids)) == 3
