"""How well cluster labels agree with phones.

The figures are those of HuBERT's paper (arXiv 2106.07447, section IV-C). They are over all frames that have a
phone y and a cluster z:

    phone purity      the accuracy if each cluster is replaced by its most frequent phone
    cluster purity    the share of a phone's frames in its most frequent cluster, averaged over frames
    PNMI              I(y; z) / H(y): the part of the uncertainty about the phone that the cluster removes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import PreparedSet
from s3prl_melhubert.pretrain.data.manifest import (
    FRAME_SHIFT_MS,
    Utterance,
    told_label_period,
    utterance_labels,
)
from s3prl_melhubert.support.progress import progress

# Aligners count frames differently at the end of an utterance. Where a window of 25 ms must fit into the
# audio, the last one begins two or three frames before the audio ends.
ALIGNMENT_TOLERANCE = 3  # frames of 10 ms


@dataclass(frozen=True)
class LabelQuality:
    """How well clusters and phones agree."""

    phone_purity: float  # from 0 to 1
    cluster_purity: float  # from 0 to 1
    pnmi: float  # from 0 to 1
    frames: int  # how many labels were compared with a phone
    phones: int  # how many different phones there are among them
    clusters: int  # how many clusters there are, by dataset.yaml or by the largest id
    clusters_in_use: int  # how many of them have at least one of the frames

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> LabelQuality:
        """The figures of a (phones, clusters) table of how often each pair occurs.

        Raises:
            MelHuBERTError: the table is empty.
        """
        total = int(counts.sum())
        if total == 0:
            raise MelHuBERTError("label quality: no frames to compare")
        joint = counts / total  # p(y, z)
        # Of whole numbers a sum is exact: the entropy of a single phone is 0, and no rounding error.
        phones, clusters = counts.sum(1) / total, counts.sum(0) / total  # p(y), p(z)
        occurs = joint > 0
        ratio = joint[occurs] / np.outer(phones, clusters)[occurs]
        information = float((joint[occurs] * np.log(ratio)).sum())
        entropy = -float((phones[phones > 0] * np.log(phones[phones > 0])).sum())
        return cls(
            phone_purity=float(joint.max(0).sum()),  # E over z of p(most likely y | z)
            cluster_purity=float(joint.max(1).sum()),  # E over y of p(most likely z | y)
            # If there is one phone alone, there is nothing to be uncertain about.
            pnmi=min(1.0, max(0.0, information / entropy)) if entropy > 0 else 0.0,
            frames=total,
            phones=int((phones > 0).sum()),
            clusters=len(clusters),
            clusters_in_use=int((clusters > 0).sum()),
        )


def label_quality(data: PreparedSet, alignments: Sequence[str | Path]) -> tuple[LabelQuality, str]:
    """Compare a set's labels with phone alignments.

    Args:
        data: the set. Where its labels are at 20 ms, label t is compared with phone 2t.
        alignments: text files with lines `UTT phone phone ...`, one phone per 10 ms.

    Returns:
        The figures, and how many utterances they are over, in words.

    Raises:
        MelHuBERTError: an alignment does not fit its utterance, or none of the utterances has one.
    """
    by_id = {name: number for number, name in enumerate(data.utterances.ids)}
    if len(by_id) < len(data.utterances):
        raise MelHuBERTError(
            f"{data.manifest}: several utterances have the same id (without a column `id`, the name of the "
            "feature file), so alignments cannot be told apart"
        )
    numbers: dict[str, int] = {}  # phone -> its row in `counts`
    counts = np.zeros((0, data.info.clusters if data.info else 0), np.int64)
    compared: set[str] = set()
    with progress(None, "alignments", "utterances") as bar:
        for name, phones, where in read_alignments(alignments):
            bar.update()
            if name not in by_id:
                continue
            utterance = data.utterances[by_id[name]]
            if name in compared:
                raise MelHuBERTError(f"{where}: a second alignment of utterance {name}")
            compared.add(name)
            ids = np.array([numbers.setdefault(phone, len(numbers)) for phone in phones], np.int64)
            labels, ids = _paired(utterance, ids, data.label_period_ms, where)
            if not len(labels):  # The tolerance lets an utterance of a frame or two have none.
                continue
            if labels.min() < 0:
                raise MelHuBERTError(
                    f"{utterance.labels}: cluster id {labels.min()} found, expected at least 0"
                )
            counts = _grown(counts, len(numbers), int(labels.max()) + 1)
            np.add.at(counts, (ids, labels), 1)
    if not compared:
        raise MelHuBERTError(
            f"{', '.join(map(str, alignments))}: no alignment of any utterance of {data.manifest}, whose "
            f"ids are such as {data.utterances[0].id}"
        )
    return LabelQuality.from_counts(counts), f"{len(compared)} of {len(data.utterances)} utterances"


def read_alignments(paths: Iterable[str | Path]) -> Iterator[tuple[str, list[str], str]]:
    """Yields the utterance's id, its phones, and the place (for an error) of each line.

    Raises:
        MelHuBERTError: a file cannot be read, or a line has no phones.
    """
    for path in paths:
        try:
            with Path(path).expanduser().open(encoding="utf-8-sig") as file:
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
    """The labels and the phones of the frames that have both, (n,) each."""
    if abs(len(phones) - utterance.length) > ALIGNMENT_TOLERANCE:
        raise MelHuBERTError(
            f"{where}: {len(phones)} phones for utterance {utterance.id}, which has {utterance.length} "
            "frames of 10 ms; expected a phone for each"
        )
    labels = np.asarray(utterance_labels(utterance, period), dtype=np.int64)
    if period is None:
        period = told_label_period(utterance, len(labels))
    phones = phones[:: period // FRAME_SHIFT_MS]
    both = min(len(phones), len(labels))
    return labels[:both], phones[:both]


def _grown(counts: np.ndarray, phones: int, clusters: int) -> np.ndarray:
    """The table, with zeros added where it has fewer rows or columns than this."""
    more = max(0, phones - counts.shape[0]), max(0, clusters - counts.shape[1])
    return np.pad(counts, ((0, more[0]), (0, more[1]))) if any(more) else counts
