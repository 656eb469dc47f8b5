"""What becomes of a shard: a few files of audio, one file of frames and one of labels.

What is made of a shard depends on the shard alone (and, in the second pass, on the statistics and centroids
of all), so that it does not matter who makes it, when, or how often. Sums are added up in the order of the
shards, so that the last bit of a statistic does not depend on it either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.files import atomic_path
from s3prl_melhubert.pretrain.features import FeatureSums, Rejected, file_log_mel
from s3prl_melhubert.pretrain.kmeans import NearestCentroid, load_centroids
from s3prl_melhubert.pretrain.layout import FEATURES, KMEANS, LABELS, Utterance, label_count
from s3prl_melhubert.pretrain.unfinished import Unfinished
from s3prl_melhubert.statistics import FeatureStats

BLOCK_FRAMES = 16_384  # normalized at a time: 2.6 MB
RAW = "log-mel"  # folder in unfinished/ of the frames that are not normalized yet


class ArrayWriter:
    """Appends rows to a `.npy` file, so that an array never has to fit into memory.

    Args:
        path: a file to write over.
        dtype: of the array.
        width: its second dimension.
    """

    def __init__(self, path: Path, dtype: Any, width: int):
        self._file = path.open("wb")
        self._dtype, self._width = np.dtype(dtype), width
        self.rows = 0
        self._write_header()
        self._data = self._file.tell()

    def _write_header(self) -> None:
        # numpy leaves room in a header for the first dimension to grow.
        description = np.lib.format.dtype_to_descr(self._dtype)
        shape = (self.rows, self._width)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": description, "fortran_order": False, "shape": shape}
        )

    def append(self, rows: np.ndarray) -> None:
        """(n, width) more rows."""
        np.ascontiguousarray(rows, self._dtype).tofile(self._file)
        self.rows += len(rows)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
            if self._file.tell() != self._data:
                raise RuntimeError("this numpy writes .npy headers of changing size")


@dataclass(frozen=True)
class ShardAudio:
    """The files of one shard: what a worker is told."""

    index: int
    paths: Sequence[Path]
    ids: Sequence[str]
    folder: Path  # where to put the frames


@dataclass(frozen=True)
class ShardRecord:
    """What became of a shard: `NNNNN.json` beside its frames."""

    sums: FeatureSums
    ids: list[str] = field(default_factory=list)  # of the utterances kept, in order
    lengths: list[int] = field(default_factory=list)  # their frames
    rejected: list[tuple[str, str]] = field(default_factory=list)  # file, reason

    @classmethod
    def read(cls, path: Path) -> ShardRecord:
        content = json.loads(path.read_text(encoding="utf-8"))
        sums = FeatureSums(
            content["frames"], np.array(content["sum"], np.float64), np.array(content["squares"], np.float64)
        )
        rejected = [(file, reason) for file, reason in content["rejected"]]
        return cls(sums, content["ids"], content["lengths"], rejected)

    def write(self, path: Path) -> None:
        content = {
            "frames": self.sums.frames,
            "sum": self.sums.sum.tolist(),
            "squares": self.sums.squares.tolist(),
            "ids": self.ids,
            "lengths": self.lengths,
            "rejected": self.rejected,
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")


def shard_name(index: int) -> str:
    """`00007.npy`: the file of a shard, in whichever folder."""
    return f"{index:05d}.npy"


def record_path(folder: Path, index: int) -> Path:
    """The record of a shard; once it is there, so are the shard's frames."""
    return folder / f"{index:05d}.json"


def make_shard(audio: ShardAudio) -> int:
    """Write the log-Mel frames of a shard's files, not normalized, then its record; the number of files."""
    record = ShardRecord(FeatureSums.zero())
    sums = record.sums
    with (
        one_thread(),
        atomic_path(audio.folder / shard_name(audio.index)) as temporary,
        ArrayWriter(temporary, np.float32, N_MELS) as writer,
    ):
        for path, name in zip(audio.paths, audio.ids, strict=True):
            try:
                features = file_log_mel(path)
            except Rejected as error:
                record.rejected.append((str(path), str(error)))
                continue
            writer.append(features)
            sums += FeatureSums.of(features)
            record.ids.append(name)
            record.lengths.append(len(features))
    ShardRecord(sums, record.ids, record.lengths, record.rejected).write(
        record_path(audio.folder, audio.index)
    )
    return len(audio.paths)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread: a matrix product's last bit depends on how many share it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class ShardToFinish:
    """What a worker of the second pass is told."""

    index: int
    utterances: int
    work: Path  # unfinished/
    stats: FeatureStats


def finish_shard(task: ShardToFinish) -> int:
    """Normalize and label a shard; its labels are the last to appear, and its raw frames go then."""
    work = Unfinished(task.work.parent)
    name = shard_name(task.index)
    raw_path = task.work / RAW / name
    try:
        raw = np.load(raw_path, mmap_mode="r")
    except FileNotFoundError:
        # A worker that outlived a killed command has finished this shard since we looked.
        if (work.out / LABELS / name).is_file():
            return task.utterances
        raise
    nearest = NearestCentroid(load_centroids(work.out / KMEANS, N_MELS))
    labels = np.empty(len(raw), dtype=nearest.dtype)
    with (
        one_thread(),
        atomic_path(task.work / FEATURES / name) as temporary,
        ArrayWriter(temporary, np.float32, N_MELS) as writer,
    ):
        for start in range(0, len(raw), BLOCK_FRAMES):
            normalized = (raw[start : start + BLOCK_FRAMES] - task.stats.mean) / task.stats.std
            writer.append(normalized)
            labels[start : start + BLOCK_FRAMES] = nearest(normalized)
    with atomic_path(task.work / LABELS / name) as temporary:
        np.save(temporary, labels)
    work.publish(f"{FEATURES}/{name}")
    work.publish(f"{LABELS}/{name}")
    raw_path.unlink(missing_ok=True)
    return task.utterances


def shard_utterances(index: int, record: ShardRecord, label_period_ms: int = 10) -> list[Utterance]:
    """A shard's rows of the manifest."""
    features, labels = Path(FEATURES) / shard_name(index), Path(LABELS) / shard_name(index)
    utterances = []
    start = label_start = 0
    for name, length in zip(record.ids, record.lengths, strict=True):
        utterances.append(Utterance(name, features, labels, length, start, label_start))
        start += length
        label_start += label_count(length, label_period_ms)
    return utterances
