"""s3prl's own programs, run in this process from the s3prl that pip installed.

    run_downstream(argv)    run_downstream.py
    run_pretrain(argv)      run_pretrain.py, in a folder that looks like a checkout (`pretrain_workplace`)

The arguments are s3prl's and go to it untouched, once they have been looked at (`command_lines`). What this
adds is that s3prl finds MelHuBERT and works with today's libraries, also where S3PRL_MELHUBERT_AUTOLOAD=0
keeps other programs free of that, and that a kill leaves a checkpoint to go on from (`experiments.saving`).
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any

from s3prl_melhubert.compat import finder, pretrain_workplace
from s3prl_melhubert.compat.command_lines.downstream import DownstreamLine
from s3prl_melhubert.compat.command_lines.parser import checked
from s3prl_melhubert.compat.experiments.loading import damage_refused
from s3prl_melhubert.compat.experiments.recorded_folder import made_where_it_can_be
from s3prl_melhubert.compat.experiments.saving import full_disk_told, only_run_in, saved_whole
from s3prl_melhubert.compat.experts.abilities import refuse_beyond
from s3prl_melhubert.compat.layer_choice import missing_layers_refused
from s3prl_melhubert.errors import named


def run_downstream(argv: Sequence[str], tell: Callable[[str], object] = lambda task: None) -> int:
    """Run s3prl's run_downstream.py with these arguments and return its exit status.

    Args:
        argv: the program's arguments.
        tell: is called with the downstream task before the program begins.

    Raises:
        MelHuBERTError: an argument names what is not there, a layer that the MelHuBERT does not have, or what
            s3prl's code for the task cannot do.
    """
    return _run_program("melhubert run-downstream", argv, lambda: _start_downstream(tell))


def _start_downstream(tell: Callable[[str], object]) -> None:
    program: Any = import_module("s3prl.run_downstream")
    plain = program.get_downstream_args
    with ExitStack() as stack:

        def get_downstream_args() -> tuple:
            with (
                checked(DownstreamLine) as read,
                made_where_it_can_be(
                    lambda: read[0].past is not None and read[0].sets("expdir"),
                    "give another with -p, or beside -e with -o args.expdir=FOLDER",
                ),
            ):
                args, config, files = plain()
            refuse_beyond(args, config)
            line = read[0]
            line.tell_folder(args)
            line.tell_passed_over(args, config)
            line.keep_optimizer(config)
            line.tell_ended(config)
            line.settle_paths(args, config)
            tell(args.downstream)
            stack.enter_context(full_disk_told(args.expdir, same_command=args.mode != "train"))
            if args.mode == "train":  # Its models may be tested meanwhile.
                stack.enter_context(only_run_in(args.expdir))
            # The choice of layers of an experiment that is there goes on as it was begun.
            if line.past is None:
                stack.enter_context(missing_layers_refused())
            return args, config, files

        program.get_downstream_args = get_downstream_args
        stack.callback(setattr, program, "get_downstream_args", plain)
        stack.callback(setattr, builtins, "isinstance", isinstance)  # s3prl replaces it, each time anew.
        program.main()


def run_pretrain(argv: Sequence[str]) -> int:
    """Run s3prl's run_pretrain.py with these arguments and return its exit status.

    Raises:
        MelHuBERTError: an argument names what is not there, or is missing.
    """
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
            print(
                f"{name}: {library} cannot be imported ({named(error)}); `melhubert doctor` tells what "
                "to install",
                file=sys.stderr,
            )
            return 2

    from s3prl_melhubert.support.tensorboard.event_files import faults_told

    finder.install()
    # The variable is taken away, because the worker processes are a part of the run.
    arguments, autoload = sys.argv, os.environ.pop(finder.AUTOLOAD, None)
    sys.argv = [name, *argv]
    try:
        with saved_whole(same_command=False), damage_refused(), faults_told():
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
