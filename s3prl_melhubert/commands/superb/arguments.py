"""Arguments that several of superb's subcommands take, and the values that are made of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s3prl_melhubert.errors import MelHuBERTError

if TYPE_CHECKING:
    from s3prl_melhubert.downstream_recipes.running.options import RunOptions
    from s3prl_melhubert.downstream_recipes.task import Argument, TaskOptions


def add_task_arguments(
    group: argparse._ActionsContainer, arguments: Sequence[Argument], may_be_required: bool = True
) -> None:
    for argument in arguments:
        if argument.flag:
            group.add_argument(
                argument.option, dest=argument.name, action="store_true", default=None, help=argument.help
            )
            continue
        group.add_argument(
            argument.option,
            dest=argument.name,
            required=argument.required and may_be_required,
            nargs="+" if argument.several else None,
            metavar=argument.metavar,
            help=argument.help,
        )


def task_options(args: argparse.Namespace, arguments: Sequence[Argument]) -> TaskOptions:
    from s3prl_melhubert.downstream_recipes.task import TaskOptions

    return TaskOptions({argument.name: getattr(args, argument.name) for argument in arguments})


def learning_rates(text: str) -> tuple[float, ...]:
    """`1e-3,5e-4` as numbers; `sweep` as SUPERB's range.

    Raises:
        argparse.ArgumentTypeError: they are no numbers above zero, or one of them is there twice.
    """
    from s3prl_melhubert.downstream_recipes.running.options import read_rates

    try:
        return read_rates(text)
    except MelHuBERTError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_run_arguments(
    parser: argparse.ArgumentParser, expdir: str, steps: str, override: str, trained: bool = True
) -> None:
    """Add what every run takes besides its corpus; what s3prl's runner has, too, has its names.

    Args:
        parser: of the command.
        expdir, steps, override: help for `-p`, `--steps` and `-o`.
        trained: whether anything is trained. Otherwise the help leaves out what is of training alone, which
            is still read, so that it is refused with the reason.
    """
    from s3prl_melhubert.downstream_recipes.running.options import SEED, default_workers
    from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS

    upstream = parser.add_argument_group("upstream")
    upstream.add_argument("-u", "--upstream", required=True, help="any upstream of s3prl's, MelHuBERT or not")
    upstream.add_argument("-k", "--upstream_ckpt", metavar="FILE", help="its checkpoint, where it takes one")
    upstream.add_argument("-g", "--upstream_model_config", metavar="YAML", help="its settings")
    experiment = parser.add_argument_group("experiment")
    experiment.add_argument("-p", "--expdir", type=Path, required=True, metavar="EXP", help=expdir)
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

    def of_training(text: str) -> str:
        return text if trained else argparse.SUPPRESS

    settings = parser.add_argument_group("settings")
    settings.add_argument(
        "--lr",
        type=learning_rates,
        metavar="X[,Y...]",
        help=of_training(
            "learning rate; several (`sweep`: 1e-1 to 1e-5) are trained in one pass, the best on dev counts"
        ),
    )
    settings.add_argument(
        "--precision",
        choices=INFERENCE_PRECISIONS,
        help="of the frozen upstream, where it is a MelHuBERT (default: what -g says, otherwise fp32)",
    )
    settings.add_argument(
        "--keep-states",
        action="store_true",
        help=of_training(
            "compute each utterance's hidden states once, and keep them in memory; the result says so"
        ),
    )
    settings.add_argument("--steps", type=int, metavar="N", help=of_training(steps))
    settings.add_argument("-o", "--override", type=str, metavar="OVERRIDE", help=override)


def run_options(args: argparse.Namespace, options: TaskOptions) -> RunOptions:
    """Return what a run is asked for: the arguments of `add_run_arguments`, and those of its task."""
    from s3prl_melhubert.downstream_recipes.running.options import RunOptions

    return RunOptions(
        upstream=args.upstream,
        upstream_ckpt=args.upstream_ckpt,
        upstream_model_config=args.upstream_model_config,
        expdir=args.expdir,
        task_options=options,
        stage=args.stage,
        device=args.device,
        seed=args.seed,
        workers=args.workers,
        rates=args.lr or (),
        precision=args.precision,
        keep_states=args.keep_states,
        steps=args.steps,
        override=args.override,
    )
