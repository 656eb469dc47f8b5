"""A folder that looks like a linked checkout of s3prl, in which pip's run_pretrain.py can be run.

The program looks for folders under the working directory: for `pretrain/`, where it must find `melhubert`.
So it starts in a temporary folder with links to pip's s3prl and with what `melhubert link` writes. As soon as
it has read its command line it goes back to the user's folder, where relative paths mean what is meant.
"""

from __future__ import annotations

import argparse
import linecache
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from s3prl_melhubert.compat.command_lines.parser import checked
from s3prl_melhubert.compat.command_lines.pretrain import PretrainLine
from s3prl_melhubert.compat.experiments.recorded_folder import made_where_it_can_be
from s3prl_melhubert.compat.experiments.saving import full_disk_told, only_run_in
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.writable import write_faults

# The short and the long name of each argument of run_pretrain.py that is a path.
PATHS = {"-e": "--past_exp", "-c": "--config", "-g": "--upstream_config", "-p": "--expdir"}


def run_in_workplace() -> None:
    """Run s3prl's run_pretrain.py with the arguments in `sys.argv`."""
    import s3prl

    with tempfile.TemporaryDirectory(prefix="melhubert-run-pretrain-") as name:
        work = Path(name)
        make_workplace(work, Path(s3prl.__file__).parent)
        sys.argv[1:] = absolute_paths(sys.argv[1:])
        sys.path.insert(0, str(work))
        try:
            with _working_directory(work):
                program: Any = import_module("run_pretrain")
            with ExitStack() as running, _too_few_steps_in_a_line():
                program.get_pretrain_args = _starting_in(work, program.get_pretrain_args, running)
                program.main()
        finally:
            sys.path.remove(str(work))


def make_workplace(work: Path, s3prl: Path) -> None:
    """Make a folder look like a linked checkout of s3prl.

    Args:
        work: an empty folder, which gets links to the installed s3prl and the files of `melhubert link`.
        s3prl: the folder of the installed s3prl.
    """
    from s3prl_melhubert.pretrain.link import NEW, OLD, link

    # These are real folders, for our files.
    for folder in ("pretrain", "upstream"):
        (work / folder).mkdir()
        for path in (s3prl / folder).iterdir():
            if path.name not in ("melhubert", "__pycache__", NEW, OLD):
                (work / folder / path.name).symlink_to(path)
    for path in s3prl.iterdir():
        if path.name not in ("pretrain", "upstream", "__pycache__"):
            (work / path.name).symlink_to(path)
    link(work)


def absolute_paths(argv: Sequence[str]) -> list[str]:
    """Return the arguments, and behind them the paths again as absolute ones: s3prl takes the last of two."""
    if any(argument in ("-h", "--help") for argument in argv):
        return list(argv)
    parser = argparse.ArgumentParser(prog="melhubert run-pretrain", add_help=False)
    for short, long in PATHS.items():
        parser.add_argument(short, long)
    parser.add_argument("-n", "--expname")
    # The other arguments are declared so that an abbreviation means what it means to s3prl's parser.
    for names in (("-o", "--override"), ("-u", "--upstream"), ("--seed",), ("--device",)):
        parser.add_argument(*names)
    for names in (("-a", "--auto_resume"), ("--multi_gpu",)):
        parser.add_argument(*names, action="store_true")
    given, _ = parser.parse_known_args(list(argv))
    if given.expdir is None and given.expname is not None:
        given.expdir = f"result/pretrain/{given.expname}"  # This is s3prl's rule.
    absolute = list(argv)
    for short, long in PATHS.items():
        path = getattr(given, long.removeprefix("--"))
        if path is not None:
            absolute += [short, str(Path(path).expanduser().absolute())]
    return absolute


def _starting_in(
    work: Path, get_pretrain_args: Callable[[], tuple], running: ExitStack
) -> Callable[[], tuple]:
    """Wrap s3prl's reader of the command line: mistakes are told, and default files found in `work`.

    Args:
        work: the workplace.
        get_pretrain_args: s3prl's reader.
        running: what is open until the program ends; gets the lock of the run's folder.
    """

    def get_args() -> tuple:
        remedy = "give another with -p; for one that a checkpoint names, `melhubert pretrain -i CHECKPOINT`"
        with (
            _working_directory(work),
            checked(PretrainLine) as read,
            made_where_it_can_be(lambda: False, remedy),
        ):
            args, config = get_pretrain_args()
        read[0].settle_device(args)
        read[0].tell_folder(args)
        read[0].tell_passed_over(args, config)
        # s3prl has made a relative folder in `work`, where nobody wants it.
        with write_faults(args.expdir):
            os.makedirs(args.expdir, exist_ok=True)
        running.enter_context(full_disk_told(args.expdir, same_command=False))
        running.enter_context(only_run_in(args.expdir))
        if isinstance(getattr(args, "upstream_config", None), str):  # The default is relative to `work`.
            args.upstream_config = str(work / args.upstream_config)
        return args, config

    return get_args


@contextmanager
def _too_few_steps_in_a_line() -> Iterator[None]:
    """Say in a line what s3prl asserts without a word: that a run has more steps than its intervals."""
    try:
        yield
    except AssertionError as error:
        frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
        steps = frame.f_locals.get("total_steps")
        failed = linecache.getline(frame.f_code.co_filename, line)
        if steps is None or "total_steps >" not in failed:
            raise
        interval = next(name for name in ("log_step", "save_step") if name in failed)
        raise MelHuBERTError(
            f"runner.{interval}: not below the {steps} steps of the run, which s3prl demands; give a lower "
            f"one in -c, or -o config.runner.{interval}=N, or let the run be longer"
        ) from None


@contextmanager
def _working_directory(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)
