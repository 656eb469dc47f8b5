"""`melhubert superb TASK`: a task, from the check of its corpus to its score."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s3prl_melhubert.commands.superb.arguments import (
    add_run_arguments,
    add_task_arguments,
    run_options,
    task_options,
)

if TYPE_CHECKING:
    from s3prl_melhubert.downstream_recipes.task import Task


def describe(task: Task) -> tuple[str, str]:
    """Return the summary and the example of a task's command."""
    corpus = " ".join(f"{each.option} {each.example}" for each in task.arguments if each.example)
    work = "train, test" if task.trained else "test every layer"
    return (
        f"{task.name[0].upper()}{task.name[1:]}: check the corpus, {work} ({task.metric.name}).",
        f"melhubert superb {task.key} {corpus} -u melhubert_local -k model.ckpt -p exp/{task.key}",
    )


def add_arguments(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add the arguments of `melhubert superb TASK`."""
    add_task_arguments(parser.add_argument_group("corpus"), task.all_arguments)
    add_run_arguments(
        parser,
        expdir="its folder; run again, it continues",
        steps="train for fewer steps than SUPERB",
        override="s3prl's: config.runner.log_step=10,,args.NAME=VALUE",
        trained=task.trained,
    )


def run(args: argparse.Namespace) -> int:
    from s3prl_melhubert.downstream_recipes.running.experiments.parts import run_task
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    task = all_tasks()[args.command]
    run_task(task, run_options(args, task_options(args, task.all_arguments)))
    return 0
