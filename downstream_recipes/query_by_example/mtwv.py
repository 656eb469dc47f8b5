"""The maximum term-weighted value (MTWV) of detections, as QUESST 2014 defines it.

For a threshold t, a query is detected in the documents whose score is at least t. Over the queries that
some document holds,

    TWV(t) = 1 - mean(P_miss + BETA * P_fa)

with P_miss, the part of the documents that hold a query in which it is not detected, and P_fa, the part of
the other documents in which it is. MTWV is the greatest TWV over all thresholds; detecting nothing makes it 0
at least.

A trial without a score has `DEFAULT_SCORE`, which is how SUPERB calls QUESST's own program: s3prl scores the
English queries and documents alone, and the queries of the other five languages count as missed. So an MTWV
of SUPERB's is about a quarter of what the English queries would have by themselves.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from s3prl_melhubert.downstream_recipes.query_by_example.truth import GroundTruth
from s3prl_melhubert.errors import MelHuBERTError

# The prior of a target and the costs of an error, of QUESST's evaluation plan.
PRIOR, COST_OF_MISS, COST_OF_FALSE_ALARM = 0.0008, 100.0, 1.0
BETA = COST_OF_FALSE_ALARM / COST_OF_MISS * (1 / PRIOR - 1)  # 12.49
DEFAULT_SCORE = -10.0

Detections = Mapping[str, Mapping[str, float]]  # query -> document -> score


def detections_of(text: str) -> dict[str, dict[str, float]]:
    """Read a list of detections (`*.stdlist.xml`).

    Raises:
        ValueError: it is none.
    """
    try:
        root = ElementTree.fromstring(text.encode("utf-8"))
        return {
            terms.attrib["termid"]: {term.attrib["file"]: float(term.attrib["score"]) for term in terms}
            for terms in root.iter("detected_termlist")
        }
    except (ElementTree.ParseError, KeyError) as error:
        raise ValueError(f"no list of detections: {error}") from None


def read_detections(path: Path) -> dict[str, dict[str, float]]:
    """Read a file of detections.

    Raises:
        MelHuBERTError: it cannot be read.
    """
    try:
        return detections_of(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MelHuBERTError(f"{path}: cannot be read as detections ({error})") from None


def maximum_term_weighted_value(detections: Detections, truth: GroundTruth) -> float:
    """Compute the MTWV, 1 at best.

    Args:
        detections: the scores; what is not in the ground truth does not count.
        truth: all trials.
    """
    scores, costs = [], []
    for query, held in truth.targets.items():
        others = len(truth.documents) - len(held)
        found = detections.get(query, {})
        for document in truth.documents:
            scores.append(found.get(document, DEFAULT_SCORE))
            # What detecting the query in this document changes of the sum over queries.
            costs.append(1 / len(held) if document in held else -BETA / others)
    order = np.argsort(-np.asarray(scores), kind="stable")
    values = np.cumsum(np.asarray(costs)[order]) / len(truth.targets)
    ranked = np.asarray(scores)[order]
    # A threshold detects all trials of a score or none, so that only the last of equal scores counts.
    last = np.append(ranked[1:] != ranked[:-1], True)
    return max(0.0, float(values[last].max()))
