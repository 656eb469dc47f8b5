"""What the labels of prepared sets stand for: the centroids, and whose frames they number.

Labels of two sets go together if the same number stands for the same thing in both, and centroids go with a
model if they were found among its frames. Whether features and labels are the same in two sets, wherever they
lie, is told by their hashes (`content_digests`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import (
    DATASET,
    KMEANS,
    DatasetInfo,
    PreparedSet,
    read_dataset_info,
    read_quantizer,
)
from s3prl_melhubert.pretrain.data.integrity import read_sums
from s3prl_melhubert.pretrain.data.manifest import (
    FEATURES,
    LABELS,
    MANIFEST,
    Selection,
    Utterance,
    utterance_features,
    utterance_labels,
)
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import sha256_of

# Programs that only read and write sets start without torch, so what needs it is imported where it is used.
if TYPE_CHECKING:
    from s3prl_melhubert.checkpoint import Checkpoint
    from s3prl_melhubert.units.quantizer import Quantizer

SAMPLE = 16  # utterances of a set that stand for what it holds


def target_quantizer(data: str | Path) -> Quantizer | None:
    """What the labels of a set that was not opened stand for (`PreparedSet.quantizer` says it of others).

    Raises:
        MelHuBERTError: `kmeans.npy` or `dataset.yaml` cannot be used.
    """
    folder = _folder_of(data)
    path = folder / DATASET
    return read_quantizer(folder, read_dataset_info(path)) if path.is_file() else None


def told_clusters(sets: Sequence[str | Path]) -> int | None:
    """How many clusters the labels of sets are of, at the most; None where one of them does not say it.

    Raises:
        MelHuBERTError: a `dataset.yaml` cannot be used.
    """
    paths = [_folder_of(data) / DATASET for data in sets]
    if not paths or not all(path.is_file() for path in paths):
        return None
    return max(read_dataset_info(path).clusters for path in paths)


def common_quantizer(sets: Sequence[PreparedSet], stats: FeatureStats | None = None) -> Quantizer | None:
    """What the labels of several sets stand for, if they have the same centroids; None if they do not.

    Args:
        sets: to be trained on together.
        stats: what the model that is to have the quantizer reads with. Centroids of log-Mel frames that were
            normalized with other statistics would number its frames otherwise, and are left out.
    """
    from s3prl_melhubert.units.quantizer import LOG_MEL

    first = sets[0].quantizer if sets else None
    if first is None:
        return None
    for prepared in sets:
        if prepared.info is None or prepared.quantizer is None or not prepared.quantizer.is_as(first):
            return None
        if first.source == LOG_MEL and stats is not None and prepared.info.stats != stats:
            return None
    return first


def check_same_labels(sets: Sequence[PreparedSet]) -> None:
    """Refuse sets in which a number stands for one thing here and for another there.

    A folder without centroids, or a published CSV, says nothing of its labels, and is taken as it is.

    Args:
        sets: to be trained on together, or validated on beside each other.

    Raises:
        MelHuBERTError: two of them have different centroids.
    """
    from s3prl_melhubert.units.quantizer import LOG_MEL

    told = [(each.folder, each.quantizer) for each in sets if each.quantizer is not None]
    for folder, quantizer in told[1:]:
        first, like = told[0]
        if not quantizer.is_as(like):
            command = "prepare" if like.source == LOG_MEL else "relabel"
            raise MelHuBERTError(
                f"{folder}: its labels are of other clusters ({quantizer.what_frames()}) than those of "
                f"{first} ({like.what_frames()}), so that a number means something else in each; label it "
                f"with `melhubert {command} --kmeans {first}`"
            )


def labels_digest(sets: Sequence[PreparedSet]) -> str | None:
    """A hash of what the labels of sets stand for; None where they hold no centroids."""
    quantizer = common_quantizer(sets)
    if quantizer is None:
        return None
    return replace(quantizer, made_by={}).digest[:12]  # however the centroids were found


def content_digests(sets: Sequence[PreparedSet], chosen: Selection) -> dict[str, str]:
    """Hashes of the features and of the labels of sets, which do not depend on where anything lies.

    They are made of the hashes that a prepared set has of these files. Its manifest and its list of rejected
    files do not count, because they may name audio by where it lies. A published CSV has no hashes, and a
    list beside `manifest.csv` may name any files: these are known by a few utterances alone. Where a set was
    made without features, labels stand for them.

    Args:
        sets: the sets.
        chosen: their utterances that count.

    Returns:
        A hash under `some utterances`, and where all sets have hashes, under `features` and `labels`, too.

    Raises:
        MelHuBERTError: features or labels cannot be used.
    """
    lines: dict[str, list[str]] = {FEATURES: [], LABELS: []}
    some = hashlib.sha256()
    have_sums = True
    for prepared, rows in zip(sets, chosen.rows, strict=True):
        some.update(_some_features(prepared, rows))
        some.update(_some_labels(prepared, rows))
        sums = _own_sums(prepared)
        have_sums &= bool(sums)
        for name, value in sums.items():
            if (kind := name.partition("/")[0]) in lines:
                lines[kind].append(f"{value}  {name}\n")
    digests = {}
    if have_sums:
        digests = {kind: hashlib.sha256("".join(each).encode()) for kind, each in lines.items() if each}
    digests["some utterances"] = some
    return {name: digest.hexdigest()[:12] for name, digest in digests.items()}


def former_content_digest(sets: Sequence[PreparedSet], chosen: Selection) -> str:
    """The hash of sets that earlier versions noted, of manifests and lists of rejected files, too.

    Raises:
        MelHuBERTError: labels cannot be used.
    """
    digest = hashlib.sha256()
    for prepared, rows in zip(sets, chosen.rows, strict=True):
        sums = None if prepared.info is None else prepared.info.proofs.sums_sha256
        digest.update(_some_labels(prepared, rows) if sums is None else sums.encode())
    return digest.hexdigest()[:12]


def _own_sums(prepared: PreparedSet) -> dict[str, str]:
    """The hashes of a set's files, by their paths below its folder; none where they prove nothing."""
    if prepared.info is None or prepared.manifest.name != MANIFEST:
        return {}
    try:
        return read_sums(prepared.folder, prepared.info.proofs)
    except MelHuBERTError:  # `melhubert check` tells of it; the set can be trained on all the same
        return {}


def _some_utterances(prepared: PreparedSet, rows: np.ndarray | None) -> Iterator[Utterance]:
    """A few utterances, evenly spread over these rows of a set (None: over all)."""
    chosen = range(len(prepared.utterances)) if rows is None else rows
    return (prepared.utterances[int(row)] for row in chosen[:: max(1, -(-len(chosen) // SAMPLE))])


def _some_features(prepared: PreparedSet, rows: np.ndarray | None) -> bytes:
    """The frames of a few utterances as they are kept; none of what is made of audio when it is read."""
    utterances = (each for each in _some_utterances(prepared, rows) if not each.is_audio)
    return b"".join(np.asarray(utterance_features(each)).tobytes() for each in utterances)


def _some_labels(prepared: PreparedSet, rows: np.ndarray | None) -> bytes:
    """The labels of a few utterances."""
    utterances = _some_utterances(prepared, rows)
    labels = (utterance_labels(utterance, prepared.label_period_ms) for utterance in utterances)
    return b"".join(each.astype("<i8").tobytes() for each in labels)


def _folder_of(data: str | Path) -> Path:
    path = Path(data).expanduser()
    return path if path.is_dir() else path.parent


def set_of_centroids(kmeans: str | Path) -> Path | None:
    """The folder of the set whose `dataset.yaml` is about centroids; None for a file that none is about.

    Args:
        kmeans: a prepared folder, or a .npy file.
    """
    path, folder = Path(kmeans).expanduser(), _folder_of(kmeans)
    told = (path.is_dir() or path.name == KMEANS) and (folder / DATASET).is_file()
    return folder if told else None


def set_quantizer(data: str | Path, checkpoint: Checkpoint, stats: FeatureStats) -> Quantizer:
    """The quantizer that a set gives to a checkpoint.

    Args:
        data: a folder that `prepare` made, or one that `relabel` made with this checkpoint.
        checkpoint: the model that is to have it.
        stats: the statistics of the model.

    Raises:
        MelHuBERTError: the set holds no centroids, or they are of frames that the model does not have: of
            another model's hidden states, or normalized with other statistics.
    """
    from s3prl_melhubert.units.quantizer import LOG_MEL, MODEL

    quantizer = target_quantizer(data)
    if quantizer is None:
        raise MelHuBERTError(
            f"{data}: no {DATASET} with a {KMEANS} beside it; give a folder that prepare or relabel made"
        )
    info = read_dataset_info(_folder_of(data) / DATASET)
    if quantizer.source == LOG_MEL:
        if info.stats != stats:
            raise MelHuBERTError(
                f"{data}: its log-Mel frames were normalized with other statistics than {checkpoint.path} "
                "has, so that its centroids mean nothing to this model; give a set that it was trained on"
            )
        return quantizer
    _check_teacher(data, info, checkpoint.path, checkpoint.weights_digest())
    quantizer = replace(quantizer, source=MODEL)
    quantizer.check_fits(checkpoint.config, str(data))
    return quantizer


def check_centroids_of(kmeans: str | Path, checkpoint: Path, weights: str, layer: int) -> None:
    """Refuse centroids that a set holds of other frames than those of this layer of this model.

    A file that no `dataset.yaml` is about says nothing of its centroids, and is taken as it is.

    Args:
        kmeans: a prepared folder, or its `kmeans.npy`.
        checkpoint: the file of the model whose frames are to be numbered.
        weights: its `weights_digest`.
        layer: the layer whose frames these are.

    Raises:
        MelHuBERTError: they are of log-Mel frames, of another layer, or of another model.
    """
    from s3prl_melhubert.units.quantizer import LOG_MEL

    folder = set_of_centroids(kmeans)
    quantizer = None if folder is None else target_quantizer(folder)
    if folder is None or quantizer is None:
        return
    if quantizer.source == LOG_MEL or quantizer.layer != layer:
        raise MelHuBERTError(
            f"--kmeans {kmeans}: its centroids are of {quantizer.what_frames()}, not of layer {layer}; give "
            "a folder that relabel made of this layer"
        )
    _check_teacher(f"--kmeans {kmeans}", read_dataset_info(folder / DATASET), checkpoint, weights)


def _check_teacher(where: str | Path, info: DatasetInfo, checkpoint: Path, weights: str) -> None:
    """Raise a MelHuBERTError if a set was labelled by another model than the one with these weights."""
    teacher = str(info.made_by.get("checkpoint", "another model"))
    if info.teacher_weights:
        is_teacher = info.teacher_weights == weights
    else:  # a set of an earlier version, which holds the file's hash alone
        is_teacher = teacher.endswith(f"({sha256_of(checkpoint)[:16]})")
    if not is_teacher:
        raise MelHuBERTError(
            f"{where}: its centroids are of hidden states of {teacher}, and {checkpoint} holds other "
            "weights; give that checkpoint, or relabel with this one"
        )
