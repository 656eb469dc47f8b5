"""Tasks that a Dask cluster does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.pretrain.data.workers.cluster_tasks import (
    Outcome,
    environment_as_before,
    results_of,
    unpacking,
)
from s3prl_melhubert.pretrain.data.workers.common import killed, not_installed
from s3prl_melhubert.support.memory import freed_memory_kept

if TYPE_CHECKING:
    from s3prl_melhubert.pretrain.data.workers.tasks import Workers

T = TypeVar("T")


class _Dask:
    def __init__(self, client: Any):
        self.client = client
        self.call = unpacking()
        self.ended: SimpleQueue[Any] = SimpleQueue()

    def threads(self) -> int:
        with _scheduler_answers():
            return sum(self.client.nthreads().values())

    def submit(self, task: Callable[[], int]) -> None:
        import cloudpickle  # which comes with Dask

        sent = cloudpickle.dumps(task)
        with _scheduler_answers():
            self.client.submit(self.call, sent, pure=False).add_done_callback(self.ended.put)

    def next_outcome(self, seconds: float) -> Outcome | None:
        from distributed import CancelledError, KilledWorker

        try:
            return self.ended.get(timeout=seconds).result()
        except Empty:
            return None
        except KilledWorker:
            raise killed("several workers were killed by the same task") from None
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


def on_dask(
    workers: Workers, function: Callable[[T], int], tasks: Iterable[T], meanwhile: Callable[[], object]
) -> Iterator[int]:
    with _dask_client(workers) as client:
        yield from results_of(_Dask(client), workers, partial(_keeping_memory, function), tasks, meanwhile)


def _keeping_memory(function: Callable[[T], int], task: T) -> int:
    """Call a function in a worker of Dask, which gives memory back more eagerly than suits arrays."""
    with freed_memory_kept():
        return function(task)


@contextmanager
def _dask_client(workers: Workers) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise not_installed("dask", "dask[distributed]") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # What it would say is raised here.
    if workers.scheduler is None:
        with environment_as_before(), own_cluster(workers.local_jobs) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(workers.scheduler, timeout=20)
    except (OSError, ValueError, TypeError) as error:  # A timeout is the first; tls:// without keys the last.
        raise MelHuBERTError(f"{workers.place}: no Dask scheduler answers ({said(error)})") from None
    with client:
        yield client


@contextmanager
def own_cluster(processes: int) -> Iterator[Any]:
    """Have a cluster on this machine, which takes nothing back of what was done when it ends."""
    from distributed import LocalCluster, Status

    cluster = LocalCluster(n_workers=processes, threads_per_worker=1, dashboard_address=None)
    try:
        yield cluster
    finally:
        try:
            cluster.close()
        except Exception:  # Such as an AssertionError, where a worker that died is just being started again.
            cluster.status = Status.failed  # Dask would wait for ever for the end of what has failed.
            with suppress(Exception):
                cluster.close()
