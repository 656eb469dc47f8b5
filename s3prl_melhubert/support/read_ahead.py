"""Reads what is needed next in threads, while what came before is worked on.

    for path, reading in ahead(read_audio, paths, threads=8, count=8):
        audio = reading.result()        # or the error that `read_audio` raised for this path

No more than `count` results wait in memory. Each is to be taken before the next item is asked for: when the
loop ends, or is left early, what has not begun is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, count: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield items in their order, each with what a function makes of it in a thread.

    Args:
        function: called with each item.
        items: what to call it with.
        threads: how many call it at a time.
        count: for how many items it is called before they are asked for.
    """
    for group in groups_ahead(function, ([item] for item in items), threads, count):
        yield from group


def groups_ahead(
    function: Callable[[Item], Result], groups: Iterable[Sequence[Item]], threads: int, count: int
) -> Iterator[list[tuple[Item, Future[Result]]]]:
    """Do the same as `ahead` for items in groups, of which `count` are read before they are asked for."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    waiting: deque[list[tuple[Item, Future[Result]]]] = deque()
    try:
        for group in groups:
            waiting.append([(item, pool.submit(function, item)) for item in group])
            if len(waiting) > count:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
