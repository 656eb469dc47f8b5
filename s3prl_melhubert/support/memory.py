"""How much memory there is, to refuse what does not fit, and what becomes of memory that is freed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A container's limit and what it uses, in version 2 of Linux' control groups and in version 1.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)

# Options of GNU's mallopt, the variables that set them when a process starts, and their defaults in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
VARIABLES = {M_TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_", M_MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_"}
DEFAULT = 128 * 1024
LARGEST = (1 << 31) - 1  # mallopt takes an int
# The bytes up to which a piece is kept: as much as may be. GNU's library 2.36 takes any number, those of 2021
# at most half of a heap.
KEPT = (1 << 30, 32 << 20)


def available_memory() -> int:
    """Return the bytes that this process can still take without swapping, as Linux tells.

    Where a container has a limit of its own, that counts, too. Where nothing is told, it is all
    of the address space: nothing is refused for what is not known.
    """
    available = sys.maxsize
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for limit, used, statistics in CGROUPS:
        most, now = _text(limit).strip(), _text(used).strip()
        if most.isdecimal() and now.isdecimal():
            # Files in the cache count as used, but give way.
            cached = sum(
                int(line.split()[1])
                for line in _text(statistics).splitlines()
                if line.startswith("inactive_file ")
            )
            available = min(available, max(0, int(most) - int(now) + cached))
    return available


def keep_freed_memory() -> None:
    """Let the C library keep the memory of arrays and tensors that are gone, for the next ones.

    By default it gives large pieces back to the system, which hands them out again a page at a time, each
    cleared: of the weighted sum of hidden states, that is a third of the time. The arithmetic is the same.
    Other C libraries than GNU's have no such switch.
    """
    mallopt = _mallopt()
    # Once an option is set, the library no longer adapts the other one: it must be both or none.
    if mallopt is not None and any(mallopt(M_MMAP_THRESHOLD, size) for size in KEPT):
        mallopt(M_TRIM_THRESHOLD, KEPT[0])


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory for a block, where the process was started with the order to give it back.

    Dask starts its workers so (MALLOC_TRIM_THRESHOLD_=65536), as objects of many sizes would otherwise stay.
    Work on arrays takes a third longer with it. Afterwards the order holds again. Where there is none, the
    library adapts by itself, and nothing is changed.
    """
    mallopt = _mallopt()
    if mallopt is None or not any(name in os.environ for name in VARIABLES.values()):
        yield
        return
    keep_freed_memory()
    try:
        yield
    finally:
        for option, name in VARIABLES.items():
            value = os.environ.get(name, "")
            mallopt(option, min(int(value), LARGEST) if value.isdecimal() else DEFAULT)


def _mallopt() -> Callable[[int, int], Any] | None:
    try:
        return ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return None


def size_text(count: float) -> str:
    """A number of bytes for people, such as `3.7 GB`, or `40 MB` of what is below a gigabyte."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
