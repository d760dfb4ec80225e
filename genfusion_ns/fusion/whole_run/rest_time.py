"""How long the stages after the poses will take, where that is known: on the CPU, whose speed was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genfusion_ns.fusion.whole_run.choice import CaptureFacts, Choice
from genfusion_ns.fusion.whole_run.flight import FRAMES

_START = 20.0
"""Seconds in which a stage starts and ends, on two cores."""
_RENDER = 0.4
"""A render beside a training step."""
_METRICS = 2.0
"""Seconds for the metrics of one picture."""


def expected_seconds(facts: CaptureFacts, choice: Choice) -> dict[str, float]:
    """Seconds by stage; empty where the speed of the machine is not known."""
    if choice.seconds is None:
        return {}
    step = choice.seconds / choice.steps / (2 if choice.rounds else 1)
    judged = facts.photos - facts.trained or facts.photos
    return {
        "train": _START + choice.seconds,
        "evaluate": _START + judged * (_METRICS + _RENDER * step),
        "video": _START + FRAMES * _RENDER * step,
        "splat": _START,
        "compact": _START,
        "mesh": _START + 2 * facts.trained * _RENDER * step,
        "report": 2 * _START,
    }


def time_to_go(stages: Sequence[str], seconds: Mapping[str, float]) -> str:
    """For people; empty where it is not known.

    >>> time_to_go(["train", "video"], {"train": 100.0, "video": 50.0, "mesh": 7.0})
    'about 2 min to go'
    """
    known = [seconds[name] for name in stages if name in seconds]
    return f"about {max(1, round(sum(known) / 60))} min to go" if known else ""
