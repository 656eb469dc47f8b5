"""Tasks that a cluster does, whichever it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from tqdm import tqdm

from s3prl_melhubert import __version__
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.workers.common import nothing

if TYPE_CHECKING:
    from s3prl_melhubert.pretrain.data.workers.tasks import Workers

T = TypeVar("T")
Outcome = int | str  # what a task returns, or why the worker cannot do it
LOOKS_FOR_WORKERS = 10.0  # seconds between two looks; a worker that died needs a few of them to come back


class Cluster(Protocol):
    """What is asked of a cluster."""

    def threads(self) -> int:
        """How many tasks it does at once, with the workers that it has now."""

    def submit(self, task: Callable[[], int]) -> None:
        """Have a worker call the task, through what `unpacking` makes."""

    def next_outcome(self, seconds: float) -> Outcome | None:
        """Wait until one of the tasks has ended, whichever is first; None if none has in so many seconds."""


def results_of(
    cluster: Cluster,
    workers: Workers,
    function: Callable[[T], int],
    tasks: Iterable[T],
    meanwhile: Callable[[], object],
) -> Iterator[int]:
    """Have a cluster do the tasks, of which it holds few at once, as they name all audio files."""
    left, running = iter(tasks), 0
    if not cluster.threads():
        _tell(f"{workers.place}: no worker yet; waiting for one")
    while True:
        # Twice as many as are at work, so that none waits for its next task to arrive.
        limit = workers.jobs or 2 * max(1, cluster.threads())
        for task in islice(left, max(0, limit - running)):
            cluster.submit(partial(function, task))
            running += 1
        if not running:
            return
        meanwhile()
        meanwhile = nothing  # once
        outcome = _next_outcome(cluster, workers)
        if isinstance(outcome, str):
            raise MelHuBERTError(f"{workers.place}: {outcome}")
        running -= 1
        yield outcome


def _next_outcome(cluster: Cluster, workers: Workers) -> Outcome:
    """Wait until one of the tasks has ended; say so once if no worker is left to do them."""
    told = False
    while (outcome := cluster.next_outcome(LOOKS_FOR_WORKERS)) is None:
        if not told and not cluster.threads():
            _tell(f"{workers.place}: no worker is left; waiting for one")
            told = True
    return outcome


def _tell(line: str) -> None:
    tqdm.write(line, file=sys.stderr)  # above the bar


def unpacking() -> Callable[[bytes], Outcome]:
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


@contextmanager
def environment_as_before() -> Iterator[None]:
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
