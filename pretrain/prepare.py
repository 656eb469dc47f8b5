"""`melhubert prepare`: a folder of audio, or the published Kaldi archive, to a set that training reads.

    melhubert prepare --audio LibriSpeech --subset train-clean-360 --out data/train
    melhubert prepare --audio LibriSpeech --subset dev-clean --kmeans data/train --out data/dev

Three passes, each over shards that are independent of each other, the first by far the longest:

    1. audio -> log-Mel frames, and their sums        shards.make_shard
       sums -> statistics; a sample of the frames -> K-means
    2. frames -> normalized frames and labels         shards.finish_shard

What a pass makes of a shard depends on nothing but the shard and the passes before, so that a killed command
continues where it was, and ends with the same bytes whoever did the work.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path
from s3prl_melhubert.pretrain.corpus import SHARD_FILES, Corpus, find_corpus
from s3prl_melhubert.pretrain.features import FeatureSums
from s3prl_melhubert.pretrain.kmeans import SAMPLE_FRAMES, fit_kmeans, load_centroids, sample_rows
from s3prl_melhubert.pretrain.layout import (
    DATASET,
    FEATURES,
    KMEANS,
    LABELS,
    REJECTED,
    DatasetInfo,
    PreparedSet,
    load_stats,
    program_versions,
    read_prepared,
)
from s3prl_melhubert.pretrain.shards import (
    RAW,
    ShardAudio,
    ShardRecord,
    ShardToFinish,
    finish_shard,
    make_shard,
    record_path,
    shard_name,
    shard_utterances,
)
from s3prl_melhubert.pretrain.unfinished import Unfinished, unfinished_work
from s3prl_melhubert.pretrain.workers import Workers, add_worker_arguments, run_tasks, workers_from
from s3prl_melhubert.statistics import FeatureStats

CLUSTERS = 512
MAX_REJECTED = 0.1  # share of the files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--audio", nargs="+", metavar="DIR", help="folders of audio, searched to the bottom")
    source.add_argument("--kaldi", metavar="DIR", help="the published archive of features and labels")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder to fill; the same command continues it"
    )

    audio = parser.add_argument_group("with --audio")
    audio.add_argument(
        "--subset",
        nargs="+",
        default=[],
        metavar="NAME",
        help="folders of DIR to take, as LibriSpeech has them",
    )
    audio.add_argument(
        "--seed", type=int, default=0, help="of the sample and of K-means (default: %(default)s)"
    )
    audio.add_argument(
        "--stats",
        metavar="SRC",
        help="use these statistics instead of the audio's own: a prepared folder, a .yaml or .npy file, or a "
        "published name (librispeech-360h)",
    )
    audio.add_argument(
        "--kmeans",
        metavar="SRC",
        help="use the clusters (and, without --stats, the statistics) of this prepared folder, as a "
        "validation set must; or a .npy file of centroids",
    )
    audio.add_argument(
        "--sample-frames",
        type=int,
        default=SAMPLE_FRAMES,
        metavar="N",
        help="frames that K-means sees (default: %(default)s)",
    )
    audio.add_argument(
        "--max-rejected",
        type=float,
        default=MAX_REJECTED,
        metavar="SHARE",
        help="stop if more than this share of the files cannot be used (default: %(default)s)",
    )
    audio.add_argument(
        "--shard-files",
        type=int,
        default=SHARD_FILES,
        metavar="N",
        help="files to a shard (default: %(default)s)",
    )

    kaldi = parser.add_argument_group("with --kaldi")
    kaldi.add_argument(
        "--labels", metavar="PATTERN", help="which label list of the archive, where it has several (*20ms*)"
    )

    parser.add_argument(
        "--clusters",
        type=int,
        metavar="N",
        help=f"how many; with --kaldi, what the ids must be below (default: {CLUSTERS})",
    )
    add_worker_arguments(parser)


def run(args: argparse.Namespace) -> int:
    workers = workers_from(args)
    begin = time.monotonic()
    begun = Path(args.out).exists()  # continued or complete already: a rate would mislead
    if args.kaldi is not None:
        for name in ("subset", "stats", "kmeans"):
            if getattr(args, name):
                raise MelHuBERTError(f"--{name}: goes with --audio; an archive has its own")
        from s3prl_melhubert.pretrain.kaldi import prepare_kaldi

        prepared = prepare_kaldi(args.kaldi, args.out, args.clusters or CLUSTERS, args.labels, workers)
    else:
        prepared = prepare_audio(
            args.audio,
            args.out,
            subsets=args.subset,
            clusters=args.clusters,
            seed=args.seed,
            stats=args.stats,
            kmeans=args.kmeans,
            sample_frames=args.sample_frames,
            max_rejected=args.max_rejected,
            shard_files=args.shard_files,
            workers=workers,
        )
    info = prepared.info
    assert info is not None, "a set that was made here says what it is"
    print(f"{prepared.folder}: {info}")
    if info.rejected:
        print(f"{info.rejected} files left out: {prepared.folder / REJECTED} says why")
    if not begun:
        seconds = time.monotonic() - begin
        print(f"{seconds:.0f} s, {info.hours / seconds * 60:.2f} h of audio a minute")
    return 0


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
    workers: Workers | None = None,
) -> PreparedSet:
    """Make a prepared set from audio; a call that was interrupted continues.

    Args:
        audio: folders of audio.
        out: folder to fill; `layout.py` draws it.
        subsets: folders inside `audio` to take; all if not given.
        clusters: of K-means; 512 if not given.
        seed: of the sample and of K-means.
        stats: a prepared folder, a file or a name, whose statistics to use; the audio's own if not given.
        kmeans: a prepared folder or a .npy file whose centroids to use; a folder's statistics come along.
        sample_frames: how many frames K-means sees at the most.
        max_rejected: share of the files that may be unusable, from 0 to 1.
        shard_files: files of audio to a file of features.
        workers: who does the work; all of this machine's cores if not given.

    Raises:
        MelHuBERTError: no audio, too much of it unusable, sources that do not fit together, or an `out`
            that holds something else.
    """
    _check_range("--sample-frames", sample_frames, 1)
    _check_range("--shard-files", shard_files, 1)
    if not 0 <= max_rejected <= 1:
        raise MelHuBERTError(f"--max-rejected {max_rejected:g}: expected a share from 0 to 1")
    given = _given(stats, kmeans, clusters)
    corpus = find_corpus(audio, subsets)
    recipe = {
        "command": "prepare --audio",
        "audio": [str(folder) for folder in audio],
        "subset": list(subsets),
        "files": len(corpus.paths),
        "digest of the files": corpus.digest,
        "clusters": given.clusters,
        "seed": seed,
        "stats": given.described(given.stats_source, given.stats),
        "kmeans": given.described(given.kmeans_source, given.centroids),
        "sample_frames": sample_frames,
        "shard_files": shard_files,
    }
    workers = workers or Workers()
    with unfinished_work(out, recipe) as work:
        if work is not None:
            try:
                records = _make_features(work, corpus, shard_files, workers)
                _check_rejected(work, records, max_rejected)
                used = given.stats or _total(records).to_stats("of this audio")
                centroids = _centroids(work, records, given, used, seed, sample_frames)
                _finish(work, records, used, workers)
                work.publish(REJECTED)
                info = DatasetInfo(
                    used,
                    len(centroids),
                    rejected=sum(len(record.rejected) for record in records),
                    made_by=recipe,
                    versions=program_versions("scikit-learn", "soundfile", "soxr"),
                )
                rows = (shard_utterances(index, record) for index, record in enumerate(records))
                work.complete(list(chain.from_iterable(rows)), info)
            except OSError as error:
                raise MelHuBERTError(
                    f"{error.filename or out}: {error.strerror or error}; once this is mended, the same "
                    "command continues"
                ) from None
    return read_prepared(out)


def _check_range(name: str, value: int, least: int) -> None:
    if value < least:
        raise MelHuBERTError(f"{name} {value}: expected at least {least}")


@dataclass(frozen=True)
class _Given:
    """Statistics and centroids that come from elsewhere, where they do."""

    clusters: int
    stats: FeatureStats | None = None
    centroids: np.ndarray | None = None  # (clusters, 40)
    stats_source: str | None = None
    kmeans_source: str | None = None

    @staticmethod
    def described(source: str | None, value: FeatureStats | np.ndarray | None) -> str | None:
        """Where something came from, and a hash of what it was: `data/train (1a2b3c4d)`."""
        if value is None:
            return None
        array = np.stack([value.mean, value.std]) if isinstance(value, FeatureStats) else value
        return f"{source} ({hashlib.sha256(array.tobytes()).hexdigest()[:16]})"


def _given(stats: str | Path | None, kmeans: str | Path | None, clusters: int | None) -> _Given:
    if clusters is not None:
        _check_range("--clusters", clusters, 1)
    if kmeans is None:
        loaded = None if stats is None else load_stats(stats)
        return _Given(clusters or CLUSTERS, loaded, None, None if stats is None else str(stats))
    centroids = load_centroids(kmeans, N_MELS)
    if clusters is not None and clusters != len(centroids):
        raise MelHuBERTError(
            f"--clusters {clusters}: but --kmeans {kmeans} has {len(centroids)}; leave one out"
        )
    if stats is None:
        # Distances to centroids mean something only in the space that the centroids were found in.
        beside = Path(kmeans).expanduser()
        stats = beside if beside.is_dir() else beside.parent
        if not (stats / DATASET).is_file():
            raise MelHuBERTError(
                f"--kmeans {kmeans}: there is no {DATASET} beside it, so give --stats too: what its frames "
                "were normalized with"
            )
    return _Given(len(centroids), load_stats(stats), centroids, str(stats), str(kmeans))


def _make_features(work: Unfinished, corpus: Corpus, shard_files: int, workers: Workers) -> list[ShardRecord]:
    """First pass: every shard's frames, not normalized, into unfinished/log-mel/."""
    folder = work.subfolder(RAW).absolute()
    shards = list(corpus.shards(shard_files))
    tasks = [
        ShardAudio(index, [path.absolute() for path in corpus.paths[part]], corpus.ids[part], folder)
        for index, part in enumerate(shards)
        if not record_path(folder, index).is_file()
    ]
    run_tasks(workers, make_shard, tasks, "log-Mel", "files", sum(len(task.paths) for task in tasks))
    return [ShardRecord.read(record_path(folder, index)) for index in range(len(shards))]


def _total(records: Sequence[ShardRecord]) -> FeatureSums:
    return sum((record.sums for record in records), FeatureSums.zero())


def _check_rejected(work: Unfinished, records: Sequence[ShardRecord], max_rejected: float) -> None:
    rejected = [row for record in records for row in record.rejected]
    kept = sum(len(record.ids) for record in records)
    path = work.folder / REJECTED
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_path", "reason"])
        writer.writerows(rejected)
    if not kept or len(rejected) > max_rejected * (kept + len(rejected)):
        first = "; ".join(f"{file}: {reason}" for file, reason in rejected[:2])
        raise MelHuBERTError(
            f"{len(rejected)} of {kept + len(rejected)} files cannot be used, more than --max-rejected "
            f"{max_rejected:g} allows (all in {path}): {first}"
        )


def _centroids(
    work: Unfinished,
    records: Sequence[ShardRecord],
    given: _Given,
    stats: FeatureStats,
    seed: int,
    sample_frames: int,
) -> np.ndarray:
    """The given centroids, or those of a sample of the first pass; put in their place at once."""
    path = work.out / KMEANS
    if path.is_file():
        return load_centroids(path, N_MELS)
    centroids = given.centroids
    if centroids is None:
        sample = _sample(work, records, stats, seed, sample_frames)
        print(f"K-means: {given.clusters} clusters of {len(sample)} frames ...", file=sys.stderr)
        centroids = fit_kmeans(sample, given.clusters, seed)
    with atomic_path(work.folder / KMEANS) as temporary:
        np.save(temporary, centroids)
    work.publish(KMEANS)
    return centroids


def _sample(
    work: Unfinished, records: Sequence[ShardRecord], stats: FeatureStats, seed: int, sample_frames: int
) -> np.ndarray:
    """(n, 40) normalized frames, evenly from all shards."""
    counts = [record.sums.frames for record in records]
    sample = np.empty((min(sum(counts), sample_frames), N_MELS), np.float32)
    filled = 0
    for index, rows in enumerate(sample_rows(counts, sample_frames, seed)):
        if len(rows):
            raw = np.load(work.folder / RAW / shard_name(index), mmap_mode="r")
            sample[filled : filled + len(rows)] = (raw[rows] - stats.mean) / stats.std
            filled += len(rows)
    return sample


def _finish(work: Unfinished, records: Sequence[ShardRecord], stats: FeatureStats, workers: Workers) -> None:
    """Second pass: normalized frames and labels, to their places."""
    for name in (FEATURES, LABELS):
        (work.out / name).mkdir(exist_ok=True)
        work.subfolder(name)
    tasks = [
        ShardToFinish(index, len(record.ids), work.folder.absolute(), stats)
        for index, record in enumerate(records)
        if record.ids and not (work.out / LABELS / shard_name(index)).is_file()
    ]
    run_tasks(workers, finish_shard, tasks, "labels", "utterances", sum(task.utterances for task in tasks))
