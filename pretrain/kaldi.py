"""`melhubert prepare --kaldi`: the archive that the published models were trained on, as a prepared set.

    NAME.scp          key path.ark:offset         Kaldi matrices of log-Mel frames, not normalized
    NAME*.bas.scp     key path:offset             a line of cluster ids in a text file, at that byte
    NAME.mean-var     [sum, ...] / [sum of squares, ...] / number of frames

Paths inside the lists are those of the machine that made them: the files are looked for beside the list,
under their base names. The 960-hour archive keeps labels of both frame periods in folders of their own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path, sha256_of
from s3prl_melhubert.pretrain.corpus import SHARD_FILES
from s3prl_melhubert.pretrain.features import FeatureSums
from s3prl_melhubert.pretrain.kmeans import label_dtype
from s3prl_melhubert.pretrain.layout import (
    FEATURES,
    LABELS,
    REJECTED,
    DatasetInfo,
    PreparedSet,
    label_count,
    program_versions,
    read_prepared,
)
from s3prl_melhubert.pretrain.shards import (
    ArrayWriter,
    ShardRecord,
    record_path,
    shard_name,
    shard_utterances,
)
from s3prl_melhubert.pretrain.unfinished import Unfinished, unfinished_work
from s3prl_melhubert.pretrain.workers import Workers, run_tasks
from s3prl_melhubert.statistics import FeatureStats

LABEL_SUFFIX = ".bas.scp"
LOOK_AT = 20  # utterances whose lengths tell the labels' period


@dataclass(frozen=True, slots=True)
class Location:
    """Where a matrix or a line begins."""

    path: Path
    offset: int  # bytes


@dataclass(frozen=True)
class Archive:
    """The files of an archive that belong together."""

    features: Path  # NAME.scp
    labels: Path  # NAME.bas.scp
    mean_var: Path


def prepare_kaldi(
    folder: str | Path,
    out: str | Path,
    clusters: int = 512,
    labels: str | None = None,
    workers: Workers | None = None,
) -> PreparedSet:
    """Make a prepared set from the published archive; a call that was interrupted continues.

    Args:
        folder: of the archive; its files are found by their names, in it and below.
        out: folder to fill; `layout.py` draws it.
        clusters: what every cluster id must be below.
        labels: a pattern such as `*20ms*` for the path of the label list, where there are several.
        workers: who does the work; all of this machine's cores if not given.

    Raises:
        MelHuBERTError: files missing, utterances in one list only, lengths that disagree, or ids out of
            range; its message names the file or the utterance.
    """
    archive = find_archive(folder, labels)
    matrices, lines = read_scp(archive.features), read_scp(archive.labels)
    check_same_keys(matrices, lines, archive)
    stats = read_mean_var(archive.mean_var)
    ids = list(matrices)
    period = _label_period(ids, matrices, lines, archive)
    recipe = {
        "command": "prepare --kaldi",
        "kaldi": str(folder),
        **{name: f"{path.name} ({sha256_of(path)[:16]})" for name, path in vars(archive).items()},
        "clusters": clusters,
    }
    with unfinished_work(out, recipe) as work:
        if work is not None:
            tasks = [
                KaldiShard(
                    index,
                    ids[start : start + SHARD_FILES],
                    [matrices[key] for key in ids[start : start + SHARD_FILES]],
                    [lines[key] for key in ids[start : start + SHARD_FILES]],
                    work.folder.absolute(),
                    stats,
                    period,
                    clusters,
                )
                for index, start in enumerate(range(0, len(ids), SHARD_FILES))
            ]
            try:
                records = _convert(work, tasks, workers or Workers())
                _write_no_rejections(work)
                versions = program_versions("kaldiio")
                info = DatasetInfo(stats, clusters, period, made_by=recipe, versions=versions)
                rows = (shard_utterances(index, record, period) for index, record in enumerate(records))
                work.complete(list(chain.from_iterable(rows)), info)
            except OSError as error:
                raise MelHuBERTError(f"{error.filename or out}: {error.strerror or error}") from None
    return read_prepared(out)


def find_archive(folder: str | Path, labels: str | None = None) -> Archive:
    """The lists and statistics of an archive, by their names.

    Raises:
        MelHuBERTError: none of a kind, or several to choose from.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MelHuBERTError(f"{folder}: no such folder, expected the published archive, unpacked")
    lists = sorted(folder.rglob("*.scp"))
    features = [path for path in lists if not path.name.endswith(LABEL_SUFFIX)]
    all_labels = [path for path in lists if path.name.endswith(LABEL_SUFFIX)]
    chosen = [
        path for path in all_labels if labels is None or fnmatch(path.relative_to(folder).as_posix(), labels)
    ]
    if labels is not None and not chosen:
        names = ", ".join(path.relative_to(folder).as_posix() for path in all_labels)
        raise MelHuBERTError(
            f"{folder}: no label list fits --labels {labels!r}, found {names or 'none at all'}"
        )
    return Archive(
        _only(features, folder, "NAME.scp (features)", "give the folder of one alone as --kaldi"),
        _only(chosen, folder, f"NAME{LABEL_SUFFIX} (labels)", "choose with --labels PATTERN"),
        _only(sorted(folder.rglob("*.mean-var")), folder, "NAME.mean-var (statistics)", "remove the others"),
    )


def _only(paths: Sequence[Path], folder: Path, what: str, way_out: str) -> Path:
    if len(paths) == 1:
        return paths[0]
    if not paths:
        raise MelHuBERTError(f"{folder}: no {what} in it or below, expected the published archive, unpacked")
    names = ", ".join(path.relative_to(folder).as_posix() for path in paths)
    raise MelHuBERTError(f"{folder}: several of {what} ({names}); {way_out}")


def read_scp(path: Path) -> dict[str, Location]:
    """Read a list of `key path:offset` lines; the files are looked for beside it.

    Raises:
        MelHuBERTError: a line that is not so, a key given twice, or a file that is not there.
    """
    entries: dict[str, Location] = {}
    files: dict[str, Path] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MelHuBERTError(f"{path}: cannot be read as a list of utterances ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        # Nothing else that Kaldi allows here: a command with a pipe would be run.
        match = re.fullmatch(r"\s*(\S+)\s+(.+):(\d+)\s*", line)
        if match is None:
            raise MelHuBERTError(f"{path}, line {number}: {line[:80]!r} found, expected `key path:offset`")
        key, name, offset = match.groups()
        if key in entries:
            raise MelHuBERTError(f"{path}, line {number}: utterance {key} is listed twice")
        if name not in files:
            files[name] = path.with_name(Path(name).name)
            if not files[name].is_file():
                raise MelHuBERTError(f"{path}, line {number}: {files[name]} is not there (utterance {key})")
        entries[key] = Location(files[name], int(offset))
    if not entries:
        raise MelHuBERTError(f"{path}: no utterances in it")
    return entries


def check_same_keys(matrices: dict[str, Location], lines: dict[str, Location], archive: Archive) -> None:
    """Both lists have the same utterances.

    Raises:
        MelHuBERTError: the first that is in one only, and how many there are.
    """
    for here, there, path, other in (
        (matrices, lines, archive.features, archive.labels),
        (lines, matrices, archive.labels, archive.features),
    ):
        alone = [key for key in here if key not in there]
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise MelHuBERTError(f"utterance {alone[0]}{more}: in {path}, but not in {other}")


def read_mean_var(path: Path) -> FeatureStats:
    """Statistics of a .mean-var file: the sums, the sums of squares, and the number of frames.

    Raises:
        MelHuBERTError: not three such lines.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        total, squares = (np.array(ast.literal_eval(line), dtype=np.float64) for line in lines[:2])
        frames = int(float(lines[2]))
        if total.shape != (N_MELS,) or squares.shape != (N_MELS,):
            raise ValueError(f"{total.shape} and {squares.shape} figures")
    except (OSError, ValueError, SyntaxError, TypeError, IndexError) as error:
        raise MelHuBERTError(
            f"{path}: expected three lines, the sums of {N_MELS} bins, the sums of their squares (both as "
            f"[a, b, ...]) and the number of frames ({error})"
        ) from None
    return FeatureSums(frames, total, squares).to_stats(str(path))


def _label_period(
    ids: Sequence[str], matrices: dict[str, Location], lines: dict[str, Location], archive: Archive
) -> int:
    """10 or 20: which one most of the first utterances fit."""
    halves = 0
    looked = ids[:LOOK_AT]
    with ArkReader() as reader:
        for key in looked:
            frames, labels = len(reader.matrix(key, matrices[key])), len(reader.labels(key, lines[key]))
            halves += abs(2 * labels - frames) < abs(labels - frames)
    return 20 if 2 * halves > len(looked) else 10


class ArkReader:
    """Reads matrices and lines of labels; keeps the files open."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._files: dict[Path, BinaryIO] = {}

    def __enter__(self) -> ArkReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _at(self, location: Location) -> BinaryIO:
        if location.path not in self._files:
            self._files[location.path] = self._stack.enter_context(location.path.open("rb"))
        file = self._files[location.path]
        file.seek(location.offset)
        return file

    def matrix(self, key: str, location: Location) -> np.ndarray:
        """(F, 40) float32 frames as they stand in the archive.

        Raises:
            MelHuBERTError: not a binary Kaldi matrix of 40 columns of finite numbers.
        """
        from kaldiio.matio import read_kaldi

        where = f"utterance {key} ({location.path}, byte {location.offset})"
        file = self._at(location)
        # kaldiio would also unpickle what calls itself a pickle, which can run code.
        if file.read(2) != b"\0B":
            raise MelHuBERTError(f"{where}: no binary Kaldi matrix there; is the archive complete?")
        file.seek(location.offset)
        try:
            matrix = np.asarray(read_kaldi(file), dtype=np.float32)
        except Exception as error:  # kaldiio checks with bare asserts, and struct, numpy and ValueError
            raise MelHuBERTError(
                f"{where}: damaged matrix ({str(error) or type(error).__name__}); is the archive complete?"
            ) from None
        if matrix.ndim != 2 or matrix.shape[1] != N_MELS or not len(matrix):
            raise MelHuBERTError(f"{where}: shape {matrix.shape} found, expected (frames, {N_MELS})")
        if not np.isfinite(matrix).all():
            raise MelHuBERTError(f"{where}: NaN or infinite values found")
        return matrix

    def labels(self, key: str, location: Location) -> np.ndarray:
        """(labels,) int64 cluster ids.

        Raises:
            MelHuBERTError: something else than whole numbers in the line.
        """
        line = self._at(location).readline()
        try:
            return np.array([int(word) for word in line.split()], dtype=np.int64)
        except ValueError:
            raise MelHuBERTError(
                f"utterance {key} ({location.path}, byte {location.offset}): {line[:40]!r} found, expected "
                "cluster ids, blank-separated"
            ) from None


@dataclass(frozen=True)
class KaldiShard:
    """What a worker is told."""

    index: int
    ids: Sequence[str]
    matrices: Sequence[Location]
    lines: Sequence[Location]
    work: Path  # unfinished/
    stats: FeatureStats
    label_period_ms: int
    clusters: int


def _convert(work: Unfinished, tasks: Sequence[KaldiShard], workers: Workers) -> list[ShardRecord]:
    for name in (FEATURES, LABELS):
        (work.out / name).mkdir(exist_ok=True)
        work.subfolder(name)
    left = [task for task in tasks if not record_path(work.folder, task.index).is_file()]
    run_tasks(workers, convert_shard, left, "features", "utterances", sum(len(task.ids) for task in left))
    return [ShardRecord.read(record_path(work.folder, task.index)) for task in tasks]


def convert_shard(task: KaldiShard) -> int:
    """Write normalized frames and labels of some utterances, then their record; how many there are."""
    work = Unfinished(task.work.parent)
    name = shard_name(task.index)
    lengths, all_labels = [], []
    with (
        ArkReader() as reader,
        atomic_path(task.work / FEATURES / name) as temporary,
        ArrayWriter(temporary, np.float32, N_MELS) as writer,
    ):
        for matrix, labels in _pairs(task, reader):
            writer.append((matrix - task.stats.mean) / task.stats.std)
            lengths.append(len(matrix))
            all_labels.append(labels)
    with atomic_path(task.work / LABELS / name) as temporary:
        np.save(temporary, np.concatenate(all_labels).astype(label_dtype(task.clusters)))
    work.publish(f"{FEATURES}/{name}")
    work.publish(f"{LABELS}/{name}")
    ShardRecord(FeatureSums.zero(), list(task.ids), lengths).write(record_path(task.work, task.index))
    return len(task.ids)


def _pairs(task: KaldiShard, reader: ArkReader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames and labels of each utterance, as many as the layout wants.

    Raises:
        MelHuBERTError: lengths that disagree, or ids out of range.
    """
    for key, matrix_at, line_at in zip(task.ids, task.matrices, task.lines, strict=True):
        matrix, labels = reader.matrix(key, matrix_at), reader.labels(key, line_at)
        if task.label_period_ms == 20 and len(matrix) % 2 and len(labels) == len(matrix) // 2 > 0:
            matrix = matrix[:-1]  # labels that were made without the odd last frame
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
        yield matrix, labels


def _write_no_rejections(work: Unfinished) -> None:
    # An archive has no files to leave out: what cannot be used is an error.
    with atomic_path(work.folder / REJECTED) as temporary:
        temporary.write_text("file_path,reason\n", encoding="utf-8")
    work.publish(REJECTED)
