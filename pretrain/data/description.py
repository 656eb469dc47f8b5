"""A prepared set on disk, as `melhubert prepare` writes it and training reads it.

    dataset.yaml        what the set is: statistics, clusters, counts, how it was made
    manifest.csv        which utterances there are (see `manifest`), with the folders features/ and labels/
    kmeans.npy          (clusters, dim) float32 centroids
    rejected.csv        file_path,reason: which files were left out, and why
    SHA256SUMS          the hashes of the other files (see `integrity`)

Example::

    data = read_prepared("data/train")
    for utterance in data.utterances:
        features = utterance_features(utterance)  # (frames, 40) float32, memory-mapped
        labels = utterance_labels(utterance, data.label_period_ms)  # (labels,) integers
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.pretrain.data.integrity import (
    NO_PROOFS,
    Findings,
    Proofs,
    check_files,
    check_when_opened,
)
from s3prl_melhubert.pretrain.data.manifest import (
    FRAME_SHIFT_MS,
    LABEL_PERIODS_MS,
    MANIFEST,
    Utterances,
    columns_fault,
    columns_folder,
    read_manifest,
    set_of,
)
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import suffix_of, write_text
from s3prl_melhubert.support.settings import read_yaml_mapping, refuse_unknown
from s3prl_melhubert.units.nearest import read_centroids

# Programs that only read and write sets start without torch, so what needs it is imported where it is used.
if TYPE_CHECKING:
    from s3prl_melhubert.units.quantizer import Quantizer

DATASET = "dataset.yaml"
REJECTED = "rejected.csv"
KMEANS = "kmeans.npy"

OWN_HASH = "sha256"  # the key of `dataset.yaml` that proves its other keys
CHECKPOINTS = (".ckpt", ".safetensors")  # how the names of files end that may hold statistics beside weights
FEATURE_KIND = "log-Mel, 40 bins, normalized"  # the only kind there is so far; it stands in dataset.yaml


@dataclass(frozen=True)
class DatasetInfo:
    """What a prepared set says of itself in `dataset.yaml`."""

    stats: FeatureStats  # the statistics that the features were normalized with
    clusters: int  # every label is in [0, clusters)
    label_period_ms: int = 10  # 10, or 20: then an utterance of n frames has ceil(n / 2) labels
    utterances: int = 0  # how many rows the manifest has
    frames: int = 0  # how many frames of 10 ms all utterances have together
    rejected: int = 0  # how many files were left out; rejected.csv names them
    made_by: Mapping[str, Any] = field(default_factory=dict)  # the command and its arguments
    made_from: Mapping[str, Any] = field(default_factory=dict)  # what tells its sources apart from others
    versions: Mapping[str, str] = field(default_factory=dict)  # programs that the figures may depend on
    proofs: Proofs = NO_PROOFS  # hashes of the set's other files
    teacher_weights: str = ""  # SHA-256 of the weights whose hidden states were clustered, if any were

    @property
    def hours(self) -> float:
        """The duration of the audio in hours, to the thousandth."""
        return round(self.frames * FRAME_SHIFT_MS / 3_600_000, 3)

    def __str__(self) -> str:
        return (
            f"{self.utterances} utterances, {self.hours:g} h, {self.clusters} clusters, "
            f"{self.label_period_ms} ms labels"
        )


@dataclass(frozen=True)
class PreparedSet:
    """The utterances of a prepared folder or a published CSV, and what is known of them all."""

    manifest: Path
    utterances: Utterances  # in the manifest's order
    info: DatasetInfo | None  # None for a published CSV, which has no dataset.yaml beside it

    @property
    def folder(self) -> Path:
        """The folder that holds the set."""
        return self.manifest.parent

    @property
    def label_period_ms(self) -> int | None:
        """10 or 20; None where nothing says so, and the numbers of labels must tell."""
        return self.info.label_period_ms if self.info else None

    @cached_property
    def quantizer(self) -> Quantizer | None:
        """What the labels stand for, as `read_quantizer` says it; the file is read once."""
        return None if self.info is None else read_quantizer(self.folder, self.info)


def read_prepared(path: str | Path) -> PreparedSet:
    """Read a prepared folder, or a manifest by its own name.

    Args:
        path: the folder, or a CSV file (which may be a published one).

    Raises:
        MelHuBERTError: nothing is there, or a file cannot be used; the message names file and line.
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
    utterances = read_manifest(manifest)
    if info is not None:
        counts = {"utterances": info.utterances, "frames": info.frames, "clusters": info.clusters}
        try:
            check_when_opened(manifest, utterances, info.proofs, counts, info.label_period_ms)
        except MelHuBERTError:
            fault = None if utterances.sha256 is None else columns_fault(manifest)  # if columns were read
            if fault is None:
                raise
            raise MelHuBERTError(_how_to_mend_columns(manifest, fault)) from None
    return PreparedSet(manifest, utterances, info)


def check_set(path: str | Path) -> tuple[PreparedSet, Findings]:
    """Read every file of a prepared set, and hold it against the hash that was written for it.

    Features that lie in another set's folder are held against the hashes there. Audio has none.

    Args:
        path: the folder.

    Returns:
        The set, and what was found: a line for each file that is not what was written (none for a whole
        set), and how many files were compared and how many only looked at.

    Raises:
        MelHuBERTError: the set cannot be opened at all, or it is a published CSV, which proves nothing.
    """
    prepared = read_prepared(path)
    info = prepared.info
    if info is None:
        raise MelHuBERTError(
            f"{prepared.manifest}: no {DATASET} beside it, so that there is nothing to hold it to"
        )
    findings = check_files(
        prepared.folder, prepared.utterances, info.proofs, info.clusters, KMEANS, _proofs_of
    )
    fault = columns_fault(prepared.manifest)
    if fault:
        findings.faults.append(_how_to_mend_columns(prepared.manifest, fault))
    return prepared, findings


def _how_to_mend_columns(manifest: Path, fault: str) -> str:
    return (
        f"{columns_folder(manifest)}: {fault}; remove the folder, or make it anew with "
        f"`melhubert manifest {set_of(manifest)} --columns`"
    )


def _proofs_of(folder: Path) -> Proofs:
    path = folder / DATASET
    return read_dataset_info(path).proofs if path.is_file() else NO_PROOFS


def read_dataset_info(path: str | Path) -> DatasetInfo:
    """Read a `dataset.yaml`.

    Raises:
        MelHuBERTError: the file is not there, or a key is missing or impossible.
    """
    content = read_yaml_mapping(path)

    def count(key: str, least: int = 0) -> int:
        value = content.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise MelHuBERTError(
                f"{path}: {key} is {shown(value)}, expected a whole number of at least {least}; was it "
                "written by `melhubert prepare`?"
            )
        return value

    def mapping(key: str) -> Mapping[str, Any]:
        value = content.get(key) or {}
        if not isinstance(value, Mapping):
            raise MelHuBERTError(f"{path}: {key} is {shown(value)}, expected a mapping")
        return value

    period, shift = content.get("label_period_ms"), content.get("frame_shift_ms")
    if period not in LABEL_PERIODS_MS:
        raise MelHuBERTError(f"{path}: label_period_ms is {shown(period)}, expected 10 or 20")
    if shift != FRAME_SHIFT_MS:
        raise MelHuBERTError(f"{path}: frame_shift_ms is {shown(shift)}, expected {FRAME_SHIFT_MS}")
    statistics = content.get("statistics")
    if not isinstance(statistics, Mapping):
        raise MelHuBERTError(f"{path}: no `statistics`, expected `mean` and `std` of {N_MELS} figures each")
    info = DatasetInfo(
        stats=FeatureStats.from_mapping(statistics, f"in {path}"),
        clusters=count("clusters", 1),
        label_period_ms=period,
        utterances=count("utterances"),
        frames=count("frames"),
        rejected=count("rejected"),
        made_by=mapping("made_by"),
        made_from=mapping("made_from"),
        versions=mapping("versions"),
        proofs=_read_proofs(content.get("proofs"), path),
        teacher_weights=str(content.get("teacher_weights") or ""),
    )
    told = content.get(OWN_HASH)
    if told is not None and told != _own_hash(content):  # sets of earlier versions do not tell
        raise MelHuBERTError(
            f"{path}: changed since the set was made (its own {OWN_HASH} is another); copy it again, or "
            "prepare the set again"
        )
    return info


def read_quantizer(folder: Path, info: DatasetInfo) -> Quantizer | None:
    """What the labels of a set stand for: the centroids, and whose frames they were found among.

    Args:
        folder: that holds the set.
        info: what its `dataset.yaml` says.

    Returns:
        Centroids of log-Mel frames, or those of a layer of a teacher; None for a set that holds none.

    Raises:
        MelHuBERTError: `kmeans.npy` or what made it cannot be used.
    """
    from s3prl_melhubert.units.quantizer import LOG_MEL, TEACHER, Quantizer

    path = folder / KMEANS
    if not path.is_file():
        return None
    is_relabelled = info.made_by.get("command") == "relabel"
    layer = info.made_by.get("layer") if is_relabelled else 0
    source = TEACHER if is_relabelled else LOG_MEL
    centroids = read_centroids(path)
    return Quantizer.from_arrays(layer, centroids, source, info.made_by, str(path))  # type: ignore[arg-type]


def _read_proofs(content: Any, path: str | Path) -> Proofs:
    if content is None:  # a set of an earlier version
        return NO_PROOFS
    where = f"{path}: proofs"
    if not isinstance(content, Mapping):
        raise MelHuBERTError(f"{where}: {shown(content)} found, expected a mapping")
    known = [field.name for field in fields(Proofs)]
    refuse_unknown(content, known, where)
    for name in known:
        value = content.get(name)
        if not isinstance(value, int if name == "largest_label" else str):
            raise MelHuBERTError(f"{where}: {name} is {shown(value)}, which no set is written with")
    return Proofs(**content)


def write_dataset_info(path: str | Path, info: DatasetInfo) -> None:
    """Write a `dataset.yaml`."""
    content = {
        "frame_shift_ms": FRAME_SHIFT_MS,
        "feature_kind": FEATURE_KIND,
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
    if info.made_from:
        content["made_from"] = dict(info.made_from)
    if info.teacher_weights:
        content["teacher_weights"] = info.teacher_weights
    if info.proofs != NO_PROOFS:
        content["proofs"] = asdict(info.proofs)
    content[OWN_HASH] = _own_hash(content)
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _own_hash(content: Mapping[str, Any]) -> str:
    """A SHA-256 of all other keys of a `dataset.yaml`, however its text is laid out."""
    others = {key: value for key, value in content.items() if key != OWN_HASH}
    return hashlib.sha256(json.dumps(others, sort_keys=True, default=str).encode()).hexdigest()


def load_stats(source: str | Path) -> FeatureStats:
    """Load the statistics of a prepared folder, of a checkpoint, of a file, or of a published name.

    Raises:
        MelHuBERTError: `source` is none of these, or its figures cannot be statistics.
    """
    path = Path(source).expanduser()
    if suffix_of(path) in CHECKPOINTS:
        from s3prl_melhubert.checkpoint import load_checkpoint, resolve_stats

        return resolve_stats(load_checkpoint(path))
    if path.is_dir():
        return read_dataset_info(path / DATASET).stats
    if path.name == DATASET:
        return read_dataset_info(path).stats
    return FeatureStats.load(source)


def program_versions(*extra: str) -> dict[str, str]:
    """The versions of Python, this package, numpy, torch and further packages, for `dataset.yaml`."""
    from importlib.metadata import version

    from s3prl_melhubert import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    names = ["numpy", "torch", *extra]
    return {"python": python, "s3prl-melhubert": __version__, **{name: version(name) for name in names}}
