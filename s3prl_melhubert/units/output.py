"""The files that units are written to, and the one that an interrupted command goes on from.

NAME.npz      each utterance id names an array: (n,) units; collapsed, (2, n): the units, then their frames
NAME.jsonl    a manifest: a line of JSON for each utterance, with its file, its seconds and its units
any other     text as Kaldi writes it: `id u1 u2 ...`; collapsed, NAME.durations beside it has `id d1 d2 ...`

While a command works, it keeps what is done in NAME.unfinished: a line that says what was asked for, then a
line for each utterance, which also says of which audio file it was made. The output is written when all are
there, in the order of the utterances. A line says that this has begun: from then on, an output that is there
is the command's own, and may be written again.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import atomic_path, size_and_time, suffix_of
from s3prl_melhubert.support.locks import only_writer_of
from s3prl_melhubert.support.made_from import changes
from s3prl_melhubert.support.writable import check_target, write_faults


@dataclass(frozen=True)
class Utterance:
    """An utterance's units, as they are written."""

    id: str
    path: Path
    samples: int  # at 16 kHz
    units: np.ndarray  # (n,) int16 or int32
    durations: np.ndarray | None  # (n,) int32 frames of each unit, where runs were collapsed


Write = Callable[[Utterance], None]


def durations_path(out: Path) -> Path:
    """The file of the durations beside a text of units: `units.durations` for `units.txt`."""
    return out.with_suffix(".durations")


def unfinished_path(out: Path) -> Path:
    """The file of what is done of an output, while it is not finished."""
    return out.with_name(f"{out.name}.unfinished")


def is_text(out: Path) -> bool:
    """Whether units are written to a file of this name as text."""
    return suffix_of(out) not in (".npz", ".jsonl")


def outputs(out: Path, collapsed: bool) -> list[Path]:
    """The files that are written: the units, and the durations if they have a file of their own."""
    return [out, durations_path(out)] if collapsed and is_text(out) else [out]


def refuse_existing(paths: Sequence[Path]) -> None:
    """Refuse to write over files.

    Raises:
        MelHuBERTError: one of them exists.
    """
    for path in paths:
        if path.exists():
            raise MelHuBERTError(f"{path}: exists already; remove it, or give another --out")


def check_out(out: Path, ids: Sequence[str], collapsed: bool) -> None:
    """Refuse, before any work, an output that exists or could not be written.

    Beside NAME.unfinished, one that exists may be the interrupted command's own: `unfinished_units` tells.

    Raises:
        MelHuBERTError: names the output and says what to give instead.
    """
    paths = outputs(out, collapsed)
    if len(set(paths)) < len(paths):
        raise MelHuBERTError(
            f"{out}: is the name of the durations; give the units another, such as units.txt"
        )
    for path in paths:
        check_target(path)
    if not unfinished_path(out).exists():
        refuse_existing(paths)
    spaced = next((each for each in ids if len(each.split()) != 1), None) if is_text(out) else None
    if spaced is not None:
        raise MelHuBERTError(
            f"{out}: text ends an utterance's id at the first space, but there is {spaced!r}; give "
            "NAME.npz or NAME.jsonl"
        )


@contextmanager
def open_output(out: Path, collapsed: bool) -> Iterator[Write]:
    """Give a function that writes an utterance; OUT is there, whole, when the block has ended well.

    Of two files, OUT appears last: where it is, its durations are.
    """
    with ExitStack() as stack:

        def text(path: Path) -> IO[str]:
            # An id with bytes in another encoding is written with the bytes that it has.
            temporary = stack.enter_context(atomic_path(path))
            return stack.enter_context(temporary.open("w", encoding="utf-8", errors="surrogateescape"))

        if suffix_of(out) == ".npz":
            temporary = stack.enter_context(atomic_path(out))
            archive = stack.enter_context(zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED))
            yield lambda utterance: _write_npz(archive, utterance)
        elif suffix_of(out) == ".jsonl":
            lines = text(out)
            yield lambda utterance: _write_json(lines, utterance)
        else:
            units = text(out)  # What is opened first is closed last.
            durations = text(durations_path(out)) if collapsed else None
            yield lambda utterance: _write_text(units, durations, utterance)


def _write_npz(archive: zipfile.ZipFile, utterance: Utterance) -> None:
    array = utterance.units
    if utterance.durations is not None:
        array = np.stack([array.astype(np.int32), utterance.durations])
    with archive.open(f"{utterance.id}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def _write_json(lines: IO[str], utterance: Utterance) -> None:
    row: dict[str, Any] = {
        "id": utterance.id,
        "audio": str(utterance.path),
        "seconds": round(utterance.samples / SAMPLE_RATE, 4),
        "units": utterance.units.tolist(),
    }
    if utterance.durations is not None:
        row["durations"] = utterance.durations.tolist()
    lines.write(json.dumps(row) + "\n")


def _write_text(units: IO[str], durations: IO[str] | None, utterance: Utterance) -> None:
    units.write(" ".join([utterance.id, *map(str, utterance.units.tolist())]) + "\n")
    if durations is not None and utterance.durations is not None:
        durations.write(" ".join([utterance.id, *map(str, utterance.durations.tolist())]) + "\n")


Source = tuple[str, int, int]  # an audio file's absolute path, its bytes, and when it was changed (ns)


def source_of(path: Path) -> Source:
    """What tells an audio file apart from another one, and from itself before it was changed."""
    return os.path.abspath(path), *size_and_time(path)


class Unfinished:
    """What is done of an output, kept in NAME.unfinished until the output is there.

    Args:
        file: the open file, at its end.
        sources: what tells the audio file of each utterance apart from others.
        done: where the line of each utterance that is done begins.
    """

    def __init__(self, file: IO[bytes], sources: Mapping[str, Source], done: dict[str, int]):
        self._file = file
        self._sources = sources
        self.done = done

    def add(self, utterance: str, units: np.ndarray, samples: int) -> None:
        """Keep an utterance's (T,) units, not collapsed, and its samples at 16 kHz."""
        self._file.seek(0, 2)
        place = self._file.tell()
        # One write for a line, so that a kill leaves it whole or, at the very end of the file, cut.
        line = json.dumps([utterance, samples, units.tolist(), self._sources[utterance]])
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        self.done[utterance] = place

    def begin_output(self, collapsed: bool) -> None:
        """Note that the output is written from now on: if it exists, it is what this was begun for."""
        self._file.seek(0, 2)
        self._file.write(_output_line(collapsed))
        self._file.flush()

    def is_empty(self) -> bool:
        """Whether no utterance is kept, those of files that have changed included."""
        self._file.seek(0)
        self._file.readline()
        return not self._file.readline()

    def read(self, utterance: str) -> tuple[np.ndarray, int]:
        """The (T,) int64 units and the samples of an utterance that is done."""
        self._file.seek(self.done[utterance])
        _, samples, units, _ = json.loads(self._file.readline())
        return np.array(units, np.int64), samples


@contextmanager
def unfinished_units(
    out: Path, asked: Mapping[str, Any], sources: Mapping[str, Source], collapsed: bool
) -> Iterator[Unfinished]:
    """What is done of `out`, which one process at a time may add to. It goes when the block ends well.

    An utterance counts as done if it was made of the file that it would be made of now. So files may be
    added, taken away and replaced between a command that was interrupted and the one that continues it.

    Args:
        out: the file to write in the end.
        asked: everything but the audio that the units of an utterance depend on, as plain text and numbers.
        sources: the audio file of each utterance, see `source_of`. They are to be looked up before the files
            are read: a file that changes afterwards is then known as another one.
        collapsed: whether the durations of runs are to be written, too.

    Raises:
        MelHuBERTError: it was begun with something else, another process is at work on it, OUT is there and
            is not of the command that was interrupted, or NAME.unfinished is nothing that this command wrote.
    """
    path = unfinished_path(out)
    with only_writer_of(out):
        if path.is_symlink():
            raise MelHuBERTError(f"{path}: is a link, which this command did not make; remove it")
        with write_faults(path), path.open("a+b") as file:
            done, began_output = _take_up(file, path, dict(asked), sources, collapsed)
            unfinished = Unfinished(file, sources, done)
            try:
                if not began_output:  # Who held the lock before may have written it.
                    refuse_existing(outputs(out, collapsed))
                yield unfinished
            except MelHuBERTError:
                if unfinished.is_empty():  # Nothing would be lost, and other arguments may be given now.
                    path.unlink(missing_ok=True)
                raise
        path.unlink(missing_ok=True)


def _output_line(collapsed: bool) -> bytes:
    """The line that says that the output is being written, which earlier versions pass over."""
    return json.dumps(f"output begun{', with durations' if collapsed else ''}").encode() + b"\n"


def _take_up(
    file: IO[bytes], path: Path, asked: dict[str, Any], sources: Mapping[str, Source], collapsed: bool
) -> tuple[dict[str, int], bool]:
    """Where the utterances that are done begin in the file, and whether this output was being written.

    The file is begun if there is none.
    """
    file.seek(0)
    head, own = file.readline(), json.dumps(asked).encode() + b"\n"
    if len(head) < len(own) and own.startswith(head):  # new, or killed within its first line
        file.truncate(0)
        file.write(own)
        file.flush()
        return {}, False
    try:
        changed = changes(json.loads(head), asked)
    except (ValueError, TypeError, RecursionError):
        raise MelHuBERTError(
            f"{path}: is there, and is no file of unfinished units; move it away, or give another --out"
        ) from None
    if changed:
        raise MelHuBERTError(
            f"{path}: was begun with {changed[0]}; repeat that, or remove the file to start anew"
        )
    done: dict[str, int] = {}
    began_output = False
    place = file.tell()
    while (line := file.readline()).endswith(b"\n"):
        began_output = began_output or line == _output_line(collapsed)
        try:
            utterance, _, _, *source = json.loads(line)  # An earlier version did not say of which file.
            if source and tuple(source[0]) == sources.get(utterance):
                done[utterance] = place
        except (ValueError, TypeError, IndexError, RecursionError):
            raise MelHuBERTError(f"{path}: is damaged at byte {place}; remove it to start anew") from None
        place = file.tell()
    file.truncate(place)  # a line that a kill has cut
    return done, began_output
