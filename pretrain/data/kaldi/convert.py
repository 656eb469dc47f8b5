"""The published archive becomes a prepared set: `melhubert prepare --kaldi`.

The matrices are normalized with the archive's own statistics, and the labels are checked against them and
kept as they are. As with audio, the work goes shard by shard, and what was interrupted continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.audio_files import SHARD_FILES
from s3prl_melhubert.pretrain.data.description import (
    REJECTED,
    DatasetInfo,
    PreparedSet,
    program_versions,
    read_prepared,
)
from s3prl_melhubert.pretrain.data.features import FeatureSums
from s3prl_melhubert.pretrain.data.kaldi.archive import (
    ArkReader,
    Location,
    check_same_keys,
    find_archive,
    read_mean_var,
    read_scp,
)
from s3prl_melhubert.pretrain.data.kmeans import CLUSTERS, check_at_least
from s3prl_melhubert.pretrain.data.manifest import FEATURES, LABELS, label_count
from s3prl_melhubert.pretrain.data.shards import (
    ShardRecord,
    record_path,
    refuse_written_over,
    shard_name,
    shard_utterances,
)
from s3prl_melhubert.pretrain.data.unfinished import Inputs, Unfinished, array_digest, unfinished_work
from s3prl_melhubert.pretrain.data.workers import Workers, run_tasks
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.arrays import ArrayWriter
from s3prl_melhubert.support.files import atomic_path, sha256_of, size_and_time, write_text
from s3prl_melhubert.units.nearest import label_dtype

LOOK_AT = 20  # so many utterances' lengths tell the period of the labels


def prepare_kaldi(
    folder: str | Path,
    out: str | Path,
    *,
    clusters: int = CLUSTERS,
    labels: str | None = None,
    workers: Workers | None = None,
) -> PreparedSet:
    """Make a prepared set from the published archive; a call that was interrupted continues.

    Args:
        folder: the archive's folder; its files are found by their names, in it and below.
        out: the folder to fill; `description` and `manifest` say with what.
        clusters: every cluster id must be below this number.
        labels: a pattern such as `*20ms*` for the path of the label list, where there are several.
        workers: the processes that do the work; without them, one for each core of this machine.

    Raises:
        MelHuBERTError: files are missing, utterances are in one list only, lengths disagree, ids are out
            of range, or there are to be fewer clusters than one; its message names the file or the utterance.
    """
    check_at_least("--clusters", clusters, 1)
    archive = find_archive(folder, labels)
    matrices, lines = read_scp(archive.features), read_scp(archive.labels)
    check_same_keys(matrices, lines, archive)
    stats = read_mean_var(archive.mean_var)
    ids = list(matrices)
    period = _label_period(ids, matrices, lines)
    recipe = {
        "command": "prepare --kaldi",
        "kaldi": str(folder),
        **{name: f"{path.name} ({sha256_of(path)[:16]})" for name, path in vars(archive).items()},
        "clusters": clusters,
    }
    files = sorted({place.path for place in chain(matrices.values(), lines.values())})
    found = {path: size_and_time(path) for path in files}
    times = np.array([time for _, time in found.values()], np.int64)
    inputs = Inputs(
        times={"modification times of the archive's files": array_digest(times)},
        folders=[folder],
    )
    with unfinished_work(out, recipe, inputs) as work:
        if work is not None:
            shards = [ids[start : start + SHARD_FILES] for start in range(0, len(ids), SHARD_FILES)]
            tasks = [
                KaldiShard(
                    index=index,
                    ids=keys,
                    matrices=[matrices[key] for key in keys],
                    lines=[lines[key] for key in keys],
                    found={
                        place.path: found[place.path] for key in keys for place in (matrices[key], lines[key])
                    },
                    work=work.folder.absolute(),
                    stats=stats,
                    label_period_ms=period,
                    clusters=clusters,
                )
                for index, keys in enumerate(shards)
            ]
            records = _convert(work, tasks, workers or Workers())
            _write_no_rejections(work)
            versions = program_versions("kaldiio")
            info = DatasetInfo(
                stats, clusters, period, made_by=recipe, made_from=inputs.noted, versions=versions
            )
            rows = (shard_utterances(index, record, period) for index, record in enumerate(records))
            work.complete(chain.from_iterable(rows), info)
    return read_prepared(out)


def _label_period(ids: Sequence[str], matrices: dict[str, Location], lines: dict[str, Location]) -> int:
    """10 or 20 ms: the period of labels that most of the first utterances fit."""
    halves = 0
    looked = ids[:LOOK_AT]
    with ArkReader() as reader:
        for key in looked:
            frames, labels = len(reader.matrix(key, matrices[key])), len(reader.labels(key, lines[key]))
            halves += abs(2 * labels - frames) < abs(labels - frames)
    return 20 if 2 * halves > len(looked) else 10


@dataclass(frozen=True)
class KaldiShard:
    """A few utterances of the archive: what a worker is told."""

    index: int
    ids: Sequence[str]
    matrices: Sequence[Location]
    lines: Sequence[Location]
    found: Mapping[Path, tuple[int, int]]  # size and time of each of the archive's files that they are in
    work: Path  # unfinished/
    stats: FeatureStats
    label_period_ms: int
    clusters: int


def _convert(work: Unfinished, tasks: Sequence[KaldiShard], workers: Workers) -> list[ShardRecord]:
    work.make_folders(FEATURES, LABELS)
    left = [task for task in tasks if not record_path(work.folder, task.index).is_file()]
    run_tasks(workers, convert_shard, left, "features", "utterances", sum(len(task.ids) for task in left))
    return [ShardRecord.read(record_path(work.folder, task.index)) for task in tasks]


def convert_shard(task: KaldiShard) -> int:
    """Write the normalized frames and the labels of a shard, then its record.

    Returns:
        How many utterances the shard has.

    Raises:
        MelHuBERTError: an utterance cannot be used, or a file was written over meanwhile.
    """
    work = Unfinished(task.work.parent)
    name = shard_name(task.index)
    lengths, all_labels = [], []
    with (
        ArkReader() as reader,
        atomic_path(task.work / FEATURES / name) as temporary,
        ArrayWriter(temporary, np.float32, N_MELS) as writer,
    ):
        for matrix, labels in _pairs(task, reader):
            writer.append(matrix)
            lengths.append(len(matrix))
            all_labels.append(labels)
        for path, as_found in task.found.items():
            refuse_written_over(path, as_found)
    work.publish(f"{FEATURES}/{name}")
    work.publish_array(f"{LABELS}/{name}", np.concatenate(all_labels).astype(label_dtype(task.clusters)))
    ShardRecord(FeatureSums.zero(), list(task.ids), lengths).write(record_path(task.work, task.index))
    return len(task.ids)


def _pairs(task: KaldiShard, reader: ArkReader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the normalized frames and the labels of each utterance, as many of both as a prepared set wants.

    Raises:
        MelHuBERTError: the lengths of an utterance disagree, an id is out of range, or a frame does not fit
            the statistics at all.
    """
    for key, matrix_at, line_at in zip(task.ids, task.matrices, task.lines, strict=True):
        matrix, labels = reader.matrix(key, matrix_at), reader.labels(key, line_at)
        if task.label_period_ms == 20 and len(matrix) % 2 and len(labels) == len(matrix) // 2 > 0:
            matrix = matrix[:-1]  # The labels were made without the odd last frame.
        expected = label_count(len(matrix), task.label_period_ms)
        if len(labels) != expected:
            raise MelHuBERTError(
                f"utterance {key}: {len(matrix)} frames, but {len(labels)} labels ({line_at.path}); expected "
                f"{expected} at {task.label_period_ms} ms"
            )
        if labels.min() < 0 or labels.max() >= task.clusters:
            bad = labels[(labels < 0) | (labels >= task.clusters)][0]
            raise MelHuBERTError(
                f"utterance {key}: cluster id {bad} ({line_at.path}), expected 0 to {task.clusters - 1}; "
                "--clusters says how many there are"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            normalized = (matrix - task.stats.mean) / task.stats.std
        if not np.isfinite(normalized).all():
            raise MelHuBERTError(
                f"utterance {key} ({matrix_at.path}, byte {matrix_at.offset}): frames too large for the "
                "statistics of the archive; is it damaged, or its .mean-var?"
            )
        yield normalized, labels


def _write_no_rejections(work: Unfinished) -> None:
    # An archive has no files that could be left out: what cannot be used is an error.
    write_text(work.folder / REJECTED, "file_path,reason\n")
    work.publish(REJECTED)
