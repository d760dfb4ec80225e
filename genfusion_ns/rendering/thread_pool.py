"""A small pool for compiled functions that release the GIL; rendering from several Python threads at once is safe."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_lock = threading.Lock()
_threads: int | None = None
_pool: ThreadPoolExecutor | None = None


def num_threads() -> int:
    """Threads a render uses: as set, or the number of cores this process may run on."""
    if _threads is not None:
        return _threads
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def set_num_threads(threads: int | None) -> None:
    """Let renders use this many threads, the calling one included; None goes back to all cores.

    Raises:
        ValueError: fewer than one thread.
    """
    global _threads, _pool
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}; a render needs at least 1 (or None for all cores).")
    with _lock:
        _threads = threads
        # a render that still uses the old pool keeps it alive until it is done
        _pool = None


def run_on_all(work: Callable[[], None]) -> None:
    """Run the same work on every thread, this one included, and wait; work shares itself out."""
    count = num_threads()
    if count == 1:
        work()
        return
    helpers = [_executor(count).submit(work) for _ in range(count - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            helper.result()


def _executor(count: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, count - 1), thread_name_prefix="surfel-raster")
        return _pool


def _forget_pool() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


# the threads of a pool do not survive a fork, e.g. in a data loader's workers
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
