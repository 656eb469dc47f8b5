"""What a prepared set proves: that its files are those that were written, and that they fit each other.

    SHA256SUMS          a line for each file of the set, as `sha256sum -c` reads it, too
    dataset.yaml        the hashes of this list and of the manifest, and the largest label

Opening a set checks what is cheap (`check_when_opened`): hash and rows of the manifest, sizes of the files
that the rows lie in, rows that overlap, the labels' range and period. `melhubert check` reads everything
(`find_faults`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s3prl_melhubert.audio import audio_info
from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.frontend import frame_count
from s3prl_melhubert.pretrain.data.manifest import (
    FEATURES,
    LABELS,
    LENGTH_TOLERANCE,
    MANIFEST,
    Utterance,
    label_count,
)
from s3prl_melhubert.support.arrays import open_npy
from s3prl_melhubert.support.files import sha256_of
from s3prl_melhubert.support.progress import progress

SUMS = "SHA256SUMS"
BLOCK = 1 << 22  # values that are looked at once
# With labels at 10 ms that are called 20 ms ones, half of the labels belong to no utterance.
LEAST_COVERED = 0.75


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


def write_sums(folder: Path, names: Iterable[str], target: Path) -> Proofs:
    """Hash the files of a finished set into `target`; the proofs for its `dataset.yaml`."""
    names = list(names)
    hashes: dict[str, str] = {}
    largest = -1
    with progress(len(names), "hashes", "files") as bar:
        for name in names:
            hashes[name] = sha256_of(folder / name)
            if name.startswith(f"{LABELS}/"):
                labels = open_npy(folder / name)
                largest = max(largest, int(labels.max()) if len(labels) else -1)
            bar.update()
    target.write_text("".join(f"{value}  {name}\n" for name, value in hashes.items()), encoding="utf-8")
    return Proofs(hashes[MANIFEST], sha256_of(target), largest)


# When a set is opened ------------------------------------------------------------------------------------


def check_when_opened(
    manifest: Path,
    utterances: Sequence[Utterance],
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
    if proofs.manifest_sha256 is not None:
        if sha256_of(manifest) != proofs.manifest_sha256:
            raise MelHuBERTError(
                f"{manifest}: changed since the set was made (its SHA-256 is not that of dataset.yaml); copy "
                "it again, or prepare the set again"
            )
        found = {"utterances": len(utterances), "frames": sum(u.length for u in utterances)}
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
    _check_rows(utterances, label_period_ms)


def _check_rows(utterances: Sequence[Utterance], label_period_ms: int) -> None:
    """Raise a MelHuBERTError where rows of the manifest overlap, or lie outside of their files."""
    frames: dict[Path, list[tuple[int, int, str]]] = defaultdict(list)
    labels: dict[Path, list[tuple[int, int, str]]] = defaultdict(list)
    for utterance in utterances:
        if utterance.start is not None:
            frames[utterance.features].append((utterance.start, utterance.length, utterance.id))
        if utterance.label_start is not None:
            count = label_count(utterance.length, label_period_ms)
            labels[utterance.labels].append((utterance.label_start, count, utterance.id))
    for path, rows in frames.items():
        _check_extents(path, rows, "frames")
    for path, rows in labels.items():
        total = _check_extents(path, rows, "labels")
        covered = sum(count for _, count, _ in rows)
        if covered < LEAST_COVERED * total:
            raise MelHuBERTError(
                f"{path}: {total} labels found, but its utterances have {covered} of {label_period_ms} ms; "
                "is label_period_ms in dataset.yaml right?"
            )


def _check_extents(path: Path, rows: list[tuple[int, int, str]], what: str) -> int:
    """Check that stretches of a file (first row, rows, utterance) lie in it one after the other; its rows."""
    end, before = 0, ""
    for start, count, name in sorted(rows):
        if start < end:
            raise MelHuBERTError(
                f"{path}: the {what} of utterances {before} and {name} overlap at row {start}; the manifest "
                "or its dataset.yaml is damaged"
            )
        end, before = start + count, name
    if not path.exists():  # labels alone are enough for some; who needs the file says that it is missing
        return end
    total = len(open_npy(path))
    if end > total + LENGTH_TOLERANCE:
        raise MelHuBERTError(
            f"{path}: {total} {what} found, but utterance {before} ends at row {end}; the file is cut short, "
            "or label_period_ms in dataset.yaml is wrong"
        )
    return total


# `melhubert check` --------------------------------------------------------------------------------------


def find_faults(
    folder: Path, utterances: Sequence[Utterance], proofs: Proofs, clusters: int, kmeans: str
) -> Iterator[str]:
    """Read a whole set; yields a line for each file that is not what was written, or cannot be right.

    Args:
        folder: the set's folder.
        utterances: the rows of its manifest.
        proofs: what its `dataset.yaml` holds to prove it; without them, only the values are looked at.
        clusters: labels are in [0, clusters).
        kmeans: the name of the file of centroids.
    """
    expected = _read_sums(folder, proofs)
    features = {utterance.features for utterance in utterances if not utterance.is_audio}
    audio = {utterance.features: utterance.length for utterance in utterances if utterance.is_audio}
    labels = {utterance.labels for utterance in utterances}
    paths = sorted({*(folder / name for name in expected), *features, *audio, *labels})
    with progress(len(paths), "check", "files") as bar:
        for path in paths:
            bar.update()
            if not path.is_file():
                yield f"{path}: is not there"
                continue
            wanted = expected.get(_below(path, folder))
            if wanted is not None and sha256_of(path) != wanted:
                yield f"{path}: its content is not what was written (another SHA-256)"
                continue
            try:
                if path in features:
                    _check_features(path)
                elif path in audio:
                    _check_audio(path, audio[path])
                elif path in labels:
                    _check_labels(path, clusters)
                elif path.name == kmeans and len(open_npy(path)) != clusters:
                    yield f"{path}: {len(open_npy(path))} centroids found, expected {clusters}"
            except MelHuBERTError as error:
                yield str(error)


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else ""


def _read_sums(folder: Path, proofs: Proofs) -> dict[str, str]:
    """The hashes of SHA256SUMS by the files' paths below the folder; none for a set without proofs."""
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
