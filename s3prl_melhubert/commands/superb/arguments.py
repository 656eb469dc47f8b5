"""Arguments that several of superb's subcommands take, and the values that are made of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3prl_melhubert.downstream_recipes.task import Argument, TaskOptions


def add_task_arguments(
    group: argparse._ActionsContainer, arguments: Sequence[Argument], may_be_required: bool = True
) -> None:
    for argument in arguments:
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
    from s3prl_melhubert.downstream_recipes.running.options import SWEEP

    if text == "sweep":
        return SWEEP
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected different numbers above zero, as in 1e-3,5e-4, or sweep"
        )
    return rates
