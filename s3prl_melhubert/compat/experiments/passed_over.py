"""The arguments on a command line that s3prl passes over, because it takes those of the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from s3prl_melhubert.errors import shown
from s3prl_melhubert.support.progress import say


def other_arguments(
    given: Mapping[str, Any], options: Mapping[str, str], kept: Mapping[str, Any]
) -> Iterator[str]:
    """Each argument that differs from the one with which s3prl goes on, in words.

    Args:
        given: what was read from the command line.
        options: of those arguments that count, the names as they are typed.
        kept: with which s3prl goes on.
    """
    for name, option in options.items():
        if not _same(given[name], kept[name]):
            value = "" if given[name] is True else f" {given[name]}"
            yield f"{option}{value} (it has {_shown(kept[name])})"


def other_settings(
    settings: Mapping[str, Any], kept: Mapping[str, Any], but: Collection[str]
) -> list[tuple[str, Any, Any]]:
    """The settings that differ from those with which s3prl goes on: name, value and the other value.

    Of `downstream_expert`, only those that both have are compared, because some of s3prl's tasks take
    settings out, or put some in, while they read them.

    Args:
        settings: of the file that was named.
        kept: with which s3prl goes on.
        but: settings with values from elsewhere.
    """
    found = different(settings, kept, both_ways=True)
    return [each for each in found if not any(_overlap(each[0], name) for name in but)]


def _overlap(name: str, other: str) -> bool:
    """Whether one of two settings is the other, or holds it."""
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


def different(
    settings: Mapping[str, Any], kept: Mapping[str, Any], above: str = "", *, both_ways: bool = False
) -> Iterator[tuple[str, Any, Any]]:
    """The settings with different values: name, value and the other value.

    Args:
        settings: some, in sections.
        kept: others.
        above: the name of their section, with a dot behind it.
        both_ways: whether one that is here or there alone is different; one without a value is as none.
    """
    for name in [*settings, *(name for name in kept if name not in settings)]:
        if not both_ways and (name not in settings or name not in kept):
            continue
        value, other = settings.get(name), kept.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            inner = both_ways and name != "downstream_expert"
            yield from different(value, other, f"{above}{name}.", both_ways=inner)
        elif not _same(value, other):
            yield f"{above}{name}", value, other


def keep_optimizer(argument: str, config: dict[str, Any], kept: Mapping[str, Any]) -> None:
    """Tell which settings of the optimizer s3prl passes over, and keep those that it has instead.

    s3prl makes the optimizer by its settings, and then loads the state of the checkpoint's, which brings the
    settings of then. So the checkpoints to come would name a learning rate that nothing was trained with.

    Args:
        argument: that names the checkpoint, in words.
        config: the settings with which s3prl goes on.
        kept: those of the checkpoint.
    """
    given, others = config.get("optimizer"), kept.get("optimizer")
    if not isinstance(given, Mapping) or not isinstance(others, Mapping):
        return
    found = [
        f"{name}: {_shown(value)} (it has {_shown(other)})"
        for name, value, other in different(given, others, "optimizer.", both_ways=True)
    ]
    if found:
        say(f"{argument}: s3prl goes on with the checkpoint's optimizer, and passes over {', '.join(found)}")
        config["optimizer"] = deepcopy(others)


def in_words(file: str, found: Sequence[tuple[str, Any, Any]]) -> str:
    """A file of settings, and the first of those that differ."""
    name, value, other = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{file} ({name}: {_shown(value)}; it has {_shown(other)}{more})"


def _same(value: Any, other: Any) -> bool:
    """Whether two values are one, or two ways to one file: `pretrain_expert.py` notes whole paths."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, str) and isinstance(other, str):
        return value == other or os.path.realpath(value) == os.path.realpath(other)
    return bool(value == other)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "settings"
    return "none" if value is None else value if isinstance(value, str) else shown(value)
