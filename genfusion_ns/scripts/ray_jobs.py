"""Jobs of `gf-make-clips`: one by one on this machine, or on Ray, several at a time on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
import re
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from socket import create_connection
from threading import Thread
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from genfusion_ns.fusion.clip_making.job import ClipJob

    Results = Iterator[tuple[ClipJob, int | str]]
    """Jobs as they end, with the number of their samples or the reason of their failure."""

_PATIENCE = 10
"""Seconds that a cluster may take to answer."""
_STARTS = 3
"""Times that a Ray of our own is tried to be started."""
_STORE_BYTES = 100 * 2**20
"""Room for objects that Ray passes between processes; jobs pass settings and a number."""


@dataclass
class JobOptions:
    """Where jobs run, and how many at a time."""

    workers: int = 1
    """Jobs at a time on this machine; 1 does without Ray. On a cluster, as many as its cores allow."""
    threads: int | None = None
    """CPU threads of a job; by default the cores of this machine, shared by the workers."""
    gpus_per_job: float | None = None
    """GPUs of a job, shares allowed; by default those of this machine, shared by the workers."""
    ray_address: str | None = None
    """Ray cluster to run on ("auto", or host:port); every node needs this package and sees captures and data set
    under the same paths, and RAY_AUTH_TOKEN must be the cluster's where that asks for one. By default Ray is started
    on this machine for the time of the command, where there are several workers."""
    retries: int = 2
    """How often a job is started again whose process was killed or whose node was lost."""

    def check(self) -> None:
        """Raise ValueError for numbers that cannot be used."""
        for name, value, least in (
            ("workers", self.workers, 1),
            ("threads", self.threads, 1),
            ("gpus-per-job", self.gpus_per_job, 0),
            ("retries", self.retries, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"--{name} is {value}; it must be at least {least}")


def run_jobs(jobs: Sequence[ClipJob], options: JobOptions) -> dict[str, str]:
    """Run all jobs; one that fails does not stop the others.

    Progress is shown on standard error, and a line for each job that ends on standard output. Ray is imported only for
    several workers or for a cluster; the clips are the same.

    Returns:
        Reason of each failure, by the name of its job.

    Raises:
        ModuleNotFoundError: Ray is needed and not installed.
        ConnectionError: Ray does not start, or there is no cluster at the address.
    """
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
    here = options.workers == 1 and options.ray_address is None
    failures: dict[str, str] = {}
    with tqdm(total=len(jobs), unit="job", desc="clips") as progress:
        for job, result in (_one_by_one if here else _on_ray)(jobs, options, threads):
            if isinstance(result, str):
                failures[job.name] = result + (f" (its output: {job.log})" if job.log.is_file() else "")
                progress.write(f"{job.name}: failed")
            else:
                progress.write(f"{job.name}: {result} samples in {job.folder}")
            progress.update()
            progress.set_postfix(failed=len(failures))
    return failures


def _one_by_one(jobs: Sequence[ClipJob], options: JobOptions, threads: int) -> Results:
    """A process of its own for every job, started afresh: nothing that a job leaves behind reaches the next."""
    for job in jobs:
        for _ in range(1 + options.retries):
            with ProcessPoolExecutor(1, get_context("spawn"), _prepare, (options.gpus_per_job,)) as pool:
                try:
                    result = pool.submit(_attempt, job, threads).result()
                    break
                except BrokenProcessPool as error:
                    result = _lost(error)
        yield job, result


def _on_ray(jobs: Sequence[ClipJob], options: JobOptions, threads: int) -> Results:
    with _ray(options, threads) as ray:
        # A process of its own for every job, as in `_one_by_one`.
        task = ray.remote(max_calls=1)(_attempt).options(
            num_cpus=threads, num_gpus=_gpus(options), max_retries=options.retries, name="gf-make-clips"
        )
        running = {task.remote(job, threads): job for job in jobs}
        while running:
            ended, _ = ray.wait(list(running), num_returns=1)
            try:
                result = ray.get(ended[0])
            except ray.exceptions.RayError as error:
                result = _lost(error)
            yield running.pop(ended[0]), result


def _lost(error: Exception) -> str:
    return f"its process was lost, again after every retry: {error}"


def _prepare(gpus: float | None) -> None:
    """In a process of `_one_by_one`, before its job."""
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # nobody waits for this job any more


def _attempt(job: ClipJob, threads: int) -> int | str:
    """In the worker process: the number of samples, or the reason of a failure."""
    try:
        return _run_job(job, threads)
    except Exception as error:
        if isinstance(error, ValueError):
            return str(error)
        if job.unfinished.is_dir():
            with job.log.open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
        return f"{type(error).__name__}: {error}"


def _run_job(job: ClipJob, threads: int) -> int:
    """In the worker process."""
    import torch

    from genfusion_ns.fusion.clip_making.plain_runs import Presets
    from genfusion_ns.methods import genfusion, genfusion_masked
    from genfusion_ns.rendering.thread_pool import set_num_threads

    torch.set_num_threads(threads)
    set_num_threads(threads)
    return job.run(Presets(genfusion.config, genfusion_masked.config))


def _gpus(options: JobOptions) -> float:
    if options.gpus_per_job is not None:
        return options.gpus_per_job
    import torch

    return min(1.0, torch.cuda.device_count() / options.workers)


def _look_for(address: str | None) -> None:
    """Raise OSError where nothing listens at host:port; Ray itself would wait for minutes."""
    found = re.fullmatch(r"(?:ray://)?(?P<host>[^/:]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})", address or "")
    if found:
        create_connection((found["host"].strip("[]"), int(found["port"])), _PATIENCE).close()


def _start(ray: Any, settings: dict[str, Any]) -> None:
    """Ray gives its own processes 30 s to start, which a busy machine misses now and then: it is tried again."""
    for attempt in range(_STARTS):
        try:
            ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == _STARTS - 1:
                raise
            ray.shutdown()


@contextmanager
def _ray(options: JobOptions, threads: int) -> Iterator[Any]:
    """Ray, connected; a Ray that was started here ends with the context."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A job without a share of a GPU must not find one; a later Ray would show it all of them.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "several --workers, and --ray-address, need Ray, which is not installed: pip install genfusion-ns[train]. "
            "--workers 1 does without"
        ) from error
    settings: dict[str, Any] = {"address": options.ray_address}
    if options.ray_address is None:
        settings = {
            "address": "local",  # whatever other Ray is found on the machine or in the environment
            "num_cpus": options.workers * threads,
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
    try:
        _look_for(options.ray_address)
        _start(ray, settings)
    except Exception as error:  # of whichever part did not start
        where = "did not start" if options.ray_address is None else f"cannot be reached at {options.ray_address}"
        said = textwrap.shorten(str(error) or type(error).__name__, 500)
        raise ConnectionError(f"Ray {where} ({said}); --workers 1 without --ray-address does without Ray") from error
    try:
        yield ray
    finally:
        ray.shutdown()
