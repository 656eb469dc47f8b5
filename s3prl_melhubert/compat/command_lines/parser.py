"""s3prl's own parser, which reads the arguments: what it has read is looked at before s3prl gets it."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from s3prl_melhubert.compat.command_lines.line import CommandLine


def _typed(parser: argparse.ArgumentParser, parse_args: Callable[..., Any]) -> dict[str, str]:
    """The arguments that stand on the command line, which was read before without an error, by short names.

    Args:
        parser: s3prl's.
        parse_args: argparse's own method.
    """
    names = {each.dest: each.option_strings[0] for each in parser._actions if each.option_strings}
    absent = object()
    # argparse puts a default only where there is nothing yet.
    read = parse_args(parser, namespace=Namespace(**dict.fromkeys(names, absent)))
    return {name: option for name, option in names.items() if getattr(read, name) is not absent}


@contextmanager
def checked(kind: type[CommandLine]) -> Iterator[list[Any]]:
    """Have s3prl's parser tell of mistakes; what is yielded holds the command line, once it has been read."""
    plain = argparse.ArgumentParser.parse_args
    read: list[Any] = []

    def parse_args(*given: Any, **options: Any) -> Any:
        args = plain(*given, **options)
        read.append(kind(args, _typed(given[0], plain)))
        read[0].check()
        return args

    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]
    try:
        yield read
    finally:
        argparse.ArgumentParser.parse_args = plain  # type: ignore[method-assign]
