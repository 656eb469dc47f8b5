"""`melhubert superb TASK`: a task, from the check of its corpus to its score."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from s3prl_melhubert.commands.superb.arguments import add_task_arguments, learning_rates, task_options

if TYPE_CHECKING:
    from s3prl_melhubert.downstream_recipes.task import Task


def describe(task: Task) -> tuple[str, str]:
    """Return the summary and the example of a task's command."""
    corpus = " ".join(f"{each.option} {each.example}" for each in task.arguments if each.example)
    return (
        f"{task.name[0].upper()}{task.name[1:]}: check the corpus, train, test ({task.metric.name}).",
        f"melhubert superb {task.key} {corpus} -u melhubert_local -k model.ckpt -p exp/{task.key}",
    )


def add_arguments(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add the arguments of `melhubert superb TASK`; what s3prl's runner has, too, has its names."""
    from s3prl_melhubert.downstream_recipes.running.options import SEED, default_workers
    from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS

    corpus = parser.add_argument_group("corpus")
    add_task_arguments(corpus, task.all_arguments)
    upstream = parser.add_argument_group("upstream")
    upstream.add_argument("-u", "--upstream", required=True, help="any upstream of s3prl's, MelHuBERT or not")
    upstream.add_argument("-k", "--upstream_ckpt", metavar="FILE", help="its checkpoint, where it takes one")
    upstream.add_argument("-g", "--upstream_model_config", metavar="YAML", help="its settings")
    experiment = parser.add_argument_group("experiment")
    experiment.add_argument(
        "-p", "--expdir", type=Path, required=True, metavar="EXP", help="its folder; run again, it continues"
    )
    experiment.add_argument(
        "--stage",
        choices=("check", "train", "test"),
        help="only look at everything; stop after training; or only test. Default: all that is left to do",
    )
    experiment.add_argument("--device", help="default: cuda where there is a GPU, otherwise cpu")
    experiment.add_argument("--seed", type=int, default=SEED, help="s3prl's default: %(default)s")
    experiment.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=default_workers(),
        help="processes that read audio (default: %(default)s)",
    )
    settings = parser.add_argument_group("settings")
    settings.add_argument(
        "--lr",
        type=learning_rates,
        metavar="X[,Y...]",
        help="learning rate; several (`sweep`: 1e-1 to 1e-5) are trained in one pass, the best on dev counts",
    )
    settings.add_argument(
        "--precision",
        choices=INFERENCE_PRECISIONS,
        help="of the frozen upstream, where it is a MelHuBERT (default: what -g says, otherwise fp32)",
    )
    settings.add_argument("--steps", type=int, metavar="N", help="train for fewer steps than SUPERB")
    settings.add_argument(
        "-o", "--override", metavar="OVERRIDE", help="s3prl's: config.runner.log_step=10,,args.NAME=VALUE"
    )


def run(args: argparse.Namespace) -> int:
    from s3prl_melhubert.downstream_recipes.running.options import RunOptions
    from s3prl_melhubert.downstream_recipes.running.parts import run_task
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    task = all_tasks()[args.command]
    options = RunOptions(
        upstream=args.upstream,
        upstream_ckpt=args.upstream_ckpt,
        upstream_model_config=args.upstream_model_config,
        expdir=args.expdir,
        task_options=task_options(args, task.all_arguments),
        stage=args.stage,
        device=args.device,
        seed=args.seed,
        workers=args.workers,
        rates=args.lr or (),
        precision=args.precision,
        steps=args.steps,
        override=args.override,
    )
    run_task(task, options)
    return 0
