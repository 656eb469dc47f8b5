"""Work on shards, spread over this machine's cores (loky) or a cluster that the user has (Dask, Ray).

Everything passes through joblib. A task writes its results to disk, and returns only how many units of
progress it was worth, so it does not matter where it ran.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any, TypeVar

import joblib

from s3prl_melhubert import __version__
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.memory import freed_memory_kept
from s3prl_melhubert.support.progress import progress

BACKENDS = ("loky", "dask", "ray")

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """The processes that do the work.

    Raises:
        MelHuBERTError: the settings are impossible, or do not go together.
    """

    jobs: int | None = None  # how many; None for as many as this machine may use, or as the cluster has
    backend: str = "loky"  # one of BACKENDS
    scheduler: str | None = None  # the address of a cluster; with None, one is started on this machine

    def __post_init__(self):
        if self.backend not in BACKENDS:
            raise MelHuBERTError(f"--backend {self.backend}: expected one of {', '.join(BACKENDS)}")
        if self.jobs is not None and self.jobs < 1:
            raise MelHuBERTError(f"--jobs {self.jobs}: expected at least 1")
        if self.scheduler is not None and self.backend == "loky":
            raise MelHuBERTError(f"--scheduler {self.scheduler}: goes with --backend dask or ray")

    @property
    def local_jobs(self) -> int:
        """How many processes there are on this machine, if the work is done here."""
        return self.jobs or joblib.cpu_count()


def run_tasks(
    workers: Workers,
    function: Callable[[T], int],
    tasks: Sequence[T],
    title: str,
    unit: str,
    total: int,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Call `function` once with every task, in any order.

    Args:
        workers: the processes that call it.
        function: can be imported by its name; it returns how many units it has done.
        tasks: the function's arguments, one for each call.
        title: what the progress display calls the work.
        unit: what it counts, in the plural.
        total: how many units all tasks are worth.
        meanwhile: called here once the processes have their first tasks, so that it does not delay them.

    Raises:
        MelHuBERTError: the cluster cannot be used, or a worker process died. What a task raises is
            raised here, too.
    """
    with progress(total, title, unit, enabled=bool(tasks)) as bar:
        if workers.backend == "loky" and min(workers.local_jobs, len(tasks)) <= 1:
            meanwhile()
            for task in tasks:
                bar.update(function(task))
            return
        try:
            with _backend(workers, function) as jobs:
                for done in _results(workers, jobs, function, tasks, meanwhile):
                    bar.update(done)
        except joblib.externals.loky.process_executor.TerminatedWorkerError:
            raise MelHuBERTError(
                "a worker process was killed (out of memory?); the same command continues, with fewer --jobs "
                "if memory is short"
            ) from None


def _results(
    workers: Workers,
    jobs: int,
    function: Callable[[T], int],
    tasks: Sequence[T],
    meanwhile: Callable[[], object],
) -> Iterator[int]:
    """Yields what the tasks return, as they end."""
    if workers.backend == "loky":
        function = partial(_while_parent_lives, os.getpid(), function)
    elif workers.backend == "dask":
        function = partial(_keeping_memory, function)
    calls = [joblib.delayed(function)(task) for task in tasks]
    if workers.backend != "ray":
        results = joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")(calls)
        meanwhile()
        yield from results
        return
    meanwhile()
    # Ray's part of joblib returns all results at once, so some tasks at a time are given to it.
    with joblib.Parallel(n_jobs=jobs, batch_size=1) as parallel:
        at_once = 8 * joblib.effective_n_jobs(jobs)
        for start in range(0, len(calls), at_once):
            yield from parallel(calls[start : start + at_once])


def _while_parent_lives(parent: int, function: Callable[[T], int], task: T) -> int:
    """Call a function in a worker process that must not outlive the command.

    If the command is killed, loky's workers wait for another five minutes, each with its memory.
    """
    _watch(parent)
    return function(task)


def _keeping_memory(function: Callable[[T], int], task: T) -> int:
    """Call a function in a worker of Dask, which gives memory back more eagerly than suits arrays."""
    with freed_memory_kept():
        return function(task)


@cache  # so that a process has one such thread
def _watch(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="watch the parent", daemon=True).start()


@contextmanager
def _backend(workers: Workers, function: Callable[..., int]) -> Iterator[int]:
    """Set joblib up for the block, in which it calls the function, and yield how many jobs it is to run."""
    if workers.backend == "loky":
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            yield workers.local_jobs
    elif workers.backend == "dask":
        with _dask_client(workers, function) as client, joblib.parallel_config("dask", client=client):
            yield workers.jobs or -1
    else:
        _connect_ray(workers)
        with joblib.parallel_config("ray"):
            yield workers.jobs or -1


@contextmanager
def _environment_as_before() -> Iterator[None]:
    """Take back what the block adds to the environment.

    A cluster leaves settings for its own processes there, which would slow the later ones of the caller.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _dask_client(workers: Workers, function: Callable[..., int]) -> Iterator[object]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise _not_installed("dask", "dask[distributed]") from None
    if workers.scheduler is None:
        with (
            _environment_as_before(),
            LocalCluster(
                n_workers=workers.local_jobs, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(workers.scheduler, timeout=20)
    except (OSError, ValueError) as error:  # A timeout is an OSError, too.
        raise MelHuBERTError(
            f"--scheduler {workers.scheduler}: no Dask scheduler answers ({error or 'timed out'})"
        ) from None
    with client:
        _check_workers(client, workers.scheduler, function)
        yield client


def _check_workers(client: Any, scheduler: str, function: Callable[..., int]) -> None:
    """Refuse workers that cannot read the tasks, which Dask would never report as failed.

    Raises:
        MelHuBERTError: a worker cannot import what they need, or has another version of this package.
    """
    import cloudpickle  # which comes with Dask

    ours, sent = __version__, cloudpickle.dumps(function)

    def version() -> str:  # inside a function, so that it is sent whole instead of by its name
        import pickle

        from s3prl_melhubert import __version__ as theirs

        if theirs == ours:
            pickle.loads(sent)
        return theirs

    try:
        found = client.run(version)
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        raise MelHuBERTError(
            f"--scheduler {scheduler}: a worker cannot import s3prl_melhubert and what it needs ({error}); "
            "install it where the workers run"
        ) from None
    for worker, theirs in found.items():
        if theirs != ours:
            raise MelHuBERTError(
                f"--scheduler {scheduler}: worker {worker} has s3prl-melhubert {theirs}, and this is "
                f"{ours}; install the same where the workers run"
            )


def _connect_ray(workers: Workers) -> None:
    try:
        ray: Any = import_module("ray")
        from ray.util.joblib import register_ray
    except ImportError:
        raise _not_installed("ray", "ray") from None
    if not ray.is_initialized():
        try:
            if workers.scheduler is None:
                ray.init(num_cpus=workers.local_jobs, include_dashboard=False, log_to_driver=False)
            else:
                ray.init(address=workers.scheduler, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise MelHuBERTError(
                f"--scheduler {workers.scheduler}: no Ray cluster answers ({error})"
            ) from None
    register_ray()


def _not_installed(backend: str, package: str) -> MelHuBERTError:
    return MelHuBERTError(f"--backend {backend}: not installed; pip install '{package}'")
