"""How many workers there are, and what is done by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import joblib

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.workers.common import nothing
from s3prl_melhubert.pretrain.data.workers.dask_tasks import on_dask
from s3prl_melhubert.pretrain.data.workers.loky_tasks import on_loky
from s3prl_melhubert.pretrain.data.workers.ray_tasks import on_ray
from s3prl_melhubert.support.progress import progress

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
    meanwhile: Callable[[], object] = nothing,
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


Backend = Callable[[Workers, Callable[[T], int], Iterable[T], Callable[[], object]], Iterator[int]]

BACKENDS: dict[str, Backend] = {"loky": on_loky, "dask": on_dask, "ray": on_ray}
