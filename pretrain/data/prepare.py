"""Audio becomes a prepared set: log-Mel frames, their statistics, and a K-means label for each of them.

There are two passes over shards that are independent of each other, and the first is by far the longest:

    1. audio -> log-Mel frames, and their sums        shards.make_shard
       sums -> statistics; a sample of the frames -> K-means
    2. frames -> normalized frames and labels         shards.finish_shard

A set may keep no features: training then makes them of the audio again. If statistics and centroids are
given, too, one pass is enough, and no frame is ever on the disk.

What a pass makes of a shard depends on nothing but the shard and the passes before it. So a command that was
killed continues where it was, and the bytes are the same whoever did the work.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.audio_files import SHARD_FILES, AudioFiles, find_audio_files
from s3prl_melhubert.pretrain.data.clusters import set_of_centroids
from s3prl_melhubert.pretrain.data.description import (
    DATASET,
    REJECTED,
    DatasetInfo,
    PreparedSet,
    load_stats,
    program_versions,
    read_prepared,
)
from s3prl_melhubert.pretrain.data.features import FeatureSums
from s3prl_melhubert.pretrain.data.kmeans import (
    SAMPLE_FRAMES,
    Clustering,
    check_at_least,
    sample_rows,
)
from s3prl_melhubert.pretrain.data.manifest import FEATURES, LABELS
from s3prl_melhubert.pretrain.data.manifest.rows import RowWriter
from s3prl_melhubert.pretrain.data.shards import (
    FEATURE_TYPES,
    NO_FEATURES,
    ShardAudio,
    ShardRecord,
    ShardToFinish,
    finish_shard,
    make_shard,
    record_path,
    shard_name,
    shard_utterances,
)
from s3prl_melhubert.pretrain.data.unfinished import (
    CONTENT_OF_FILES,
    RAW,
    Inputs,
    Unfinished,
    array_digest,
    stats_digest,
    unfinished_work,
)
from s3prl_melhubert.pretrain.data.workers import Workers, run_tasks
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import atomic_path

MAX_REJECTED = 0.1  # share of the files


def prepare_audio(
    audio: Sequence[str | Path],
    out: str | Path,
    *,
    subsets: Sequence[str] = (),
    clusters: int | None = None,
    seed: int = 0,
    stats: str | Path | None = None,
    kmeans: str | Path | None = None,
    sample_frames: int = SAMPLE_FRAMES,
    max_rejected: float = MAX_REJECTED,
    shard_files: int = SHARD_FILES,
    features: str = FEATURE_TYPES[0],
    workers: Workers | None = None,
) -> PreparedSet:
    """Make a prepared set from audio; a call that was interrupted continues.

    Args:
        audio: folders of audio.
        out: the folder to fill; `description` and `manifest` say with what.
        subsets: folders inside `audio` to take; without them, everything is taken.
        clusters: how many clusters K-means makes; 512 if not given.
        seed: of the sample and of K-means.
        stats: a prepared folder, a checkpoint, a file or a name, whose statistics are to be used; if not
            given, those of the audio itself are.
        kmeans: a prepared folder or a .npy file whose centroids are to be used; with a folder, its
            statistics are used, too.
        sample_frames: how many frames K-means sees at the most.
        max_rejected: the share of the files that may be unusable, from 0 to 1.
        shard_files: how many files of audio make up a file of features, at the most.
        features: float32 or float16, or `none` for a set whose frames are made of its audio when they are
            read; the audio must then stay where it is.
        workers: the processes that do the work; without them, one for each core of this machine.

    Raises:
        MelHuBERTError: there is no audio, too much of it is unusable, the sources do not fit together, or
            `out` holds something else.
    """
    clustering = Clustering.from_arguments(
        clusters=clusters, kmeans=kmeans, seed=seed, sample_frames=sample_frames, dim=N_MELS
    )
    check_at_least("--shard-files", shard_files, 1)
    if features not in FEATURE_TYPES:
        raise MelHuBERTError(f"--features {features}: expected one of {', '.join(FEATURE_TYPES)}")
    if not 0 <= max_rejected <= 1:
        raise MelHuBERTError(f"--max-rejected {max_rejected:g}: expected a share from 0 to 1")
    stats_source = _stats_source(stats, kmeans)
    given_stats = None if stats_source is None else load_stats(stats_source)
    files = find_audio_files(audio, subsets)
    recipe = {
        "command": "prepare --audio",
        "audio": [str(folder) for folder in audio],
        "subset": list(subsets),
        "files": len(files),
        "digest of the files": files.digest,
        CONTENT_OF_FILES: files.digest_of_places,
        "clusters": clustering.clusters,
        "seed": seed,
        "stats": None if given_stats is None else f"{stats_source} ({stats_digest(given_stats)})",
        "kmeans": None if clustering.given is None else f"{kmeans} ({array_digest(clustering.given)})",
        "sample_frames": sample_frames,
        "shard_files": shard_files,
    }
    if features != FEATURE_TYPES[0]:  # which earlier versions did not name
        recipe["features"] = features
    workers = workers or Workers()
    inputs = Inputs(
        times={"modification times of the audio files": array_digest(files.times)},
        folders=audio,
    )
    with unfinished_work(out, recipe, inputs) as work:
        if work is not None:
            at_once = None
            if features == NO_FEATURES and clustering.given is not None:
                at_once = given_stats  # Given centroids always bring their statistics.
                clustering.centroids(work, lambda: np.empty((0, N_MELS)))
                work.make_folders(LABELS)
            shards = list(files.shards(shard_files))
            _make_features(work, files, shards, workers, at_once, clustering)
            made = _take_stock(work, len(shards), max_rejected)
            made.say_changes()
            used_stats = given_stats or made.sums.to_stats("of this audio")
            clustering.centroids(work, lambda: _sample(work, made.frames, used_stats, clustering))
            _finish(work, made.utterances, used_stats, workers, features)
            work.publish(REJECTED)
            info = DatasetInfo(
                used_stats,
                clustering.clusters,
                rejected=made.rejected,
                made_by=recipe,
                made_from=inputs.noted,
                versions=program_versions("scikit-learn", "scipy", "soundfile", "soxr"),
            )
            rows = (
                shard_utterances(index, record, audio=_kept(files, part, record, features))
                for index, (part, record) in enumerate(zip(shards, _records(work, len(shards)), strict=True))
            )
            work.complete(chain.from_iterable(rows), info)
    prepared = read_prepared(out)
    assert prepared.info is not None, "a set that was made here says what it is"
    # A set that was complete already may have been made with a larger share.
    _check_rejected(
        prepared.info.utterances, prepared.info.rejected, max_rejected, prepared.folder / REJECTED
    )
    return prepared


def _stats_source(stats: str | Path | None, kmeans: str | Path | None) -> str | None:
    """Where statistics are to be taken from; None if they are to be those of the audio.

    Distances to centroids mean something only in the space that the centroids were found in, so centroids
    of another set bring the statistics of that set along.
    """
    if kmeans is None:
        return None if stats is None else str(stats)
    if stats is not None:
        told = set_of_centroids(kmeans)
        if told is not None and load_stats(stats) != load_stats(told):
            raise MelHuBERTError(
                f"--stats {stats}: other statistics than the frames of --kmeans {kmeans} were normalized "
                "with, so that its centroids mean nothing; leave --stats out"
            )
        return str(stats)
    beside = Path(kmeans).expanduser()
    folder = beside if beside.is_dir() else beside.parent
    if not (folder / DATASET).is_file():
        raise MelHuBERTError(
            f"--kmeans {kmeans}: there is no {DATASET} beside it, so give --stats too: what its frames were "
            "normalized with"
        )
    return str(folder)


def _kept(files: AudioFiles, part: slice, record: ShardRecord, features: str) -> list[Path]:
    """The audio files of a shard's utterances, where they take the place of features."""
    if features != NO_FEATURES:
        return []
    # Found by their names: a command may be continued in another working directory, with a copy of the audio.
    kept = set(record.ids)
    named = zip(files.paths(part), files.ids(part), strict=True)
    return [path for path, name in named if name in kept]


def _make_features(
    work: Unfinished,
    files: AudioFiles,
    shards: Sequence[slice],
    workers: Workers,
    label_at_once: FeatureStats | None,
    clustering: Clustering,
) -> None:
    """The first pass writes the frames of every shard, not normalized yet, into unfinished/log-mel/.

    With statistics to `label_at_once`, it writes the labels instead, and that is all.
    """
    folder = work.subfolder(RAW).absolute()
    left = [
        (index, part)
        for index, part in enumerate(shards)
        if not (record_path(folder, index).is_file() and (work.out / LABELS / shard_name(index)).is_file())
    ]
    # Each is made when a worker takes it, as all of them together would name all files.
    tasks = (
        ShardAudio(index, files.paths(part), files.ids(part), files.found(part), folder, label_at_once)
        for index, part in left
    )
    count = sum(part.stop - part.start for _, part in left)
    run_tasks(workers, make_shard, tasks, "log-Mel", "files", count, lambda: clustering.get_ready(work))


@dataclass
class _Made:
    """What the first pass has made: figures of each shard, for the next steps, and of all together."""

    frames: list[int] = field(default_factory=list)  # of each shard
    utterances: list[int] = field(default_factory=list)  # of each shard
    sums: FeatureSums = field(default_factory=FeatureSums.zero)
    changed: Counter[str] = field(default_factory=Counter)  # how many files had what done (`audio_changes`)
    rejected: int = 0

    def add(self, record: ShardRecord) -> None:
        self.frames.append(record.sums.frames)
        self.utterances.append(len(record.ids))
        self.sums += record.sums
        self.changed.update(record.changed)
        self.rejected += len(record.rejected)

    def say_changes(self) -> None:
        """Say what was done to the audio, as the model will not hear what the files hold."""
        for change, count in self.changed.most_common():
            print(f"{count} of {sum(self.utterances)} files {change}", file=sys.stderr)


def _records(work: Unfinished, shards: int) -> Iterator[ShardRecord]:
    """The records of all shards, in order; each names its utterances, and is let go before the next one."""
    return (ShardRecord.read(record_path(work.folder / RAW, index)) for index in range(shards))


def _take_stock(work: Unfinished, shards: int, max_rejected: float) -> _Made:
    """Read what the first pass made, and write which files cannot be used.

    Raises:
        MelHuBERTError: these are more than the share that may be.
    """
    made = _Made()
    first: list[tuple[str, str]] = []
    path = work.folder / REJECTED
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = RowWriter(file)
        writer.writerow(["file_path", "reason"])
        for record in _records(work, shards):
            made.add(record)
            for rejected in record.rejected:
                writer.writerow(rejected)
            first = (first + record.rejected)[:2]
    _check_rejected(sum(made.utterances), made.rejected, max_rejected, path, first)
    return made


def _check_rejected(
    kept: int, rejected: int, max_rejected: float, path: Path, first: Sequence[tuple[str, str]] = ()
) -> None:
    """Raise a MelHuBERTError if more files than may be cannot be used; `path` lists them."""
    # A product would be rounded: 0.58 of 50 files is a little less than 29.
    if not kept or rejected / (kept + rejected) > max_rejected:
        some = "; ".join(f"{file}: {reason}" for file, reason in first)
        raise MelHuBERTError(
            f"{rejected} of {kept + rejected} files cannot be used, more than --max-rejected "
            f"{max_rejected:g} allows (all in {path}){some and f': {some}'}"
        )


def _sample(
    work: Unfinished, counts: Sequence[int], stats: FeatureStats, clustering: Clustering
) -> np.ndarray:
    """(n, 40) normalized frames, drawn evenly from all shards, which have so many."""
    sample = np.empty((min(sum(counts), clustering.sample_frames), N_MELS), np.float32)
    filled = 0
    for index, rows in enumerate(sample_rows(counts, clustering.sample_frames, clustering.seed)):
        if len(rows):
            raw = np.load(work.folder / RAW / shard_name(index), mmap_mode="r")
            with np.errstate(over="ignore"):  # K-means refuses what is too large.
                sample[filled : filled + len(rows)] = (raw[rows] - stats.mean) / stats.std
            filled += len(rows)
    return sample


def _finish(
    work: Unfinished, utterances: Sequence[int], stats: FeatureStats, workers: Workers, features: str
) -> None:
    """The second pass puts normalized frames and labels into their places; a shard has so many utterances."""
    work.make_folders(*([] if features == NO_FEATURES else [FEATURES]), LABELS)
    tasks = [
        ShardToFinish(index, number, work.folder.absolute(), stats, features)
        for index, number in enumerate(utterances)
        if number and not (work.out / LABELS / shard_name(index)).is_file()
    ]
    run_tasks(workers, finish_shard, tasks, "labels", "utterances", sum(task.utterances for task in tasks))
