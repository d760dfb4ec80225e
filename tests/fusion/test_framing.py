"""How clips fill the size that a repairer was made for, and what of it the photos' frames hold."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_round import repaired_window
from test_sampler_contract import CAPTURES, SAMPLERS, camera_path, observed

from genfusion_ns.fusion.cameras.clip_cameras import SampledViews
from genfusion_ns.fusion.cameras.framing import ClipFrame, frame_of
from genfusion_ns.fusion.cameras.sparse import views_towards
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.seeding import SeedingConfig
from genfusion_ns.geometry.cameras import c2w_to_viewmat, project
from genfusion_ns.geometry.windows import Window
from genfusion_ns.priors.base import Capabilities
from genfusion_ns.priors.compact.capabilities import CAPABILITIES as COMPACT
from genfusion_ns.priors.dynamicrafter.capabilities import CAPABILITIES as DYNAMICRAFTER

SIDES = st.integers(100, 4000)


@given(SIDES, SIDES)
def test_all_framings_but_fit_fill_the_size_and_none_changes_the_shape_of_photos(width: int, height: int) -> None:
    for framing in ("crop", "pixels", "pad"):
        frame = frame_of((width, height), (960, 512), framing)  # type: ignore[arg-type]
        assert frame.size == ((512, 960) if width < height else (960, 512))
        across = frame.whole[0] / width, frame.whole[1] / height
        assert abs(across[0] - across[1]) * max(width, height) <= 2 * max(1, max(width, height) / min(width, height))
    crop, pad = (frame_of((width, height), (960, 512), framing) for framing in ("crop", "pad"))  # type: ignore[misc]
    assert all(whole >= side for whole, side in zip(crop.whole, crop.size, strict=True))
    assert all(whole <= side for whole, side in zip(pad.whole, pad.size, strict=True))
    assert any(a == b for a, b in zip(crop.whole, crop.size, strict=True)), "no more is cut off than must be"
    assert frame_of((width, height), (960, 512), "pixels").whole == (width, height)


def test_fit_leaves_half_of_the_size_to_square_photos_and_crop_nothing() -> None:
    """What the network of the published generator sees at most: a clip that is as wide and as high as its size."""
    square = frame_of((1000, 1000), (960, 512)).size
    assert min(960 / square[0], 512 / square[1]) ** 2 * square[0] * square[1] / (960 * 512) == pytest.approx(
        0.53, abs=0.01
    )
    assert frame_of((1000, 1000), (960, 512), "crop").size == (960, 512)


def test_corners_reach_all_of_the_frame_and_nothing_is_drawn_where_nothing_is_left_open() -> None:
    generator = torch.Generator().manual_seed(0)
    frame = frame_of((960, 540), (960, 512), "pixels")
    corners = {frame.corner(generator) for _ in range(600)}
    assert corners == {(0, y) for y in range(29)}
    state = generator.get_state()
    assert ClipFrame((32, 24), (32, 24)).corner(generator) == (0, 0)
    assert frame_of((100, 100), (960, 512), "pad").corner(generator) == (-224, 0)
    assert frame_of((800, 400), (960, 512), "pixels").corner(generator) == (-80, -56), "more than the photo, around it"
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("framing", ["fit", "crop", "pixels", "pad"])
@pytest.mark.parametrize("size", [(96, 64), (64, 96), (200, 150)])
def test_clips_look_through_the_lens_of_the_photos(framing: Any, size: tuple[int, int]) -> None:
    """A point is in a clip where it is in the photo, at the scale of the clip and counted from its corner."""
    views = observed([[1.0, 0.1 * i, 0.2] for i in range(20)], [0.0, 0.0, 0.0], size)
    sampler = SAMPLERS["masked"].setup(clip_length=16, resolution=(128, 80), framing=framing)
    sampled = sampler.sample(views, 0, torch.Generator().manual_seed(1))
    assert sampled.photo_ids is not None
    points = 0.2 * torch.randn(10, 3, generator=torch.Generator().manual_seed(0)).double()
    for number, window in enumerate(sampled.windows):
        corner = sampled.corners[number] if sampled.corners else (0, 0)
        whole = sampled.frame.whole if sampled.frame else sampled.size
        frames = window.frames(len(sampled.c2w))
        for frame, K in zip(frames, sampled.intrinsics(number), strict=True):
            viewmat = c2w_to_viewmat(sampled.c2w[frame])
            in_clip, _ = project(points, viewmat, K)
            in_photo, _ = project(points, viewmat, views.Ks[sampled.photo_ids[frame]])
            scale = torch.tensor([whole[0] / size[0], whole[1] / size[1]]).double()
            torch.testing.assert_close(in_clip + torch.tensor(corner), scale * in_photo)


@pytest.mark.parametrize("name", ["sparse", "masked", "completion, loop", "completion, path"])
@pytest.mark.parametrize("framing", ["crop", "pixels", "pad"])
def test_samplers_fill_the_size_and_say_where_clips_lie(name: str, framing: Any, tmp_path: Any) -> None:
    config: Any = SAMPLERS[name]
    if name == "completion, path":
        config = replace(config, camera_path=camera_path(tmp_path))
    sampled = config.setup(clip_length=16, resolution=(128, 64), framing=framing).sample(
        CAPTURES["all around"], 0, torch.Generator().manual_seed(0)
    )
    assert sampled.size == (128, 64)
    assert sampled.corners is not None and sampled.log["corners"] == [list(corner) for corner in sampled.corners]
    assert (sampled.supervised(0) is None) == (framing != "pad")
    towards = views_towards(CAPTURES["all around"], sampled.c2w[0], 1.0, 16, (128, 64), framing=framing)
    assert towards.size == (128, 64)
    focal = 32 / math.tan(0.5)
    assert towards.intrinsics(0)[-1].diagonal().tolist() == pytest.approx([focal, focal, 1.0]), "as asked for"


def test_windows_at_different_places_do_not_go_on_from_each_other() -> None:
    windows = [Window(0, 0, 4), Window(2, 2, 4), Window(4, 2, 4)]
    sampled = SampledViews(torch.eye(4).repeat(8, 1, 1), torch.eye(3).repeat(8, 1, 1), (8, 8), windows, [[0]] * 3, {})
    assert [sampled.goes_on(number) for number in range(3)] == [False, True, True]
    cropped = replace(sampled, frame=ClipFrame((8, 8), (8, 9)), corners=[(0, 0), (0, 1), (0, 1)])
    assert [cropped.goes_on(number) for number in range(3)] == [False, False, True]


def test_of_padded_clips_only_the_frame_of_the_photo_supervises() -> None:
    whole, clip = repaired_window(False, use_confidence=False)
    assert whole.repaired.confidence.min() == 1
    width, height = clip.size
    frame = ClipFrame(clip.size, (width - 8, height), padded=True)
    padded, _ = repaired_window(False, {"frame": frame, "corners": [(-4, 0)]}, use_confidence=False)
    expected = torch.zeros_like(whole.repaired.confidence)
    expected[:, :, 4:-4] = 1
    assert torch.equal(padded.repaired.confidence, expected)


def test_random_references_are_any_photo_and_nearest_ones_draw_nothing() -> None:
    def references(kind: str, seed: int) -> list[list[int]]:
        config = replace(SAMPLERS["masked"], references=kind, num_references=1)  # type: ignore[type-var]
        sampler = config.setup(clip_length=16, resolution=(128, 80))  # type: ignore[attr-defined]
        return sampler.sample(CAPTURES["all around"], 0, torch.Generator().manual_seed(seed)).reference_ids

    assert references("nearest", 0) == references("nearest", 1)
    assert references("random", 0) == references("random", 0)
    drawn = {ids[0] for seed in range(200) for ids in references("random", seed)}
    assert drawn == set(range(20))


def test_published_windows_of_a_sampler() -> None:
    config = replace(SAMPLERS["sparse, around"], num_frames=85, windows="published")  # type: ignore[type-var]
    sampled = config.setup(clip_length=16, resolution=(128, 80)).sample(  # type: ignore[attr-defined]
        CAPTURES["all around"], 0, torch.Generator()
    )
    assert [window.start for window in sampled.windows] == [0, 12, 24, 36, 48, 60, 69]


def test_what_is_left_to_the_repairer_follows_from_what_it_can() -> None:
    config = FusionConfig(blocks=0, framing="auto", unshown_weight=None)
    small, large = config.suited_to(COMPACT), config.suited_to(DYNAMICRAFTER)
    assert (small.depth_weight, small.framing, small.full_weight_photos, small.blocks) == (0, "fit", 3, 4)
    assert (large.depth_weight, large.framing, large.full_weight_photos, large.blocks) == (1, "crop", 0, 1)
    assert (small.unshown_weight, large.unshown_weight) == (0, 1)
    config = replace(config, continued_weight=None)
    assert (config.suited_to(COMPACT).continued_weight, config.suited_to(DYNAMICRAFTER).continued_weight) == (0.1, 0)
    assert replace(config, seeding=SeedingConfig()).suited_to(COMPACT).continued_weight == 0
    assert config.suited_to(COMPACT).into_the_unseen().continued_weight == 0, "the generator is asked to show it"
    seeding = FusionConfig(unshown_weight=None, seeding=SeedingConfig())
    assert seeding.suited_to(COMPACT).unshown_weight == 1, "surfels are put there"
    assert small.into_the_unseen().unshown_weight == 1
    assert large.peak_weight(43) == large.weight > small.peak_weight(43)
    given = FusionConfig(depth_weight=0.25, framing="pad", full_weight_photos=3, blocks=2, unshown_weight=0.5)
    assert given.suited_to(DYNAMICRAFTER) == given
    assert config.suited_to(Capabilities()).depth_weight == 0


def test_older_runs_keep_the_shape_of_their_clips() -> None:
    state = {name: value for name, value in vars(FusionConfig(depth_weight=0.0)).items() if name != "framing"}
    older = object.__new__(FusionConfig)
    older.__setstate__(state)
    assert older.suited_to(DYNAMICRAFTER).framing == "fit"
    assert older.suited_to(DYNAMICRAFTER).depth_weight == 0
