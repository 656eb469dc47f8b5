"""The rows of a `manifest.csv`, one after the other: they are never all in memory."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.pretrain.data.manifest.utterance import Utterance
from s3prl_melhubert.support.files import atomic_path

MANIFEST = "manifest.csv"
PUBLISHED_COLUMNS = ("file_path", "label_path", "length")
ALL_COLUMNS = (*PUBLISHED_COLUMNS, "start", "label_start", "id")


class Row(NamedTuple):
    """A row as it is written, with `None` where nothing is."""

    features: str
    labels: str
    length: int
    start: int | None
    label_start: int | None
    id: str


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a manifest.

    Raises:
        MelHuBERTError: the file is not there, columns are missing, or a row cannot be used; the message
            names the line.
    """
    try:
        # Names of files may hold any bytes; those that are no UTF-8 come back as they were written. A program
        # of tables may have put a mark of the encoding first.
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            missing = [name for name in PUBLISHED_COLUMNS if name not in columns]
            if missing:
                found = shown(",".join(columns)) if columns else "nothing"
                raise MelHuBERTError(
                    f"{path}, line 1: no column {', '.join(missing)} (found {found}"
                    f"), expected {','.join(PUBLISHED_COLUMNS)}[,start][,label_start][,id]"
                )
            places = {name: place for place, name in enumerate(columns)}
            wanted = [places.get(name, len(columns)) for name in ALL_COLUMNS]  # past the end: it is not there
            width = len(columns) + 1
            for fields in reader:
                if not fields:
                    continue
                padded = fields[: width - 1] + [""] * max(1, width - len(fields))
                try:
                    yield _parse_row(*[padded[place] for place in wanted])
                except MelHuBERTError as error:
                    raise MelHuBERTError(f"{path}, line {reader.line_num}: {error}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise MelHuBERTError(f"{path}: cannot be read as a manifest ({reason})") from None


def _parse_row(features: str, labels: str, length: str, start: str, label_start: str, name: str) -> Row:
    if not features or not labels:
        raise MelHuBERTError("file_path or label_path is empty")
    first = _parse_integer(start, "start", 0, 1 << 62)
    first_label = _parse_integer(label_start, "label_start", 0, 1 << 62)
    frames = _parse_integer(length, "length", 1, 1 << 31)
    if frames is None:
        raise MelHuBERTError("length is empty, expected a number of 10 ms frames")
    if first_label is None:
        first_label = first
    return Row(features, labels, frames, first, first_label, name or Path(features).stem)


def _parse_integer(text: str, column: str, least: int, below: int) -> int | None:
    if not text:
        return None
    try:
        value = float(text)  # pandas writes a column of integers with a gap in it as 7.0
    except ValueError:
        value = float("nan")
    if not value.is_integer() or not least <= value < below:
        raise MelHuBERTError(f"{column} is {shown(text)}, expected a whole number of at least {least}")
    return int(value)


class RowWriter:
    """Writes rows of a CSV file; fields with a line break of any kind are quoted, so that they come back."""

    def __init__(self, file: TextIO):
        # csv quotes a carriage return only where it is part of the line's end.
        self._plain = csv.writer(file, lineterminator="\n")
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, row: Sequence[Any]) -> None:
        odd = any(isinstance(value, str) and not _is_printable(value) for value in row)
        (self._quoted if odd else self._plain).writerow(row)


def _is_printable(text: str) -> bool:
    """Whether a text can be printed where names are UTF-8, so that every locale quotes the same rows."""
    if text.isprintable():
        return True
    # In the locale C, Python reads each byte of a name that is not ASCII as a surrogate.
    return text.encode(errors="surrogateescape").decode(errors="surrogateescape").isprintable()


def write_rows(file: TextIO, utterances: Iterable[Utterance]) -> None:
    """Write a manifest with all columns into an open text file."""
    writer = RowWriter(file)
    writer.writerow(ALL_COLUMNS)
    for utterance in utterances:
        writer.writerow(
            [
                utterance.features.as_posix(),
                utterance.labels.as_posix(),
                utterance.length,
                utterance.start,
                utterance.label_start,
                utterance.id,
            ]
        )


def is_written_list(path: Path) -> bool:
    """Whether a file begins as those that `write_rows` writes; published CSV files have fewer columns."""
    beginning = (",".join(ALL_COLUMNS) + "\n").encode()
    try:
        with path.open("rb") as file:
            return file.read(len(beginning)) == beginning
    except OSError:  # What cannot be read is not known to be one.
        return False


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest with all columns; relative paths are written as they are.

    Args:
        path: the file; the paths inside it are read relative to its folder.
        utterances: the rows; `label_start` of all of them is given, and `start` of all that are no audio.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        write_rows(file, utterances)
