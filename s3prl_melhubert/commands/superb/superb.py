"""`melhubert superb`: SUPERB's tasks, their settings for s3prl's own program, the report and the submission.

A command of its own for each task of `downstream_recipes.tasks`, and those of the table below; the logic of
all of them stands in `downstream_recipes`.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from s3prl_melhubert.commands.descriptions import Command

# Below the tasks' own; the order is that of the help.
COMMANDS = {
    "all": Command("superb.all", "run"),
    "config": Command("superb.config", "run"),
    "make-sd": Command("superb.make_sd", "run"),
    "report": Command("superb.report", "run"),
    "submit": Command("superb.submit", "run"),
    "predict": Command("superb.predict", "run"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from s3prl_melhubert.commands.superb import task as of_task
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.type = str  # The task's own parser says which of the values that follow may be empty.

    def add(name: str, summary: str, example: str, module: Any, **also: Any) -> None:
        command = commands.add_parser(
            name,
            help=summary.rstrip("."),
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command, **also)
        command.set_defaults(run_command=module.run)

    for key, task in all_tasks().items():
        add(key, *of_task.describe(task), of_task, task=task)
    for name, command in COMMANDS.items():
        add(name, *command.describe(), import_module(command.path))


def run(args: argparse.Namespace) -> int:
    """Run SUPERB's tasks, report the results, make the submission, and use what was trained.

    Example: melhubert superb pr --librispeech LibriSpeech -u melhubert -p exp/pr
    """
    return args.run_command(args)
