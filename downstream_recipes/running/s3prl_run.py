"""Running s3prl's own run_downstream.py for a task, with its traps out of the way.

s3prl's code decides what is trained and how it is scored. What is changed, only while it runs here:

    ctc's num_workers     is popped from the settings by the first split; later ones would start 12
    torch.save            writes a checkpoint beside its place and renames it, so that a crash leaves the old
                          one or the new one
    builtins.isinstance   is replaced by every run of s3prl; here it is put back
    a task's own traps    are replaced as the task says (`Task.replacements`)
"""

from __future__ import annotations

import builtins
import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from s3prl_melhubert.compat import finder
from s3prl_melhubert.downstream_recipes.task import Replacement
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import atomic_path

LOG = "log.txt"


def run_downstream(
    arguments: Sequence[str], log: Path, replacements: Sequence[Replacement] = ()
) -> list[str]:
    """Run s3prl's run_downstream.py in this process.

    Args:
        arguments: its command line.
        log: a file to which everything that it prints is appended; progress bars go to stderr.
        replacements: what the task puts into s3prl's modules meanwhile.

    Returns:
        The lines that it printed.

    Raises:
        MelHuBERTError: it failed; the traceback is in the log.
    """
    finder.install()
    with log.open("a", encoding="utf-8") as file:
        output = _Tee(file)
        print("run_downstream.py", *arguments, file=file)
        try:
            with (
                _without_traps(replacements),
                redirect_stdout(output),
                _replaced(sys, "argv", ["run_downstream.py", *arguments]),
            ):
                runpy.run_module("s3prl.run_downstream", run_name="__main__")
        except SystemExit as stop:
            if stop.code not in (None, 0):
                raise MelHuBERTError(f"s3prl's run_downstream.py ended with {stop.code}; see {log}") from None
        except MelHuBERTError:
            raise
        except Exception as error:
            traceback.print_exc(file=file)
            said = " ".join(str(error).split())
            raise MelHuBERTError(
                f"s3prl's run_downstream.py failed: {type(error).__name__}: {said}; the traceback is in {log}"
            ) from error
    return output.lines()


class _Tee:
    """A text stream that keeps what is written and passes it on to a file."""

    def __init__(self, file: TextIO):
        self.file = file
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return self.file.write(text)

    def flush(self) -> None:
        self.file.flush()

    def lines(self) -> list[str]:
        return "".join(self.written).splitlines()


@contextmanager
def _without_traps(replacements: Sequence[Replacement]) -> Iterator[None]:
    import s3prl.downstream.ctc.expert as ctc
    import torch

    load_dataset, save = ctc.load_dataset, torch.save

    def load_from_copy(split: str, tokenizer: Any, corpus: dict[str, Any]) -> Any:
        return load_dataset(split, tokenizer, dict(corpus))

    def save_whole(content: Any, target: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(target, str | os.PathLike):
            save(content, target, *args, **kwargs)
            return
        with atomic_path(Path(target)) as temporary:
            save(content, temporary, *args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for message in (
            "`torch.cuda.amp",
            "User provided device_type of 'cuda'",
        ):  # they come from s3prl's calls, each time
            warnings.filterwarnings("ignore", message)
        stack.enter_context(_replaced(builtins, "isinstance", isinstance))
        stack.enter_context(_replaced(ctc, "load_dataset", load_from_copy))
        stack.enter_context(_replaced(torch, "save", save_whole))
        for each in replacements:
            stack.enter_context(_replaced(import_module(each.module), each.name, each.value))
        yield


@contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """`holder.name` is `value` while the block runs, and then what it was before."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)
