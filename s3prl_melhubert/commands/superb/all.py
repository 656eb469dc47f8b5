"""`melhubert superb all`: every task that there is a corpus for, and the report."""

from __future__ import annotations

import argparse

from s3prl_melhubert.commands.superb.arguments import add_run_arguments, run_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from s3prl_melhubert.downstream_recipes.running.corpora_file import EXAMPLE

    parser.add_argument(
        "--corpora", required=True, metavar="YAML", help="where the corpora are, as in the example below"
    )
    add_run_arguments(
        parser,
        expdir="a folder for the report, with one for each task in it; run again, it continues",
        steps="train for fewer steps than SUPERB, where the YAML file says nothing else",
        override="s3prl's: args.NAME=VALUE,,config.KEY=VALUE, for every task; before that of the YAML file",
    )
    example = "\n".join(f"  {line}".rstrip() for line in EXAMPLE.splitlines())
    parser.epilog = f"{parser.epilog}\n\ncorpora.yaml:\n{example}"


def run(args: argparse.Namespace) -> int:
    """Run every task that there is a corpus for, and write the report.

    Example: melhubert superb all --corpora corpora.yaml -u melhubert -p exp --lr sweep
    """
    from s3prl_melhubert.downstream_recipes.running.corpora_file import read_corpora
    from s3prl_melhubert.downstream_recipes.running.every_task import run_every_task
    from s3prl_melhubert.downstream_recipes.task import TaskOptions

    run_every_task(read_corpora(args.corpora), run_options(args, TaskOptions()))
    return 0
