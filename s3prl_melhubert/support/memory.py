"""How much memory there is, so that a file that does not fit is refused before it is read."""

from __future__ import annotations

import sys
from pathlib import Path

# A container's limit and what it uses, in version 2 of Linux' control groups and in version 1.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


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


def gigabytes(count: float) -> str:
    """Bytes for people, such as `3.7 GB`."""
    return f"{count / 1e9:.1f} GB"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
