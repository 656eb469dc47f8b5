"""Time and scores of `melhubert quickstart`, seed by seed: `python -m benchmarks.quickstart`.

    python -m benchmarks.quickstart                        seeds 0, 1 and 2 (23 minutes on two idle cores)
    python -m benchmarks.quickstart --seeds 0 --out runs   one; its folder stays in runs/seed-0

A run's wall-clock time is that of the whole command. Beside it stands half of its processor time, below which
two threads cannot come: on a machine that others use, too, the wall-clock time says nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure, save
from s3prl_melhubert.downstream_recipes.quickstart.quickstart import UPSTREAMS
from s3prl_melhubert.downstream_recipes.report.results import Result, read_result
from s3prl_melhubert.downstream_recipes.tasks import all_tasks

MINUTES = 3.0
GAINS = {"pr": 8.0, "asr": 5.0}  # points over log-Mel and over the untrained model, at least
TASKS = ("pr", "sid", "asr")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2", help="of corpus and training (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="keep the folders there")
    args = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in map(int, args.seeds.split(",")):
            figures += measured(seed, (args.out or Path(temporary)) / f"seed-{seed}")
    save("quickstart", figures)


def measured(seed: int, out: Path) -> list[Figure]:
    """Run the command; return its figures."""
    if out.exists():
        sys.exit(f"{out}: exists already, so that its time cannot be measured")
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "s3prl_melhubert", "quickstart", "--out", str(out), "--seed", str(seed)]
    before, begin = processor_seconds(), time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    minutes = (time.perf_counter() - begin) / 60
    half = (processor_seconds() - before) / 2 / 60
    note = f"half of the processor time: {half:.2f} min"
    figures = [Figure(f"seed {seed}: time", minutes, "min", MINUTES, at_least=False, note=note)]
    for task in TASKS:
        results = {name: read_result(out / "superb" / name / task) for name in UPSTREAMS}
        figures.append(gain(seed, task, results))
    return figures


def noise(accuracy: float, utterances: int) -> float:
    """How far apart two accuracies in percent may be by chance: two standard errors, in points."""
    share = accuracy / 100
    return 200 * math.sqrt(2 * share * (1 - share) / utterances)


def processor_seconds() -> float:
    """Processor time of all ended processes that this one started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def gain(seed: int, task: str, results: dict[str, Result]) -> Figure:
    """By how many points the pre-trained model is better than the better one of the others."""
    metric = all_tasks()[task].metric
    values = {name: result.value for name, result in results.items()}
    others = [values[name] for name in values if name != "pretrained"]
    rival = others[metric.best(others)]
    points = values["pretrained"] - rival if metric.higher_is_better else rival - values["pretrained"]
    limit = GAINS.get(task)
    note = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    if limit is None:
        limit = -noise(rival, results["pretrained"].test_utterances)
        note += f"; noise of {results['pretrained'].test_utterances} test utterances: {-limit:.1f}"
    return Figure(f"seed {seed}: {task.upper()} {metric.name}, gain", points, "points", limit, note=note)


if __name__ == "__main__":
    main()
