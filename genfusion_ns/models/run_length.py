"""Lengths of runs, and step counts that are given as steps or as shares of one."""

from __future__ import annotations


def steps_of_run(value: float, total_steps: int) -> int:
    """Steps that a setting stands for: above 1 it counts steps, from 0 to 1 it is a share of the run.

    Shares let one preset fit runs of any length.

    >>> steps_of_run(500, 7000), steps_of_run(0.5, 7000)
    (500, 3500)
    """
    return round(value) if value > 1 else round(value * total_steps)


PUBLISHED_STEPS = 7000
"""Length of GenFusion's runs on few photos, which its learning rates and counts of views are for."""
_FEWEST, _MOST = 1000, 7000
_PER_PHOTO = 175


def usual_steps(photos: int) -> int:
    """Length of a run on so many photos where none is given: few photos are over-fitted in long runs.

    >>> usual_steps(3), usual_steps(12), usual_steps(100)
    (1000, 2100, 7000)
    """
    return min(max(_FEWEST, _PER_PHOTO * photos), _MOST)
