"""The contract of all repairers: what `VideoRepairer` promises, and that declared capabilities are true.

A new kind of prior gets one line in `MAKERS`; every promise then runs on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest
import torch
from dynamicrafter_toys import toy_pipeline
from tiny_run import toy_network

from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.geometry.clips import (
    Clip,
    References,
    RepairedClip,
    crop_clip,
    resize_clip,
    select_frames,
    select_references,
)
from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.geometry.images import resize_images
from genfusion_ns.priors.base import ContinuingRepairer, VideoRepairer
from genfusion_ns.priors.compact.repairer import CompactRepairer
from genfusion_ns.priors.config import KINDS, RepairerConfig, build_repairer
from genfusion_ns.priors.dynamicrafter.repairer import DynamiCrafterRepairer
from genfusion_ns.priors.dynamicrafter.sampling import Sampling
from genfusion_ns.priors.identity import IdentityRepairer
from genfusion_ns.priors.without_cameras import clip_without_cameras, photos_without_cameras

PAIR = procedural_pair(torch.Generator().manual_seed(1), frames=4, size=(64, 48))
CLIP, PHOTOS = PAIR.artifact, PAIR.references
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def dynamicrafter(device: str) -> DynamiCrafterRepairer:
    repairer = DynamiCrafterRepairer(toy_pipeline(), Sampling(steps=2), device, resolution=(64, 64))
    repairer.clip_length = 4
    return repairer


MAKERS: dict[str, Callable[[str], VideoRepairer]] = {
    "none": lambda _: IdentityRepairer((64, 48)),
    "compact": lambda device: CompactRepairer(toy_network(trained=True), 2, device, (64, 48)),
    "compact of the package": lambda device: build_repairer(RepairerConfig("compact", dtype="fp32"), device),
    "dynamicrafter": dynamicrafter,
}
"""All repairers, on a device; networks of toy size with random weights unless they come with the package."""
DRAWN = ("compact", "dynamicrafter")
"""Those whose repair is drawn; the generator that comes with the package selects, which leaves nothing to chance."""
PARTS = ("rgb", "disparity", "confidence")


@cache
def made(name: str, device: str = "cpu") -> VideoRepairer:
    return MAKERS[name](device)


@pytest.fixture(params=MAKERS)
def repairer(request: pytest.FixtureRequest) -> VideoRepairer:
    return made(request.param)


@pytest.fixture(params=[name for name in MAKERS if name != "compact"])
def trained(request: pytest.FixtureRequest) -> VideoRepairer:
    """A repairer whose weights show its capabilities: of `compact`, those of the package, for random ones know none."""
    return made(request.param)


def repair(repairer: VideoRepairer, clip: Clip = CLIP, photos: References = PHOTOS, seed: int = 0) -> RepairedClip:
    return repairer.repair(clip, photos, torch.Generator().manual_seed(seed))


def same(a: RepairedClip, b: RepairedClip) -> bool:
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in PARTS)


def check_form(repaired: RepairedClip, clip: Clip) -> None:
    for part, channels in zip(PARTS, (3, 1, 1), strict=True):
        images = getattr(repaired, part)
        assert images.shape == (*clip.rgb.shape[:3], channels), part
        assert images.device == clip.rgb.device and images.dtype == torch.float32, part
        assert torch.isfinite(images).all() and images.min() >= 0 and images.max() <= 1, part


def test_every_kind_is_here() -> None:
    repairers = {name for name, options in KINDS.items() if not options.draws_views}
    assert {made(name).name for name in MAKERS} == repairers


def test_declared_attributes(repairer: VideoRepairer) -> None:
    assert isinstance(repairer, VideoRepairer)
    assert repairer.clip_length >= 1
    assert len(repairer.resolution) == 2 and min(repairer.resolution) >= 16
    assert repairer.capabilities == KINDS[repairer.name].capabilities, "what a run counts on before one is built"


@pytest.mark.parametrize(
    ("frames", "size"), [(1, (64, 48)), (3, (37, 29)), (4, (16, 9)), (2, (30, 70)), (5, (200, 100))]
)
def test_clips_of_any_length_and_size_keep_their_shape(
    repairer: VideoRepairer, frames: int, size: tuple[int, int]
) -> None:
    clip = select_frames(PAIR.artifact, [frame % len(CLIP) for frame in range(frames)])
    clip = crop_clip(clip, 3, 0, *size) if size[0] < 64 and size[1] <= 48 else resize_clip(clip, size)
    check_form(repair(repairer, clip, select_references(PHOTOS, [0])), clip)


def test_nothing_but_the_generator_decides(repairer: VideoRepairer, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(1)
    first = repair(repairer)
    state = torch.manual_seed(2).get_state()
    assert same(first, repair(repairer))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not drawn from"
    if request.node.callspec.id in DRAWN:
        assert not torch.equal(first.rgb, repair(repairer, seed=1).rgb)


def test_no_call_leaves_traces_in_the_next_or_in_its_inputs(repairer: VideoRepairer) -> None:
    first = repair(repairer)
    inputs = [getattr(part, entry.name) for part in (CLIP, PHOTOS) for entry in fields(part)]
    copies = [value.clone() if isinstance(value, torch.Tensor) else value for value in inputs]
    repair(repairer, select_frames(CLIP, [2, 1]), select_references(PHOTOS, [1]), seed=5)
    assert same(first, repair(repairer))
    for value, copy in zip(inputs, copies, strict=True):
        assert value is copy or torch.equal(value, copy)


def test_released_repairers_work_again(repairer: VideoRepairer) -> None:
    first = repair(repairer)
    repairer.release()
    repairer.release()
    assert same(first, repair(repairer))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MAKERS)
def test_clips_come_back_to_their_device(name: str, device: str) -> None:
    for home in {"cpu", device}:
        clip = CLIP.to(home)
        check_form(made(name, device).repair(clip, PHOTOS, torch.Generator().manual_seed(0)), clip)


def test_one_photo_is_enough_and_none_is_refused(repairer: VideoRepairer) -> None:
    check_form(repair(repairer, photos=select_references(PHOTOS, [1])), CLIP)
    with pytest.raises(ValueError, match=r"0 photos|no reference photos"):
        repair(repairer, photos=select_references(PHOTOS, []))
    with pytest.raises(ValueError, match=r"0 frames|no frames"):
        repair(repairer, select_frames(CLIP, []))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_clips_without_any_surface_or_depth(repairer: VideoRepairer, alpha: float) -> None:
    nothing = torch.zeros_like(CLIP.depth)
    check_form(repair(repairer, replace(CLIP, depth=nothing, alpha=nothing + alpha)), CLIP)


# Capabilities.


def clip_with_hole() -> tuple[Clip, torch.Tensor]:
    """A clip with a black hole in its middle, elsewhere covered; and where the hole is. [T, H, W]"""
    clip = replace(PAIR.clean, alpha=torch.ones_like(CLIP.alpha))
    hole = torch.zeros(clip.rgb.shape[:3], dtype=torch.bool)
    hole[:, 16:32, 16:48] = True
    shown = ~hole[..., None]
    return replace(clip, rgb=clip.rgb * shown, depth=clip.depth * shown, alpha=clip.alpha * shown), hole


def test_repairs(trained: VideoRepairer) -> None:
    change = (repair(trained).rgb - CLIP.rgb).abs().mean()
    assert (change > 0.01) == trained.capabilities.repairs
    assert trained.capabilities.repairs or change == 0


def test_fills_holes(trained: VideoRepairer) -> None:
    clip, hole = clip_with_hole()
    repaired = repair(trained, clip)
    filled = repaired.rgb[hole].mean() > 0.02 and repaired.disparity[hole].mean() > 0.02
    assert filled == trained.capabilities.fills_holes


def test_makes_depth(trained: VideoRepairer) -> None:
    """Of clips of unknown depth; and where it makes none, that of the clip is what comes back."""
    unknown = repair(trained, clip_without_cameras(CLIP.rgb), photos_without_cameras(PHOTOS.rgb))
    assert (unknown.disparity.std() > 0.02) == trained.capabilities.makes_depth
    if not trained.capabilities.makes_depth:
        solid = CLIP.alpha > 0.9
        pair = torch.stack(
            [repair(trained).disparity[solid], encode_disparity(CLIP.depth, CLIP.alpha > 0.5).disparity[solid]]
        )
        assert torch.corrcoef(pair)[0, 1] > 0.9


def test_makes_confidence(trained: VideoRepairer) -> None:
    repaired = repair(trained)
    assert torch.equal(repaired.confidence, CLIP.alpha) == (not trained.capabilities.makes_confidence)


def test_needs_cameras(trained: VideoRepairer) -> None:
    """Photos of the very views: a repairer that lives on warping them does next to nothing where it cannot."""
    clean = PAIR.clean
    blurred = resize_images(resize_images(clean.rgb, (8, 6)), clean.size).clamp(0, 1)
    views = References(clean.rgb, clean.viewmats, clean.Ks)
    known = repair(trained, replace(clean, rgb=blurred), views)
    unknown = repair(trained, clip_without_cameras(blurred), photos_without_cameras(views.rgb))
    change, without = ((repaired.rgb - blurred).abs().mean() for repaired in (known, unknown))
    assert (without < 0.5 * change) == trained.capabilities.needs_cameras


def test_goes_on_from_known_frames(repairer: VideoRepairer) -> None:
    if not isinstance(repairer, ContinuingRepairer):
        assert not hasattr(repairer, "repair_after")
        return
    free = repair(repairer)
    known = RepairedClip(free.rgb[:2], free.disparity[:2], free.confidence[:2])
    painted = [replace(known, rgb=torch.full_like(known.rgb, shade)) for shade in (0.0, 1.0)]
    outs: list[Any] = [
        repairer.repair_after(first, CLIP, PHOTOS, torch.Generator().manual_seed(0)) for first in painted
    ]
    for first, out in zip(painted, outs, strict=True):
        check_form(out, CLIP)
        assert torch.equal(out.rgb[:2], first.rgb) and torch.equal(out.confidence[:2], known.confidence)
    assert (outs[0].rgb[2:] - outs[1].rgb[2:]).abs().max() > 1e-3, "what is known changes the rest"
