"""The arguments on a command line that s3prl passes over, because it takes those of the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from s3prl_melhubert.errors import shown


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

    Below the first level, only those that both have are compared, because some of s3prl's tasks take settings
    out, or put some in, while they read them.

    Args:
        settings: of the file that was named.
        kept: with which s3prl goes on.
        but: settings with values from elsewhere.
    """
    found = [*different(settings, kept)]
    found += [(name, settings.get(name), kept.get(name)) for name in sorted(settings.keys() ^ kept.keys())]
    return [each for each in found if not any(_overlap(each[0], name) for name in but)]


def _overlap(name: str, other: str) -> bool:
    """Whether one of two settings is the other, or holds it."""
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


def different(
    settings: Mapping[str, Any], kept: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """The settings that both have with different values."""
    for name, value in settings.items():
        if name not in kept:
            continue
        if isinstance(value, Mapping) and isinstance(kept[name], Mapping):
            yield from different(value, kept[name], f"{above}{name}.")
        elif not _same(value, kept[name]):
            yield f"{above}{name}", value, kept[name]


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
