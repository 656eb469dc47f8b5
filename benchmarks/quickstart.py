"""Time and scores of `melhubert quickstart`, seed by seed: `python -m benchmarks.quickstart`.

    python -m benchmarks.quickstart                        seeds 0, 1 and 2 (12 to 25 minutes)
    python -m benchmarks.quickstart --seeds 0 --out runs   one; its folder stays in runs/seed-0

The time is that of the whole command, which a machine that others use, too, makes longer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common.figures import Figure, save
from s3prl_melhubert.downstream_recipes.quickstart.quickstart import TASK_ARGUMENTS, UPSTREAMS, gain_of
from s3prl_melhubert.downstream_recipes.report.results import Result, read_result

MINUTES = 3.0
GAINS = {"pr": 8.0, "ks": 5.0}  # points over log-Mel and over the untrained model, at least


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
    begin = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    minutes = (time.perf_counter() - begin) / 60
    figures = [Figure(f"seed {seed}: time", minutes, "min", MINUTES, at_least=False)]
    for task in TASK_ARGUMENTS:
        results = {name: read_result(out / "superb" / name / task) for name in UPSTREAMS}
        figures.append(gain(seed, task, results))
    return figures


def gain(seed: int, task: str, results: dict[str, Result]) -> Figure:
    """By how many points the pre-trained model is better than the better one of the others."""
    points, noise = gain_of(results)
    note = ", ".join(f"{name} {result.value:.2f}" for name, result in results.items())
    if noise:
        note += f"; noise of {results['pretrained'].test_utterances} test utterances: {noise:.1f}"
    return Figure(
        f"seed {seed}: {task.upper()} {results['pretrained'].metric}, gain",
        points,
        "points",
        GAINS.get(task, -noise),
        note=note,
    )


if __name__ == "__main__":
    main()
