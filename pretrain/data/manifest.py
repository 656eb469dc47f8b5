"""The manifest of a prepared set: which utterances there are, and where their frames and labels lie.

    manifest.csv        file_path,label_path,length[,start][,label_start][,id]: a row per utterance
    features/*.npy      (frames, 40) float32 normalized log-Mel at 10 ms, many utterances a file
    labels/*.npy        (labels,) cluster ids, at 10 or 20 ms

Features may be float16. A set that keeps none names audio files instead, whose frames are made when they are
read (see `audio_frames`).

The first three columns of the manifest are the published ones. A published CSV, which has these only and
a `.npy` per utterance, is read as it is.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.pretrain.data.audio_frames import AudioFrames
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.arrays import open_npy
from s3prl_melhubert.support.files import atomic_path

MANIFEST = "manifest.csv"
FEATURES = "features"  # the folder of feature files
LABELS = "labels"  # the folder of label files

PUBLISHED_COLUMNS = ("file_path", "label_path", "length")
FRAME_SHIFT_MS = 10
LABEL_PERIODS_MS = (10, 20)
# Lengths in the published CSVs are sometimes off by one frame.
LENGTH_TOLERANCE = 1  # frames
# Each mapped file keeps a file descriptor, of which a process may have 1024 by default.
OPEN_FILES = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a manifest."""

    id: str  # the utterance's name, or where the manifest has no column for it, the feature file's
    # A .npy file of (rows, 40) float32 or float16 normalized log-Mel at 10 ms; or an audio file.
    features: Path
    labels: Path  # a .npy file of cluster ids
    length: int  # how many frames of 10 ms it has
    start: int | None = None  # its first row in `features`; None if the file is this utterance's alone
    label_start: int | None = None  # its first entry in `labels`; None if that file is its alone

    @property
    def is_audio(self) -> bool:
        """Whether its frames are made of an audio file, because the set keeps none."""
        return self.features.suffix != ".npy"


def label_count(frames: int, label_period_ms: int) -> int:
    """How many labels an utterance of n frames of 10 ms has: n at 10 ms, ceil(n / 2) at 20 ms."""
    return frames if label_period_ms == FRAME_SHIFT_MS else (frames + 1) // 2


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a manifest; the top of this file says which columns it has.

    Raises:
        MelHuBERTError: the file is not there, columns are missing, or a row cannot be used; the message
            names the line.
    """
    path = Path(path)
    absolute = _cached(lambda name: path.parent / name)
    utterances = []
    try:
        # Names of files may hold any bytes; those that are no UTF-8 come back as they were written.
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            missing = [name for name in PUBLISHED_COLUMNS if name not in columns]
            if missing:
                found = shown(",".join(columns)) if columns else "nothing"
                raise MelHuBERTError(
                    f"{path}, line 1: no column {', '.join(missing)} (found {found}"
                    f"), expected {','.join(PUBLISHED_COLUMNS)}[,start][,label_start][,id]"
                )
            for row in reader:
                utterances.append(_parse_row(row, absolute, f"{path}, line {reader.line_num}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise MelHuBERTError(f"{path}: cannot be read as a manifest ({reason})") from None
    if not utterances:
        raise MelHuBERTError(f"{path}: no utterances found, expected a row each")
    return utterances


def _parse_row(row: Mapping[str, str | None], absolute: Callable[[str], Path], where: str) -> Utterance:
    features, labels = row["file_path"], row["label_path"]
    if not features or not labels:
        raise MelHuBERTError(f"{where}: file_path or label_path is empty")
    start = _parse_integer(row, "start", where, 0)
    label_start = _parse_integer(row, "label_start", where, 0)
    length = _parse_integer(row, "length", where, 1)
    if length is None:
        raise MelHuBERTError(f"{where}: length is empty, expected a number of 10 ms frames")
    return Utterance(
        id=row.get("id") or Path(features).stem,
        features=absolute(features),
        labels=absolute(labels),
        length=length,
        start=start,
        label_start=start if label_start is None else label_start,
    )


def _parse_integer(row: Mapping[str, str | None], column: str, where: str, least: int) -> int | None:
    text = row.get(column)
    if not text:
        return None
    try:
        value = float(text)  # pandas writes a column of integers with a gap in it as 7.0
    except ValueError:
        value = float("nan")
    if not value.is_integer() or value < least:
        raise MelHuBERTError(
            f"{where}: {column} is {shown(text)}, expected a whole number of at least {least}"
        )
    return int(value)


def _cached(function: Callable[[str], T]) -> Callable[[str], T]:
    # A corpus has a million rows and a thousand shards, so the rows of a shard share one Path object.
    known: dict[str, T] = {}

    def lookup(key: str) -> T:
        if key not in known:
            known[key] = function(key)
        return known[key]

    return lookup


class _RowWriter:
    """Writes rows of a CSV file; fields with a line break of any kind are quoted, so that they come back."""

    def __init__(self, file: TextIO):
        # csv quotes a carriage return only where it is part of the line's end.
        self._plain = csv.writer(file, lineterminator="\n")
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, row: Sequence[Any]) -> None:
        odd = any(isinstance(value, str) and not value.isprintable() for value in row)
        (self._quoted if odd else self._plain).writerow(row)


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
        writer = _RowWriter(file)
        writer.writerow([*PUBLISHED_COLUMNS, "start", "label_start", "id"])
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


@lru_cache(maxsize=OPEN_FILES)
def open_array(path: Path) -> np.ndarray:
    """Open a `.npy` file, memory-mapped and read-only; the last few hundred of them stay open.

    Raises:
        MelHuBERTError: the file is not there, or holds no array.
    """
    return open_npy(path)


def utterance_features(utterance: Utterance, stats: FeatureStats | None = None) -> np.ndarray | AudioFrames:
    """(frames, 40) normalized log-Mel frames of an utterance: slices of it are read, and nothing is yet.

    Args:
        utterance: a row of a manifest.
        stats: what frames that are made of audio are normalized with, which is what they were labelled with.

    Returns:
        A read-only view of the file's array, or what makes the frames of an audio file.

    Raises:
        MelHuBERTError: the file has another shape, or the utterance's length differs from the manifest's
            by more than one frame, or there are no statistics for audio.
    """
    if utterance.is_audio:
        if stats is None:
            raise MelHuBERTError(
                f"{utterance.features}: neither a .npy file nor the audio of a prepared set, whose "
                "dataset.yaml would say what its frames are normalized with"
            )
        return AudioFrames(utterance.features, utterance.length, stats)
    array = open_array(utterance.features)
    if array.ndim != 2 or array.shape[1] != N_MELS:
        raise MelHuBERTError(
            f"{utterance.features}: shape {array.shape} found, expected (frames, {N_MELS}) log-Mel frames"
        )
    return _slice(array, utterance.start, utterance.length, utterance, utterance.features, "frames")


def utterance_labels(utterance: Utterance, label_period_ms: int | None = None) -> np.ndarray:
    """(labels,) cluster ids of an utterance, as a read-only view: nothing is read yet.

    Args:
        utterance: a row of a manifest.
        label_period_ms: 10 or 20; with None, the number of labels tells, if the file is this utterance's
            alone; in a file of many it is 10.

    Raises:
        MelHuBERTError: the file holds no vector of integers, or the number of labels differs from the one
            that fits the utterance's length by more than one.
    """
    array = open_array(utterance.labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise MelHuBERTError(
            f"{utterance.labels}: {array.dtype} of shape {array.shape} found, expected a vector of whole "
            "numbers, one cluster id per frame"
        )
    if label_period_ms is None:
        label_period_ms = told_label_period(utterance, len(array))
    count = label_count(utterance.length, label_period_ms)
    return _slice(array, utterance.label_start, count, utterance, utterance.labels, "labels")


def told_label_period(utterance: Utterance, labels: int) -> int:
    """10 or 20 ms, whichever fits so many labels better to the utterance's frames."""
    if utterance.label_start is not None:
        return FRAME_SHIFT_MS
    return min(LABEL_PERIODS_MS, key=lambda period: abs(label_count(utterance.length, period) - labels))


def _slice(
    array: np.ndarray, start: int | None, count: int, utterance: Utterance, path: Path, what: str
) -> np.ndarray:
    found = len(array) if start is None else len(array) - start
    if found < count - LENGTH_TOLERANCE or (start is None and found > count + LENGTH_TOLERANCE):
        raise MelHuBERTError(
            f"{path}: {max(0, found)} {what} found for utterance {utterance.id}"
            f"{'' if start is None else f' from row {start}'}, expected {count} (length "
            f"{utterance.length} in the manifest)"
        )
    first = start or 0
    return array[first : first + count]
