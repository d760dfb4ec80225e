"""Warped photos against closed forms and against an exact renderer."""

from __future__ import annotations

import pytest
import torch

from genfusion_ns.data.clips.procedural import random_world, render_world
from genfusion_ns.geometry.cameras import project
from genfusion_ns.geometry.clips import References
from genfusion_ns.geometry.warping import fill_colours, fill_depth, warp_references

W, H, F = 32, 24, 40.0
K = torch.tensor([[F, 0, W / 2], [0, F, H / 2], [0, 0, 1]])


def shifted(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> torch.Tensor:
    """World-to-camera matrix of a camera at (x, y, z) that looks along +z."""
    viewmat = torch.eye(4)
    viewmat[:3, 3] = -torch.tensor([x, y, z])
    return viewmat


def ramp(width: int = W, height: int = H) -> torch.Tensor:
    """A photo whose colour is its own pixel position, so that bilinear look-up is exact inside."""
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([xs / width, ys / height, torch.zeros_like(xs)], dim=-1)


def photo_at(viewmat: torch.Tensor, image: torch.Tensor | None = None, intrinsics: torch.Tensor = K) -> References:
    return References((ramp() if image is None else image)[None], viewmat[None], intrinsics[None])


@pytest.mark.parametrize("depth", [1.5, 4.0])
def test_plane_shifts_by_the_disparity(depth: float) -> None:
    baseline_x, baseline_y = 0.2, -0.1
    plane = torch.full((1, H, W, 1), depth)
    warped = warp_references(plane, torch.eye(4)[None], K[None], photo_at(shifted(baseline_x, baseline_y)))
    expected = ramp() - torch.tensor([F * baseline_x / depth / W, F * baseline_y / depth / H, 0.0])
    inside = ((expected[..., :2] > 0.02) & (expected[..., :2] < 0.98)).all(-1)
    assert inside.float().mean() > 0.5
    assert (warped.rgb[0, 0] - expected)[inside].abs().max() < 1e-5
    outside = ((expected[..., :2] < -1e-4) | (expected[..., :2] > 1 + 1e-4)).any(-1)
    assert outside.any()
    assert not warped.valid[0, 0, ..., 0][outside].any()
    assert bool((warped.valid[0, 0, ..., 0][inside]).all())


def test_the_own_camera_gives_the_photo_back() -> None:
    generator = torch.Generator().manual_seed(0)
    photo = torch.rand(H, W, 3, generator=generator)
    depth = 1 + torch.rand(1, H, W, 1, generator=generator)
    viewmat = shifted(0.3, 0.2, -1.0)
    warped = warp_references(depth, viewmat[None], K[None], photo_at(viewmat, photo))
    assert (warped.rgb[0, 0] - photo).abs().max() < 1e-4
    assert bool(warped.valid.all())


def test_photos_of_another_size_and_focal_length() -> None:
    half = torch.diag(torch.tensor([0.5, 0.5, 1.0])) @ K
    plane = torch.full((1, H, W, 1), 2.0)
    photo = photo_at(torch.eye(4), ramp(W // 2, H // 2), half)
    warped = warp_references(plane, torch.eye(4)[None], K[None], photo)
    assert (warped.rgb[0, 0] - ramp())[2:-2, 2:-2].abs().max() < 1e-5


def test_points_behind_the_photo_and_unknown_depth_are_not_valid() -> None:
    depth = torch.full((1, H, W, 1), 2.0)
    depth[0, :, : W // 2] = 0
    behind = warp_references(depth, torch.eye(4)[None], K[None], photo_at(shifted(z=3.0)))
    assert not behind.valid.any()
    assert not behind.rgb.any()
    ahead = warp_references(depth, torch.eye(4)[None], K[None], photo_at(torch.eye(4)))
    assert not ahead.valid[0, 0, :, : W // 2].any()
    assert bool(ahead.valid[0, 0, :, W // 2 :].all())


def test_a_card_hides_the_wall_behind_it() -> None:
    depth = torch.full((1, H, W, 1), 4.0)
    depth[0, 8:16, 12:20] = 1.0
    camera = shifted(0.3)
    warped = warp_references(depth, torch.eye(4)[None], K[None], photo_at(camera))
    wall = depth[0, ..., 0] == 4
    pixels, _ = project(torch.tensor([0.0, 0.0, 1.0]), camera, K)
    # The wall point that the photo would see through the middle of the card.
    column = int(pixels[0] + F * 0.3 / 4)
    assert wall[12, column]
    assert bool(warped.valid[0, 0, 12, column])
    assert not warped.visible[0, 0, 12, column]
    assert bool(warped.visible[0, 0][~wall].all())
    assert warped.visible[0, 0][wall].float().mean() > 0.6
    transparent = warp_references(depth, torch.eye(4)[None], K[None], photo_at(camera), solid=depth > 2)
    assert bool(transparent.visible[0, 0, 12, column])


def test_warped_photos_agree_with_an_exact_renderer() -> None:
    generator = torch.Generator().manual_seed(3)
    world = random_world(generator)
    size, intrinsics = (96, 64), torch.tensor([[90.0, 0, 48], [0, 90, 32], [0, 0, 1]])
    cameras = torch.stack([shifted(), shifted(0.1, 0.05, 0.1), shifted(-0.15)])
    clip = render_world(world, cameras, intrinsics.expand(3, 3, 3), size)
    photo = References(clip.rgb[2:], cameras[2:], intrinsics[None])
    warped = warp_references(clip.depth[:2], cameras[:2], intrinsics.expand(2, 3, 3), photo)
    error = (warped.rgb[0] - clip.rgb[:2]).abs().mean(-1, keepdim=True)
    assert warped.visible.float().mean() > 0.5
    assert error[warped.visible[0]].median() < 0.02
    assert error[warped.visible[0]].mean() < 0.25 * error[~warped.visible[0]].mean()


def test_filled_depth_keeps_what_is_reliable_and_continues_it() -> None:
    depth = torch.full((2, 20, 28, 1), 3.0)
    weight = torch.ones_like(depth)
    weight[0, 5:12, 6:20] = 0.0
    broken = torch.where(weight > 0, depth, torch.tensor(0.7))
    assert (fill_depth(broken, weight) - depth).abs().max() < 1e-4
    weight[1] = 0.0
    assert not fill_depth(broken, weight)[1].any()
    varied = 1 + torch.rand(2, 20, 28, 1, generator=torch.Generator().manual_seed(0))
    kept = fill_depth(varied, weight)
    assert torch.equal(kept[weight > 0], varied[weight > 0])
    assert kept[0].min() >= varied[0].min() - 1e-5
    assert kept[0].max() <= varied[0].max() + 1e-5


def test_alignment_is_the_cosine_between_the_two_lines_of_sight() -> None:
    plane = torch.full((1, H, W, 1), 2.0)
    own = warp_references(plane, torch.eye(4)[None], K[None], photo_at(torch.eye(4)))
    assert torch.allclose(own.alignment[own.valid], torch.ones(()), atol=1e-6)
    aside = warp_references(plane, torch.eye(4)[None], K[None], photo_at(shifted(0.5)))
    x = (torch.arange(W) + 0.5 - W / 2) / F * 2
    y = torch.full((), (0.5 + H // 2 - H / 2) / F * 2)
    rays, others = (torch.stack([x - offset, y.expand(W), torch.full((W,), 2.0)], dim=-1) for offset in (0.0, 0.5))
    expected = torch.cosine_similarity(rays, others, dim=-1)
    seen = aside.valid[0, 0, H // 2, :, 0]
    assert seen.any()
    assert torch.allclose(aside.alignment[0, 0, H // 2, seen, 0], expected[seen], atol=1e-5)
    assert bool((aside.alignment[~aside.valid] == 0).all())


def test_colours_are_continued_into_holes_and_kept_where_covered() -> None:
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(2, 21, 34, 1, generator=generator)
    colour = torch.tensor([0.2, 0.5, 0.9])
    assert torch.allclose(fill_colours(colour * alpha, alpha), colour.expand(2, 21, 34, 3), atol=1e-5)
    picture = torch.rand(1, 21, 34, 3, generator=generator)
    covered = torch.ones(1, 21, 34, 1)
    assert torch.equal(fill_colours(picture, covered), picture)
    covered[:, 8:12, 10:20] = 0
    filled = fill_colours(picture * covered, covered)
    hole = covered[..., 0] == 0
    assert torch.equal(filled[~hole], picture[~hole])
    assert (filled[hole] - picture.mean((0, 1, 2))).abs().max() < 0.35, "between the colours around, not black"
    assert bool((fill_colours(torch.zeros(1, 5, 7, 3), torch.zeros(1, 5, 7, 1)) == 0).all())
