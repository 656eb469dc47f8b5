"""QUESST's ground truth: which documents hold which query.

    scoring/groundtruth_quesst14_dev/
        *.tlist.xml   the queries: `<term termid="quesst14_dev_0001">`
        *.ecf.xml     the documents: `<excerpt audio_filename="Audio/quesst14_00001.wav" ...>`
        *.rttm        `LEXEME DOCUMENT CHANNEL START DURATION QUERY ...` for each document that holds a query

It is in the formats of NIST's evaluation of spoken term detection of 2006, and covers all six languages.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.listing import read_lines
from s3prl_melhubert.errors import MelHuBERTError


@dataclass(frozen=True)
class GroundTruth:
    """The trials are every query with every document."""

    queries: frozenset[str]
    documents: frozenset[str]
    targets: Mapping[str, frozenset[str]]  # the documents that hold a query, of the queries that any holds


def read_ground_truth(folder: Path) -> GroundTruth:
    """Read a folder of ground truth.

    Raises:
        MelHuBERTError: a file is not there or cannot be read, or no document holds any query.
    """
    queries = frozenset(_attributes(_only(folder, "*.tlist.xml"), "term", "termid"))
    excerpts = _attributes(_only(folder, "*.ecf.xml"), "excerpt", "audio_filename")
    documents = frozenset(Path(name).stem for name in excerpts)
    targets: dict[str, set[str]] = defaultdict(set)
    path = _only(folder, "*.rttm")
    for line in read_lines(path):
        fields = line.split()
        if len(fields) < 6 or fields[0] != "LEXEME":
            continue
        document, query = Path(fields[1]).stem, fields[5]
        if query in queries and document in documents:
            targets[query].add(document)
    if not targets:
        raise MelHuBERTError(
            f"{path}: no line `LEXEME DOCUMENT . . . QUERY` with documents and queries of {folder}"
        )
    return GroundTruth(queries, documents, {query: frozenset(held) for query, held in targets.items()})


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise MelHuBERTError(
            f"{folder}: expected one file {pattern}, found {len(found)}; unpack quesst14Database.tgz again"
        )
    return found[0]


def _attributes(path: Path, tag: str, name: str) -> list[str]:
    try:
        root = ElementTree.parse(path).getroot()  # in the encoding that the file itself declares
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise MelHuBERTError(f"{path}: cannot be read as XML ({error})") from None
    found = [value for element in root.iter(tag) if (value := element.get(name)) is not None]
    if not found:
        raise MelHuBERTError(f'{path}: no element <{tag} {name}="...">')
    return found
