"""The rasteriser's threads: shares of work, their number, and threads that die or cannot be started."""

from __future__ import annotations

import _thread
import ctypes
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from genfusion_ns.rendering import thread_pool

REPOSITORY = Path(__file__).resolve().parents[2]


def shares(count: int) -> list[int]:
    """Which thread did each of `count` shares of a piece of work."""
    done: list[int] = [0] * count
    counter = itertools.count()

    def work() -> None:
        while (k := next(counter)) < count:
            done[k] = threading.get_ident()
            time.sleep(0.001)

    thread_pool.run_on_all(work)
    return done


def end_thread(ident: int) -> None:
    """Raise SystemExit in a thread, wherever it is: the way of dying that prints nothing."""
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(SystemExit)) == 1


def test_threads_share_the_work() -> None:
    thread_pool.set_num_threads(3)
    done = shares(60)
    assert all(done)
    assert len(set(done)) == 3
    assert threading.get_ident() in done


def test_an_error_of_a_helper_reaches_the_caller() -> None:
    thread_pool.set_num_threads(2)
    caller, failed = threading.get_ident(), threading.Event()

    def work() -> None:
        if threading.get_ident() != caller:
            failed.set()
            raise MemoryError("no room")
        assert failed.wait(10)

    with pytest.raises(MemoryError, match="no room"):
        thread_pool.run_on_all(work)
    assert all(shares(20))


def test_helpers_that_died_idle_are_not_waited_for() -> None:
    thread_pool.set_num_threads(3)
    helpers = set(shares(60)) - {threading.get_ident()}
    for ident in helpers:
        end_thread(ident)
    # the first job wakes them, and they die of it
    for _ in range(3):
        assert all(shares(20))


def test_a_thread_that_dies_at_work_is_an_error(monkeypatch) -> None:
    at_work = threading.Event()

    def join_and_die(job: thread_pool._Job, life: weakref.ref) -> None:
        job._at_work.add(life)
        at_work.set()
        raise SystemExit  # in a thread: it ends without a word

    monkeypatch.setattr(thread_pool, "_LOOK_AGAIN", 0.01)
    monkeypatch.setattr(thread_pool._Job, "join", join_and_die)
    thread_pool.set_num_threads(2)
    with pytest.raises(RuntimeError, match="died at work"):
        thread_pool.run_on_all(lambda: [at_work.wait(10)].clear())
    assert all(shares(20))


def test_goes_on_with_the_threads_that_could_be_started(monkeypatch, capsys) -> None:
    start, started = _thread.start_new_thread, []

    def start_two(*arguments) -> int:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(_thread, "start_new_thread", start_two)
    monkeypatch.setattr(thread_pool, "_said", False)
    thread_pool.set_num_threads(7)
    for _ in range(2):
        done = shares(60)
        assert all(done)
        assert len(set(done)) == 3
    assert capsys.readouterr().err.count("Only 3 of 7 CPU threads could be started") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space of a process")
def test_little_memory_never_hangs() -> None:
    # each thread takes megabytes of address space for its stack: most of these 40 cannot start
    code = (
        "import resource, sys\n"
        "from genfusion_ns.rendering import thread_pool\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "for more in range(1, 30, 4):\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (more << 20), resource.RLIM_INFINITY))\n"
        "    thread_pool.set_num_threads(40 + more)\n"
        "    done = []\n"
        "    try:\n"
        "        thread_pool.run_on_all(lambda: done.append(bytearray(3 << 20)))\n"
        "    except (MemoryError, RuntimeError):\n"
        "        pass\n"
        "    done.clear()\n"
        "print('through')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.strip() == "through", result.stderr


@pytest.mark.parametrize(
    ("value", "threads"), [("3", 3), (" 2,4 ", 2), ("0", None), ("-1", None), ("many", None), ("", None)]
)
def test_number_of_threads_follows_the_environment(monkeypatch, value: str, threads: int | None) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    everything = thread_pool.num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert thread_pool.num_threads() == (threads or everything)
    thread_pool.set_num_threads(5)
    assert thread_pool.num_threads() == 5
