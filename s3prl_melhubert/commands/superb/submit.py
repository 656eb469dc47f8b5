"""`melhubert superb submit`: predict.zip for SUPERB's leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from s3prl_melhubert.downstream_recipes.report.submission import ARCHIVE
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    parser.add_argument("tree", nargs="?", metavar="EXP", help="a folder with experiments somewhere below")
    parser.add_argument("--upstream", metavar="NAME", help="take those of this upstream alone from EXP")
    for key, task in all_tasks().items():
        parser.add_argument(
            f"--{key}", type=Path, metavar="EXP", help=f"the folder of an experiment in {task.name}"
        )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"where {ARCHIVE} goes")


def run(args: argparse.Namespace) -> int:
    """Make predict.zip for SUPERB's leaderboard, after checking the predictions.

    Example: melhubert superb submit exp --out submission
    """
    from s3prl_melhubert.downstream_recipes.report.choice import choose_experiments
    from s3prl_melhubert.downstream_recipes.report.submission import ARCHIVE, submit
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    given = {key: getattr(args, key) for key in all_tasks() if getattr(args, key) is not None}
    found = choose_experiments(args.tree, args.upstream, given) if args.tree is not None else {}
    predictions = submit({**found, **given}, args.out)
    archive = args.out / ARCHIVE
    print(f"{archive}: written, and the same files beside it")
    width = max(len(each.place) for each in predictions)
    for each in predictions:
        empty = f" (empty hypotheses: {each.empty})" if each.empty else ""
        print(f"  {each.place:{width}}  {each.utterances} utterances{empty}, {each.metric} {each.written}")
    print(f"next: upload {archive} at the SUPERB leaderboard, superbbenchmark.org")
    return 0
