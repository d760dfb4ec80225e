"""Surfels are no larger than a share of what the nearest photo would show of where they are."""

from __future__ import annotations

import pytest
import torch
from tiny_model import make_model

from genfusion_ns.geometry.cameras import camera_centers
from genfusion_ns.models.seen_sides import PhotoViewmats
from genfusion_ns.models.size_limit import limit_sizes
from genfusion_ns.models.surfel_model import GenFusionModel

SHARE = 0.04
K = torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
SIZE = (32, 24)


def photos(count: int) -> PhotoViewmats:
    """On a line, side by side, looking along z."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = -torch.arange(count, dtype=torch.float32)
    return PhotoViewmats(viewmats, K.expand(count, 3, 3), [SIZE] * count)


def some(count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Middles up to 5 scene units from the photos, and sizes from far too small to far too large."""
    generator = torch.Generator().manual_seed(0)
    means = 5 * (2 * torch.rand(count, 3, generator=generator) - 1)
    means[0] = 0.0  # where the first photo was taken
    return means, 14 * torch.rand(count, 3, generator=generator) - 13


def from_nearest_photo(means: torch.Tensor) -> torch.Tensor:
    """Of three, in scene units."""
    return torch.stack([(means - center).norm(dim=-1) for center in camera_centers(photos(3).viewmats)]).amin(0)


def test_in_a_picture_from_the_nearest_photo_none_is_larger_than_its_share() -> None:
    means, log_scales = some()
    before, near = log_scales.clone(), 0.5
    limit_sizes(log_scales, means, photos(3), near, SHARE)
    distance = from_nearest_photo(means)
    pixels = K[0, 0] * log_scales[:, :2].exp() / distance.clamp(min=near)[:, None]
    assert pixels.max() <= SHARE * max(SIZE) * 1.0001
    shrunk = (log_scales != before)[:, :2]
    assert 0.1 < shrunk.float().mean() < 0.9
    torch.testing.assert_close(pixels[shrunk], torch.full_like(pixels[shrunk], SHARE * max(SIZE)))
    assert torch.equal(log_scales[:, 2], before[:, 2]), "the thickness"
    assert (distance < near).any() and log_scales.isfinite().all()


def test_a_scene_of_few_large_surfels_stays_as_it_is() -> None:
    means, log_scales = some()
    distance = from_nearest_photo(means)
    log_scales[:, :2] = (0.3 * distance.clamp(min=0.5)).log()[:, None]
    log_scales[7, :2] = 3.0
    before = log_scales.clone()
    limit_sizes(log_scales, means, photos(3), 0.5, SHARE)
    others = torch.arange(len(means)) != 7
    assert torch.equal(log_scales[others], before[others])
    assert log_scales[7, 0].exp() == pytest.approx(0.45 * float(distance[7]), rel=1e-3), "1.5 times the median"


def test_the_limit_grows_with_the_scene() -> None:
    means, log_scales = some()
    large = log_scales + torch.tensor(1000.0).log()
    limit_sizes(log_scales, means, photos(3), 0.5, SHARE)
    far = photos(3)
    far.viewmats[:, :3, 3] *= 1000
    limit_sizes(large, 1000 * means, far, 500.0, SHARE)
    torch.testing.assert_close(large - log_scales, torch.full_like(large, 1000.0).log(), rtol=0, atol=1e-4)


def test_the_limit_is_as_exact_far_from_the_origin() -> None:
    offset, (means, log_scales) = torch.tensor([4000.0, -3000.0, 500.0]), some()
    means = (means * 64).round() / 64  # so that the offset loses no digits of theirs
    here, there = log_scales.clone(), log_scales.clone()
    limit_sizes(here, means, photos(40), 0.5, SHARE)
    moved = photos(40)
    moved.viewmats[:, :3, 3] -= offset
    limit_sizes(there, means + offset, moved, 0.5, SHARE)
    torch.testing.assert_close(there, here, rtol=0, atol=1e-4)


def test_one_photo_by_a_long_lens_counts_as_the_others_do() -> None:
    means, log_scales = some()
    same = log_scales.clone()
    limit_sizes(same, means, photos(3), 0.5, SHARE)
    long = torch.diag(torch.tensor([10.0, 10, 1])) @ K
    limit_sizes(log_scales, means, PhotoViewmats(photos(3).viewmats, torch.stack([K, long, K]), [SIZE] * 3), 0.5, SHARE)
    assert torch.equal(log_scales, same)


def test_what_has_diverged_is_left_for_the_checkpoint_to_name() -> None:
    means, log_scales = some()
    before, expected = log_scales.clone(), log_scales.clone()
    limit_sizes(expected, means, photos(3), 0.5, SHARE)
    means[5] = torch.nan
    limit_sizes(log_scales, means, photos(3), 0.5, SHARE)
    others = torch.arange(len(means)) != 5
    assert torch.equal(log_scales[5], before[5])
    torch.testing.assert_close(log_scales[others], expected[others])


def _grown(count: int, **settings: float) -> GenFusionModel:
    model = make_model(**settings)
    model.gauss_params["scales"].data[:100, :2] = -6.0
    model.gauss_params["scales"].data[100:, :2] = 2.0
    model.sample_photos_of(photos(count))
    model.limit_sizes()
    return model


def test_runs_on_few_photos_have_the_limit_and_those_on_many_none() -> None:
    assert (_grown(30).gauss_params["scales"][100:, :2] < 2.0).all()
    assert (_grown(31).gauss_params["scales"][100:, :2] == 2.0).all()
    assert (_grown(30, largest_size=0.0).gauss_params["scales"][100:, :2] == 2.0).all()


@pytest.mark.parametrize("share", [-0.1, float("inf"), float("nan")])
def test_shares_that_no_picture_has_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="largest-size"):
        make_model(largest_size=share)
