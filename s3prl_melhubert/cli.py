"""The `melhubert` command: a table of its subcommands, and how one is run.

Arguments, summary and example of a subcommand stand in its module (see `commands`). Only the module of the
subcommand that was asked for is imported; of the others, the summary is read. Bad input is a
`MelHuBERTError`: one line on stderr, and exit status 2.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from s3prl_melhubert import __version__
from s3prl_melhubert.commands.descriptions import Command
from s3prl_melhubert.compat.restorations import name_user
from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning, printable
from s3prl_melhubert.support.files import DISK_FAULTS
from s3prl_melhubert.support.interruption import STATUS, ctrl_c_between_imports
from s3prl_melhubert.support.writable import check_places

COMMANDS = {
    "quickstart": Command("quickstart", "run"),
    "pretrain": Command("pretrain", "run"),
    "link": Command("link", "link", temporary=False),
    "unlink": Command("link", "unlink", temporary=False),
    "prepare": Command("prepare", "run", temporary=False),
    "relabel": Command("relabel", "run"),
    "label-quality": Command("label_quality", "run", temporary=False),
    "check": Command("check", "run", temporary=False),
    "manifest": Command("manifest", "run", temporary=False),
    "superb": Command("superb.superb", "run"),
    "extract": Command("checkpoints.extract", "run"),
    "units": Command("checkpoints.units", "run"),
    "convert": Command("checkpoints.convert", "run"),
    "info": Command("checkpoints.info", "run"),
    "compress": Command("checkpoints.compress", "run"),
    "hub": Command("checkpoints.hub", "run"),
    "doctor": Command("doctor", "run", temporary=False),
    "run-pretrain": Command("s3prl_programs", "run_pretrain"),
    "run-downstream": Command("s3prl_programs", "run_downstream"),
}
# What a place fails with that the user may not enter, whose name is too long, or whose server is away: also
# when it is asked whether something is there.
PLACE_FAULTS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ESTALE, errno.ENOTCONN, errno.EMFILE)
READER_GONE = 141  # the exit status of what SIGPIPE ends, which Python turns into a BrokenPipeError
# What pathlib says where neither HOME nor the system tells of a home folder, or where the name after ~ is no
# user's.
NO_HOME = "Could not determine home directory."


class _Parser(argparse.ArgumentParser):
    """A parser, and the parsers of its subcommands, to whom an empty text is no value of any argument.

    A shell variable that is not set gives one, and `Path("")` would be the current folder. A path may begin
    with `~`: bash leaves it in `--out=~/DIR`, and a folder called `~` would be made.
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.register("type", None, _not_empty)  # An argument that may be empty says `type=str`.
        self.register("type", Path, lambda text: Path(_not_empty(text)).expanduser())


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("'' found, expected a value; is a shell variable not set?")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    # After the program comes its end; after a function that was called, anything.
    with ctrl_c_between_imports() if argv is None else nullcontext():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    atexit.unregister(_leave_at_once)
    atexit.register(_leave_at_once)
    _make_streams_usable()
    name_user()
    try:
        try:
            status = _dispatch(arguments)
        except SystemExit:  # of --help, --version or a wrong argument
            _flush_stdout()
            raise
        _flush_stdout()
        return status
    except MelHuBERTError as error:
        return _tell(printable(str(error), keep=chr(10)), 2)
    except KeyboardInterrupt:
        return _tell("interrupted", STATUS)
    except BrokenPipeError:
        _silence_stdout()  # The reader (`| head`) has gone.
        return READER_GONE
    except RuntimeError as error:
        if str(error) != NO_HOME:
            raise
        if os.environ.get("HOME"):
            return _tell("a path begins with ~ and a name that no user has; give the whole path", 2)
        return _tell("no home folder is known, as HOME is not set; export HOME=FOLDER", 2)
    except OSError as error:
        if error.errno not in DISK_FAULTS and (error.errno not in PLACE_FAULTS or error.filename is None):
            raise
        where = printable(os.fsdecode(error.filename or "a file or standard output"))
        done = "read or written" if error.errno in (errno.EIO, *PLACE_FAULTS) else "written"
        return _tell(f"{where}: cannot be {done} ({os.strerror(error.errno)})", 2)


def _make_streams_usable() -> None:
    """Make sure that whatever a command prints can be printed, and stops nothing.

    A stream that the shell has closed (`2>&-`) is None in Python, and its number would be given to the first
    file that is opened: what is printed by others would be written into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one, because those before it are taken.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return
    if sys.stdout.errors == "strict":
        # The name of a file in another encoding is printed with escapes, as on stderr, and stops nothing.
        sys.stdout.reconfigure(errors="backslashreplace")
    elif (sys.stdout.encoding, sys.stdout.errors) == ("ascii", "surrogateescape"):
        # The locale C, where Python passes the bytes of names on as they are. A name that was read from a
        # file is printed with the bytes that it has there, too.
        sys.stdout.reconfigure(encoding="utf-8", errors=sys.stdout.errors)


def _tell(line: str, status: int) -> int:
    """Print why a command ends, and return its exit status; another one where nobody reads the line."""
    try:
        print(f"melhubert: {line}", file=sys.stderr)
    except BrokenPipeError:
        return READER_GONE
    return status


def _flush_stdout() -> None:
    """Write out what was printed while an error can be told in one line; Python's own end takes two."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _silence_stdout()
        error.filename = "standard output"
        raise


def _silence_stdout() -> None:
    """Keep Python from complaining once more, while it ends, of what cannot be printed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave_at_once() -> None:
    """Spare the interpreter most of its search for garbage among the objects of all imported libraries.

    It searches several times while it ends, which takes a third of a second after torch and s3prl. Once is
    enough for objects that do something when they are collected.
    """
    gc.collect()
    gc.freeze()


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else None
    if name in COMMANDS:
        return _run(name, arguments[1:])
    overview = _overview()
    if name is None:
        overview.print_help()
        return 2
    overview.parse_args(arguments)  # This is --help, --version, or the complaint about an unknown command.
    return 0


def _run(name: str, arguments: list[str]) -> int:
    command = COMMANDS[name]
    module = import_module(command.path)
    function = getattr(module, command.function)
    if not hasattr(module, "add_arguments"):
        check_places(temporary=command.temporary)
        with _bars_like_ours():
            return function(arguments)
    summary, example = command.describe()
    parser = _Parser(
        prog=f"melhubert {name}",
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parsed = parser.parse_args(arguments)
    check_places(temporary=command.temporary)
    with warnings.catch_warnings(), _bars_like_ours():
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        return function(parsed)


def _bars_like_ours() -> AbstractContextManager[None]:
    """Let the progress bars of s3prl and of other libraries look like this package's."""
    try:
        from s3prl_melhubert.support.progress import bars_like_ours
    except ImportError:  # `melhubert doctor` names what is not installed
        return nullcontext()
    return bars_like_ours()


def _show_warning(show_as_ever, message, category, *where) -> None:
    """Print a warning of this package in one line, as errors are, and one of a library as Python does."""
    if issubclass(category, MelHuBERTWarning):
        print(f"melhubert: {message}", file=sys.stderr)
    else:
        show_as_ever(message, category, *where)


def _overview() -> argparse.ArgumentParser:
    """Return the parser of `melhubert` itself, whose help lists the subcommands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {COMMANDS[name].describe()[0].rstrip('.')}" for name in COMMANDS]
    parser = argparse.ArgumentParser(
        prog="melhubert",
        usage="melhubert COMMAND [ARGUMENT ...]",
        description="MelHuBERT: a self-supervised speech model on log-Mel frames, inside s3prl.",
        epilog="\n".join(["commands:", *lines, "", "melhubert COMMAND --help tells more of one."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"s3prl-melhubert {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of those below")
    return parser
