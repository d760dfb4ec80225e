"""Image operations on clips must move pixels and cameras together: warping commutes with all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from genfusion_ns.data.procedural_clips import procedural_pair
from genfusion_ns.geometry.cameras import Clip, References
from genfusion_ns.geometry.clip_pairs import (
    crop_clip,
    mirror_clip,
    mirror_references,
    resize_clip,
    resize_references,
    select_frames,
    select_references,
)
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
