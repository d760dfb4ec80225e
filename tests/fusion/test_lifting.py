"""Weak scenes of photos and their depth maps: right without flaws, wrong as asked, and made into clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genfusion_ns.data.clips.pairs import list_pairs, read_pair, read_provenance
from genfusion_ns.fusion.clip_making.job import ClipJob
from genfusion_ns.fusion.clip_making.lifting import Flaws, _onto, lift, render_lifted
from genfusion_ns.fusion.clip_making.plain_runs import Presets
from genfusion_ns.fusion.clip_making.recipe import ClipRecipe
from genfusion_ns.geometry.clips import Clip, select_frames
from genfusion_ns.geometry.depth import depth_to_points
from genfusion_ns.methods import genfusion, genfusion_masked

RIGHT = Flaws(step=1, bend=0.0, shift=0.0, torn=0.0, lost=0.0, spikes=0.0, facing=0.0, tint=0.0)
RECIPE = ClipRecipe(
    views=(), masked_strides=(), lifted=(3, 6), lifted_repeats=2, resolution=(64, 36), num_references=2, max_windows=1
)


def wall(frames: int = 3) -> Clip:
    """A textured wall two units before cameras that move sideways."""
    Ks = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]).expand(frames, 3, 3)
    viewmats = torch.eye(4).repeat(frames, 1, 1)
    viewmats[:, 0, 3] = torch.linspace(-0.1, 0.1, frames)
    depth = torch.full((frames, 48, 64, 1), 2.0)
    points = depth_to_points(depth, Ks, viewmats)
    rgb = 0.5 + 0.4 * torch.sin(points * torch.tensor([9.0, 7.0, 1.0]))
    return Clip(rgb, depth, torch.ones_like(depth), viewmats, Ks)


def rendered(flaws: Flaws, seed: int = 0) -> Clip:
    clip = wall()
    surfels = lift(select_frames(clip, [0, 2]), flaws, torch.Generator().manual_seed(seed))
    return render_lifted(surfels, select_frames(clip, [1]), 2.0)


def error(clip: Clip) -> Tensor:
    inside = (..., slice(4, -4), slice(6, -6), slice(None))
    return (clip.rgb - wall().rgb[1:2])[inside].abs().mean()


def test_without_flaws_other_views_come_out_right() -> None:
    clip = rendered(RIGHT)
    inside = (..., slice(4, -4), slice(6, -6), slice(None))
    assert clip.alpha[inside].min() > 0.9
    assert (clip.depth[inside] - 2.0).abs().max() < 0.05
    assert error(clip) < 0.05


def test_each_flaw_makes_it_worse_in_its_own_way() -> None:
    right = rendered(RIGHT)
    assert rendered(replace(RIGHT, lost=0.3)).alpha.mean() < right.alpha.mean() - 0.05, "holes"
    floating = rendered(replace(RIGHT, torn=0.2)).depth
    assert ((floating - 2.0).abs() > 0.2).float().mean() > 0.02, "things in the air"
    assert (rendered(replace(RIGHT, bend=0.1)).depth - 2.0).abs().mean() > 0.03
    assert (rendered(replace(RIGHT, shift=0.1)).depth - 2.0).abs().mean() > 0.02
    sharp, soft = (clip.rgb.diff(dim=2).abs().mean() for clip in (right, rendered(replace(RIGHT, step=4))))
    assert soft < 0.9 * sharp, "blur"
    tinted = rendered(replace(RIGHT, tint=0.3)).rgb.mean() - right.rgb.mean()
    assert tinted.abs() > 0.01


def test_what_has_no_depth_is_not_lifted() -> None:
    clip = wall()
    depth = clip.depth.clone()
    depth[:, :, :32] = 0
    surfels = lift(replace(clip, depth=depth, alpha=(depth > 0).float()), RIGHT, torch.Generator().manual_seed(0))
    assert len(surfels) == 3 * 48 * 32


def test_rotations_turn_the_axis_onto_the_line_of_the_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=-1)
    normals[0], normals[1] = torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 0, -1])
    w, x, y, z = _onto(normals, torch.rand(50, generator=generator) * 3).unbind(-1)
    axis = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=-1)
    assert torch.allclose(axis, normals * torch.where(normals[:, 2:] < 0, -1, 1), atol=1e-5)


def test_flaws_follow_from_the_generator() -> None:
    draws = [Flaws.draw(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert all(1 <= Flaws.draw(torch.Generator().manual_seed(seed)).step <= 3 for seed in range(20))


@pytest.fixture(scope="module")
def job(sample_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipJob:
    job = ClipJob(sample_capture, tmp_path_factory.mktemp("clips"), 0, RECIPE)
    assert job.run(Presets(genfusion.config, genfusion_masked.config)) == 4  # numbers of photos x repeats
    return job


def test_clips_of_a_capture_with_depth_maps_need_no_fit(job: ClipJob) -> None:
    origins = [read_provenance(path) for path in list_pairs(job.out)]
    assert sorted(len(origin.train_views) for origin in origins) == [3, 3, 6, 6]
    assert len({origin.train_views for origin in origins}) == 4, "other photos each time"
    assert job.is_finished()
    for path, origin in zip(list_pairs(job.out), origins, strict=True):
        pair = read_pair(path)
        assert not pair.rendered and set(origin.references) <= set(origin.train_views)
        assert pair.clean.alpha.min() == 1, "a room has depth everywhere"
        covered = pair.artifact.alpha > 0.9
        assert covered.float().mean() > 0.1
        away = (pair.artifact.depth / pair.clean.depth - 1).abs()
        assert away[covered].median() < 0.2, "the depth maps have the unit of the cameras"
        error = (pair.artifact.rgb - pair.clean.rgb).square().mean()
        assert origin.psnr == pytest.approx(float(-10 * torch.log10(error)), abs=0.1)


def test_the_same_seed_makes_the_same_clips(job: ClipJob, sample_capture: Path, tmp_path: Path) -> None:
    again = ClipJob(sample_capture, tmp_path, 0, RECIPE)
    again.run(Presets(genfusion.config, genfusion_masked.config))
    assert (again.folder / "shard-00000.tar").read_bytes() == (job.folder / "shard-00000.tar").read_bytes()


def test_settings_that_cannot_be_used_are_named(tmp_path: Path, capture_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"--lifted is \(1,\); a reconstruction needs at least 2"):
        replace(RECIPE, lifted=(1,)).check()
    with pytest.raises(ValueError, match="--views, --masked-strides and --lifted are all empty"):
        replace(RECIPE, lifted=()).check()
    with pytest.raises(ValueError, match="--lifted-repeats is 0"):
        replace(RECIPE, lifted_repeats=0).check()
    with pytest.raises(ValueError, match="--lifted needs a depth map for each photo"):
        ClipJob(capture_folder, tmp_path, 0, replace(RECIPE, lifted=(3,))).run(
            Presets(genfusion.config, genfusion_masked.config)
        )
