"""`melhubert superb report`: what several experiments found, in a table and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from s3prl_melhubert.downstream_recipes.report.report import PICTURE, REPORT

    parser.add_argument(
        "experiments",
        nargs="+",
        metavar="EXP",
        help="an experiment's folder, or a folder with several of them somewhere below",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"also write {REPORT} and {PICTURE} there")


def run(args: argparse.Namespace) -> int:
    """Print a table of several experiments, and draw a picture, beside published results.

    Example: melhubert superb report exp/pr exp/sid exp/asr --out report
    """
    from s3prl_melhubert.downstream_recipes.report.report import find_experiments, write_report
    from s3prl_melhubert.downstream_recipes.report.results import read_result
    from s3prl_melhubert.downstream_recipes.report.table import table

    folders = find_experiments(args.experiments)
    results = [read_result(folder) for folder in folders]
    print(table(results, folders))
    if args.out is not None:
        print(f"\nwritten: {', '.join(map(str, write_report(results, args.out, folders)))}")
    return 0
