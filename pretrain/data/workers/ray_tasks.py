"""Tasks that a Ray cluster does."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.pretrain.data.workers.cluster_tasks import (
    Outcome,
    environment_as_before,
    results_of,
    unpacking,
)
from s3prl_melhubert.pretrain.data.workers.common import killed, not_installed

if TYPE_CHECKING:
    from s3prl_melhubert.pretrain.data.workers.tasks import Workers

T = TypeVar("T")


class _Ray:
    def __init__(self, ray: Any):
        self.ray = ray
        self.call = ray.remote(unpacking())
        self.running: list[Any] = []

    def threads(self) -> int:
        with self._cluster_answers():
            return int(self.ray.cluster_resources().get("CPU", 0))

    def submit(self, task: Callable[[], int]) -> None:
        sent = self.ray.cloudpickle.dumps(task)
        with self._cluster_answers():
            self.running.append(self.call.remote(sent))

    def next_outcome(self, seconds: float) -> Outcome | None:
        try:
            with self._cluster_answers():
                ended, self.running = self.ray.wait(self.running, timeout=seconds)
                return self.ray.get(ended[0]) if ended else None
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error

    @contextmanager
    def _cluster_answers(self) -> Iterator[None]:
        known = self.ray.exceptions
        try:
            yield
        except known.RayTaskError:  # It is the task that has failed.
            raise
        except (known.WorkerCrashedError, known.OutOfMemoryError):
            raise killed("several workers were killed by the same task") from None
        except (known.RayError, ConnectionError) as error:
            raise MelHuBERTError(
                f"the Ray cluster was lost ({said(error)}); the same command continues"
            ) from None


def on_ray(
    workers: Workers, function: Callable[[T], int], tasks: Iterable[T], meanwhile: Callable[[], object]
) -> Iterator[int]:
    with environment_as_before():
        os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # The first error is raised, and ends the command.
        yield from results_of(_Ray(_connected_ray(workers)), workers, function, tasks, meanwhile)


def _connected_ray(workers: Workers) -> Any:
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise not_installed("ray", "ray") from None
    if not ray.is_initialized():
        _check_ray_answers(workers)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if workers.scheduler is None:
                # Without "local", Ray would look for a cluster in RAY_ADDRESS and on this machine.
                ray.init("local", num_cpus=workers.local_jobs, include_dashboard=False, **quiet)
            else:
                ray.init(address=workers.scheduler, **quiet)
        except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
            raise MelHuBERTError(
                f"{workers.place}: no Ray cluster answers ({said(error)}); one that asks for a token needs "
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
    except (OSError, OverflowError, UnicodeError) as error:  # the last of `a..b`, which can be no name
        raise MelHuBERTError(f"{workers.place}: no Ray cluster answers ({said(error)})") from None
