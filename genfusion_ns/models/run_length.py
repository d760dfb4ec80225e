"""Step counts that are given as steps or as shares of a run."""

from __future__ import annotations


def steps_of_run(value: float, total_steps: int) -> int:
    """Steps that a setting stands for: above 1 it counts steps, from 0 to 1 it is a share of the run.

    Shares let one preset fit runs of any length.

    >>> steps_of_run(500, 7000), steps_of_run(0.5, 7000)
    (500, 3500)
    """
    return round(value) if value > 1 else round(value * total_steps)
