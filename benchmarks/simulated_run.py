"""Loading as 8 processes of a run on 15 million utterances do it: `python -m benchmarks.simulated_run`.

Each process opens the set, plans the epoch, and reads micro-batches of 4 crops of 750 frames (15 s) for 1000
steps: 32 crops a step, as the published training has. Nothing is computed but a checksum of each batch, which
it writes into a file. Then the same is begun again; when the slowest process has come to the middle, all
are killed, and new ones go on from the last step that all of them had done. The checksums of both must be the
same, step for step.

    python -m benchmarks.simulated_run                           15 million rows: 3 GB of disk
    python -m benchmarks.simulated_run --rows 20000 --steps 40   small
    python -m benchmarks.simulated_run --folder DIR              keep the set there, and use it again
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common.figures import Figure, save
from benchmarks.common.simulated_set import simulated_set
from benchmarks.manifest import memory
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.pretrain.training.loading import build_dataset, build_plan, next_step, read_batches
from s3prl_melhubert.pretrain.training.sampler import PlanSampler
from s3prl_melhubert.pretrain.training.settings import DataSettings

ROWS, STEPS, PROCESSES = 15_000_000, 1000, 8
FRAMES, BATCH = 750, 4


def work(folder: Path, out: Path, process: int, processes: int, steps: Sequence[int]) -> None:
    """What one process does; a line for each step in `out`, and at the end one of its figures."""
    torch.set_num_threads(1)
    before, begin = memory(), time.perf_counter()
    settings = DataSettings(
        sets=(str(folder),), sequence_length=FRAMES, train_batch_size=BATCH, num_workers=0
    )
    dataset = build_dataset(settings.sets, MelHuBERTConfig(), settings, seed=0)
    opened = time.perf_counter()
    plan = build_plan(dataset, settings, 1, processes, 0)
    bytes_of_plan = plan.nbytes + plan.epoch(0).nbytes
    planned = time.perf_counter()
    sampler = PlanSampler(plan, process, *steps)
    frames = 0
    with out.open("w") as lines, read_batches(dataset, sampler, 0, torch.device("cpu")) as batches:
        for step in range(*steps):
            crc = 0
            for batch in next_step(batches):
                frames += batch.frames
                for tensor in (batch.features, batch.labels, batch.mask):
                    crc = zlib.crc32(tensor.numpy().data, crc)
            lines.write(f"{step} {crc:08x}\n")
            lines.flush()
            if step == steps[0]:
                first = time.perf_counter()
                first_frames = frames
        seconds = time.perf_counter() - first
        grown = {name: after - before[name] for name, after in memory().items()}
        figures = {
            "open": opened - begin,
            "plan": planned - opened,
            "bytes": bytes_of_plan / len(dataset),
            "frames": frames - first_frames,
            "seconds": seconds,
            **grown,
        }
        lines.write(json.dumps(figures) + "\n")


def start(folder: Path, out: Path, processes: int, steps: Sequence[int]) -> list[subprocess.Popen]:
    command = [sys.executable, "-m", "benchmarks.simulated_run", "--worker", str(folder), "--processes"]
    return [
        subprocess.Popen([*command, str(processes), str(out / str(p)), str(p), *map(str, steps)])
        for p in range(processes)
    ]


def wait(started: Sequence[subprocess.Popen]) -> None:
    statuses = [process.wait() for process in started]
    if any(statuses):
        sys.exit("a process failed")


def checksums(folder: Path, processes: int) -> list[dict[int, str]]:
    """Of each process, the checksums of the steps that it has done."""
    found = []
    for process in range(processes):
        path = folder / str(process)
        text = path.read_text() if path.is_file() else ""
        lines = [line.split() for line in text.split("\n")[:-1] if not line.startswith("{")]
        found.append({int(step): crc for step, crc in lines})
    return found


def killed_and_resumed(folder: Path, work_folder: Path, processes: int, steps: int) -> tuple[int, list]:
    """The step at which all were killed, and the checksums of both halves."""
    half, rest = work_folder / "half", work_folder / "rest"
    half.mkdir()
    rest.mkdir()
    started = start(folder, half, processes, (0, steps))
    while min(map(len, checksums(half, processes))) < steps // 2:
        if any(process.poll() for process in started):
            sys.exit("a process failed")
        time.sleep(0.1)
    for process in started:
        process.kill()
        process.wait()
    found = checksums(half, processes)
    done = min(map(len, found))
    wait(start(folder, rest, processes, (done, steps)))
    later = checksums(rest, processes)
    return done, [
        {**{step: crc for step, crc in a.items() if step < done}, **b}
        for a, b in zip(found, later, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--folder", type=Path, help="where the set is made, and kept")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("place", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        out, process, *steps = args.place
        work(args.worker, Path(out), int(process), args.processes, [int(step) for step in steps])
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)) / str(args.rows)
        simulated_set(folder, args.rows)
        whole = Path(temporary) / "whole"
        whole.mkdir()
        wait(start(folder, whole, args.processes, (0, args.steps)))
        outputs = [(whole / str(process)).read_text() for process in range(args.processes)]
        found = [json.loads(output.splitlines()[-1]) for output in outputs]
        expected = checksums(whole, args.processes)
        done, resumed = killed_and_resumed(folder, Path(temporary), args.processes, args.steps)
    if expected != resumed:
        sys.exit("killed and resumed, the processes read other batches")
    most = {name: max(figures[name] for figures in found) for name in found[0]}
    rate = sum(figures["frames"] for figures in found) / most["seconds"]
    size = f"{args.rows:,} utterances, {args.processes} processes at once"
    save(
        "simulated_run",
        [
            Figure(f"open and choose ({size})", most["open"], "s", note="the slowest"),
            Figure("plan of an epoch", most["plan"], "s", note=f"{most['bytes']:.1f} bytes an utterance"),
            Figure(
                "memory of a process: set, plan and loading",
                most["Anonymous"],
                "MB",
                note=f"not shared; {most['Pss']:.0f} with its share of what is mapped, "
                f"{most['Rss']:.0f} with all of it",
            ),
            Figure(
                f"{args.steps} steps of {BATCH * args.processes} crops of {FRAMES} frames read",
                rate,
                "frames/s",
                note=f"with a checksum of each; killed after step {done} and resumed: the same batches",
            ),
        ],
    )


if __name__ == "__main__":
    main()
