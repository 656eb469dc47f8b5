"""A task's settings: SUPERB's, what the user changes of them, and the difference between the two."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

from s3prl_melhubert.compat.experiments.overrides import overridden_name
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.task import Task
from s3prl_melhubert.errors import MelHuBERTError, named, shown
from s3prl_melhubert.support.settings import nearest

# What a participant may choose, and what has no influence on a result.
FREE = (
    "optimizer.lr",
    "runner.log_step",
    "runner.save_step",
    "runner.max_keep",
    "downstream_expert.corpus.num_workers",
    "downstream_expert.datarc.num_workers",
    "downstream_expert.loaderrc.num_workers",
)

# How the settings end that say how many processes read audio, which no result depends on.
WORKERS = ("num_workers", "max_workers")

SAVING = ("runner.save_step", "runner.max_keep")

# What s3prl's runner reads. It hands the other sections on to torch and to the downstream models, which have
# names of their own, so that a mistyped one in them cannot be told from one that SUPERB's settings leave out.
SECTIONS = ("runner", "optimizer", "scheduler", "specaug", "downstream_expert")
OF_RUNNER = (
    "total_steps",
    "gradient_clipping",
    "gradient_accumulate_steps",
    "log_step",
    "eval_step",
    "save_step",
    "max_keep",
    "train_dataloader",
    "eval_dataloaders",
    "evaluate_ratio",
    "fp16",
)

# s3prl's arguments on which a result depends, with SUPERB's values: all hidden states of a frozen upstream.
S3PRL_ARGUMENTS = {
    "upstream_trainable": False,
    "upstream_feature_selection": "hidden_states",
    "upstream_layer_selection": None,
    "upstream_feature_normalize": False,
}

# Those on which no result depends, and which no option of `melhubert superb` sets.
HARMLESS_ARGUMENTS = ("cache_dir", "disable_cudnn", "upstream_refresh", "verbose")

# What sets the others. An override would win over that option, and the result would name the option's value.
SET_BY = {
    "upstream": "-u",
    "upstream_ckpt": "-k",
    "upstream_model_config": "-g",
    "expdir": "-p",
    "expname": "-p",
    "seed": "--seed",
    "device": "--device",
    "config": "-o config.KEY.KEY=VALUE",
    "mode": "--stage",
    "downstream": "the task itself",
    "downstream_variant": "the task itself",
    "evaluate_split": "the task itself",
    "past_exp": "the same command in the same folder, which goes on",
    "init_ckpt": "the same command in the same folder, which goes on",
    "auto_resume": "the same command in the same folder, which goes on",
    "hub": "-u melhubert_hf -k ORG/NAME",
    "upstream_revision": "-u melhubert_hf -k ORG/NAME@REVISION",
}


def with_steps(settings: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Change the settings for a run of `steps` steps.

    In a shorter run than SUPERB's, s3prl's intervals are shortened where they would not come to an end: it
    evaluates and saves at whole multiples only, and what follows the last one is lost.
    """
    changed = deepcopy(dict(settings))
    runner = changed["runner"]
    runner["total_steps"] = steps
    for interval in ("log_step", "eval_step", "save_step"):
        runner[interval] = steps // math.ceil(steps / runner[interval])
    return changed


def check_above_zero(place: str, value: Any) -> None:
    """Raise MelHuBERTError unless the value of a setting is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise MelHuBERTError(f"-o config.{place}={value}: expected a number above zero")


def refuse_untested(runner: Mapping[str, Any], dev: Sequence[str]) -> None:
    """Look whether a training would leave something to test: s3prl evaluates and saves at multiples only.

    Args:
        runner: the settings of s3prl's runner.
        dev: s3prl's names of the splits by which the checkpoint to test is chosen; none where every saved
            checkpoint is tested.

    Raises:
        MelHuBERTError: an interval, the norm of gradients or the evaluated share is no number above zero, or
            an interval exceeds the number of steps; or the evaluation leaves a dev split out.
    """
    intervals = {"eval_step": "the dev split would never be scored"} if dev else {}
    intervals["save_step"] = "no checkpoint would be saved"
    # Of a norm of 0 the gradients are 0, and of one below zero they point the other way.
    for name in ("total_steps", "gradient_accumulate_steps", "gradient_clipping", "log_step", *intervals):
        check_above_zero(f"runner.{name}", runner.get(name))
    # Below zero, nothing is heard, and every score is NaN.
    check_above_zero("runner.evaluate_ratio", runner.get("evaluate_ratio", 1))
    splits = runner.get("eval_dataloaders")
    if dev and not (isinstance(splits, list | tuple) and all(name in splits for name in dev)):
        raise MelHuBERTError(
            f"-o config.runner.eval_dataloaders={splits}: expected a list with {', '.join(dev)} in it, where "
            "the checkpoint to test is chosen"
        )
    total = runner["total_steps"]
    for name, lost in intervals.items():
        if runner[name] > total:
            raise MelHuBERTError(
                f"config.runner.{name} {runner[name]} exceeds the {total} steps of the training: {lost}; "
                f"give --steps {total}, which shortens it, or at most {total} with -o"
            )


def refuse_optimizer(settings: Mapping[str, Any]) -> None:
    """Raise MelHuBERTError where s3prl cannot make the optimizer, or the schedule, that the settings name.

    And where the optimizer goes uphill.
    """
    import torch
    from s3prl.optimizers import get_optimizer
    from s3prl.schedulers import get_scheduler

    section, steps = "optimizer", settings["runner"]["total_steps"]
    try:
        # Of zeros, so that no random number is drawn that the training would have drawn.
        model = torch.nn.ParameterList([torch.zeros(1)])
        optimizer = get_optimizer([model], steps, settings[section])
        model[0].grad = torch.ones(1)
        optimizer.step()
        if settings.get("scheduler"):
            section = "scheduler"
            get_scheduler(optimizer, steps, settings[section])
    except Exception as error:  # each class has kinds of its own
        raise MelHuBERTError(
            f"-o config.{section}: s3prl cannot make one of {shown(settings[section])} ({named(error)})"
        ) from None
    if model[0].item() > 0:
        raise MelHuBERTError(
            f"-o config.optimizer: {shown(settings['optimizer'])} found, by which a gradient above 0 raises "
            "a parameter, so that the loss would rise; leave out what is not SUPERB's"
        )


def with_override(settings: Mapping[str, Any], override: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Apply s3prl's `-o`.

    Returns:
        The settings, and the arguments of S3PRL_ARGUMENTS, as they are after it.

    Raises:
        MelHuBERTError: it is not written as `config.KEY.KEY=VALUE,,args.NAME=VALUE`, or it names an argument
            that is not left to it, or a setting that nothing reads.
    """
    changed, arguments = deepcopy(dict(settings)), SimpleNamespace(**S3PRL_ARGUMENTS)
    if override:
        from s3prl.utility.helper import override as apply

        for name in map(overridden_name, override.split(",,")):
            if name.startswith("args"):
                _refuse_argument(name)
            else:
                _refuse_setting(name)
        try:
            with redirect_stderr(io.StringIO()):  # s3prl says what it changes
                apply(override, arguments, changed)
        except (AssertionError, AttributeError, TypeError) as error:
            raise MelHuBERTError(f"-o {override}: s3prl cannot apply it ({error})") from None
        _refuse_lost_section(settings, changed)
    chosen = {name: getattr(arguments, name) for name in S3PRL_ARGUMENTS}
    return changed, chosen


def _refuse_argument(key: str) -> None:
    """Raise MelHuBERTError unless the argument, written as `args.NAME`, is one that `-o` may set."""
    name, left = key.removeprefix("args."), [*S3PRL_ARGUMENTS, *HARMLESS_ARGUMENTS]
    if name in SET_BY:
        raise MelHuBERTError(f"-o {key}: is set by {SET_BY[name]}, so that the result says what was used")
    if name not in left:
        raise MelHuBERTError(f"-o {key}: no argument of s3prl's that -o may set ({nearest(name, left)})")


def _refuse_setting(key: str) -> None:
    """Raise MelHuBERTError where no part of s3prl reads the setting, written as `config.SECTION.NAME`."""
    section, *names = key.split(".")[1:] or [""]
    if section not in SECTIONS:
        raise MelHuBERTError(f"-o {key}: s3prl reads no such section ({nearest(section, SECTIONS)})")
    if section == "runner" and names and names[0] not in OF_RUNNER:
        raise MelHuBERTError(f"-o {key}: s3prl reads no such setting ({nearest(names[0], OF_RUNNER)})")


def _refuse_lost_section(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "config") -> None:
    """Raise MelHuBERTError where a section of the settings has become a single value."""
    for name, section in before.items():
        if isinstance(section, Mapping) and name in after:
            place, now = f"{above}.{name}", after[name]
            if not isinstance(now, Mapping):
                raise MelHuBERTError(f"-o {place}={now}: is a section; expected {place}.KEY=VALUE")
            _refuse_lost_section(section, now, place)


def overridden(settings: Mapping[str, Any], override: str | None) -> dict[str, Any]:
    """The settings that an override has set, by their places, such as `runner.total_steps`.

    Args:
        settings: to which it was applied.
        override: as `with_override` accepts it.
    """
    keys = [part.split("=")[0].strip() for part in (override or "").split(",,")]
    return {
        place: deepcopy(value)
        for place, value in flat(settings)
        if any(f"config.{place}.".startswith(f"{key}.") for key in keys)
    }


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
        corpus = [each.option for each in task.arguments if not each.flag]
        by = "--workers" if place.endswith(WORKERS) else f"the recipe itself, from {', '.join(corpus)}"
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


def differences(
    superb: Mapping[str, Any],
    here: Mapping[str, Any],
    arguments: Mapping[str, Any],
    free: Collection[str] = FREE,
) -> list[Difference]:
    """List the settings that are not SUPERB's; paths and those that are free do not count."""
    ours, theirs = dict(flat(here)), dict(flat(superb))
    paths = places_of_paths(superb)
    found = [
        Difference(name, theirs.get(name, "not set"), ours.get(name, "not set"))
        for name in [*theirs, *(name for name in ours if name not in theirs)]
        if name not in free and name not in paths and theirs.get(name) != ours.get(name)
    ]
    found += [
        Difference(name, superb_value, arguments[name])
        for name, superb_value in S3PRL_ARGUMENTS.items()
        if arguments[name] != superb_value
    ]
    return found


def places_of_paths(superb: Mapping[str, Any]) -> list[str]:
    """The settings that SUPERB's leave open, which hold paths."""
    return [place for place, value in flat(superb) if value is None]


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting under its place, such as `runner.total_steps`."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        else:
            yield name, value
