"""What an experiment refuses because two of its options, or an option and the task, contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.settings import S3PRL_ARGUMENTS, flat
from s3prl_melhubert.downstream_recipes.task import Task
from s3prl_melhubert.errors import MelHuBERTError


def refuse_set_twice(task: Task[Any], options: RunOptions, overridden: Mapping[str, Any]) -> None:
    """Raise MelHuBERTError where `-o` has a setting that another option, or a part of the task, sets.

    Args:
        task: one of SUPERB's, or a part of one.
        options: the user's.
        overridden: the settings that `-o` has set, by their places.
    """
    set_by_options: dict[str, tuple[str, Any]] = {}
    if options.steps is not None:
        set_by_options["runner.total_steps"] = ("--steps", options.steps)
    if options.rates:
        rate = options.rates[0] if len(options.rates) == 1 else options.rates
        set_by_options["optimizer.lr"] = ("--lr", rate)
    for part in task.parts:
        set_by_options |= dict.fromkeys(part.settings, (f"{task.key}, for each of its parts", None))
    set_by_options |= dict.fromkeys(task.fixed, (f"{task.key} itself", None))
    for place, (option, value) in set_by_options.items():
        if place in overridden and overridden[place] != value:
            raise MelHuBERTError(f"-o config.{place}: is set by {option}; leave it out of -o")


def refuse_overwritten(task: Task[Any], settings: Mapping[str, Any], overridden: Mapping[str, Any]) -> None:
    """Raise MelHuBERTError where the recipe has filled in a setting that `-o` has, too.

    Args:
        task: one of SUPERB's.
        settings: after they were filled in.
        overridden: the settings that `-o` has set, by their places.
    """
    filled_in = dict(flat(settings))
    for place, value in overridden.items():
        if filled_in[place] == value:
            continue
        workers = place.endswith(("num_workers", "max_workers"))
        corpus = [each.option for each in task.arguments if not each.flag]
        by = "--workers" if workers else f"the recipe itself, from {', '.join(corpus)}"
        raise MelHuBERTError(f"-o config.{place}: is set by {by}; leave it out of -o")


def refuse_states_that_change(task: Task[Any], arguments: Mapping[str, Any]) -> None:
    """Raise MelHuBERTError where hidden states cannot be kept: they change, or others are used.

    Args:
        task: one of SUPERB's.
        arguments: s3prl's, those of `S3PRL_ARGUMENTS`.
    """
    if not task.trained:
        raise MelHuBERTError(f"{task.key}: nothing is trained, so that there is no --keep-states")
    if arguments["upstream_trainable"]:
        raise MelHuBERTError("--keep-states: the upstream is trained, so that its hidden states change")
    selection = arguments["upstream_feature_selection"]
    if selection != S3PRL_ARGUMENTS["upstream_feature_selection"]:
        raise MelHuBERTError(f"--keep-states: keeps hidden_states alone, and -o asks for {selection}")
