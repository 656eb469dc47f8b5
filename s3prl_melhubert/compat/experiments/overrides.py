"""s3prl's `-o`, which sets arguments and settings of an experiment after all else has been read."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.progress import say


def overridden_name(part: str) -> str:
    """The name that a part of an `-o` sets: `config.KEY.KEY` or `args.NAME`.

    Raises:
        MelHuBERTError: the part is not in s3prl's syntax.
    """
    name, *values = (each.strip() for each in part.split("="))
    if len(values) != 1 or name.split(".")[0] not in ("args", "config"):
        raise other_syntax(part)
    return name


def other_syntax(part: str) -> MelHuBERTError:
    return MelHuBERTError(
        f"-o {part.strip()}: expected config.KEY.KEY=VALUE or args.NAME=VALUE, "
        "several of them with ,, between (s3prl's syntax)"
    )


def parts_of(override: str | None) -> list[str]:
    """What an `-o` sets, each as `NAME=VALUE`."""
    return [] if override is None or override.lower() == "none" else override.split(",,")


def names_of(override: str | None) -> set[str]:
    """The names that an `-o` sets, such as `args.seed`."""
    return {part.split("=")[0].strip() for part in parts_of(override)}


def tell_mistyped(name: str, keys: Sequence[str], settings: Any) -> None:
    """Tell of a key that the settings lack, where they have a similar one."""
    for key in keys:
        if not isinstance(settings, dict):
            return
        if key not in settings:
            close = get_close_matches(key, [each for each in settings if isinstance(each, str)], n=1)
            if close:
                say(f"-o {name}: a new setting, as -c has no {key}; did you mean {close[0]}?")
            return
        settings = settings[key]
