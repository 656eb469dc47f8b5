"""What a prepared set proves: that its files are those that were written, and that they fit each other.

    SHA256SUMS          a line for each file of the set, as `sha256sum -c` reads it, too
    dataset.yaml        the hashes of this list and of the manifest, and the largest label

Opening a set checks what is cheap (`check_when_opened`): hash and rows of the manifest, sizes of the files
that the rows lie in, rows that overlap, the labels' range and period. `melhubert check` reads everything
(`check_files`). A set that `relabel` made has its features in another set's folder, and they are held to the
list of hashes there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from s3prl_melhubert.audio import audio_info
from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.fbank import frame_count
from s3prl_melhubert.pretrain.data.manifest import (
    FEATURES,
    FRAME_SHIFT_MS,
    LABELS,
    LENGTH_TOLERANCE,
    MANIFEST,
    Utterances,
    is_audio,
    label_count,
    label_counts,
)
from s3prl_melhubert.support.arrays import npy_rows, open_npy
from s3prl_melhubert.support.files import sha256_of
from s3prl_melhubert.support.progress import progress
from s3prl_melhubert.support.read_ahead import ahead

SUMS = "SHA256SUMS"
BLOCK = 1 << 22  # values that are checked at a time
# With labels at 10 ms that are called 20 ms ones, half of the labels belong to no utterance.
LEAST_COVERED = 0.75
READERS = 4  # threads that hash files
ROWS = 1 << 20  # of the manifest that are checked at a time
# Of features, and of labels; the set of 960 h has half as many. More would take seconds to open.
MOST_FILES = 4096


@dataclass(frozen=True)
class Proofs:
    """What `dataset.yaml` holds to prove the other files; a set of an earlier version has no proofs."""

    manifest_sha256: str | None = None
    sums_sha256: str | None = None  # of SHA256SUMS
    largest_label: int | None = None


NO_PROOFS = Proofs()


def set_files(folder: Path, *more: str) -> list[str]:
    """The files of a set, by their paths below its folder, in order; those of `more` that are there, too."""
    arrays = [path for name in (FEATURES, LABELS) for path in (folder / name).glob("[!.]*.npy")]
    names = [path.relative_to(folder).as_posix() for path in arrays]
    return sorted([*names, *(name for name in (MANIFEST, *more) if (folder / name).is_file())])


@dataclass(frozen=True)
class FileProof:
    """What proves one file of a set."""

    sha256: str
    largest_label: int = -1  # in a file of labels; -1 where there are none

    @classmethod
    def of(cls, path: Path, name: str) -> FileProof:
        """Read a file that is `name` in the folder of its set, or will be."""
        labels = open_npy(path) if name.startswith(f"{LABELS}/") else None
        return cls(sha256_of(path), -1 if labels is None or not len(labels) else int(labels.max()))


def write_sums(
    folder: Path,
    names: Iterable[str],
    target: Path,
    noted: Callable[[str], FileProof | None] = lambda name: None,
) -> Proofs:
    """Write the hashes of a finished set's files.

    Args:
        folder: of the set.
        names: of the files.
        target: the file of hashes.
        noted: tells what proves a file, if it is known from when it was written. Others are read.

    Returns:
        The proofs for the set's `dataset.yaml`.
    """
    names = list(names)
    proofs: dict[str, FileProof] = {}

    def prove(name: str) -> FileProof:
        return noted(name) or FileProof.of(folder / name, name)

    # Hashing lets other threads run.
    with progress(len(names), "hashes", "files") as bar:
        for name, proving in ahead(prove, names, READERS, READERS):
            proofs[name] = proving.result()
            bar.update()
    lines = (f"{proof.sha256}  {name}\n" for name, proof in proofs.items())
    target.write_text("".join(lines), encoding="utf-8")
    largest = max(proof.largest_label for proof in proofs.values())
    return Proofs(proofs[MANIFEST].sha256, sha256_of(target), largest)


# When a set is opened ------------------------------------------------------------------------------------


def check_when_opened(
    manifest: Path,
    utterances: Utterances,
    proofs: Proofs,
    counts: Mapping[str, int],
    label_period_ms: int,
) -> None:
    """Check of a prepared set what is cheap to check.

    Args:
        manifest: its manifest.
        utterances: the rows of the manifest.
        proofs: what its `dataset.yaml` holds to prove it.
        counts: `utterances`, `frames` and `clusters` of its `dataset.yaml`.
        label_period_ms: 10 or 20.

    Raises:
        MelHuBERTError: the set is not whole, or its files do not fit each other.
    """
    whole = manifest.name == MANIFEST  # another list beside it may be of some utterances
    if proofs.manifest_sha256 is not None and whole:
        if (utterances.sha256 or sha256_of(manifest)) != proofs.manifest_sha256:
            raise MelHuBERTError(
                f"{manifest}: changed since the set was made (its SHA-256 is not that of dataset.yaml); copy "
                "it again, or prepare the set again"
            )
        found = {"utterances": len(utterances), "frames": utterances.frames}
        for name, value in found.items():
            if counts[name] != value:
                raise MelHuBERTError(
                    f"{manifest}: {value} {name} found, but dataset.yaml says {counts[name]}"
                )
    largest, clusters = proofs.largest_label, counts["clusters"]
    if largest is not None and largest >= clusters:
        raise MelHuBERTError(
            f"{manifest.parent}: labels up to {largest}, but dataset.yaml says clusters: {clusters}"
        )
    _check_rows(utterances, label_period_ms, whole)


def _check_rows(utterances: Utterances, label_period_ms: int, whole: bool) -> None:
    """Raise a MelHuBERTError where rows of the manifest overlap, or lie outside of their files."""
    frames = _Stretches("frames", utterances.features, utterances.starts, FRAME_SHIFT_MS)
    labels = _Stretches("labels", utterances.labels, utterances.label_starts, label_period_ms)
    for stretches in (frames, labels):
        after, covered = stretches.files(utterances)
        # A file that is not looked at here is when it is read.
        numbers = np.flatnonzero(after)
        for number in numbers[:: -(-len(numbers) // MOST_FILES) or 1].tolist():
            path, row = utterances.path(number), int(after[number]) - 1
            end = int(stretches.starts[row]) + label_count(int(utterances.lengths[row]), stretches.period)
            # Labels alone are enough for some; who needs a file says that it is missing.
            total = npy_rows(path) if path.exists() else end
            if end > total + LENGTH_TOLERANCE:
                raise MelHuBERTError(
                    f"{path}: {total} {stretches.what} found, but utterance {utterances.ids[row]} ends at "
                    f"row {end}; the file is cut short, or label_period_ms in dataset.yaml is wrong"
                )
            if whole and stretches is labels and covered[number] < LEAST_COVERED * total:
                raise MelHuBERTError(
                    f"{path}: {total} labels found, but its utterances have {covered[number]} of "
                    f"{label_period_ms} ms; is label_period_ms in dataset.yaml right?"
                )
    utterances.forget_pages()


@dataclass(frozen=True)
class _Stretches:
    """Which rows of which files the utterances have."""

    what: str
    numbers: np.ndarray  # (n,) of the files
    starts: np.ndarray  # (n,) -1 where a file is an utterance's own, which nothing can overlap
    period: int

    def files(self, utterances: Utterances) -> tuple[np.ndarray, np.ndarray]:
        """Of each file, the number after the last utterance in it (or 0), and how many rows all of them have.

        Raises:
            MelHuBERTError: two utterances overlap.
        """
        after = np.zeros(len(utterances.files), np.int64)  # zeros take no memory until they are written
        covered = np.zeros(len(utterances.files), np.int64)
        order: np.ndarray | None = None
        if not self._is_sorted():
            order = np.lexsort((self.starts, self.numbers))
        before = np.empty(0, np.int64)  # the last row of the block before
        for begin in range(0, len(self.numbers), ROWS):
            rows = np.arange(begin, min(begin + ROWS, len(self.numbers)))
            if order is not None:
                rows = order[rows]
            rows = np.concatenate([before, rows[self.starts[rows] >= 0]])
            if not len(rows):
                continue
            numbers, starts = self.numbers[rows], self.starts[rows]
            counts = label_counts(utterances.lengths[rows], self.period).astype(np.int64)
            same = numbers[1:] == numbers[:-1]
            overlaps = np.flatnonzero(same & (starts[1:] < starts[:-1] + counts[:-1]))
            if len(overlaps):
                first, second = rows[overlaps[0]], rows[overlaps[0] + 1]
                raise MelHuBERTError(
                    f"{utterances.path(numbers[overlaps[0]])}: the {self.what} of utterances "
                    f"{utterances.ids[first]} and {utterances.ids[second]} overlap at row "
                    f"{self.starts[second]}; the manifest or its dataset.yaml is damaged"
                )
            counts[: len(before)] = 0  # it is counted already
            ends = np.flatnonzero(np.append(~same, True))
            after[numbers[ends]] = rows[ends] + 1
            sums = np.diff(np.concatenate([[0], np.cumsum(counts)[ends]]))
            covered[numbers[ends]] += sums
            before = rows[-1:]
        return after, covered

    def _is_sorted(self) -> bool:
        """Whether the files come one after the other, and their utterances in their order."""
        for begin in range(0, len(self.numbers), ROWS):
            numbers, starts = (array[begin : begin + ROWS + 1] for array in (self.numbers, self.starts))
            same = numbers[1:] == numbers[:-1]
            if (numbers[1:] < numbers[:-1]).any() or (same & (starts[1:] < starts[:-1])).any():
                return False
        return True


# `melhubert check` --------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What `check_files` found in a set, and what it held its files to."""

    faults: list[str] = field(default_factory=list)  # a line for each file that is not what was written
    compared: int = 0  # files with the hash that was written for them, here or in another set's folder
    elsewhere: dict[Path, int] = field(default_factory=dict)  # how many of these are in which other folder
    looked_at: int = 0  # files of features and labels that no hash is known of; their values can be right
    audio: int = 0  # audio files, of which a set holds no hashes; their headers were read


def check_files(
    folder: Path,
    utterances: Utterances,
    proofs: Proofs,
    clusters: int,
    kmeans: str,
    proofs_of: Callable[[Path], Proofs],
) -> Findings:
    """Read a whole set, and find each file that is not what was written, or cannot be right.

    Args:
        folder: the set's folder.
        utterances: the rows of its manifest.
        proofs: what its `dataset.yaml` holds to prove it; without them, only the values are looked at.
        clusters: labels are in [0, clusters).
        kmeans: the name of the file of centroids.
        proofs_of: tells the proofs of another folder that files are in; `NO_PROOFS` where it is no set.

    Raises:
        MelHuBERTError: the set's own list of hashes is not there, or is not what was written.
    """
    sums = read_sums(folder, proofs)
    own = {folder / name: value for name, value in sums.items()}
    others = _OtherSums(folder, sums, proofs_of)
    numbers, rows = np.unique(utterances.features, return_index=True)
    lengths = {utterances.path(n): int(utterances.lengths[row]) for n, row in zip(numbers, rows, strict=True)}
    features = {path for path in lengths if not is_audio(path)}
    audio = {path: length for path, length in lengths.items() if is_audio(path)}
    labels = {utterances.path(number) for number in np.unique(utterances.labels)}
    findings = Findings(others.faults)
    paths = sorted({*own, *features, *audio, *labels})
    with progress(len(paths), "check", "files") as bar:
        for path in paths:
            bar.update()
            try:
                if not path.is_file():
                    raise MelHuBERTError(f"{path}: is not there")
                if path in audio:
                    _check_audio(path, audio[path])
                    findings.audio += 1
                    continue
                place, wanted = (folder, own[path]) if path in own else others.find(path)
                if wanted is None:
                    findings.looked_at += 1
                elif sha256_of(path) != wanted:
                    raise MelHuBERTError(f"{path}: its content is not what was written (another SHA-256)")
                else:
                    findings.compared += 1
                    if place != folder:
                        findings.elsewhere[place] = findings.elsewhere.get(place, 0) + 1
                if path in features:
                    _check_features(path)
                elif path in labels:
                    _check_labels(path, clusters)
                elif path.name == kmeans and npy_rows(path) != clusters:
                    raise MelHuBERTError(f"{path}: {npy_rows(path)} centroids found, expected {clusters}")
            except MelHuBERTError as error:
                findings.faults.append(str(error))
    return findings


class _OtherSums:
    """The hashes of files that a manifest names by another path than the set's own list of hashes does."""

    def __init__(self, folder: Path, sums: dict[str, str], proofs_of: Callable[[Path], Proofs]):
        self._proofs_of = proofs_of
        self._place, self._folder = folder.resolve(), folder
        self._sums = {folder: sums}  # of each set's folder
        self._folders: dict[Path, Path] = {}  # where each folder of files has its set
        self.faults: list[str] = []  # lists of hashes that are not there, or not what was written

    def find(self, path: Path) -> tuple[Path, str | None]:
        """The folder of the set that a file of features or labels is part of, and the hash that it has there.

        Without a set, or where the set's list does not name the file, there is no hash.
        """
        # A set keeps these files in features/ and labels/, so it is the folder above.
        if path.parent not in self._folders:
            found = path.parent.parent.resolve()
            self._folders[path.parent] = self._folder if found == self._place else found
        folder = self._folders[path.parent]
        if folder not in self._sums:
            self._sums[folder] = self._read(folder)
        return folder, self._sums[folder].get(f"{path.parent.name}/{path.name}")

    def _read(self, folder: Path) -> dict[str, str]:
        try:
            return read_sums(folder, self._proofs_of(folder))
        except MelHuBERTError as error:
            self.faults.append(str(error))
            return {}


def read_sums(folder: Path, proofs: Proofs) -> dict[str, str]:
    """The hashes of SHA256SUMS by the files' paths below the folder; none for a set without proofs.

    Raises:
        MelHuBERTError: the file is not there, or is not what was written.
    """
    if proofs.sums_sha256 is None:
        return {}
    path = folder / SUMS
    if not path.is_file():
        raise MelHuBERTError(f"{path}: is not there; copy the set again")
    if sha256_of(path) != proofs.sums_sha256:
        raise MelHuBERTError(f"{path}: changed since the set was made (its SHA-256 is not dataset.yaml's)")
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: value for value, _, name in (line.partition("  ") for line in lines)}


def _check_features(path: Path) -> None:
    array = open_npy(path)
    if array.ndim != 2 or array.shape[1] != N_MELS:
        raise MelHuBERTError(f"{path}: shape {array.shape} found, expected (frames, {N_MELS})")
    step = BLOCK // N_MELS
    for start in range(0, len(array), step):
        if not np.isfinite(array[start : start + step]).all():
            raise MelHuBERTError(f"{path}: NaN or infinite features found")


def _check_audio(path: Path, length: int) -> None:
    """Raise a MelHuBERTError where an audio file has not as many frames as were labelled."""
    info = audio_info(path)
    found = frame_count(info.samples)
    # Resampling may give a sample more or less, and of lossy formats the header tells an estimate.
    if info.exact and abs(found - length) > LENGTH_TOLERANCE:
        raise MelHuBERTError(f"{path}: {found} frames of 10 ms found, but {length} were labelled")


def _check_labels(path: Path, clusters: int) -> None:
    array = open_npy(path)
    for start in range(0, len(array), BLOCK):
        block = array[start : start + BLOCK]
        low, high = int(block.min()), int(block.max())
        if low < 0 or high >= clusters:
            bad = low if low < 0 else high
            raise MelHuBERTError(f"{path}: label {bad} found, expected 0 to {clusters - 1}")
