"""The round schedule: where rounds fall and how the weight of generated views runs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.schedule import FusionSchedule


def test_published_sparse_schedule_of_7000_steps():
    schedule = FusionSchedule.resolve(1 / 7, 1 / 7, 1.0, 1.0, total_steps=7000)
    assert [step for step in range(7001) if schedule.is_round(step)] == [1000, 2000, 3000, 4000, 5000, 6000]
    assert schedule.num_rounds == 6
    assert schedule.weight(4000) == pytest.approx(1.0)
    assert schedule.weight(1000) == schedule.weight(999) == schedule.weight(7000) == 0.0


@given(st.integers(2, 500), st.integers(2, 200), st.integers(2, 500), st.floats(0, 3))
def test_rounds_are_found_in_order_and_counted(start, every, length, peak):
    schedule = FusionSchedule.resolve(start, every, start + length, peak, total_steps=2000)
    rounds = [step for step in range(start + length + 10) if schedule.is_round(step)]
    found = [schedule.next_round(0)]
    while found[-1] is not None:
        found.append(schedule.next_round(found[-1] + 1))
    assert found == [*rounds, None]
    assert len(rounds) == schedule.num_rounds
    controls = [step for step in range(2000) if schedule.is_control(step)]
    assert controls == [step + every // 2 for step in rounds if step + every // 2 < start + length]
    assert all(0 <= schedule.weight(step) <= peak for step in range(0, start + length + 10, 7))


def test_rounds_are_judged_right_before_a_refinement():
    schedule = FusionSchedule.resolve(214, 214, 1500, 1.0, total_steps=1500)
    controls = [step for step in range(1500) if schedule.is_control(step, refine_every=100)]
    assert controls == [300, 500, 700, 900, 1100, 1300]
    narrow = FusionSchedule.resolve(10, 10, 50, 1.0, total_steps=50)
    assert [step for step in range(50) if narrow.is_control(step, refine_every=100)] == [15, 25, 35, 45]


def test_weight_is_symmetric_about_the_middle():
    schedule = FusionSchedule.resolve(100, 10, 300, 2.0, total_steps=1000)
    assert schedule.weight(150) == pytest.approx(schedule.weight(250)) == pytest.approx(2 * math.sin(math.pi / 4))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_weight_ends_at_its_final_share_of_the_peak(share):
    schedule = FusionSchedule.resolve(100, 10, 300, 2.0, total_steps=1000, final_share=share)
    assert schedule.weight(299) == pytest.approx(2 * share, abs=0.05)
    assert schedule.weight(300) == 0
    falling = [schedule.weight(step) for step in range(200, 300)]
    assert falling == sorted(falling, reverse=True) and falling[0] == pytest.approx(2)
    assert schedule.weight(150) == FusionSchedule(100, 10, 300, 2.0).weight(150)


def test_generated_views_weigh_less_beside_many_photos():
    config = FusionConfig(weight=0.5)
    assert [config.peak_weight(photos) for photos in (2, 3, 6)] == [0.5, 0.5, pytest.approx(0.125)]
    assert FusionConfig(weight=0.5, full_weight_photos=0).peak_weight(100) == 0.5


@pytest.mark.parametrize(
    ("start", "every", "until", "weight", "flag"),
    [
        (10, 0, 100, 1.0, "fusion.every"),
        (100, 10, 100, 1.0, "fusion.until"),
        (-1, 10, 100, 1.0, "fusion.start is -1"),
        (10, math.inf, 100, 1.0, "fusion.every is inf"),
        (0.5, 0.1, 0.5, 1.0, "fusion.until is 0.5"),
    ],
)
def test_impossible_schedules_name_their_flag(start, every, until, weight, flag):
    with pytest.raises(ValueError, match=flag):
        FusionSchedule.resolve(start, every, until, weight, total_steps=1000)


@pytest.mark.parametrize("name", ["weight", "depth_weight", "full_weight_photos", "blocks"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_weights_below_0_are_refused_as_they_were_given(name: str, value: float) -> None:
    flag = f"--pipeline.fusion.{name.replace('_', '-')} is {value}; allowed are numbers of 0 or more"
    with pytest.raises(ValueError, match=flag):
        FusionConfig(**{name: value})


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
@pytest.mark.parametrize("name", ["clearing", "final_weight", "ssim_weight", "generated_photos"])
def test_a_share_out_of_range_is_refused(name: str, share: float) -> None:
    with pytest.raises(ValueError, match=rf"--pipeline.fusion.{name.replace('_', '-')} is {share}; allowed are 0..1"):
        FusionConfig(**{name: share})
