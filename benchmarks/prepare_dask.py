"""`melhubert prepare` on a Dask cluster of one worker and of two: `python -m benchmarks.prepare_dask`.

The cluster is on this machine and runs before the command does, as a cluster of somebody's would; each worker
is one process of one thread. The command is timed in full, with what it does alone (imports, K-means, hashes)
and the workers' imports, which take the same time for any corpus: hence two sizes. Both take turns.

One worker leaves the second core to the command and the scheduler, which share those of two workers. So the
smaller size is timed once more with all three on one core.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common.audio import hours_of_audio
from benchmarks.common.figures import Figure, parser, save, seconds
from s3prl_melhubert.pretrain.data.workers.dask_tasks import own_cluster

# As it is before any cluster, which leaves there what slows a command: settings for its own processes.
ENVIRONMENT = dict(os.environ)


@contextmanager
def on_cores(number: int) -> Iterator[None]:
    """Let all processes and threads that the block starts use so many cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def prepare(audio: Path, workers: int, cores: int = 2) -> float:
    """Seconds of the command."""
    with on_cores(cores), tempfile.TemporaryDirectory() as folder, own_cluster(workers) as cluster:
        command = [sys.executable, "-m", "s3prl_melhubert", "prepare", "--audio", audio, "--out"]
        command += [f"{folder}/out", "--backend", "dask", "--scheduler", cluster.scheduler_address]
        return seconds(lambda: subprocess.run([*map(str, command)], check=True, env=ENVIRONMENT))


def measure(audio: Path | None, wanted: float, rounds: int, on_one_core: bool) -> list[Figure]:
    beside = {"one": 2, "all on one core": 1} if on_one_core else {"one": 2}  # the cores of one worker
    slower: dict[str, list[float]] = {name: [] for name in beside}
    two: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        links, hours = hours_of_audio(audio, wanted, Path(temporary))
        for _ in range(rounds):
            for name, cores in beside.items():
                slower[name].append(prepare(links, 1, cores))
                print(f"  {hours:.0f} h: {name} {slower[name][-1]:.1f} s", flush=True)
            two.append(prepare(links, 2))
            print(f"  {hours:.0f} h: two workers {two[-1]:.1f} s", flush=True)
    return [
        Figure(
            f"prepare on Dask, {hours:.0f} h, two workers on two cores, times as fast as {name}",
            statistics.median(a / b for a, b in zip(seconds_of, two, strict=True)),
            "x",
            1.8,
            note=f"{min(seconds_of):.1f} s and {min(two):.1f} s",
        )
        for name, seconds_of in slower.items()
    ]


def main() -> None:
    arguments = parser(__doc__, rounds=2)
    arguments.add_argument("--audio", type=Path, help="a folder of audio; without, noise is synthesized")
    arguments.add_argument("--hours", type=float, nargs="+", default=[20.0, 60.0])
    args = arguments.parse_args()
    figures = [measure(args.audio, hours, args.rounds, hours == min(args.hours)) for hours in args.hours]
    save("prepare_dask", [figure for of_size in figures for figure in of_size])


if __name__ == "__main__":
    main()
