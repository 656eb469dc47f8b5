"""Tasks that processes of this machine do."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

import joblib

from s3prl_melhubert.pretrain.data.workers.common import killed
from s3prl_melhubert.support.interruption import ctrl_c_for_this_thread_alone

if TYPE_CHECKING:
    from s3prl_melhubert.pretrain.data.workers.tasks import Workers

T = TypeVar("T")


def on_loky(
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
        with joblib.parallel_config("loky", inner_max_num_threads=1), ctrl_c_for_this_thread_alone():
            run = joblib.Parallel(n_jobs=workers.local_jobs, batch_size=1, return_as="generator_unordered")
            results = run(map(call, tasks))
        meanwhile()
        yield from results
    except joblib.externals.loky.process_executor.TerminatedWorkerError:
        raise killed("a worker process was killed") from None


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
