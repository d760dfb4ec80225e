"""Ctrl-C and SIGTERM as the wish to stop at the next good moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context manager that notes the first Ctrl-C or SIGTERM; the second one ends the process at once.

    Outside the main thread, where Python allows no handlers, it notes nothing.
    """

    def __init__(self, notice: str, then: Callable[[], object] = lambda: None) -> None:
        """
        Args:
            notice: printed when the wish arrives.
            then: called after it, on the main thread, between any two of its instructions.
        """
        self.received: signal.Signals | None = None
        self._notice, self._then = notice, then
        self._before: dict[signal.Signals, Any] = {}

    @property
    def status(self) -> int:
        """Exit status of a program that stopped for it: 130 or 143; 0 as long as nothing was received."""
        return 0 if self.received is None else 128 + self.received

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Leave signals to whoever had them before; what was received stays noted."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)
        for known in _SIGNALS:
            signal.signal(known, signal.SIG_DFL)
        # Not print: the main thread may be within a print of its own.
        os.write(2, f"\n{self.received.name}: {self._notice}\n".encode())
        self._then()
