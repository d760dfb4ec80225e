"""A small pool for compiled functions that release the GIL; rendering from several Python threads at once is safe.

Work shares itself out, so helpers only ever speed it up: the caller does what no helper took, and waits for those that
took part, as long as they live. Threads that cannot be started or that died (memory that ran out) cost time, never the
result, and nobody waits for them.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue

_lock = threading.Lock()
_threads: int | None = None
_pool: _Pool | None = None
_said = False
_LOOK_AGAIN = 1.0
"""Seconds after which a caller looks whether the helpers it waits for are still alive."""


def num_threads() -> int:
    """Threads a render uses: as set, else OMP_NUM_THREADS, else the number of cores this process may run on."""
    if _threads is not None:
        return _threads
    # OpenMP allows a list, for nested regions; like OpenMP, go on where the value is no positive number
    wish = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wish.isascii() and wish.isdigit() and int(wish) > 0:
        return int(wish)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def set_num_threads(threads: int | None) -> None:
    """Let renders use this many threads, the calling one included; None goes back to `OMP_NUM_THREADS` or all cores.

    Raises:
        ValueError: fewer than one thread.
    """
    global _threads
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}; a render needs at least 1 (or None for all cores).")
    _threads = threads


def run_on_all(work: Callable[[], None]) -> None:
    """Run the same work on every thread, this one included, and wait; work shares itself out.

    Raises:
        RuntimeError: a thread died at work, so that its share is missing.
    """
    helpers = num_threads() - 1
    if helpers == 0:
        work()
        return
    job = _Job(work)
    _helpers(helpers).put(job)
    try:
        work()
    finally:
        job.close()
    if job.error is not None:
        raise job.error


class _Job:
    """Work that helpers may join until the caller has come to its end."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._changed = threading.Condition()
        self._at_work: set[weakref.ref[_Life]] = set()
        self.error: BaseException | None = None

    def join(self, life: weakref.ref[_Life]) -> None:
        """Do a share, on a helper's thread."""
        with self._changed:
            work = self._work
            if work is None:
                return
            self._at_work.add(life)
        try:
            work()
        except BaseException as error:  # the caller's to handle
            self.error = error
        with self._changed:
            self._at_work.discard(life)
            self._changed.notify()

    def close(self) -> None:
        """Let no more helpers in, and wait for those at work."""
        with self._changed:
            self._work = None
            while self._at_work:
                self._changed.wait(_LOOK_AGAIN)
                dead = {life for life in self._at_work if life() is None}
                if dead:
                    self._at_work -= dead
                    self.error = RuntimeError(
                        "A thread of the CPU rasteriser died at work, most likely because memory ran out: give the "
                        "process more of it, or use fewer threads (OMP_NUM_THREADS)."
                    )


class _Life:
    """Held by a helper's thread alone: it is gone when the thread is, for whatever reason that ended."""


class _Pool:
    """Helpers that wait for jobs."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lives = [life for _ in range(wanted) if (life := self._start()) is not None]
        if len(self._lives) < wanted:
            _say_fewer(len(self._lives) + 1, wanted + 1)

    def _start(self) -> weakref.ref[_Life] | None:
        life = _Life()
        alive = weakref.ref(life)
        try:
            # not threading.Thread, whose start() waits for ever for a thread that dies before its first line
            _thread.start_new_thread(_help, (life, alive, self._jobs))
        except (RuntimeError, MemoryError):
            return None
        return alive

    def alive(self) -> int:
        """Helpers that can take a job."""
        return sum(life() is not None for life in self._lives)

    def put(self, job: _Job) -> None:
        """Offer a job to all helpers."""
        for _ in range(self.alive()):
            self._jobs.put(job)

    def end(self) -> None:
        """Send the helpers home after the jobs they were given."""
        for _ in self._lives:
            self._jobs.put(None)


def _help(life: _Life, alive: weakref.ref[_Life], jobs: SimpleQueue[_Job | None]) -> None:
    del life  # the interpreter holds the arguments of a thread until it ends; a traceback may hold this frame longer
    while (job := jobs.get()) is not None:
        job.join(alive)
        del job  # with the arrays it worked on


def _helpers(wanted: int) -> _Pool:
    global _pool
    with _lock:
        if _pool is None or _pool.wanted != wanted:
            if _pool is not None:
                _pool.end()
            _pool = _Pool(wanted)
        return _pool


def _say_fewer(threads: int, wanted: int) -> None:
    global _said
    if not _said:
        _said = True
        print(f"Only {threads} of {wanted} CPU threads could be started; rendering goes on with them.", file=sys.stderr)


def _forget_pool() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


@atexit.register
def _end_pool() -> None:
    """Let helpers return: threads that the interpreter has to end may abort the process when memory is out."""
    if _pool is None:
        return
    _pool.end()
    for _ in range(100):
        if _pool.alive() == 0:
            return
        time.sleep(0.001)


# the threads of a pool do not survive a fork, e.g. in a data loader's workers
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
