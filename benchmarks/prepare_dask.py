"""`melhubert prepare` on a Dask cluster of one worker and of two: `python -m benchmarks.prepare_dask`.

The cluster is on this machine and runs before the command does, as a cluster of somebody's would; each worker
is one process of one thread. The command is timed in full, with what it does alone (imports, K-means, hashes)
and the workers' imports, which take the same time for any corpus: hence two sizes. Both take turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common.audio import hours_of_audio
from benchmarks.common.figures import Figure, parser, save, seconds
from s3prl_melhubert.pretrain.data.workers.dask_tasks import own_cluster

# As it is before any cluster, which leaves there what slows a command: settings for its own processes.
ENVIRONMENT = dict(os.environ)


def prepare(audio: Path, workers: int) -> float:
    """Seconds of the command."""
    with tempfile.TemporaryDirectory() as folder, own_cluster(workers) as cluster:
        command = [sys.executable, "-m", "s3prl_melhubert", "prepare", "--audio", audio, "--out"]
        command += [f"{folder}/out", "--backend", "dask", "--scheduler", cluster.scheduler_address]
        return seconds(lambda: subprocess.run([*map(str, command)], check=True, env=ENVIRONMENT))


def measure(audio: Path | None, wanted: float, rounds: int) -> Figure:
    with tempfile.TemporaryDirectory() as temporary:
        links, hours = hours_of_audio(audio, wanted, Path(temporary))
        one, two = [], []
        for _ in range(rounds):
            one.append(prepare(links, 1))
            two.append(prepare(links, 2))
            print(f"  {hours:.0f} h: one worker {one[-1]:.1f} s, two {two[-1]:.1f} s", flush=True)
    return Figure(
        f"prepare on Dask, {hours:.0f} h, two workers on two cores, times as fast as one",
        statistics.median(a / b for a, b in zip(one, two, strict=True)),
        "x",
        1.8,
        note=f"{min(one):.1f} s and {min(two):.1f} s",
    )


def main() -> None:
    arguments = parser(__doc__, rounds=2)
    arguments.add_argument("--audio", type=Path, help="a folder of audio; without, noise is synthesized")
    arguments.add_argument("--hours", type=float, nargs="+", default=[20.0, 60.0])
    args = arguments.parse_args()
    save("prepare_dask", [measure(args.audio, hours, args.rounds) for hours in args.hours])


if __name__ == "__main__":
    main()
