"""How long a run will go on: nerfstudio's figure, with what the supervision does before steps counted once each.

nerfstudio takes the mean of the last steps for all that are left, whatever took place before one of them.
"""

from __future__ import annotations

import time
from collections import deque

from nerfstudio.engine.trainer import writer
from nerfstudio.utils.writer import EventName

_STEPS = 20
"""Last steps whose mean counts, as in nerfstudio."""


class StepClock:
    """The time of the last steps, from when all that takes place before them is done."""

    def __init__(self) -> None:
        self._began = 0.0
        self._seconds: deque[float] = deque(maxlen=_STEPS)

    def start(self, step: int) -> None:
        """A step begins."""
        self._began = time.monotonic()

    def stop(self, step: int) -> None:
        """It ends."""
        self._seconds.append(time.monotonic() - self._began)

    def seconds(self) -> float:
        """Mean of the last steps; 0 before the first."""
        return sum(self._seconds) / max(len(self._seconds), 1)


def put_time_left(seconds: float, step: int) -> None:
    """Have nerfstudio's writers, the table on the console among them, show this in place of their own figure."""
    name = EventName.ETA.value
    for event in writer.EVENT_STORAGE:
        if event["name"] == name and event["step"] == step:
            event["event"] = seconds  # in its place: it is a column of the table
            return
    writer.put_scalar(name, seconds, step)
