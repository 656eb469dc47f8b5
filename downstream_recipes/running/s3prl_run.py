"""Running s3prl's own run_downstream.py for a task, with its traps out of the way.

s3prl's code decides what is trained and how it is scored. What is changed, only while it runs here:

    ctc's num_workers     is popped from the settings by the first split; later ones would start 12
    torch.save            writes a checkpoint beside its place and renames it; only then the outdated one is
                          removed, so that a crash leaves the old one or the new one
    torch.load            holds a checkpoint of s3prl's against its checksums, which torch does not
    builtins.isinstance   is replaced by every run of s3prl; here it is put back
    tensorboardX          tells its writer of a full disk, which it would have wait for ever
    a task's own traps    are replaced as the task says (`Task.replacements`)
"""

from __future__ import annotations

import builtins
import runpy
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

from s3prl_melhubert.compat import finder
from s3prl_melhubert.compat.experiments.loading import damage_refused
from s3prl_melhubert.compat.experiments.saving import full_disk_told, saved_whole
from s3prl_melhubert.downstream_recipes.task import Replacement
from s3prl_melhubert.errors import MelHuBERTError, named
from s3prl_melhubert.support.files import DISK_FAULTS
from s3prl_melhubert.support.progress import screen_kept

LOG = "log.txt"


def run_downstream(
    arguments: Sequence[str], log: Path, replacements: Sequence[Replacement] = ()
) -> list[str]:
    """Run s3prl's run_downstream.py in this process.

    Args:
        arguments: its command line.
        log: a file to which everything that it prints is appended; progress bars stay on stderr.
        replacements: what the task puts into s3prl's modules meanwhile.

    Returns:
        The lines that it printed.

    Raises:
        MelHuBERTError: it failed; the traceback is in the log.
    """
    finder.install()
    with Log(log) as output:
        output.note("run_downstream.py", *arguments)
        with (
            failures_in_a_line("s3prl's run_downstream.py", output),
            without_traps(replacements),
            output.redirected(),
            replaced(sys, "argv", ["run_downstream.py", *arguments]),
        ):
            runpy.run_module("s3prl.run_downstream", run_name="__main__")
        return output.lines()


class Log:
    """A text stream that keeps what is written to it, and appends it to a file."""

    def __init__(self, path: Path):
        self.path = path
        # By lines, for a worker process would write once more what is in the buffer when it begins.
        self.file = path.open("a", encoding="utf-8", buffering=1)
        self.written: list[str] = []

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *raised: object) -> None:
        with full_disk_told(self.path):
            self.file.close()

    def write(self, text: str) -> int:
        self.written.append(text)
        with full_disk_told(self.path):
            return self.file.write(text)

    def flush(self) -> None:
        with full_disk_told(self.path):
            self.file.flush()

    def note(self, *words: str) -> None:
        """Write a line to the file alone."""
        with full_disk_told(self.path):
            print(*words, file=self.file, flush=True)

    @contextmanager
    def redirected(self) -> Iterator[None]:
        """What is printed while the block runs goes here; warnings and other words on stderr, to the file."""
        with redirect_stdout(self), self.chatter_redirected():
            yield
        self.flush()

    @contextmanager
    def chatter_redirected(self) -> Iterator[None]:
        """What libraries say on stderr while the block runs goes to the file; bars stay on the screen."""
        with screen_kept(), redirect_stderr(_Chatter(self)):
            yield

    def lines(self) -> list[str]:
        """What was written since the stream was made."""
        return "".join(self.written).splitlines()


class _Chatter:
    """A stream in stderr's place, of which the log's file gets what is written."""

    def __init__(self, log: Log):
        self.file, self.path = log.file, log.path
        self.encoding, self.errors = self.file.encoding, self.file.errors

    def write(self, text: str) -> int:
        # Who keeps the stream, as handlers of `logging` do, may write when the file has been closed.
        if self.file.closed:
            return sys.stderr.write(text)
        with full_disk_told(self.path):
            return self.file.write(text)

    def flush(self) -> None:
        if not self.file.closed:
            self.file.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.file.fileno()


@contextmanager
def failures_in_a_line(program: str, log: Log) -> Iterator[None]:
    """Turn what s3prl's code raises into a MelHuBERTError; the traceback goes to the log."""
    try:
        yield
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise MelHuBERTError(f"{program} ended with {stop.code}; see {log.path}") from None
    except MelHuBERTError:
        raise
    except Exception as error:
        with full_disk_told(log.path.parent):
            if isinstance(error, OSError) and error.errno in DISK_FAULTS:
                raise  # without a traceback, for which the disk has no room
            traceback.print_exc(file=log.file)
        raise MelHuBERTError(f"{program} failed: {named(error)}; the traceback is in {log.path}") from error


@contextmanager
def without_traps(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Keep s3prl's traps out of the way while the block runs."""
    import s3prl.downstream.ctc.expert as ctc

    from s3prl_melhubert.support.tensorboard.event_files import faults_told

    load_dataset = ctc.load_dataset

    def load_from_copy(split: str, tokenizer: Any, corpus: dict[str, Any]) -> Any:
        return load_dataset(split, tokenizer, dict(corpus))

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # They come from s3prl's calls, each time.
        for message in ("`torch.cuda.amp", "User provided device_type of 'cuda'"):
            warnings.filterwarnings("ignore", message)
        stack.enter_context(replaced(builtins, "isinstance", isinstance))
        stack.enter_context(replaced(ctc, "load_dataset", load_from_copy))
        stack.enter_context(saved_whole())
        stack.enter_context(damage_refused())
        stack.enter_context(faults_told())
        for each in replacements:
            stack.enter_context(replaced(import_module(each.module), each.name, each.value))
        yield


@contextmanager
def replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """`holder.name` is `value` while the block runs, and then what it was before."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)
