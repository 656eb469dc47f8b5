"""`melhubert superb config`: a task's settings for s3prl's own program."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s3prl_melhubert.commands.superb.arguments import add_task_arguments, task_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    commands = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for task in all_tasks().values():
        example = " ".join(f"{each.option} {each.example}" for each in task.arguments if each.example)
        command = commands.add_parser(
            task.key,
            help=f"for s3prl's -d {task.downstream}",
            description=f"Write the settings of {task.name} for s3prl's -d {task.downstream}, and print the "
            "file's path.",
            epilog=f"example:\n  melhubert superb config {task.key} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        corpus = command.add_argument_group("corpus")
        # A second test is s3prl's -m evaluate, for which there is nothing to prepare.
        add_task_arguments(corpus, task.arguments, may_be_required=False)
        command.add_argument("--workers", type=int, default=4, metavar="N", help="processes that read audio")
        command.add_argument("--out", type=Path, metavar="DIR", help="default: a folder in ~/.cache")


def run(args: argparse.Namespace) -> int:
    """Write a task's settings for s3prl's own run_downstream.py and print the file's path.

    The path alone is on stdout, so that a shell can take it from there.

    Example: melhubert superb config pr --librispeech LibriSpeech
    """
    from s3prl_melhubert.downstream_recipes.running.settings_file import write_settings_file
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    task = all_tasks()[args.task]
    path, notes = write_settings_file(task, task_options(args, task.arguments), args.workers, args.out)
    for line in notes:
        print(line, file=sys.stderr)
    print(path)
    return 0
