"""`melhubert label-quality`: how well cluster labels agree with phones.

    melhubert label-quality --data data/train --alignments train-phones.txt

The figures of HuBERT's paper (arXiv 2106.07447, section IV-C), over all frames that have a phone y and a
cluster z:

    phone purity      accuracy if each cluster is replaced by its most frequent phone
    cluster purity    share of a phone's frames that are in its most frequent cluster, averaged over frames
    PNMI              I(y; z) / H(y): the part of the uncertainty about the phone that the cluster removes
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.layout import (
    FRAME_SHIFT_MS,
    PreparedSet,
    Utterance,
    read_prepared,
    utterance_labels,
)

# Aligners count frames differently at the end of an utterance: 25 ms windows that must fit end two or three
# frames before the audio does.
ALIGNMENT_TOLERANCE = 3  # frames of 10 ms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="DIR", help="a prepared folder, or a published CSV")
    parser.add_argument(
        "--alignments",
        required=True,
        nargs="+",
        metavar="FILE",
        help="text files, a line per utterance: its id, then a phone for each 10 ms",
    )


def run(args: argparse.Namespace) -> int:
    quality, coverage = label_quality(read_prepared(args.data), args.alignments)
    print(f"phone purity    {quality.phone_purity:.4f}")
    print(f"cluster purity  {quality.cluster_purity:.4f}")
    print(f"PNMI            {quality.pnmi:.4f}")
    print(f"clusters in use {quality.clusters_in_use} of {quality.clusters}")
    print(f"over            {quality.frames} labels, {quality.phones} phones, {coverage}")
    return 0


@dataclass(frozen=True)
class LabelQuality:
    """Agreement of clusters and phones."""

    phone_purity: float  # 0 to 1, as are all three
    cluster_purity: float
    pnmi: float
    frames: int  # compared
    phones: int  # different ones
    clusters: int  # there are, by dataset.yaml or the largest id
    clusters_in_use: int  # have at least one of the frames

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> LabelQuality:
        """From a (phones, clusters) table of how often each pair occurs.

        Raises:
            MelHuBERTError: an empty table.
        """
        total = int(counts.sum())
        if total == 0:
            raise MelHuBERTError("label quality: no frames to compare")
        joint = counts / total  # p(y, z)
        phones, clusters = joint.sum(1), joint.sum(0)  # p(y), p(z)
        occurs = joint > 0
        ratio = joint[occurs] / np.outer(phones, clusters)[occurs]
        information = float((joint[occurs] * np.log(ratio)).sum())
        entropy = -float((phones[phones > 0] * np.log(phones[phones > 0])).sum())
        return cls(
            phone_purity=float(joint.max(0).sum()),  # E over z of p(most likely y | z)
            cluster_purity=float(joint.max(1).sum()),  # E over y of p(most likely z | y)
            # One phone alone leaves nothing to be uncertain about.
            pnmi=information / entropy if entropy > 0 else 0.0,
            frames=total,
            phones=int((phones > 0).sum()),
            clusters=len(clusters),
            clusters_in_use=int((clusters > 0).sum()),
        )


def label_quality(data: PreparedSet, alignments: Sequence[str | Path]) -> tuple[LabelQuality, str]:
    """Compare a set's labels with phone alignments.

    Args:
        data: the set. Where its labels are at 20 ms, label t is compared with phone 2t.
        alignments: text files, `UTT phone phone ...`, one phone per 10 ms.

    Returns:
        The figures, and in words how many utterances they are over.

    Raises:
        MelHuBERTError: an alignment that does not fit its utterance, or none for any of them.
    """
    by_id = {utterance.id: utterance for utterance in data.utterances}
    if len(by_id) < len(data.utterances):
        raise MelHuBERTError(
            f"{data.manifest}: several utterances have the same id (without a column `id`, the name of the "
            "feature file), so alignments cannot be told apart"
        )
    numbers: dict[str, int] = {}  # of the phones
    counts = np.zeros((0, data.info.clusters if data.info else 0), np.int64)
    compared: set[str] = set()
    for name, phones, where in tqdm(read_alignments(alignments), unit=" utterances", disable=None):
        utterance = by_id.get(name)
        if utterance is None:
            continue
        if name in compared:
            raise MelHuBERTError(f"{where}: a second alignment of utterance {name}")
        compared.add(name)
        ids = np.array([numbers.setdefault(phone, len(numbers)) for phone in phones], np.int64)
        labels, ids = _paired(utterance, ids, data.label_period_ms, where)
        if labels.min() < 0:
            raise MelHuBERTError(f"{utterance.labels}: cluster id {labels.min()} found, expected at least 0")
        counts = _grown(counts, len(numbers), int(labels.max()) + 1)
        np.add.at(counts, (ids, labels), 1)
    if not compared:
        raise MelHuBERTError(
            f"{', '.join(map(str, alignments))}: no alignment of any utterance of {data.manifest}, whose "
            f"ids are such as {data.utterances[0].id}"
        )
    return LabelQuality.from_counts(counts), f"{len(compared)} of {len(data.utterances)} utterances"


def read_alignments(paths: Iterable[str | Path]) -> Iterator[tuple[str, list[str], str]]:
    """Yields utterance id, phones, and the place for an error, of each line.

    Raises:
        MelHuBERTError: a file that cannot be read, or a line without phones.
    """
    for path in paths:
        try:
            with Path(path).expanduser().open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    words = line.split()
                    if not words:
                        continue
                    if len(words) == 1:
                        raise MelHuBERTError(f"{path}, line {number}: no phones after {words[0]!r}")
                    yield words[0], words[1:], f"{path}, line {number}"
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MelHuBERTError(f"{path}: cannot be read as text ({reason})") from None


def _paired(
    utterance: Utterance, phones: np.ndarray, period: int | None, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and phones of the same frames."""
    if abs(len(phones) - utterance.length) > ALIGNMENT_TOLERANCE:
        raise MelHuBERTError(
            f"{where}: {len(phones)} phones for utterance {utterance.id}, which has {utterance.length} "
            "frames of 10 ms; expected a phone for each"
        )
    labels = np.asarray(utterance_labels(utterance, period), dtype=np.int64)
    if period is None:
        period = FRAME_SHIFT_MS if abs(len(labels) - utterance.length) <= 1 else 2 * FRAME_SHIFT_MS
    phones = phones[:: period // FRAME_SHIFT_MS]
    both = min(len(phones), len(labels))
    return labels[:both], phones[:both]


def _grown(counts: np.ndarray, phones: int, clusters: int) -> np.ndarray:
    """The table with room for so many."""
    more = max(0, phones - counts.shape[0]), max(0, clusters - counts.shape[1])
    return np.pad(counts, ((0, more[0]), (0, more[1]))) if any(more) else counts
