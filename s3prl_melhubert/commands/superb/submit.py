"""`melhubert superb submit`: predict.zip for SUPERB's leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from s3prl_melhubert.downstream_recipes.report.submission import ARCHIVE
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    for key, task in all_tasks().items():
        parser.add_argument(f"--{key}", metavar="EXP", help=f"the folder of an experiment in {task.name}")
    parser.add_argument("--out", required=True, metavar="DIR", help=f"where {ARCHIVE} goes")


def run(args: argparse.Namespace) -> int:
    """Make predict.zip for SUPERB's leaderboard, after checking the predictions.

    Example: melhubert superb submit --pr exp/pr --sid exp/sid --asr exp/asr --out submission
    """
    from s3prl_melhubert.downstream_recipes.report.submission import ARCHIVE, submit
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    given = {key: getattr(args, key) for key in all_tasks()}
    predictions = submit({key: folder for key, folder in given.items() if folder is not None}, args.out)
    archive = Path(args.out) / ARCHIVE
    print(f"{archive}: written, and the same files beside it")
    width = max(len(each.place) for each in predictions)
    for each in predictions:
        empty = f" (empty hypotheses: {each.empty})" if each.empty else ""
        print(
            f"  {each.place:{width}}  {each.utterances} utterances{empty}, {each.metric} {each.score:.2f} %"
        )
    print(f"next: upload {archive} at the SUPERB leaderboard, superbbenchmark.org")
    return 0
