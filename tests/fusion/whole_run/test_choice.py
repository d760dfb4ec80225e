"""What is chosen for a capture and a machine: a pure function of a few numbers."""

from dataclasses import replace
from itertools import pairwise

import pytest

from genfusion_ns.fusion.whole_run.choice import CaptureFacts, Machine, Speed, choose, held_out_stride, smaller
from genfusion_ns.fusion.whole_run.settings import WholeRunSettings

HD = (1920, 1080)
GPU = Machine(gpu=True)
CPU = Machine(gpu=False, speed=Speed(base=0.03, pixel=3e-7))
"""About two cores of today: 70 ms for 480x270."""


def facts(photos: int = 60, size: tuple[int, int] = HD, **more: bool) -> CaptureFacts:
    stride = held_out_stride(photos, None)
    trained = photos - len(range(0, photos, stride)) if stride else photos
    return CaptureFacts(photos, trained, size, **more)


def training_seconds(choice, speed: Speed) -> float:
    return choice.steps * (2 if choice.rounds else 1) * speed.step(choice.size)


@pytest.mark.parametrize(
    ("found", "machine", "wanted", "method", "steps", "rounds"),
    [
        (facts(3), GPU, {}, "genfusion", 1000, True),
        (facts(9), GPU, {}, "genfusion", 1225, True),
        (facts(60), GPU, {}, "genfusion", 7000, False),
        (facts(60), replace(GPU, published=True), {}, "genfusion", 7000, True),
        (facts(60), GPU, {"rounds": "yes"}, "genfusion", 7000, True),
        (facts(9), GPU, {"rounds": "no"}, "genfusion", 1225, False),
        (facts(60, masked=True), GPU, {}, "genfusion-masked", 7000, True),
        (facts(8, masked=True), CPU, {}, "genfusion-masked", 1225, True),
        (facts(60, masked=True), GPU, {"method": "genfusion"}, "genfusion", 7000, False),
        (facts(60), GPU, {"method": "genfusion-completion"}, "genfusion-completion", 26000, True),
        (facts(9), GPU, {"method": "genfusion-published"}, "genfusion-published", 7000, True),
        (facts(9), GPU, {"method": "genfusion-completion-published"}, "genfusion-completion-published", 26000, True),
        (facts(9), GPU, {"steps": 77}, "genfusion", 77, True),
        (facts(3), CPU, {}, "genfusion", 1000, True),
    ],
)
def test_method_length_and_rounds_follow_photos_masks_and_machine(found, machine, wanted, method, steps, rounds):
    choice = choose(found, machine, WholeRunSettings(**wanted))
    assert (choice.method, choice.steps, choice.rounds) == (method, steps, rounds)


def test_a_gpu_keeps_nerfstudios_size_and_knows_no_seconds():
    choice = choose(facts(), GPU, WholeRunSettings(minutes=1))
    assert (choice.downscale, choice.size, choice.seconds) == (None, HD, None)


@pytest.mark.parametrize("photos", [3, 9, 60, 200])
@pytest.mark.parametrize("size", [(640, 480), HD, (4032, 3024), (1080, 1920)])
@pytest.mark.parametrize("minutes", [5, 15, 60, 600])
def test_without_a_gpu_training_fits_into_its_time_or_steps_are_left_out(photos, size, minutes):
    choice = choose(facts(photos, size), CPU, WholeRunSettings(minutes=minutes))
    assert choice.downscale is not None and choice.size == smaller(size, choice.downscale)
    assert choice.seconds == pytest.approx(training_seconds(choice, CPU.speed))
    assert choice.steps >= 300
    if choice.steps > 300:
        assert choice.seconds <= 0.6 * 60 * minutes
    full = choose(facts(photos, size), GPU, WholeRunSettings()).steps
    if choice.steps < full:  # photos are as small as they get before steps are left out
        assert max(choice.size) < 2 * 320
    elif choice.downscale > 1:  # one size larger would not have fitted
        larger = replace(choice, size=smaller(size, choice.downscale - 1))
        assert training_seconds(larger, CPU.speed) > 0.6 * 60 * minutes


def test_more_time_and_a_faster_machine_never_give_smaller_photos_or_fewer_steps():
    found = [choose(facts(), CPU, WholeRunSettings(minutes=minutes)) for minutes in (2, 5, 15, 60, 240)]
    found += [choose(facts(), Machine(False, Speed(0.03 / k, 3e-7 / k)), WholeRunSettings(minutes=240)) for k in (2, 8)]
    for less, more in pairwise(found):
        assert more.steps >= less.steps and max(more.size) >= max(less.size)
    assert found[-1].size == HD


def test_posing_is_part_of_the_time_and_the_training_keeps_a_share():
    quick, slow, endless = (choose(facts(), CPU, WholeRunSettings(minutes=15), posing) for posing in (0, 300, 1e6))
    assert quick.seconds > slow.seconds >= endless.seconds > 0
    assert slow.seconds <= 0.6 * 600 and endless.seconds <= 0.3 * 900


def test_what_the_user_decides_stays():
    choice = choose(facts(), CPU, WholeRunSettings(minutes=1, steps=5000, downscale=2, hold_out=5))
    assert (choice.steps, choice.downscale, choice.size, choice.test_every) == (5000, 2, (960, 540), 5)
    assert any("5000 steps on 960 x 540 pixels, as asked for" in reason for reason in choice.reasons)


@pytest.mark.parametrize(
    ("found", "wanted", "test_every"),
    [
        (facts(60), None, None),  # the default of all methods is 8
        (facts(5), None, 0),
        (facts(60, declares_split=True), None, None),
        (facts(5, declares_split=True), None, None),
        (facts(60), 0, 0),
        (facts(60), 4, 4),
    ],
)
def test_photos_are_held_out_where_there_are_enough(found, wanted, test_every):
    assert choose(found, GPU, WholeRunSettings(hold_out=wanted)).test_every == test_every


def test_published_settings_are_offered_where_they_can_run_and_refused_where_not():
    offered = choose(facts(), replace(GPU, published=True), WholeRunSettings())
    assert any("--method genfusion-published" in reason for reason in offered.reasons)
    assert not any("published" in reason for reason in choose(facts(), GPU, WholeRunSettings()).reasons)
    with pytest.raises(ValueError, match="--method genfusion-masked-published needs a GPU"):
        choose(facts(), CPU, WholeRunSettings(method="genfusion-masked-published"))


def test_reasons_say_what_was_left_out():
    many = choose(facts(), CPU, WholeRunSettings(minutes=2))
    assert any("no rounds" in reason for reason in many.reasons)
    assert any("7000 would suit 52 photos (more --minutes)" in reason for reason in many.reasons)
