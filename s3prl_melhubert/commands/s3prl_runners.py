"""`melhubert run-downstream`: s3prl's own program, for people who have s3prl from pip and no checkout.

The arguments are s3prl's and go to it untouched. What this adds is that s3prl finds MelHuBERT and works
with today's libraries, also where S3PRL_MELHUBERT_AUTOLOAD=0 keeps other programs free of that.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from s3prl_melhubert import s3prl_plugin


def run_downstream(argv: Sequence[str]) -> int:
    """Run s3prl's run_downstream.py with these arguments; return its exit status."""
    return run_program(
        "melhubert run-downstream",
        argv,
        lambda: runpy.run_module("s3prl.run_downstream", run_name="__main__"),
    )


def run_program(name: str, argv: Sequence[str], start: Callable[[], object]) -> int:
    """Run one of s3prl's programs in this process, as if a shell had started it.

    Args:
        name: what the program shall call itself in its usage message.
        argv: its arguments.
        start: runs the program as `__main__`, by runpy.

    Returns:
        Its exit status, or 2, after a line on stderr, where a library that it needs cannot be imported.
        An exception that the program does not catch is not caught here: its traceback is what a user of
        s3prl looks for.
    """
    for library in ("torch", "torchaudio", "s3prl"):
        try:
            import_module(library)
        except Exception as error:  # a torchaudio built for another torch raises OSError or RuntimeError
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            print(
                f"{name}: {library} cannot be imported ({cause}); `melhubert doctor` tells what to install",
                file=sys.stderr,
            )
            return 2

    s3prl_plugin.install()
    arguments, autoload = sys.argv, os.environ.pop(s3prl_plugin.AUTOLOAD, None)  # workers are part of the run
    sys.argv = [name, *argv]
    try:
        start()
    except SystemExit as stop:
        return _exit_status(stop)
    finally:
        sys.argv = arguments
        if autoload is not None:
            os.environ[s3prl_plugin.AUTOLOAD] = autoload
    return 0


def _exit_status(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)  # `sys.exit("message")`
    return 1
