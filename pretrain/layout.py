"""A prepared set on disk, as `melhubert prepare` writes it and training reads it.

    dataset.yaml        what the set is: statistics, clusters, counts, how it was made
    manifest.csv        file_path,label_path,length[,start][,label_start][,id]: a row per utterance
    features/*.npy      (frames, 40) float32 normalized log-Mel at 10 ms, many utterances a file
    labels/*.npy        (labels,) cluster ids, at 10 or 20 ms
    kmeans.npy          (clusters, dim) float32 centroids
    rejected.csv        file_path,reason: what was left out

The first three columns of the manifest are the published ones. A published CSV, which has these only and
a `.npy` per utterance, is read as it is.

Example::

    data = read_prepared("data/train")
    for utterance in data.utterances:
        features = utterance_features(utterance)  # (frames, 40) float32, memory-mapped
        labels = utterance_labels(utterance, data.label_period_ms)  # (labels,) integers
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.yaml_files import read_yaml_mapping

MANIFEST = "manifest.csv"
DATASET = "dataset.yaml"
REJECTED = "rejected.csv"
KMEANS = "kmeans.npy"
FEATURES = "features"  # folders
LABELS = "labels"

PUBLISHED_COLUMNS = ("file_path", "label_path", "length")
FRAME_SHIFT_MS = 10
LABEL_PERIODS_MS = (10, 20)
# The published CSV's lengths are sometimes off by one frame from the files they describe.
LENGTH_TOLERANCE = 1  # frames
# A mapped file keeps a file descriptor; a process may have 1024 by default.
OPEN_FILES = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a manifest."""

    id: str  # its name; the feature file's, where the manifest has no column for it
    features: Path  # .npy of (rows, 40) float32 normalized log-Mel at 10 ms
    labels: Path  # .npy of cluster ids
    length: int  # 10 ms frames
    start: int | None = None  # its first row in `features`; None: the file is this utterance's alone
    label_start: int | None = None  # its first entry in `labels`; None likewise


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.yaml` says."""

    stats: FeatureStats  # what the features were normalized with
    clusters: int  # labels are in [0, clusters)
    label_period_ms: int = 10  # 10, or 20: an utterance of n frames has ceil(n / 2) labels
    frame_shift_ms: int = FRAME_SHIFT_MS
    feature_kind: str = "log-Mel, 40 bins, normalized"
    utterances: int = 0
    frames: int = 0  # of 10 ms, over all utterances
    rejected: int = 0  # files left out; rejected.csv names them
    made_by: Mapping[str, Any] = field(default_factory=dict)  # the command and its arguments
    versions: Mapping[str, str] = field(default_factory=dict)  # of the programs that matter to the figures

    @property
    def hours(self) -> float:
        """Of audio, to a thousandth."""
        return round(self.frames * self.frame_shift_ms / 3_600_000, 3)

    def __str__(self) -> str:
        return (
            f"{self.utterances} utterances, {self.hours:g} h, {self.clusters} clusters, "
            f"{self.label_period_ms} ms labels"
        )


@dataclass(frozen=True)
class PreparedSet:
    """A prepared folder, or a published CSV."""

    manifest: Path
    utterances: Sequence[Utterance]  # in the manifest's order
    info: DatasetInfo | None  # None for a published CSV, which has no dataset.yaml beside it

    @property
    def folder(self) -> Path:
        return self.manifest.parent

    @property
    def label_period_ms(self) -> int | None:
        """10 or 20; None where nothing says so, to be told from the lengths."""
        return self.info.label_period_ms if self.info else None


def label_count(frames: int, label_period_ms: int) -> int:
    """Labels of an utterance of so many 10 ms frames: n at 10 ms, ceil(n / 2) at 20 ms."""
    return frames if label_period_ms == FRAME_SHIFT_MS else (frames + 1) // 2


def read_prepared(path: str | Path) -> PreparedSet:
    """Read a prepared folder, or a manifest by its own name.

    Args:
        path: the folder, or a CSV file (which may be a published one).

    Raises:
        MelHuBERTError: nothing there, or a file that cannot be used; its message names file and line.
    """
    path = Path(path).expanduser()
    manifest = path / MANIFEST if path.is_dir() else path
    if not manifest.is_file():
        if path.is_dir():
            raise MelHuBERTError(
                f"{path}: no {MANIFEST} found; `melhubert prepare --audio DIR --out {path}` makes one, and "
                "continues one that was interrupted"
            )
        raise MelHuBERTError(f"{path}: no such file or folder, expected a prepared folder or its {MANIFEST}")
    info_path = manifest.with_name(DATASET)
    info = read_dataset_info(info_path) if info_path.is_file() else None
    return PreparedSet(manifest, read_manifest(manifest), info)


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a manifest; see the top of this file for its columns.

    Raises:
        MelHuBERTError: no such file, columns missing, or a row that cannot be used, by its line.
    """
    path = Path(path)
    absolute = _cached(lambda name: path.parent / name)
    utterances = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            missing = [name for name in PUBLISHED_COLUMNS if name not in columns]
            if missing:
                raise MelHuBERTError(
                    f"{path}, line 1: no column {', '.join(missing)} (found {', '.join(columns) or 'nothing'}"
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
        raise MelHuBERTError(f"{where}: {column} is {text!r}, expected a whole number of at least {least}")
    return int(value)


def _cached(function: Callable[[str], T]) -> Callable[[str], T]:
    # A shard's rows share one Path object: a corpus has a million rows and a thousand shards.
    known: dict[str, T] = {}

    def lookup(key: str) -> T:
        if key not in known:
            known[key] = function(key)
        return known[key]

    return lookup


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest with all columns; relative paths are written as they are.

    Args:
        path: where; the paths inside are read relative to its folder.
        utterances: whose `start` and `label_start` are all given.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
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


def read_dataset_info(path: str | Path) -> DatasetInfo:
    """Read a `dataset.yaml`.

    Raises:
        MelHuBERTError: no such file, or a key that is missing or impossible.
    """
    content = read_yaml_mapping(path)

    def count(key: str, least: int = 0) -> int:
        value = content.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise MelHuBERTError(
                f"{path}: {key} is {value!r}, expected a whole number of at least {least}; was it written by "
                "`melhubert prepare`?"
            )
        return value

    period, shift = content.get("label_period_ms"), content.get("frame_shift_ms")
    if period not in LABEL_PERIODS_MS:
        raise MelHuBERTError(f"{path}: label_period_ms is {period!r}, expected 10 or 20")
    if shift != FRAME_SHIFT_MS:
        raise MelHuBERTError(f"{path}: frame_shift_ms is {shift!r}, expected {FRAME_SHIFT_MS}")
    statistics = content.get("statistics")
    if not isinstance(statistics, Mapping):
        raise MelHuBERTError(f"{path}: no `statistics`, expected `mean` and `std` of {N_MELS} figures each")
    return DatasetInfo(
        stats=FeatureStats.from_mapping(statistics, f"in {path}"),
        clusters=count("clusters", 1),
        label_period_ms=period,
        frame_shift_ms=shift,
        feature_kind=str(content.get("feature_kind", DatasetInfo.feature_kind)),
        utterances=count("utterances"),
        frames=count("frames"),
        rejected=count("rejected"),
        made_by=content.get("made_by") or {},
        versions=content.get("versions") or {},
    )


def write_dataset_info(path: str | Path, info: DatasetInfo) -> None:
    """Write a `dataset.yaml`."""
    content = {
        "frame_shift_ms": info.frame_shift_ms,
        "feature_kind": info.feature_kind,
        "clusters": info.clusters,
        "label_period_ms": info.label_period_ms,
        "utterances": info.utterances,
        "frames": info.frames,
        "hours": info.hours,
        "rejected": info.rejected,
        "made_by": dict(info.made_by),
        "versions": dict(info.versions),
        "statistics": info.stats.to_mapping(),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_stats(source: str | Path) -> FeatureStats:
    """Statistics of a prepared folder, a file, or a published name.

    Raises:
        MelHuBERTError: none of these, or figures that cannot be statistics.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return read_dataset_info(path / DATASET).stats
    if path.name == DATASET:
        return read_dataset_info(path).stats
    return FeatureStats.load(source)


@lru_cache(maxsize=OPEN_FILES)
def open_array(path: Path) -> np.ndarray:
    """A `.npy` file, memory-mapped and read-only; the last few hundred stay open.

    Raises:
        MelHuBERTError: no such file, or not an array.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise MelHuBERTError(f"{path}: cannot be read as a .npy array ({reason})") from None


def utterance_features(utterance: Utterance) -> np.ndarray:
    """(frames, 40) normalized log-Mel of an utterance: a read-only view, nothing is read yet.

    Raises:
        MelHuBERTError: another shape, or another length than the manifest's by more than one frame.
    """
    array = open_array(utterance.features)
    if array.ndim != 2 or array.shape[1] != N_MELS:
        raise MelHuBERTError(
            f"{utterance.features}: shape {array.shape} found, expected (frames, {N_MELS}) log-Mel frames"
        )
    return _slice(array, utterance.start, utterance.length, utterance, utterance.features, "frames")


def utterance_labels(utterance: Utterance, label_period_ms: int | None = None) -> np.ndarray:
    """(labels,) cluster ids of an utterance: a read-only view, nothing is read yet.

    Args:
        utterance: which.
        label_period_ms: 10 or 20; None: tell from the length (only where the file is this utterance's
            alone; 10 in a file of many).

    Raises:
        MelHuBERTError: not a vector of integers, or another number of them than fits the utterance's
            length, by more than one.
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
    """10 or 20 ms: which of the two fits so many labels to an utterance's frames better."""
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


def program_versions(*extra: str) -> dict[str, str]:
    """Versions of Python, this package, numpy, torch, and of further packages by name, for `dataset.yaml`."""
    from importlib.metadata import version

    from s3prl_melhubert import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    names = ["numpy", "torch", *extra]
    return {"python": python, "s3prl-melhubert": __version__, **{name: version(name) for name in names}}
