"""Jobs of `gf-make-clips` on Ray, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from genfusion_ns.fusion.clip_making import ClipJob

_STORE_BYTES = 100 * 2**20
"""Room for objects that Ray passes between processes; jobs pass settings and a number."""


@dataclass
class JobOptions:
    """Where jobs run, and how many at a time."""

    workers: int = 1
    """Jobs at a time on this machine; on a cluster, as many as its cores allow."""
    threads: int | None = None
    """CPU threads of a job; by default the cores of this machine, shared by the workers."""
    gpus_per_job: float | None = None
    """GPUs of a job, shares allowed; by default those of this machine, shared by the workers."""
    ray_address: str | None = None
    """Ray cluster to run on ("auto", or host:port); every node needs this package and sees captures and data set
    under the same paths, and RAY_AUTH_TOKEN must be the cluster's where that asks for one. By default Ray is started
    on this machine for the time of the command."""
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

    Progress is shown on standard error, and a line for each job that ends on standard output.

    Returns:
        Reason of each failure, by the name of its job.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no cluster at the address.
    """
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
    failures: dict[str, str] = {}
    with _ray(options, threads) as ray, tqdm(total=len(jobs), unit="job", desc="clips") as progress:
        # A process of its own for every job: nothing that a job leaves behind reaches the next.
        task = ray.remote(max_calls=1)(_run_job).options(
            num_cpus=threads, num_gpus=_gpus(options), max_retries=options.retries, name="gf-make-clips"
        )
        running = {task.remote(job, threads): job for job in jobs}
        while running:
            ended, _ = ray.wait(list(running), num_returns=1)
            job = running.pop(ended[0])
            try:
                progress.write(f"{job.name}: {ray.get(ended[0])} samples in {job.folder}")
            except ray.exceptions.RayError as error:
                failures[job.name] = _reason(ray, error, job)
                progress.write(f"{job.name}: failed")
            progress.update()
            progress.set_postfix(failed=len(failures))
    return failures


def _run_job(job: ClipJob, threads: int) -> int:
    """In the worker process."""
    import torch

    from genfusion_ns.fusion.unrepaired import Presets
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


def _reason(ray: Any, error: Any, job: ClipJob) -> str:
    from genfusion_ns.fusion.clip_making import LOG

    log = job.unfinished / LOG
    where = f" (its output: {log})" if log.is_file() else ""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        text = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
        return text + where
    return f"its process was lost, again after every retry: {error}{where}"


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
            "gf-make-clips runs its jobs on Ray, which is not installed: pip install genfusion-ns[train]"
        ) from error
    if options.ray_address is None:
        ray.init(
            address="local",  # whatever other Ray is found on the machine or in the environment
            num_cpus=options.workers * threads,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_STORE_BYTES,
        )
    else:
        ray.init(address=options.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()
