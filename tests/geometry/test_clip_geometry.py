"""Image operations on clips must move pixels and cameras together: warping commutes with all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.geometry.clips import (
    Clip,
    References,
    crop_clip,
    mirror_clip,
    mirror_references,
    resize_clip,
    resize_references,
    select_frames,
    select_pair_frames,
    select_references,
)
from genfusion_ns.geometry.depth import depth_to_normals
from genfusion_ns.geometry.warping import warp_references

PAIR = procedural_pair(torch.Generator().manual_seed(0), frames=3, size=(64, 48))


def warp(clip: Clip, references: References) -> torch.Tensor:
    return warp_references(clip.depth, clip.viewmats, clip.Ks, references).rgb


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda clip: crop_clip(clip, 10, 6, 40, 30), lambda w: w[:, :, 6:36, 10:50]),
        (lambda clip: select_frames(clip, [2, 0]), lambda w: w[:, [2, 0]]),
        (lambda clip: select_frames(clip, slice(1, 3)), lambda w: w[:, 1:3]),
    ],
)
def test_warp_commutes_with_cutting(change: Callable, expected: Callable) -> None:
    assert (warp(change(PAIR.clean), PAIR.references) - expected(warp(PAIR.clean, PAIR.references))).abs().max() < 1e-3


def test_warp_commutes_with_mirroring() -> None:
    mirrored = warp(mirror_clip(PAIR.clean), mirror_references(PAIR.references))
    difference = (mirrored - warp(PAIR.clean, PAIR.references).flip(3)).abs()
    # A point on the border of a photo may round to either side.
    assert (difference > 1e-3).float().mean() < 1e-3


def test_mirrored_cameras_are_rigid_and_mirroring_twice_is_nothing() -> None:
    mirrored = mirror_clip(PAIR.clean)
    rotation = mirrored.viewmats[:, :3, :3]
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(3), atol=1e-5)
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(3, 3, 3), atol=1e-5)
    again = mirror_clip(mirrored)
    for name in ("rgb", "depth", "alpha", "viewmats", "Ks"):
        assert torch.allclose(getattr(again, name), getattr(PAIR.clean, name), atol=1e-5)
    photos = mirror_references(mirror_references(PAIR.references))
    assert torch.allclose(photos.viewmats, PAIR.references.viewmats)
    assert torch.equal(photos.rgb, PAIR.references.rgb)


def test_resizing_moves_intrinsics_along() -> None:
    smooth = warp(resize_clip(PAIR.clean, (32, 24)), resize_references(PAIR.references, (80, 60)))
    full = warp(PAIR.clean, PAIR.references)
    pooled = torch.nn.functional.avg_pool2d(full.flatten(0, 1).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert (smooth.flatten(0, 1) - pooled).abs().median() < 0.03
    assert resize_clip(PAIR.clean, PAIR.clean.size) is PAIR.clean


def test_select_references_keeps_cameras_with_photos() -> None:
    chosen = select_references(PAIR.references, [2, 0])
    assert torch.equal(chosen.rgb[0], PAIR.references.rgb[2])
    assert torch.equal(chosen.viewmats[1], PAIR.references.viewmats[0])


def with_normals(clip: Clip) -> Clip:
    return replace(clip, normals=depth_to_normals(clip.depth, clip.Ks, clip.viewmats))


def test_normals_move_with_pixels_and_scene() -> None:
    clip = with_normals(PAIR.clean)
    assert clip.normals is not None
    mirrored = mirror_clip(clip)
    expected = with_normals(mirror_clip(PAIR.clean)).normals
    assert mirrored.normals is not None and expected is not None
    assert (mirrored.normals - expected).abs().max() < 1e-3
    cut = select_frames(crop_clip(clip, 10, 6, 40, 30), [2, 0])
    assert torch.equal(cut.normals, clip.normals[[2, 0], 6:36, 10:50])  # type: ignore[arg-type]
    small = resize_clip(clip, (32, 24))
    assert small.normals is not None
    assert small.normals.shape == (3, 24, 32, 3)
    assert torch.allclose(small.normals.norm(dim=-1), torch.ones(3, 24, 32), atol=1e-4)


def test_seen_parts_stay_with_their_photos() -> None:
    seen = torch.zeros_like(PAIR.references.rgb[..., :1], dtype=torch.bool)
    seen[:, 10:30, 20:50] = True
    seen[1] = False
    photos = replace(PAIR.references, seen=seen)
    assert torch.equal(select_references(photos, [2, 1]).seen, seen[[2, 1]])  # type: ignore[arg-type]
    assert torch.equal(mirror_references(photos).seen, seen.flip(2))  # type: ignore[arg-type]
    small = resize_references(photos, (32, 24)).seen
    assert small is not None
    assert small[0, 6:14, 11:24].all()
    assert not small[0, :5].any() and not small[1].any()


def test_frames_of_pairs_are_selected_on_both_sides() -> None:
    part = select_pair_frames(PAIR, slice(1, 3))
    assert torch.equal(part.artifact.rgb, PAIR.artifact.rgb[1:])
    assert torch.equal(part.clean.viewmats, PAIR.clean.viewmats[1:])
    assert part.references is PAIR.references
