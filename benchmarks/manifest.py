"""Opening and planning sets of 281 000 and 15 million utterances: `python -m benchmarks.manifest`.

Each figure is of a process of its own, which opens the set, plans an epoch of 32 crops a step, and looks up
utterances at random places. Memory is what the process has beyond what it had before it opened the set: all
of it, mapped columns included, and what is its own and not shared (anonymous). Two processes are held to the
same plan.

    python -m benchmarks.manifest                       both sizes: 3 GB of disk
    python -m benchmarks.manifest --rows 20000          only this size
    python -m benchmarks.manifest --folder DIR          keep the sets there, and use them again
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.common.figures import Figure, save
from benchmarks.common.simulated_set import simulated_set
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.data.manifest.columns import columns_of_csv
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.sampler import BatchPlan

ROWS = (281_241, 15_000_000)
LOOKED_UP = 20_000
CSV_ROWS = 300_000  # the CSV file itself is read in sets of at most so many


def memory() -> dict[str, float]:
    """MB of this process: all that is mapped (`Rss`), its share of it (`Pss`), its own (`Anonymous`)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines[1:])
    return {name: int(fields[name].split()[0]) / 1024 for name in ("Rss", "Pss", "Anonymous")}


@contextmanager
def measured(figures: dict[str, float], name: str) -> Iterator[None]:
    """Note the seconds of a block, and by how many MB the process grew."""
    before, begin = memory(), time.perf_counter()
    yield
    figures[name] = time.perf_counter() - begin
    for kind, after in memory().items():
        figures[f"{name} {kind}"] = after - before[kind]


def work(folder: Path) -> dict[str, float | str]:
    """What one process does, with its figures."""
    figures: dict[str, float] = {}
    with measured(figures, "open"):
        prepared = read_prepared(folder)
    assert prepared.utterances.source is not None, "the columns were not used"
    with measured(figures, "dataset"):
        dataset = PretrainingDataset([prepared], MelHuBERTConfig(), sequence_length=750, max_timestep=-320)
    with measured(figures, "plan"):
        plan = BatchPlan(dataset.lengths, utterances_per_batch=4, accumulate=8, processes=1, seed=0)
        epoch = plan.epoch(0)
    figures["bytes"] = (plan.nbytes + epoch.nbytes) / len(dataset)
    numbers = np.random.default_rng(0).integers(len(dataset), size=LOOKED_UP).tolist()
    with measured(figures, "look up"):
        for number in numbers:
            dataset.utterances[number]
    digest = hashlib.sha256(epoch.order).hexdigest() + hashlib.sha256(epoch.turns).hexdigest()
    if len(dataset) <= CSV_ROWS:
        with measured(figures, "csv"):
            columns_of_csv(prepared.manifest)
    return {**figures, "digest": digest, "hours": prepared.utterances.frames / 360_000}


def rows_of(folder: Path, rows: int) -> list[Figure]:
    made = simulated_set(folder, rows)
    command = [sys.executable, "-m", "benchmarks.manifest", "--worker", str(folder)]
    found = []
    for _ in range(2):
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(json.loads(output.splitlines()[-1]))
    if found[0]["digest"] != found[1]["digest"]:
        sys.exit("two processes have different plans")
    first, best = found[0], {name: min(f[name] for f in found) for name in found[0] if name != "digest"}
    size = f"{rows:,} utterances"
    figures = [
        Figure(
            f"opening a set of {size}",
            best["open"],
            "s",
            2,
            at_least=False,
            note=f"{first['hours']:,.0f} h; written in {made['columns']:.0f} s" if made else "",
        ),
        Figure(
            f"memory of a process for it ({size})",
            best["open Rss"],
            "MB",
            200,
            at_least=False,
            note=f"{best['open Anonymous']:.0f} MB of it not shared; by `datarc.max_timestep`, a selection "
            f"of {best['dataset Anonymous']:.0f} MB more",
        ),
        Figure(
            f"plan of an epoch ({size})",
            best["plan"],
            "s",
            5,
            at_least=False,
            note="the same in two processes",
        ),
        Figure(f"bytes of it for an utterance ({size})", best["bytes"], "B", 16, at_least=False),
        Figure(
            f"an utterance at a random place ({size})", best["look up"] / LOOKED_UP * 1e6, "µs", note="cold"
        ),
    ]
    if "csv" in best:
        note = f"{best['csv Anonymous']:.0f} MB, not shared"
        figures.append(Figure(f"reading manifest.csv instead ({size})", best["csv"], "s", note=note))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--folder", type=Path, help="where the sets are made, and kept")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        sys.stdout.write(json.dumps(work(args.worker)) + "\n")
        return
    figures = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as temporary:
            figures += rows_of((args.folder or Path(temporary)) / str(rows), rows)
    save("manifest", figures)


if __name__ == "__main__":
    main()
