"""Seeds lie on the true surface although the repair knows depth only up to scale and shift, with wrong pixels in it."""

import math
import re

import pytest
import torch
from room_clips import FRAMES, HALF, HEIGHT, SCALE, SHIFT, WIDTH, repair, room_clip

from genfusion_ns.fusion.seeding import SeedingConfig, scene_bounds, seed_surfels
from genfusion_ns.geometry.clips import Clip, RepairedClip
from genfusion_ns.geometry.free_space import SeenSurfaces, seen_empty

torch.set_num_threads(1)
BOUNDS = torch.stack([-1.5 * HALF, 1.5 * HALF])


def seed(clip, repaired, bounds=BOUNDS, seed=0, **config):
    return seed_surfels(clip, repaired, bounds, SeedingConfig(**config), torch.Generator().manual_seed(seed))


def off_the_walls(points: torch.Tensor) -> torch.Tensor:
    """Distance to the surface of the room. [M]"""
    return (HALF - points.abs()).abs().amin(-1)


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_seeds_lie_on_the_true_surface_and_only_in_the_hole(wrong):
    clip, depth = room_clip()
    seeds = seed(clip, repair(depth, wrong))
    assert seeds.surfels is not None and seeds.reason is None
    assert seeds.log["scale"] == pytest.approx(SCALE, rel=0.01) and seeds.log["shift"] == pytest.approx(
        SHIFT, abs=0.005
    )
    points = seeds.surfels.means
    error = off_the_walls(points) / depth.median()
    assert error.median() < 2e-3
    assert torch.quantile(error, 0.95) < 0.02
    in_hole = (points[:, 0] > 0.98) | (points[:, 1] > 1.28)
    assert in_hole.float().mean() > (0.999 if wrong == 0 else 0.95)
    assert len(points) > 300


def test_every_frame_gives_seeds_and_no_surface_is_seeded_twice():
    clip, depth = room_clip(16)
    repaired = repair(depth)
    seeds = seed(clip, repaired).surfels
    assert seeds is not None
    colours = [{tuple(c) for c in frame.flatten(0, 1).tolist()} for frame in repaired.rgb]
    origin = [sum(tuple(c) in frame for c in seeds.colours.tolist()) for frame in colours]
    assert sum(origin) == len(seeds) and sum(count > 0 for count in origin) >= 8
    hole = int((clip.alpha < 0.1).sum())
    assert len(seeds) < 0.3 * hole / 4, "frames overlap, so there are far fewer seeds than holes on the grid"
    # What is seeded covers the hole all the same: each empty point of any frame has a seed within three radii.
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    for t in (0, 7, 15):
        rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.linalg.inv(clip.Ks[t]).T
        surface = ((depth[t] * rays) - clip.viewmats[t, :3, 3]) @ clip.viewmats[t, :3, :3]
        inner = (clip.alpha[t, ..., 0] < 0.1) & (x > 4) & (x < WIDTH - 4) & (y > 4) & (y < HEIGHT - 4)
        gap, nearest = torch.cdist(surface[inner], seeds.means).min(dim=1)
        assert (gap <= 3 * seeds.radius[nearest]).float().mean() > 0.98


def test_normals_radius_and_opacity_are_those_of_the_surface_seen():
    clip, depth = room_clip()
    seeds = seed(clip, repair(depth), stride=3, opacity=0.2).surfels
    assert seeds is not None and seeds.opacity == 0.2
    wall = (HALF - seeds.means.abs()).abs().argmin(-1)
    second = (HALF - seeds.means.abs()).abs().topk(2, largest=False).values[:, 1]
    cosine = seeds.normals.gather(1, wall[:, None])[:, 0].abs()
    assert (cosine[second > 0.1] > 0.99).float().mean() > 0.98
    distance = torch.cdist(seeds.means, -(clip.viewmats[:, :3, :3].mT @ clip.viewmats[:, :3, 3:])[..., 0])
    assert (seeds.radius <= 3 * distance.amax(1) / 60).all() and (seeds.radius >= 3 * 0.5 * distance.amin(1) / 60).all()


def test_colours_are_those_of_the_pixels_seeded():
    clip, depth = room_clip(1)
    repaired = repair(depth)
    seeds = seed(clip, repaired, stride=1).surfels
    assert seeds is not None
    camera = seeds.means @ clip.viewmats[0, :3, :3].T + clip.viewmats[0, :3, 3]
    pixel = (camera @ clip.Ks[0].T)[:, :2] / camera[:, 2:]
    torch.testing.assert_close(pixel % 1, torch.full_like(pixel, 0.5), rtol=0, atol=1e-2)
    column, row = pixel.long().unbind(-1)
    assert torch.equal(seeds.colours, repaired.rgb[0, row, column])
    assert (clip.alpha[0, row, column] < 0.1).all()


def test_nothing_behind_the_camera_at_infinity_or_before_the_lens():
    clip, depth = room_clip()
    repaired = repair(depth)
    zero = -SHIFT / SCALE  # repaired disparity of infinitely distant points
    for value, kept in ((zero + 1e-6, 0), (zero - 5e-3, 0), (0.9, 0), (0.0, 0), (zero + 1 / SCALE / 1.5, 1)):
        disparity = torch.where(clip.alpha < 0.1, value, repaired.disparity)
        seeds = seed(clip, RepairedClip(repaired.rgb, disparity, repaired.confidence))
        assert (seeds.surfels is not None) == bool(kept), value
        if not kept:
            assert re.search(r"of \d+ empty pixels \d+ are trusted and 0 have a sound depth", seeds.reason)


def test_a_sheet_of_far_outliers_does_not_take_the_rest_along():
    clip, depth = room_clip()
    repaired = repair(depth)
    repaired.disparity[:, :, 60:80] = torch.where(clip.alpha < 0.1, -SHIFT / SCALE + 1e-3, repaired.disparity)[
        :, :, 60:80
    ]
    seeds = seed(clip, repaired).surfels
    assert seeds is not None and off_the_walls(seeds.means).max() < 0.02
    assert (seeds.means.abs() <= BOUNDS[1]).all()


def test_stray_depths_and_flying_pixels_are_left_out():
    clip, depth = room_clip()
    true = repair(depth).disparity
    step = true.clone()
    step[:, :, 70:] = (0.9 / depth[:, :, 70:] * 2 - SHIFT) / SCALE
    step[:, :, 69] = (step[:, :, 68] + step[:, :, 70]) / 2
    step = torch.where(clip.alpha < 0.1, step, true)
    seeds = seed(clip, RepairedClip(torch.zeros(FRAMES, HEIGHT, WIDTH, 3), step, torch.ones_like(step)), stride=1)
    assert seeds.surfels is not None
    camera = seeds.surfels.means @ clip.viewmats[:, :3, :3].mT + clip.viewmats[:, None, :3, 3]
    pixel = (camera @ clip.Ks.mT)[..., :2] / camera[..., 2:]
    # In its own frame every seed lies at a pixel centre; none of them is one of the blended column.
    own = (((pixel % 1) - 0.5).abs().amax(-1) < 2e-3) & (camera[..., 2] > 0)
    assert own.any(0).all()
    blended = own & ((pixel[..., 0] - 69.5).abs() < 0.1)
    assert (blended.sum() / own.sum()) < 0.005


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda clip, r: (clip, RepairedClip(r.rgb, 1 - r.disparity, r.confidence)), "runs against"),
        (lambda clip, r: (clip, RepairedClip(r.rgb, torch.full_like(r.disparity, 0.4), r.confidence)), "scale 0"),
        (
            lambda clip, r: (clip, RepairedClip(r.rgb, r.disparity, torch.zeros_like(r.confidence))),
            "^0 pixels are dense and trusted enough for the alignment, 500 are needed",
        ),
        (
            lambda clip, r: (
                Clip(clip.rgb, clip.depth, torch.full_like(clip.alpha, 0.3), clip.viewmats, clip.Ks),
                r,
            ),
            "^0 pixels are dense",
        ),
        (
            lambda clip, r: (Clip(clip.rgb, clip.depth, torch.ones_like(clip.alpha), clip.viewmats, clip.Ks), r),
            "of 0 empty pixels",
        ),
    ],
    ids=["reversed", "flat", "untrusted", "faint", "full"],
)
def test_clips_that_cannot_be_used_are_refused_with_a_reason(change, reason):
    clip, depth = room_clip()
    seeds = seed(*change(clip, repair(depth)))
    assert seeds.surfels is None
    assert re.search(reason, seeds.reason)


def test_disagreement_is_refused():
    clip, depth = room_clip()
    seeds = seed(clip, repair(depth, wrong=0.75))
    assert seeds.surfels is None and ("of the pixels agree" in seeds.reason or "runs against" in seeds.reason)


def test_confidence_decides_pixel_by_pixel():
    clip, depth = room_clip(1)
    repaired = repair(depth)
    repaired.confidence[:, :, : WIDTH * 3 // 4] = 0.05
    seeds = seed(clip, repaired, min_pixels=1, min_inliers=0.0)
    camera = seeds.surfels.means @ clip.viewmats[0, :3, :3].T + clip.viewmats[0, :3, 3]
    assert ((camera @ clip.Ks[0].T)[:, 0] / camera[:, 2] > WIDTH * 3 // 4).all()


def test_the_limit_thins_all_parts_alike_and_seeding_is_reproducible():
    clip, depth = room_clip()
    repaired = repair(depth)
    full, few = seed(clip, repaired).surfels, seed(clip, repaired, max_new=200).surfels
    assert len(few) == 200 < len(full)
    spread = few.means.std(dim=0) / full.means.std(dim=0)
    assert (spread - 1).abs().max() < 0.25
    assert float(few.radius.square().sum()) == pytest.approx(float(full.radius.square().sum()), rel=0.1)
    again = seed(clip, repaired).surfels
    assert torch.equal(again.means, full.means)
    assert not torch.equal(seed(clip, repaired, seed=1).surfels.means, full.means)


def test_seeds_move_with_the_scene():
    clip, depth = room_clip()
    repaired = repair(depth)
    unit = 7.0
    viewmats = clip.viewmats.clone()
    viewmats[:, :3, 3] *= unit
    larger = Clip(clip.rgb, unit * clip.depth, clip.alpha, viewmats, clip.Ks)
    first, second = seed(clip, repaired).surfels, seed(larger, repaired, bounds=unit * BOUNDS).surfels
    assert abs(len(first) - len(second)) <= 0.01 * len(first)
    gap = torch.cdist(unit * first.means, second.means).amin(1)
    assert torch.quantile(gap, 0.98) < 1e-3 * unit


def test_bounds_hold_the_scene_but_not_its_outliers():
    generator = torch.Generator().manual_seed(0)
    cameras = torch.rand(20, 3, generator=generator) - 0.5
    points = 4 * torch.rand(5000, 3, generator=generator) - 2
    points[:50] *= 1000
    low, high = scene_bounds(cameras, points)
    assert (low < -2).all() and (high > 2).all() and (high - low).max() < 8
    shift = torch.tensor([3.0, -5.0, 100.0])
    torch.testing.assert_close(scene_bounds(cameras + shift, points + shift), torch.stack([low, high]) + shift)
    far_camera = torch.cat([cameras, torch.tensor([[10.0, 0, 0]])])
    assert scene_bounds(far_camera, points)[1, 0] > 10
    flat = scene_bounds(torch.tensor([[0.0, 0, 0], [4.0, 0, 0]]), torch.zeros(0, 3))
    assert (flat[1] - flat[0] > 0.5).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_alpha": 1.5}, r"seeding\.max_alpha is 1\.5; it must be from 0 to 1"),
        ({"min_inliers": -0.1}, r"seeding\.min_inliers is -0\.1"),
        ({"stride": 0}, r"seeding\.stride is 0; it must be at least 1"),
        ({"opacity": 0.0}, r"seeding\.opacity is 0\.0; it must be above 0"),
        ({"max_alpha": 0.6}, "cannot be empty and dense"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        SeedingConfig(**change)


def test_clip_and_repair_must_be_of_one_size():
    clip, depth = room_clip()
    with pytest.raises(ValueError, match="seeding needs both at one size"):
        seed(clip, repair(depth[:, :, ::2]))


def test_radius_in_closed_form_on_a_frontal_wall():
    depth = torch.full((1, 20, 30, 1), 3.0)
    alpha = torch.ones_like(depth)
    alpha[:, 4:16, 15:] = 0.0
    # A slope in the dense half gives the fit something to hold on to.
    rendered = depth + torch.linspace(-1, 1, 20)[None, :, None, None]
    true = torch.where(alpha > 0, rendered, depth)
    K = torch.tensor([[[25.0, 0, 15], [0, 25, 10], [0, 0, 1]]])
    clip = Clip(torch.zeros(1, 20, 30, 3), torch.where(alpha > 0, rendered, 0.0), alpha, torch.eye(4)[None], K)
    repaired = RepairedClip(torch.zeros(1, 20, 30, 3), (1 / true - 0.05) / 2, torch.ones_like(depth))
    bounds = torch.tensor([[-9.0, -9, -9], [9, 9, 9]])
    seeds = seed(clip, repaired, bounds, min_pixels=50).surfels
    assert seeds is not None and len(seeds) > 20
    torch.testing.assert_close(seeds.radius, torch.full_like(seeds.radius, 2 * 3.0 / 25), rtol=1e-3, atol=0)
    torch.testing.assert_close(seeds.means[:, 2], torch.full_like(seeds.radius, 3.0), rtol=1e-3, atol=0)
    assert math.isclose(float(seeds.normals[:, 2].abs().median()), 1.0, abs_tol=1e-3)


def test_nothing_can_be_where_a_photo_looks_through() -> None:
    """A wall 4 units before one camera: before it is empty; on it, behind it and beside the picture is not known."""
    viewmat, K = torch.eye(4)[None], torch.tensor([[[20.0, 0, 16], [0, 20, 12], [0, 0, 1]]])
    depths, alphas = torch.full((1, 24, 32, 1), 4.0), torch.ones(1, 24, 32, 1)
    points = torch.tensor(
        [[0, 0, 2.0], [0.5, 0.2, 3.5], [0, 0, 3.9], [0, 0, 4.0], [0, 0, 6.0], [9.0, 0, 2.0], [0, 0, -2]]
    )
    assert seen_empty(points, SeenSurfaces(viewmat, K, depths, alphas)).tolist() == [True, True] + [False] * 5
    assert not seen_empty(points, SeenSurfaces(viewmat, K, depths, 0 * alphas)).any(), "background tells nothing"
