"""What people who watch a run see of its rounds, and what they can ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from genfusion_ns.errors import message_of, wants_traceback
from genfusion_ns.fusion.rounds.files import RoundFiles
from genfusion_ns.fusion.rounds.generated_views import GeneratedViewStore
from genfusion_ns.fusion.rounds.record import RoundRecord
from genfusion_ns.fusion.rounds.round import Round
from genfusion_ns.models.surfel_model import GenFusionModel

Action = Callable[[int], object]
"""What is asked for; it gets the step that is about to begin."""


@dataclass(frozen=True)
class LoopStatus:
    """What the loop is doing, for people who watch it."""

    active: bool
    """False: the repairer repairs nothing, and no round ever takes place."""
    paused: bool
    rounds: int
    """Rounds made so far."""
    next_step: int | None
    """Step before which the next scheduled round takes place; None when there is none left."""
    weight: float
    """Of the generated-view loss now."""
    views: int
    """Generated views that are supervised now."""
    waiting: int
    """Requests that will be carried out before the next step."""
    message: str
    """What happened last."""


class SteeredRounds(Protocol):
    """Rounds that people watch and steer; see `genfusion_ns.fusion.loop.FusionLoop`."""

    paused: bool
    latest: Round | None
    store: GeneratedViewStore
    files: RoundFiles
    model: GenFusionModel

    @property
    def active(self) -> bool: ...

    def status(self, step: int) -> LoopStatus: ...

    def request(self, action: Action) -> None: ...

    def fuse_once(self, step: int, requested: bool = False) -> RoundRecord: ...

    def complete_from(self, step: int, c2w: Float[Tensor, "rows 4"], fov_y: float) -> RoundRecord: ...

    def drop(self, round: int, clip: int | None = None) -> int: ...


class Requests:
    """Actions that wait for the training thread; any thread may ask."""

    def __init__(self, say: Callable[[str], object]) -> None:
        """`say` is told what could not be done."""
        self._queue: SimpleQueue[Action] = SimpleQueue()
        self._say = say

    def __len__(self) -> int:
        return self._queue.qsize()

    def ask(self, action: Action) -> None:
        """Have `action(step)` carried out before the next step."""
        self._queue.put(action)

    def carry_out(self, step: int) -> None:
        """All that waits, on the training thread; an action that fails must not end the run."""
        while not self._queue.empty():
            try:
                self._queue.get()(step)
            except Exception as error:
                if wants_traceback():
                    CONSOLE.print_exception()
                self._say(f"This could not be done: {message_of(error)}")
