"""A task's settings: SUPERB's, what the user changes of them, and the difference between the two."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import redirect_stderr
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.errors import MelHuBERTError

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

SAVING = ("runner.save_step", "runner.max_keep")

# s3prl's arguments on which a result depends, with SUPERB's values: all hidden states of a frozen upstream.
S3PRL_ARGUMENTS = {
    "upstream_trainable": False,
    "upstream_feature_selection": "hidden_states",
    "upstream_layer_selection": None,
    "upstream_feature_normalize": False,
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
        if steps % runner[interval]:
            runner[interval] = steps // math.ceil(steps / runner[interval])
    return changed


def with_override(settings: Mapping[str, Any], override: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Apply s3prl's `-o`.

    Returns:
        The settings, and the arguments of S3PRL_ARGUMENTS, as they are after it.

    Raises:
        MelHuBERTError: it is not written as `config.KEY.KEY=VALUE,,args.NAME=VALUE`.
    """
    changed, arguments = deepcopy(dict(settings)), SimpleNamespace(**S3PRL_ARGUMENTS)
    if override:
        from s3prl.utility.helper import override as apply

        for part in override.split(",,"):
            key, *values = part.split("=")
            if len(values) != 1 or key.strip().split(".")[0] not in ("config", "args"):
                raise MelHuBERTError(
                    f"-o {part.strip()}: expected config.KEY.KEY=VALUE or args.NAME=VALUE, "
                    "several of them with ,, between (s3prl's syntax)"
                )
        try:
            with redirect_stderr(io.StringIO()):  # s3prl says what it changes
                apply(override, arguments, changed)
        except (AssertionError, AttributeError, TypeError) as error:
            raise MelHuBERTError(f"-o {override}: s3prl cannot apply it ({error})") from None
    chosen = {name: getattr(arguments, name) for name in S3PRL_ARGUMENTS}
    return changed, chosen


def differences(
    superb: Mapping[str, Any],
    here: Mapping[str, Any],
    arguments: Mapping[str, Any],
    free: Collection[str] = FREE,
) -> list[Difference]:
    """List the settings that are not SUPERB's; paths and those that are free do not count."""
    ours, theirs = dict(flat(here)), dict(flat(superb))
    paths = {name for name, value in theirs.items() if value is None}
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


def put(settings: dict[str, Any], place: str, value: Any) -> None:
    """Set the setting at a place, such as `runner.total_steps`; the sections above it are there."""
    *above, name = place.split(".")
    for section in above:
        settings = settings[section]
    settings[name] = value


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting under its place, such as `runner.total_steps`."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        else:
            yield name, value
