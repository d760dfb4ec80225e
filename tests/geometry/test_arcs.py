"""Paths along arcs: where photos were taken and a little beyond, whole clips at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from genfusion_ns.geometry.arcs import arc_path, photo_arcs
from genfusion_ns.geometry.cameras import look_at

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
SETTINGS = {"beyond": math.radians(10), "bridge": math.radians(90), "piece": 16}


def ring(*degrees: float, height: float = 0.5) -> torch.Tensor:
    """Cameras at distance 2 around the origin, which they look at."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    positions = torch.stack([2 * angles.cos(), 2 * angles.sin(), height + 0 * angles], dim=-1)
    return look_at(positions, torch.zeros(3, dtype=torch.float64), UP)


def degrees_of(c2w: torch.Tensor) -> torch.Tensor:
    return torch.atan2(c2w[:, 1, 3], c2w[:, 0, 3]).rad2deg()


def apart(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Angles between all pairs, degrees in 0..180. [M, N]"""
    return ((first[:, None] - second + 180) % 360 - 180).abs()


@settings(deadline=None)
@given(st.lists(st.floats(0, 360), min_size=1, max_size=9, unique=True), st.floats(0, 40), st.floats(10, 200))
def test_arcs_hold_all_photos_cross_narrow_gaps_alone_and_never_meet(photos, beyond, bridge):
    angles = torch.tensor(photos, dtype=torch.float64).deg2rad()
    arcs = photo_arcs(angles, math.radians(beyond), math.radians(bridge))
    ordered = sorted(photo % 360 for photo in photos)
    gaps = [(b - a) for a, b in zip(ordered, [*ordered[1:], ordered[0] + 360], strict=True)]
    if max(gaps) <= bridge - 1e-9:
        assert [arc.closed for arc in arcs] == [True]
        return
    covered = sum(math.degrees(arc.length) for arc in arcs)
    wide = [gap for gap in gaps if gap > bridge]
    expected = 360 - sum(wide) + sum(2 * min(beyond, gap / 3) for gap in wide)
    assert covered == pytest.approx(expected, abs=1e-6) and len(arcs) == len(wide)
    for photo in angles.tolist():
        inside = [((photo - arc.start + 1e-9) % (2 * math.pi)) <= arc.length + 2e-9 for arc in arcs]
        assert sum(inside) == 1


def test_a_gap_that_no_photo_answers_for_is_not_entered():
    photos = torch.tensor([0.0, 60.0, 110.0, 166.0])
    path = arc_path(ring(*photos.tolist()), 48, **SETTINGS)
    assert path.starts == [0] and not path.arcs[0].closed
    around = degrees_of(path.c2w)
    assert around.min() == pytest.approx(-10, abs=0.5) and around.max() == pytest.approx(176, abs=0.5)
    torch.testing.assert_close(path.c2w[:, 2, 3], torch.full((48,), 0.5, dtype=torch.float64), atol=0.01, rtol=0)
    # They look at what the photos look at.
    toward = -path.c2w[:, :3, 3] / path.c2w[:, :3, 3].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(-path.c2w[:, :3, 2], toward, atol=1e-6, rtol=0)


def test_photos_far_apart_get_an_arc_each_and_no_clip_jumps():
    photos = torch.tensor([10.0, 130.0, 250.0])
    path = arc_path(ring(*photos.tolist()), 48, **SETTINGS)
    assert path.starts == [0, 16, 32]
    assert apart(degrees_of(path.c2w), photos).amin(1).max() < 10.5
    steps = path.c2w[:, :3, 3].diff(dim=0).norm(dim=-1)
    assert (steps > 1).nonzero()[:, 0].tolist() == [15, 31]
    # With room for fewer clips than there are arcs, rounds take turns.
    seen = [degrees_of(arc_path(ring(*photos.tolist()), 16, turn=turn, **SETTINGS).c2w) for turn in range(3)]
    nearest = {int(apart(angles, photos).mean(0).argmin()) for angles in seen}
    assert nearest == {0, 1, 2}


def test_all_around_the_path_is_a_loop_that_begins_where_it_is_told():
    around = [arc_path(ring(*range(0, 360, 60)), 48, phase=phase, **SETTINGS) for phase in (0.0, 0.25)]
    for path in around:
        assert path.arcs[0].closed
        closing = (path.c2w[0, :3, 3] - path.c2w[-1, :3, 3]).norm()
        steps = path.c2w[:, :3, 3].diff(dim=0).norm(dim=-1)
        torch.testing.assert_close(steps, closing.expand(47), rtol=1e-2, atol=0)
    turned = apart(degrees_of(around[0].c2w[:1]), degrees_of(around[1].c2w[:1]))
    assert turned.item() == pytest.approx(90, abs=0.5)


def test_heights_sway_within_those_of_the_photos_near_in_angle():
    low, high = ring(0, 40, 80, height=0.2), ring(1, 41, 81, height=0.8)
    still = arc_path(torch.cat([low, high]), 16, sway=0.0, **SETTINGS).c2w[:, 2, 3]
    torch.testing.assert_close(still, torch.full((16,), 0.5, dtype=torch.float64), atol=0.02, rtol=0)
    heights = arc_path(torch.cat([low, high]), 16, sway=1.0, **SETTINGS).c2w[:, 2, 3]
    assert heights.min() > 0.17 and heights.max() < 0.83 and heights.max() - heights.min() > 0.4


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(1e-2, 1e2))
def test_the_path_moves_with_the_capture(seed, unit):
    generator = torch.Generator().manual_seed(seed)
    poses = ring(0, 50, 130, 200)
    poses[:, :3, 3] += 0.1 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    rotation = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    shift = torch.randn(3, generator=generator, dtype=torch.float64)
    moved = poses.clone()
    moved[:, :3, :3] = rotation @ poses[:, :3, :3]
    moved[:, :3, 3] = unit * poses[:, :3, 3] @ rotation.T + shift
    path, other = (arc_path(p, 32, tilt=0.05, **SETTINGS).c2w for p in (poses, moved))
    torch.testing.assert_close(other[:, :3, :3], rotation @ path[:, :3, :3], atol=1e-6, rtol=0)
    torch.testing.assert_close(other[:, :3, 3], unit * path[:, :3, 3] @ rotation.T + shift, atol=1e-6 * unit, rtol=1e-6)


def test_what_has_no_path_is_refused():
    with pytest.raises(ValueError, match="num is 0"):
        arc_path(ring(0, 90), 0, **SETTINGS)
    above = torch.diag_embed(torch.tensor([[1.0, 1, 1, 1], [-1, -1, 1, 1]], dtype=torch.float64))
    above[:, 2, 3] = 2.0
    with pytest.raises(ValueError, match="straight above"):
        arc_path(torch.cat([ring(0, 90, 180, 270), above]), 16, **SETTINGS)
