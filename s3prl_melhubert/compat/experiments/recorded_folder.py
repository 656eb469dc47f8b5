"""The folder of an experiment, which s3prl makes by the name in the checkpoint, before it reads `-o`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError


@contextmanager
def made_where_it_can_be(writes_elsewhere: Callable[[], bool], remedy: str) -> Iterator[None]:
    """While the block runs, a folder that cannot be made is told, or passed over where it is not needed.

    Args:
        writes_elsewhere: whether the first folder that s3prl makes is not the one in which it writes.
        remedy: what to do, which ends the error.

    Raises:
        MelHuBERTError: the folder cannot be made.
    """
    plain = os.makedirs
    made: list[Any] = []

    def makedirs(name: Any, *arguments: Any, **options: Any) -> None:
        made.append(name)
        os.makedirs = plain  # which calls itself for the folders above
        try:
            plain(name, *arguments, **options)
        except OSError as error:
            if len(made) > 1 or not writes_elsewhere():
                raise MelHuBERTError(f"{name}: cannot be made ({error.strerror}); {remedy}") from None
        finally:
            os.makedirs = makedirs

    os.makedirs = makedirs
    try:
        yield
    finally:
        os.makedirs = plain
