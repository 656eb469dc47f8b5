"""Tasks that processes of this machine do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain, islice
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, TypeVar

import joblib

from s3prl_melhubert.pretrain.data.workers.common import killed

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
        with joblib.parallel_config("loky", inner_max_num_threads=1), _ctrl_c_for_this_thread_alone():
            run = joblib.Parallel(n_jobs=workers.local_jobs, batch_size=1, return_as="generator_unordered")
            results = run(map(call, tasks))
        meanwhile()
        yield from results
    except joblib.externals.loky.process_executor.TerminatedWorkerError:
        raise killed("a worker process was killed") from None


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
