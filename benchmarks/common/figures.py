"""What all programs print: a figure with its limit, the peak beside it, results as JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from s3prl_melhubert.support.files import write_json

RESULTS = Path(__file__).parents[1] / "results"
THREADS = 2  # the goals are for two cores


@dataclass(frozen=True)
class Figure:
    """A row of the table."""

    what: str
    measured: float | None  # None: cannot be measured on this machine
    unit: str
    limit: float | None = None  # None: told, not asked for
    at_least: bool = True  # the limit is a lower one
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.measured is None or self.limit is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def row(self) -> list[str]:
        """What, measured, limit, share of the limit, verdict."""
        if self.measured is None:
            measured, share, verdict = "not yet measured", "", ""
        else:
            measured = f"{self.measured:.4g} {self.unit}".strip()
            share = f"{self.measured / self.limit:.2f}" if self.limit else ""
            verdict = {True: "met", False: "missed", None: ""}[self.met]
        limit = ""
        if self.limit is not None:
            limit = f"{'at least' if self.at_least else 'at most'} {self.limit:g} {self.unit}".strip()
        return [self.what, measured, limit, share, verdict, self.note]


HEADER = ["what", "measured", "limit", "share of limit", "", "beside it"]


def table(figures: Sequence[Figure]) -> str:
    """The rows as a Markdown table."""
    rows = [HEADER, ["---"] * len(HEADER), *(figure.row() for figure in figures)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def environment(threads: int = THREADS) -> dict[str, str]:
    """The device, the threads that computed, the versions and the date of a measurement."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    count = "1 thread" if threads == 1 else f"{threads} threads"
    return {
        "processor": f"{processor}, {torch.backends.cpu.get_cpu_capability()}, {count}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def save(name: str, figures: Sequence[Figure], threads: int = THREADS) -> None:
    """Print the figures, and write results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    content = {"environment": environment(threads), "figures": [asdict(figure) for figure in figures]}
    write_json(RESULTS / f"{name}.json", content, indent=2)
    print(table(figures), flush=True)


def load(name: str) -> tuple[dict[str, str], list[Figure]]:
    """The environment and the figures of results/NAME.json."""
    content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content["environment"], [Figure(**figure) for figure in content["figures"]]


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"measurements of each ({rounds})")
    return made


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_turn(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other and again, so that a busy machine slows all alike.

    The first time of each, which warms up, does not count.
    """
    for name, work in works.items():
        print(f"  warming up: {name}", flush=True)
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
        shown = ", ".join(f"{name} {values[-1]:.3g} s" for name, values in times.items())
        print(f"  round {number + 1} of {rounds}: {shown}", flush=True)
    return times


def ratio(times: Mapping[str, Sequence[float]], name: str, other: str) -> float:
    """Median over the rounds of how many times as long the one took as the other."""
    return statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))


PEAK_SIZE = 2048
PEAK_FLOPS = 2 * PEAK_SIZE**3


class MatrixProduct:
    """A large matrix product: what a device can do at most. Call it to run it once."""

    def __init__(self, dtype: torch.dtype, repeat: int = 3):
        self.a = torch.randn(PEAK_SIZE, PEAK_SIZE).to(dtype)
        self.best = float("inf")  # seconds of one product
        self.repeat = repeat

    def __call__(self) -> None:
        for _ in range(self.repeat):
            self.best = min(self.best, seconds(lambda: self.a @ self.a))

    @property
    def peak(self) -> float:
        """Multiplications and additions per second."""
        return PEAK_FLOPS / self.best
