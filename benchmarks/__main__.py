"""All figures that this machine can give, as one table: `python -m benchmarks`.

    python -m benchmarks                            measure everything (half an hour on two idle cores)
    python -m benchmarks training_step startup      only these
    python -m benchmarks --table                    measure nothing; the table of results/*.json

Each section is a program of its own (`python -m benchmarks.training_step --help`) and writes
results/NAME.json. The programs that need a corpus (phone_recognition, prepare_memory, long_audio) or an extra
of this package (onnx, prepare_dask, pronunciations, quickstart), and the one of faults, are not among them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.common.figures import RESULTS, load, table

SECTIONS = (
    "training_step",
    "bf16_training",
    "float16_features",
    "attention_error",
    "kernels",
    "hidden_states",
    "compressed",
    "gpu_training",
    "gpu_extract",
    "rows",
    "two_processes",
    "checkpoints",
    "data_loader",
    "manifest",
    "simulated_run",
    "prepare",
    "kmeans_labels",
    "superb_sweep",
    "startup",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION", help="all if none")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    chosen = args.sections or list(SECTIONS)
    failed = []
    for number, name in enumerate(chosen, 1):
        if args.table:
            continue
        print(f"[{number}/{len(chosen)}] {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)

    figures = []
    for name in chosen:
        if (RESULTS / f"{name}.json").is_file():
            environment, some = load(name)
            figures += some
            print(f"{name}: " + ", ".join(environment.values()))
    print("\n" + table(figures))
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
