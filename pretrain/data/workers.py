"""Work on shards, spread over this machine's cores (loky) or a cluster that the user has (Dask, Ray).

A task writes its results to disk, and returns only how many units of progress it was worth, so it does not
matter where it ran. Each backend is a generator that yields what the tasks return: see `BACKENDS`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from itertools import chain, islice
from multiprocessing import resource_tracker
from typing import Any, Protocol, TypeVar

import joblib

from s3prl_melhubert import __version__
from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.support.memory import freed_memory_kept
from s3prl_melhubert.support.progress import progress

T = TypeVar("T")


def _nothing() -> None:
    pass


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

    @property
    def place(self) -> str:
        """The argument that says where the work is done, for messages."""
        return f"--backend {self.backend}" if self.scheduler is None else f"--scheduler {self.scheduler}"


def run_tasks(
    workers: Workers,
    function: Callable[[T], int],
    tasks: Iterable[T],
    title: str,
    unit: str,
    total: int,
    meanwhile: Callable[[], object] = _nothing,
) -> None:
    """Call `function` once with every task, in any order.

    Args:
        workers: the processes that call it.
        function: can be imported by its name; it returns how many units it has done.
        tasks: the function's arguments, one for each call; each is asked for when it is about to be done.
        title: what the progress display calls the work.
        unit: what it counts, in the plural.
        total: how many units all tasks are worth; 0 if there are none.
        meanwhile: called here once the processes have their first tasks, so that it does not delay them.

    Raises:
        MelHuBERTError: the cluster cannot be used, or a worker process died. What a task raises is
            raised here, too.
    """
    if not total:
        meanwhile()
        return
    with progress(total, title, unit) as bar:
        for done in BACKENDS[workers.backend](workers, function, tasks, meanwhile):
            bar.update(done)


# --- this machine ----------------------------------------------------------------------------------------


def _on_loky(
    workers: Workers, function: Callable[[T], int], tasks: Iterable[T], meanwhile: Callable[[], object]
) -> Iterator[int]:
    first_two = [*islice(tasks := iter(tasks), 2)]
    tasks = chain(first_two, tasks)
    if min(workers.local_jobs, len(first_two)) <= 1:
        meanwhile()
        yield from map(function, tasks)
        return
    call = joblib.delayed(partial(_while_parent_lives, os.getpid(), function))
    try:
        with joblib.parallel_config("loky", inner_max_num_threads=1), _ctrl_c_for_this_thread_alone():
            run = joblib.Parallel(n_jobs=workers.local_jobs, batch_size=1, return_as="generator_unordered")
            results = run(map(call, tasks))
        meanwhile()
        yield from results
    except joblib.externals.loky.process_executor.TerminatedWorkerError:
        raise _killed("a worker process was killed") from None


@contextmanager
def _ctrl_c_for_this_thread_alone() -> Iterator[None]:
    """Keep SIGINT, which a terminal sends to all processes, from those that begin while the block runs.

    They inherit that it is blocked. A worker that is importing would end in the lines of a traceback; this
    process ends its workers when it is interrupted. A signal that comes within the block is noticed after it.
    """
    # loky has this helper of Python's begin before its workers, and that lets SIGINT through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _killed(what: str) -> MelHuBERTError:
    return MelHuBERTError(
        f"{what} (out of memory?); the same command continues, with fewer --jobs if memory is short"
    )


def _while_parent_lives(parent: int, function: Callable[[T], int], task: T) -> int:
    """Call a function in a worker process that must not outlive the command.

    If the command is killed, loky's workers wait for another five minutes, each with its memory.
    """
    _watch(parent)
    return function(task)


@cache  # so that a process has one such thread
def _watch(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="watch the parent", daemon=True).start()


# --- clusters --------------------------------------------------------------------------------------------

Outcome = int | str  # what a task returns, or why the worker cannot do it


class _Cluster(Protocol):
    """What is asked of a cluster."""

    def threads(self) -> int:
        """How many tasks it does at once, with the workers that it has now."""

    def submit(self, task: Callable[[], int]) -> None:
        """Have a worker call the task, through what `_unpacking` makes."""

    def next_outcome(self) -> Outcome:
        """Wait until one of the tasks has ended, whichever is first."""


def _results(
    cluster: _Cluster,
    workers: Workers,
    function: Callable[[T], int],
    tasks: Iterable[T],
    meanwhile: Callable[[], object],
) -> Iterator[int]:
    """Have a cluster do the tasks, of which it holds few at once, as they name all audio files."""
    left, running = iter(tasks), 0
    if not cluster.threads():
        print(f"{workers.place}: no worker yet; waiting for one", file=sys.stderr)
    while True:
        # Twice as many as are at work, so that none waits for its next task to arrive.
        limit = workers.jobs or 2 * max(1, cluster.threads())
        for task in islice(left, max(0, limit - running)):
            cluster.submit(partial(function, task))
            running += 1
        if not running:
            return
        meanwhile()
        meanwhile = _nothing  # once
        outcome = cluster.next_outcome()
        if isinstance(outcome, str):
            raise MelHuBERTError(f"{workers.place}: {outcome}")
        running -= 1
        yield outcome


def _unpacking() -> Callable[[bytes], Outcome]:
    """The function that a cluster's worker calls with each task.

    It is sent whole, and tasks as bytes: a worker that lacks this package can then say so. Of a function that
    a worker cannot read, Dask reports nothing, and the command would wait forever.
    """
    ours = __version__

    def call(task: bytes) -> Outcome:
        import pickle
        import platform

        where = f"a worker on {platform.node()}"
        try:
            from s3prl_melhubert import __version__ as theirs

            if theirs != ours:
                return f"{where} has s3prl-melhubert {theirs}, and this is {ours}; install the same there"
            function = pickle.loads(task)
        except (ImportError, OSError) as error:  # OSError: a shared library is missing
            return f"{where} cannot import s3prl_melhubert and what it needs ({error}); install it there"
        return function()

    return call


class _Dask:
    def __init__(self, client: Any):
        from distributed import as_completed

        self.client = client
        self.call = _unpacking()
        self.running = as_completed(loop=client.loop)

    def threads(self) -> int:
        with _scheduler_answers():
            return sum(self.client.nthreads().values())

    def submit(self, task: Callable[[], int]) -> None:
        import cloudpickle  # which comes with Dask

        sent = cloudpickle.dumps(task)
        with _scheduler_answers():
            self.running.add(self.client.submit(self.call, sent, pure=False))

    def next_outcome(self) -> Outcome:
        from distributed import CancelledError, KilledWorker

        try:
            return next(self.running).result()
        except KilledWorker:
            raise _killed("several workers were killed by the same task") from None
        except CancelledError as error:
            raise _lost_scheduler(error) from None


@contextmanager
def _scheduler_answers() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # An AttributeError is among what a client raises that has lost its scheduler.
        raise _lost_scheduler(error) from None


def _lost_scheduler(error: Exception) -> MelHuBERTError:
    return MelHuBERTError(f"the Dask scheduler was lost ({said(error)}); the same command continues")


def _on_dask(
    workers: Workers, function: Callable[[T], int], tasks: Iterable[T], meanwhile: Callable[[], object]
) -> Iterator[int]:
    with _dask_client(workers) as client:
        yield from _results(_Dask(client), workers, partial(_keeping_memory, function), tasks, meanwhile)


def _keeping_memory(function: Callable[[T], int], task: T) -> int:
    """Call a function in a worker of Dask, which gives memory back more eagerly than suits arrays."""
    with freed_memory_kept():
        return function(task)


@contextmanager
def _dask_client(workers: Workers) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise _not_installed("dask", "dask[distributed]") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # What it would say is raised here.
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
        raise MelHuBERTError(f"{workers.place}: no Dask scheduler answers ({error or 'timed out'})") from None
    with client:
        yield client


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


class _Ray:
    def __init__(self, ray: Any):
        self.ray = ray
        self.call = ray.remote(_unpacking())
        self.running: list[Any] = []

    def threads(self) -> int:
        return int(self.ray.cluster_resources().get("CPU", 0))

    def submit(self, task: Callable[[], int]) -> None:
        self.running.append(self.call.remote(self.ray.cloudpickle.dumps(task)))

    def next_outcome(self) -> Outcome:
        (first, *_), self.running = self.ray.wait(self.running)
        try:
            return self.ray.get(first)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except (self.ray.exceptions.WorkerCrashedError, self.ray.exceptions.OutOfMemoryError):
            raise _killed("several workers were killed by the same task") from None


def _on_ray(
    workers: Workers, function: Callable[[T], int], tasks: Iterable[T], meanwhile: Callable[[], object]
) -> Iterator[int]:
    with _environment_as_before():
        os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # The first error is raised, and ends the command.
        yield from _results(_Ray(_connected_ray(workers)), workers, function, tasks, meanwhile)


def _connected_ray(workers: Workers) -> Any:
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise _not_installed("ray", "ray") from None
    if not ray.is_initialized():
        _check_ray_answers(workers)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if workers.scheduler is None:
                ray.init(num_cpus=workers.local_jobs, include_dashboard=False, **quiet)
            else:
                ray.init(address=workers.scheduler, **quiet)
        except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
            raise MelHuBERTError(
                f"{workers.place}: no Ray cluster answers ({error}); one that asks for a token needs "
                "RAY_AUTH_MODE=token here, too"
            ) from None
    return ray


def _check_ray_answers(workers: Workers) -> None:
    """Refuse an address at which nothing listens, on which Ray itself waits for many minutes."""
    host, colon, port = (workers.scheduler or "").rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():  # such as "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=20).close()
    except (OSError, OverflowError) as error:
        raise MelHuBERTError(f"{workers.place}: no Ray cluster answers ({error})") from None


def _not_installed(backend: str, package: str) -> MelHuBERTError:
    return MelHuBERTError(f"--backend {backend}: not installed; pip install '{package}'")


Backend = Callable[[Workers, Callable[[T], int], Iterable[T], Callable[[], object]], Iterator[int]]

BACKENDS: dict[str, Backend] = {"loky": _on_loky, "dask": _on_dask, "ray": _on_ray}
