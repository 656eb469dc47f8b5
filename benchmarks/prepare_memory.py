"""Memory and speed of `melhubert prepare` at different lengths of (repeated) audio.

    python -m benchmarks.prepare_memory AUDIO --hours 1 10

AUDIO is any folder of audio; links to its files, over and over, make up the hours. For each: the peak
resident memory of the process, and hours of audio a minute, beside what decoding and log-Mel alone take.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common.audio import link_hours
from s3prl_melhubert.audio import find_audio, read_audio
from s3prl_melhubert.fbank import fbank

# A process that begins as a copy of this one would be said to have needed this one's memory, torch and all.
# So a small one begins it, and prints its peak in kB.
PEAK = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def bare_seconds(paths: list[Path], log_mel: Callable[[np.ndarray], object] = fbank) -> float:
    """Seconds to decode these files and compute their log-Mel (as `prepare` does), and nothing else."""
    begin = time.perf_counter()
    for path in paths:
        log_mel(read_audio(path).waveform)
    return time.perf_counter() - begin


def run(audio: Path, out: Path, clusters: int, jobs: int) -> tuple[float, float]:
    """Peak resident memory in MB, of the largest process, and seconds."""
    command = [sys.executable, "-m", "s3prl_melhubert", "prepare", "--audio", audio, "--out", out]
    begin = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, *command, "--clusters", str(clusters), "--jobs", str(jobs)],
        stdout=subprocess.PIPE,
        text=True,
    )
    if ran.returncode:
        sys.exit("prepare failed")
    return int(ran.stdout.splitlines()[-1]) / 1024, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("audio", type=Path)
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--clusters", type=int, default=512)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    paths = find_audio([args.audio])
    print(f"{'hours':>8} {'peak MB':>8} {'s':>8} {'h/min':>8} {'decoding + log-Mel alone, s':>28}")
    for hours in args.hours:
        with tempfile.TemporaryDirectory() as folder:
            links = Path(folder) / "audio"
            links.mkdir()
            length = link_hours(paths, hours, links)
            bare = bare_seconds(find_audio([links]))
            peak, seconds = run(links, Path(folder) / "out", args.clusters, args.jobs)
        print(
            f"{length:8.2f} {peak:8.0f} {seconds:8.1f} {length / seconds * 60:8.2f} {bare:28.1f}", flush=True
        )


if __name__ == "__main__":
    main()
