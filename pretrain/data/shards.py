"""A shard: a few files of audio, which become one file of frames (if these are kept) and one of labels.

What is made of a shard depends on the shard alone (and, in the second pass, on the statistics and centroids
of all shards), so it does not matter who makes it, when, or how often. Sums are added up in the order of the
shards, so the last bit of a statistic does not depend on that either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import KMEANS
from s3prl_melhubert.pretrain.data.features import FeatureSums, Rejected, file_log_mel
from s3prl_melhubert.pretrain.data.kmeans import load_centroids
from s3prl_melhubert.pretrain.data.manifest import FEATURES, LABELS, Utterance, label_count
from s3prl_melhubert.pretrain.data.unfinished import RAW, Unfinished
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.arrays import ArrayWriter, open_npy
from s3prl_melhubert.support.files import atomic_path, size_and_time, write_json
from s3prl_melhubert.support.settings import errors_of
from s3prl_melhubert.units.nearest import NearestCentroid

BLOCK_FRAMES = 16_384  # so many frames are normalized at a time; they are 2.6 MB
# Where a worker sees a file's time less exactly than the command did, as through some network file systems.
SAME_TIME_NS = 2 * 10**9

# How a set keeps its features. Without any, training makes them of the audio again.
NO_FEATURES = "none"
FEATURE_TYPES = ("float32", "float16", NO_FEATURES)


@dataclass(frozen=True)
class ShardAudio:
    """The files of one shard: what a worker of the first pass is told."""

    index: int
    paths: Sequence[Path]
    ids: Sequence[str]
    found: Sequence[tuple[int, int]]  # size and time of each, when the command began
    folder: Path  # where the frames, and the record of the shard, are put
    # With these, the frames are labelled at once and not kept: the centroids are there, and no sums of all
    # audio have to be waited for.
    stats: FeatureStats | None = None


@dataclass(frozen=True)
class ShardRecord:
    """What became of a shard; it is kept as `NNNNN.json` beside the frames."""

    sums: FeatureSums
    ids: list[str] = field(default_factory=list)  # names of the utterances that were kept, in order
    lengths: list[int] = field(default_factory=list)  # how many frames each of them has
    rejected: list[tuple[str, str]] = field(default_factory=list)  # file and reason
    changed: dict[str, int] = field(default_factory=dict)  # how many files had this done (`audio_changes`)

    @classmethod
    def read(cls, path: Path) -> ShardRecord:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            vectors = [np.array(content[key], np.float64) for key in ("sum", "squares")]
            sums = FeatureSums(content["frames"], *vectors)
            rejected = [(file, reason) for file, reason in content["rejected"]]
            record = cls(sums, content["ids"], content["lengths"], rejected, content.get("changed", {}))
            if sums.frames not in (0, sum(record.lengths)) or len(record.ids) != len(record.lengths):
                raise ValueError("its counts do not agree")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise MelHuBERTError(
                f"{path}: damaged ({type(error).__name__}: {str(error)[:100]}); remove it, and the same "
                "command makes it again"
            ) from None
        return record

    def write(self, path: Path) -> None:
        content = {
            "frames": self.sums.frames,
            "sum": self.sums.sum.tolist(),
            "squares": self.sums.squares.tolist(),
            "ids": self.ids,
            "lengths": self.lengths,
            "rejected": self.rejected,
            "changed": self.changed,
        }
        write_json(path, content)


def shard_name(index: int) -> str:
    """The name of a shard's file, in whichever folder it is: `00007.npy`."""
    return f"{index:05d}.npy"


def record_path(folder: Path, index: int) -> Path:
    """The place of a shard's record, which is written after the shard's frames."""
    return folder / f"{index:05d}.json"


def make_shard(audio: ShardAudio) -> int:
    """Write the log-Mel frames of a shard's files, not normalized yet, then the shard's record.

    Where the statistics are given, the labels are written, in their place. A shard that is there stays as it
    is.

    Returns:
        How many files the shard has.

    Raises:
        MelHuBERTError: a file was written over after the command had found it.
    """
    if _is_made(audio):
        return len(audio.paths)
    sums = FeatureSums.zero()
    ids: list[str] = []
    lengths: list[int] = []
    rejected: list[tuple[str, str]] = []
    changed: dict[str, int] = {}
    with one_thread(), _labels_at_once(audio) if audio.stats else _raw_frames(audio) as append:
        for path, name, found in zip(audio.paths, audio.ids, audio.found, strict=True):
            try:
                features, changes = _log_mel_of(path, found)
            except Rejected as error:
                rejected.append((str(path), str(error)))
                continue
            with errors_of(str(path)):
                append(features)
            for change in changes:
                changed[change] = changed.get(change, 0) + 1
            sums += FeatureSums.of(features)
            ids.append(name)
            lengths.append(len(features))
    ShardRecord(sums, ids, lengths, rejected, changed).write(record_path(audio.folder, audio.index))
    return len(audio.paths)


def _log_mel_of(path: Path, found: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    """Do as `file_log_mel`, and refuse what another file was put in the place of, also while it was read.

    Whatever reading it says, it says of the other file.
    """
    try:
        return file_log_mel(path)
    finally:
        refuse_written_over(path, found)


def refuse_written_over(path: Path, found: tuple[int, int]) -> None:
    """Refuse a file that another one was put in the place of, after a worker has read it.

    A file that is no longer there is one that cannot be read, which its reader tells.

    Args:
        path: the file.
        found: its size and time, when the command began.

    Raises:
        MelHuBERTError: its size or time is another one now.
    """
    size, time = size_and_time(path)
    if (size, time) != (0, 0) and (size != found[0] or abs(time - found[1]) > SAME_TIME_NS):
        raise MelHuBERTError(
            f"{path}: written over after this command had found it, so that nobody knows what was read; "
            "put back what was there, with its time, and give the same command again, or another --out"
        ) from None


def _is_made(audio: ShardAudio) -> bool:
    """Whether the record of a shard is there, and so is what it tells of.

    Frames that are to be normalized soon are not waited for until they are on the disk, so after a loss of
    power they may be anything. Their sums tell.
    """
    path = record_path(audio.folder, audio.index)
    if not path.is_file():
        return False
    record = ShardRecord.read(path)
    labels = audio.folder.parent.parent / LABELS / shard_name(audio.index)
    if audio.stats is not None and (labels.is_file() or not record.ids):
        return True
    # Where labels are to be made at once, frames are there if the command was begun without centroids.
    try:
        raw = open_npy(audio.folder / shard_name(audio.index))
    except MelHuBERTError:
        return False
    return raw.shape == (sum(record.lengths), N_MELS) and record.sums == _sums(raw, record.lengths)


def _sums(raw: np.ndarray, lengths: Sequence[int]) -> FeatureSums:
    """The sums of a shard's frames, added up in the order of `make_shard`, so that no bit of them differs."""
    sums, start = FeatureSums.zero(), 0
    for length in lengths:
        sums += FeatureSums.of(raw[start : start + length])
        start += length
    return sums


@contextmanager
def _raw_frames(audio: ShardAudio) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields what takes (F, 40) frames, which are in their file when the block ends."""
    with (
        atomic_path(audio.folder / shard_name(audio.index), lasting=False) as temporary,
        ArrayWriter(temporary, np.float32, N_MELS) as writer,
    ):
        yield writer.append


@contextmanager
def _labels_at_once(audio: ShardAudio) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields what takes (F, 40) frames, whose labels are in their file when the block ends."""
    assert audio.stats is not None
    stats, work = audio.stats, Unfinished(audio.folder.parent.parent)
    nearest = NearestCentroid(load_centroids(work.out / KMEANS, N_MELS))
    labels: list[np.ndarray] = []

    def append(raw: np.ndarray) -> None:
        with np.errstate(over="ignore"):  # What is too large is near no centroid, and refused.
            labels.append(nearest((raw - stats.mean) / stats.std))

    yield append
    if labels:
        work.publish_array(f"{LABELS}/{shard_name(audio.index)}", np.concatenate(labels))


def one_thread() -> threadpool_limits:
    """Let numpy work on one thread: the last bit of a matrix product may depend on how many share it."""
    return threadpool_limits(1, "blas")


@dataclass(frozen=True)
class ShardToFinish:
    """A shard whose frames are there: what a worker of the second pass is told."""

    index: int
    utterances: int  # how many the shard has
    work: Path  # unfinished/
    stats: FeatureStats
    features: str = "float32"  # one of FEATURE_TYPES


def finish_shard(task: ShardToFinish) -> int:
    """Normalize and label a shard. Its labels appear last, and then its raw frames are removed.

    Returns:
        How many utterances the shard has.

    Raises:
        MelHuBERTError: the statistics make frames too large for the type that they are kept in.
    """
    work = Unfinished(task.work.parent)
    name = shard_name(task.index)
    raw_path = task.work / RAW / name
    try:
        raw = np.load(raw_path, mmap_mode="r")
    except FileNotFoundError:
        # A worker that outlived a killed command has finished this shard in the meantime.
        if (work.out / LABELS / name).is_file():
            return task.utterances
        raise
    nearest = NearestCentroid(load_centroids(work.out / KMEANS, N_MELS))
    labels = np.empty(len(raw), dtype=nearest.dtype)
    with one_thread(), ExitStack() as stack:
        writer = None
        if task.features != NO_FEATURES:
            temporary = stack.enter_context(atomic_path(task.work / FEATURES / name))
            writer = stack.enter_context(ArrayWriter(temporary, task.features, N_MELS))
        for start in range(0, len(raw), BLOCK_FRAMES):
            try:
                with np.errstate(over="raise"):  # which costs nothing where no figure is too large
                    normalized = (raw[start : start + BLOCK_FRAMES] - task.stats.mean) / task.stats.std
                    if writer is not None:
                        writer.append(normalized)
            except FloatingPointError:
                raise _too_large(task, raw, start) from None
            labels[start : start + BLOCK_FRAMES] = nearest(normalized)
    if writer is not None:
        work.publish(f"{FEATURES}/{name}")
    work.publish_array(f"{LABELS}/{name}", labels)
    raw_path.unlink(missing_ok=True)
    return task.utterances


def _too_large(task: ShardToFinish, raw: np.ndarray, start: int) -> MelHuBERTError:
    """What to say of frames that are too large, once they are normalized, for the type that they get.

    Args:
        task: the shard.
        raw: (F, 40) its frames, not normalized.
        start: where the block begins that holds such a frame.
    """
    normalized = (raw[start : start + BLOCK_FRAMES].astype(np.float64) - task.stats.mean) / task.stats.std
    row, column = np.unravel_index(np.abs(normalized).argmax(), normalized.shape)
    record = ShardRecord.read(record_path(task.work / RAW, task.index))
    utterance = record.ids[np.searchsorted(np.cumsum(record.lengths), start + row, side="right")]
    kept = "float32" if task.features == NO_FEATURES else task.features
    return MelHuBERTError(
        f"utterance {utterance}: a frame becomes {normalized[row, column]:.3g} in bin {column} when it is "
        f"normalized, too large for {kept}; the std of this bin is {task.stats.std[column]:.3g}: give "
        f"--stats that fit this audio{', or --features float32' * (kept == 'float16')}, and another --out"
    )


def shard_utterances(
    index: int, record: ShardRecord, label_period_ms: int = 10, audio: Sequence[Path] = ()
) -> list[Utterance]:
    """The rows of the manifest for a shard.

    Args:
        index: the shard's number.
        record: what became of it.
        label_period_ms: 10 or 20.
        audio: the files of its utterances, where no features are kept.
    """
    features, labels = Path(FEATURES) / shard_name(index), Path(LABELS) / shard_name(index)
    utterances = []
    start = label_start = 0
    for i, (name, length) in enumerate(zip(record.ids, record.lengths, strict=True)):
        if audio:
            utterances.append(Utterance(name, audio[i], labels, length, None, label_start))
        else:
            utterances.append(Utterance(name, features, labels, length, start, label_start))
        start += length
        label_start += label_count(length, label_period_ms)
    return utterances
