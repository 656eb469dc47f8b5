"""s3prl's own programs, run in this process from the s3prl that pip installed.

    run_downstream(argv)    run_downstream.py
    run_pretrain(argv)      run_pretrain.py, in a folder that looks like a checkout (`pretrain_workplace`)

The arguments are s3prl's and go to it untouched. What this adds is that s3prl finds MelHuBERT and works with
today's libraries, also where S3PRL_MELHUBERT_AUTOLOAD=0 keeps other programs free of that.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module

from s3prl_melhubert.compat import finder, pretrain_workplace
from s3prl_melhubert.compat.layer_choice import missing_layers_refused


def run_downstream(argv: Sequence[str]) -> int:
    """Run s3prl's run_downstream.py with these arguments and return its exit status.

    Raises:
        MelHuBERTError: a layer is asked for that the MelHuBERT does not have.
    """
    # With -e, the choice of layers is that of an experiment which is there, and goes on as it was begun.
    goes_on = any(argument.startswith(("-e", "--past")) for argument in argv)

    def start() -> None:
        with nullcontext() if goes_on else missing_layers_refused():
            runpy.run_module("s3prl.run_downstream", run_name="__main__")

    return _run_program("melhubert run-downstream", argv, start)


def run_pretrain(argv: Sequence[str]) -> int:
    """Run s3prl's run_pretrain.py with these arguments and return its exit status."""
    return _run_program("melhubert run-pretrain", argv, pretrain_workplace.run_in_workplace)


def _run_program(name: str, argv: Sequence[str], start: Callable[[], object]) -> int:
    """Run one of s3prl's programs in this process, as if a shell had started it.

    An exception that the program does not catch is not caught here either: its traceback is what a user of
    s3prl looks for.

    Args:
        name: the name by which the program calls itself in its usage message.
        argv: the program's arguments.
        start: a function that runs the program, which finds its arguments in `sys.argv`.

    Returns:
        The program's exit status, or 2, after a line on stderr, where a library of its cannot be imported.
    """
    for library in ("torch", "torchaudio", "s3prl"):
        try:
            import_module(library)
        except Exception as error:  # A torchaudio built for another torch raises OSError or RuntimeError.
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            print(
                f"{name}: {library} cannot be imported ({cause}); `melhubert doctor` tells what to install",
                file=sys.stderr,
            )
            return 2

    finder.install()
    # The variable is taken away, because the worker processes are a part of the run.
    arguments, autoload = sys.argv, os.environ.pop(finder.AUTOLOAD, None)
    sys.argv = [name, *argv]
    try:
        start()
    except SystemExit as stop:
        return _exit_status(stop)
    finally:
        sys.argv = arguments
        if autoload is not None:
            os.environ[finder.AUTOLOAD] = autoload
    return 0


def _exit_status(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)  # The program said `sys.exit("message")`.
    return 1
