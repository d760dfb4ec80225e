"""One stage as a process of its own, by the command that a user would type."""

from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from genfusion_ns.programs import program_path

_STOPPED = {-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM}


def run_stage(words: Sequence[str], lock: int) -> int:
    """Print and run a command, and return its exit status; its output is passed on.

    Ctrl-C reaches it by the terminal, SIGTERM is passed on; either way it gets the time to save what it has.

    Args:
        words: program and arguments.
        lock: descriptor that it holds open for as long as it runs.

    Raises:
        KeyboardInterrupt: it was stopped.
        FileNotFoundError: there is no such program.
    """
    print(f"\n$ {shlex.join(words)}", flush=True)
    process = subprocess.Popen([program_path(words[0]), *words[1:]], pass_fds=(lock,))

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if status in _STOPPED:
        raise KeyboardInterrupt
    return status
