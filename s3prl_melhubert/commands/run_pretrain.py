"""`melhubert run-pretrain`: s3prl's own run_pretrain.py, for people who have s3prl from pip.

The program looks for folders beside it under the working directory: `pretrain/`, where it must find
`melhubert`. So it is started in a temporary folder that looks like a checkout (links to pip's s3prl, and
what `melhubert link` writes), and goes back to the user's folder as soon as it has read its command line:
relative paths mean what the user meant.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from s3prl_melhubert.commands.s3prl_runners import run_program


def run_pretrain(argv: Sequence[str]) -> int:
    """Run s3prl's run_pretrain.py with these arguments; return its exit status."""
    return run_program("melhubert run-pretrain", argv, _run)


def _run() -> None:
    import s3prl

    with tempfile.TemporaryDirectory(prefix="melhubert-run-pretrain-") as name:
        work = Path(name)
        make_workplace(work, Path(s3prl.__file__).parent)
        sys.argv[1:] = absolute_paths(sys.argv[1:])
        sys.path.insert(0, str(work))
        try:
            with _working_directory(work):
                program: Any = import_module("run_pretrain")
            program.get_pretrain_args = _starting_in(work, program.get_pretrain_args)
            program.main()
        finally:
            sys.path.remove(str(work))


def make_workplace(work: Path, s3prl: Path) -> None:
    """Make `work` look like a linked checkout of s3prl: links to the installed one, and our files."""
    from s3prl_melhubert.pretrain.link import link

    for folder in ("pretrain", "upstream"):  # real folders, for our files to be written into
        (work / folder).mkdir()
        for path in (s3prl / folder).iterdir():
            if path.name not in ("melhubert", "__pycache__"):
                (work / folder / path.name).symlink_to(path)
    for path in s3prl.iterdir():
        if path.name not in ("pretrain", "upstream", "__pycache__"):
            (work / path.name).symlink_to(path)
    link(work)


def absolute_paths(argv: Sequence[str]) -> list[str]:
    """s3prl's arguments, followed by its paths once more as absolute ones (of two, the last one counts)."""
    if any(argument in ("-h", "--help") for argument in argv):
        return list(argv)
    parser = argparse.ArgumentParser(prog="melhubert run-pretrain", add_help=False)
    paths = {"-e": "--past_exp", "-c": "--config", "-g": "--upstream_config", "-p": "--expdir"}
    for short, long in paths.items():
        parser.add_argument(short, long)
    parser.add_argument("-n", "--expname")
    # What else there is, so that an abbreviation means what it means to s3prl's parser.
    for names in (("-o", "--override"), ("-u", "--upstream"), ("--seed",), ("--device",)):
        parser.add_argument(*names)
    for names in (("-a", "--auto_resume"), ("--multi_gpu",)):
        parser.add_argument(*names, action="store_true")
    given, _ = parser.parse_known_args(list(argv))
    if given.expdir is None and given.expname is not None:
        given.expdir = f"result/pretrain/{given.expname}"  # s3prl's rule
    absolute = list(argv)
    for short, long in paths.items():
        path = getattr(given, long.removeprefix("--"))
        if path is not None:
            absolute += [short, str(Path(path).expanduser().absolute())]
    return absolute


def _starting_in(work: Path, get_pretrain_args: Callable[[], tuple]) -> Callable[[], tuple]:
    def get_args() -> tuple:
        with _working_directory(work):
            args, config = get_pretrain_args()
        if isinstance(getattr(args, "upstream_config", None), str):  # the default is relative to `work`
            args.upstream_config = str(work / args.upstream_config)
        return args, config

    return get_args


@contextmanager
def _working_directory(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)
