"""Commands that are killed at a random moment or run out of disk, for `benchmarks/faults.py`.

A command runs in a fork of this process, which has imported everything before. So it is a process of its own,
as any other is, but a kill falls into its work and not into the import of PyTorch.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data import relabel

LARGE = 2 << 30  # bytes of a disk that is not full
SHARD = 50  # utterances in a file of labels of `melhubert relabel`, so that there are several of them
SAVE_SECONDS = 2.0  # so long a kill waits for a save to begin

Content = dict[str, str]  # what is compared: digests, by the file or the part of a file


@dataclass(frozen=True)
class Job:
    """A command, and what it makes."""

    name: str
    arguments: Callable[[Path], list[str]]  # of the place where the output goes
    content: Callable[[Path], Content]
    saving: bool = False  # whether every second kill waits for a checkpoint to be half written


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    status: int  # exit status, or minus the signal
    seconds: float  # on the clock
    work: float  # seconds of processor time, that of its workers included
    output: str  # stdout and stderr


@dataclass
class Row:
    """A row of the table: what became of a command under faults of one kind."""

    job: str
    fault: str
    whole: float  # seconds of processor time of a run without a fault
    faults: int = 0
    finished: int = 0  # runs that went on to their end after faults
    same: int = 0  # of them, those with the content of a run without a fault
    lost: list[float] = field(default_factory=list)  # such seconds a fault, a figure for each finished run
    told: int | None = None  # faults that were told in one line, where they can be told
    notes: list[str] = field(default_factory=list)  # what was wrong


def run(
    arguments: Sequence[str],
    log: Path,
    kill: Callable[[], bool] | None = None,
    largest_file: int | None = None,
) -> Ended:
    """Run a command to its end, or kill it as soon as `kill` says so."""
    sys.stdout.flush()
    begin = time.perf_counter()
    child = os.fork()
    if child == 0:
        _become(arguments, log, largest_file)
    work = 0.0
    while True:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        work += usage.ru_utime + usage.ru_stime if pid else 0
        if pid == child:
            break
        if kill is not None and kill():
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            work += usage.ru_utime + usage.ru_stime
            break
        time.sleep(0.001)
    seconds = time.perf_counter() - begin
    return Ended(os.waitstatus_to_exitcode(status), seconds, work, log.read_text(errors="replace"))


def adopt_orphans() -> None:
    """Make workers of killed commands children of this process, so that their work is counted, too."""
    set_child_subreaper = 36  # of <linux/prctl.h>
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def work_of_orphans() -> float:
    """Wait for the workers that outlived their commands; their seconds of processor time."""
    work = 0.0
    with suppress(ChildProcessError):
        while True:
            _, _, usage = os.wait4(-1, 0)
            work += usage.ru_utime + usage.ru_stime
    return work


def _become(arguments: Sequence[str], log: Path, largest_file: int | None) -> None:
    """Be the command, and end with its status."""
    status = 1
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        torch.set_num_threads(1)
        relabel.SHARD_UTTERANCES = SHARD
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        status = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def clear(out: Path) -> None:
    """Remove what is in a folder, which stays."""
    for path in list(out.iterdir()):
        for _ in range(50):  # A worker that outlived its killed command may add a file yet.
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            if not path.exists():
                break
            time.sleep(0.1)


def whole_run(job: Job, place: Path, log: Path) -> tuple[Content, Ended]:
    """The content that a command makes when nothing disturbs it, and the shorter of two runs."""
    found: list[tuple[Content, Ended]] = []
    for _ in range(2):
        clear(place)
        ended = run(job.arguments(place / "out"), log)
        if ended.status:
            sys.exit(f"{job.name}: failed without any fault\n{ended.output[-2000:]}")
        ended = replace(ended, work=ended.work + work_of_orphans())
        found.append((job.content(place / "out"), ended))
    if found[0][0] != found[1][0]:
        sys.exit(f"{job.name}: two runs without any fault differ: {difference(found[0][0], found[1][0])}")
    return found[0][0], min((ended for _, ended in found), key=lambda ended: ended.work)


def kills(job: Job, place: Path, log: Path, count: int, moments: random.Random) -> Row:
    """Kill a command at random moments, so often, and let it go on after each kill.

    A run that reaches its end before its kill is compared; the next one begins anew.
    """
    expected, whole = whole_run(job, place, log)
    row = Row(job.name, "SIGKILL", whole.work)
    clear(place)
    spent, killed = 0.0, 0  # of the runs since the output was begun
    while row.faults < count or killed:
        last = row.faults == count
        kill = (
            None
            if last
            else _moment(moments.uniform(0, whole.seconds), job.saving and row.faults % 2 == 1, place)
        )
        ended = run(job.arguments(place / "out"), log, kill)
        spent += ended.work
        if ended.status == -signal.SIGKILL:
            row.faults, killed = row.faults + 1, killed + 1
            continue
        if killed:
            _compare(row, job, ended, expected, place)
            row.lost.append((spent + work_of_orphans() - whole.work) / killed)
        clear(place)
        spent, killed = 0.0, 0
    return row


def _moment(after: float, in_save: bool, place: Path) -> Callable[[], bool]:
    """Says when to kill: after so many seconds, or when a checkpoint is being written after that."""
    begin = time.perf_counter()

    def now() -> bool:
        passed = time.perf_counter() - begin
        if passed < after:
            return False
        if not in_save or passed > after + SAVE_SECONDS:
            return True
        return any((place / "out").glob(".*.ckpt.*"))

    return now


def _compare(row: Row, job: Job, ended: Ended, expected: Content, place: Path) -> None:
    row.finished += 1
    if ended.status:
        row.notes.append(f"status {ended.status}: {(ended.output.strip().splitlines() or [''])[-1][:200]}")
        return
    content = job.content(place / "out")
    row.same += content == expected
    if content != expected:
        row.notes.append(f"differs: {difference(content, expected)}")


def difference(a: Content, b: Content) -> str:
    """The names of a few things that are not the same in both."""
    names = sorted(name for name in {**a, **b} if a.get(name) != b.get(name))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class Disk:
    """A disk of any size: a tmpfs of root's, or else a limit of the size of each file."""

    def __init__(self, place: Path, mounted: bool):
        self.place, self.mounted = place, mounted
        self.largest_file: int | None = None

    def resize(self, size: int) -> None:
        """Make it so many bytes large."""
        if self.mounted:
            command = ["mount", "-o", f"remount,size={max(size, 4096)}", str(self.place)]
            subprocess.run(command, check=True)
        else:
            self.largest_file = None if size >= LARGE else size

    def used(self) -> int:
        """Bytes in use; without a tmpfs, those of the largest file."""
        if self.mounted:
            state = os.statvfs(self.place)
            return (state.f_blocks - state.f_bfree) * state.f_frsize
        sizes = [path.stat().st_size for path in self.place.rglob("*") if path.is_file()]
        return max(sizes, default=0)


@contextmanager
def small_disk(place: Path) -> Iterator[Disk]:
    """Mount a tmpfs for the block, where this user may."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", str(place)]
    mounted = (
        shutil.which("mount") is not None and not subprocess.run(command, capture_output=True).returncode
    )
    try:
        yield Disk(place, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def full_disks(job: Job, disk: Disk, log: Path, count: int, sizes: random.Random) -> Row:
    """Let a command run out of disk so often, at random sizes, and go on with more room each time."""
    disk.resize(LARGE)
    expected, whole = whole_run(job, disk.place, log)
    peak = _peak(job, disk, log)
    kind = "disk full" if disk.mounted else "file at its largest size"
    row = Row(job.name, kind, whole.work, told=0)
    share = 1.0
    while row.faults < count:
        clear(disk.place)
        disk.resize(int(peak * share * sizes.random()))
        failed = run(job.arguments(disk.place / "out"), log, largest_file=disk.largest_file)
        if failed.status == 0:  # It fits by chance, or because only its peak is larger than what is left.
            share *= 0.9
            continue
        row.faults += 1
        lines = failed.output.strip().splitlines() or [""]
        one = lines[-1].startswith("melhubert: ") and "Traceback" not in failed.output
        row.told = (row.told or 0) + (failed.status == 2 and one)
        if failed.status != 2 or not one:
            row.notes.append(f"status {failed.status}: {lines[-1][:200]}")
        disk.resize(LARGE)
        ended = run(job.arguments(disk.place / "out"), log)
        _compare(row, job, ended, expected, disk.place)
        row.lost.append(failed.work + ended.work + work_of_orphans() - whole.work)
    clear(disk.place)
    return row


def _peak(job: Job, disk: Disk, log: Path) -> int:
    """The most bytes that a command has on the disk at any moment."""
    clear(disk.place)
    most = 0

    def look() -> bool:
        nonlocal most
        most = max(most, disk.used())
        return False

    run(job.arguments(disk.place / "out"), log, look)
    return max(most, disk.used())
