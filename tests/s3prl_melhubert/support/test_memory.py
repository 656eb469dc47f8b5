"""How much memory there is, and what becomes of it where it is freed, told by the page faults of arrays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from s3prl_melhubert.support import memory

gnu = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a switch of GNU's C library")

FAULTS = """
import resource
import numpy as np
from s3prl_melhubert.support.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        np.ones(2**17)  # 1 MB, 256 pages: less than a huge page, with which a system may answer one fault
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

counts = [faults()]
with freed_memory_kept():
    counts.append(faults())
counts.append(faults())
print(*counts)
"""


def page_faults(**environment: str) -> list[int]:
    """Those before, within and after the block, in a process of its own."""
    # A cluster of Dask's that another test had in this process leaves its order in the environment.
    inherited = {name: value for name, value in os.environ.items() if name not in memory.VARIABLES.values()}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(
        command, env={**inherited, **environment}, check=True, capture_output=True, text=True
    )
    return [int(count) for count in done.stdout.split()]


@gnu
def test_memory_is_kept_within_the_block_where_the_process_was_to_give_it_back():
    before, within, after = page_faults(MALLOC_TRIM_THRESHOLD_="65536")
    assert before > 10_000
    assert within < 2_000
    assert after > 10_000


@gnu
def test_a_process_without_that_order_adapts_by_itself_before_and_after():
    before, within, after = page_faults()
    assert max(before, within, after) < 10_000


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (1 << 30, [(-3, 1 << 30), (-1, 1 << 30)]),
        (32 << 20, [(-3, 1 << 30), (-3, 32 << 20), (-1, 1 << 30)]),  # GNU's library in 2021
        (0, [(-3, 1 << 30), (-3, 32 << 20)]),
    ],
)
def test_a_library_that_refuses_a_size_gets_a_smaller_one_or_stays_as_it_is(monkeypatch, largest, expected):
    """With the other option alone, it would give back every array of 128 KB and more."""
    asked: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> int:
        asked.append((option, value))
        return int(option != memory.M_MMAP_THRESHOLD or value <= largest)

    monkeypatch.setattr(memory, "_mallopt", lambda: mallopt)
    memory.keep_freed_memory()
    assert asked == expected


@pytest.mark.parametrize(
    ("order", "afterwards"), [("65536", 65536), ("1" * 30, 2**31 - 1), ("-1", 128 * 1024), ("²", 128 * 1024)]
)
def test_the_order_holds_again_whatever_number_it_is(monkeypatch, order, afterwards):
    now: dict[int, int] = {}

    def mallopt(option: int, value: int) -> int:
        now[option] = value
        return 1

    monkeypatch.setattr(memory, "_mallopt", lambda: mallopt)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", order)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    during: dict[int, int] = {}

    def interrupted() -> None:
        with memory.freed_memory_kept():
            during.update(now)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert set(during.values()) == {1 << 30}
    assert now == {memory.M_TRIM_THRESHOLD: afterwards, memory.M_MMAP_THRESHOLD: 128 * 1024}


@pytest.mark.parametrize("missing", [AttributeError, OSError])
def test_another_c_library_is_left_alone(monkeypatch, missing):
    def library(name):
        raise missing

    monkeypatch.setattr(memory.ctypes, "CDLL", library)
    memory.keep_freed_memory()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    with memory.freed_memory_kept():
        pass


@pytest.mark.parametrize(
    ("limit", "used", "statistics", "left"),
    [
        ("1000\n", "900\n", "anon 600\ninactive_file 300\nactive_file 5\n", 400),
        ("1000\n", "1100\n", "", 0),
        ("max\n", "900\n", "", None),
        (None, None, None, None),
    ],
    ids=["files in the cache give way", "over it", "no limit", "no container"],
)
def test_a_containers_limit_counts(monkeypatch, tmp_path, limit, used, statistics, left):
    names = tuple(str(tmp_path / name) for name in ("max", "current", "stat"))
    for name, text in zip(names, (limit, used, statistics), strict=True):
        if text is not None:
            Path(name).write_text(text)
    monkeypatch.setattr(memory, "CGROUPS", (names,))
    found = memory.available_memory()
    assert found == left if left is not None else found > 10**6
