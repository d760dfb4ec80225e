"""What suits a capture and a machine: the method, the size of the photos and the length of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from genfusion_ns.fusion.whole_run.settings import WholeRunSettings
from genfusion_ns.models.run_length import usual_steps

FEW_PHOTOS = 12
"""Train photos up to which rounds of the small generator are worth their time: beyond 6 their weight falls with the
square of the number, and is a quarter here."""
HOLD_OUT = 8
"""Every n-th photo is held out, where there are so many."""
_LEAST_SIDE = 320
"""Longest side of photos below which nothing is gained by making them smaller still."""
_FEWEST_STEPS = 300
_TRAINING = 0.6
"""Share of the time that is left after posing for the training itself; what comes after takes the rest."""
_AT_LEAST = 0.3
"""Share of all the time that the training gets, however long posing took."""
_COMPLETION_STEPS = 26000 / 7000
"""Length of completion runs beside that of others, as published."""


@dataclass(frozen=True)
class CaptureFacts:
    """What a choice depends on."""

    photos: int
    """With a pose."""
    trained: int
    """Of them, those that are not held out."""
    size: tuple[int, int]
    """Width and height of most photos, in pixels."""
    masked: bool = False
    """The capture names masks."""
    declares_split: bool = False
    """The capture itself says which photos are held out."""


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step on this machine: `base` and `pixel` for each pixel of the photo."""

    base: float
    pixel: float

    def step(self, size: tuple[int, int]) -> float:
        """Seconds of one step on photos of this (width, height)."""
        return self.base + self.pixel * size[0] * size[1]


@dataclass(frozen=True)
class Machine:
    """What a choice depends on."""

    gpu: bool
    """There is one."""
    speed: Speed | None = None
    """Without a GPU; None where nothing depends on it."""
    published: bool = False
    """The converted published generator is there, and a GPU."""


@dataclass(frozen=True)
class Choice:
    """How a capture is trained."""

    method: str
    steps: int
    downscale: int | None
    """None: nerfstudio's own, which has photos of up to 1600 pixels."""
    rounds: bool
    test_every: int | None
    """None: the method's or the capture's own split."""
    size: tuple[int, int]
    """Photos as they are trained on."""
    seconds: float | None
    """That the training is expected to take; None where nothing is known."""
    reasons: tuple[str, ...]
    """For people."""


def chosen_method(wanted: str, masked: bool, machine: Machine) -> str:
    """The method by name.

    Raises:
        ValueError: published settings without a GPU.
    """
    if wanted == "auto":
        return "genfusion-masked" if masked else "genfusion"
    if wanted.endswith("-published") and not machine.gpu:
        raise ValueError(
            f"--method {wanted} needs a GPU, and there is none; leave --method out, or take "
            f"{wanted.removesuffix('-published')}"
        )
    return wanted


def windowed(method: str, facts: CaptureFacts) -> bool:
    """The method cuts windows of every second photo, for captures without masks."""
    return "masked" in method and not facts.masked


def held_out_stride(photos: int, wanted: int | None) -> int:
    """Every how many photos one is held out; 0: none.

    >>> held_out_stride(60, None), held_out_stride(5, None), held_out_stride(5, 2)
    (8, 0, 2)
    """
    return wanted if wanted is not None else HOLD_OUT if photos >= HOLD_OUT else 0


def choose(facts: CaptureFacts, machine: Machine, wanted: WholeRunSettings, posing: float = 0.0) -> Choice:
    """How to train this capture on this machine.

    Args:
        facts: of the capture.
        machine: see there.
        wanted: what the user has decided.
        posing: seconds that finding the poses took, which are part of ``--minutes``.

    Raises:
        ValueError: see `chosen_method`.
    """
    method = chosen_method(wanted.method, facts.masked, machine)
    if windowed(method, facts):
        facts = replace(facts, trained=(facts.photos + 1) // 2)
    reasons = [_about_method(method, wanted.method, machine)]
    rounds = _has_rounds(method, facts, machine, wanted.rounds)
    if not rounds and wanted.rounds == "auto":
        reasons.append(
            f"no rounds: {facts.trained} photos say more than the small generator, and rounds double the time "
            "(--rounds yes has them)"
        )
    steps = wanted.steps or _usual(method, facts.trained)
    downscale, seconds = wanted.downscale, None
    if machine.speed is not None:
        most = _training_seconds(wanted.minutes * 60, posing)
        steps, downscale, seconds, why = _fitting(facts, machine.speed, wanted, steps, rounds, most)
        reasons.append(why)
    elif machine.gpu and wanted.steps is None and not method.endswith("-published"):
        reasons.append(f"{steps} steps, which suit {facts.trained} photos")
    return Choice(
        method,
        steps,
        downscale,
        rounds,
        _test_every(method, facts, wanted.hold_out),
        smaller(facts.size, downscale or 1),
        seconds,
        tuple(reasons),
    )


def smaller(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """(width, height) of photos at a part of their size.

    >>> smaller((1920, 1080), 4)
    (480, 270)
    """
    return max(size[0] // factor, 1), max(size[1] // factor, 1)


def _usual(method: str, photos: int) -> int:
    if method.endswith("-published"):
        photos = 40  # the length that was published, whatever their number
    steps = usual_steps(photos)
    return round(steps * _COMPLETION_STEPS) if method.startswith("genfusion-completion") else steps


def _about_method(method: str, wanted: str, machine: Machine) -> str:
    why = "as asked for" if wanted != "auto" else "the capture has masks" if "masked" in method else "whole photos"
    offer = ""
    if machine.published and wanted == "auto":
        offer = f"; the published settings are possible here: --method {method}-published"
    return f"{method}: {why}{offer}"


def _has_rounds(method: str, facts: CaptureFacts, machine: Machine, wanted: str) -> bool:
    if wanted != "auto":
        return wanted == "yes"
    return method != "genfusion" or machine.published or facts.trained <= FEW_PHOTOS


def _test_every(method: str, facts: CaptureFacts, wanted: int | None) -> int | None:
    """The flag; None where the default of all methods does it, or the capture says which."""
    if wanted is None and (facts.declares_split or windowed(method, facts)):
        return None
    stride = held_out_stride(facts.photos, wanted)
    return None if stride == HOLD_OUT else stride


def _training_seconds(all_of_it: float, posing: float) -> float:
    return max(_TRAINING * (all_of_it - posing), _AT_LEAST * all_of_it)


def _fitting(
    facts: CaptureFacts, speed: Speed, wanted: WholeRunSettings, steps: int, rounds: bool, most: float
) -> tuple[int, int, float, str]:
    """Steps, factor and seconds that fit into `most` seconds: the largest photos that leave time for all steps."""
    renders = 2 if rounds else 1

    def seconds(factor: int) -> float:
        return steps * renders * speed.step(smaller(facts.size, factor))

    smallest = max(1, max(facts.size) // _LEAST_SIDE)
    factor = wanted.downscale or next((f for f in range(1, smallest) if seconds(f) <= most), smallest)
    size = smaller(facts.size, factor)
    shown = f"{steps} steps on {size[0]} x {size[1]} pixels"
    if seconds(factor) <= most:
        return steps, factor, seconds(factor), f"{shown}: {_of(seconds(factor), most)}"
    if wanted.steps is not None:
        return steps, factor, seconds(factor), f"{shown}, as asked for: {_of(seconds(factor), most)}"
    step = renders * speed.step(size)
    fitting = max(_FEWEST_STEPS, int(most / step))
    if fitting >= steps:
        return steps, factor, steps * step, f"{shown}: {_of(steps * step, most)}"
    return (
        fitting,
        factor,
        fitting * step,
        f"{fitting} steps on {size[0]} x {size[1]} pixels: {_of(fitting * step, most)}; {steps} would suit "
        f"{facts.trained} photos (more --minutes)",
    )


def _of(seconds: float, most: float) -> str:
    return f"about {max(1, round(seconds / 60))} min of training, {max(1, round(most / 60))} are there for it"
