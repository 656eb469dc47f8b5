"""SUPERB's query-by-example spoken term detection: s3prl's `quesst14_dtw` on QUESST 2014."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.difference import Difference, differences_of
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.query_by_example.mtwv import (
    detections_of,
    maximum_term_weighted_value,
    read_detections,
)
from s3prl_melhubert.downstream_recipes.query_by_example.quesst import (
    DOCUMENTS,
    QUERIES,
    Quesst,
    check_quesst,
    ground_truth_folder,
)
from s3prl_melhubert.downstream_recipes.query_by_example.truth import read_ground_truth
from s3prl_melhubert.downstream_recipes.task import (
    Argument,
    CheckedCorpus,
    Metric,
    Preparation,
    Replacement,
    Task,
    TaskOptions,
    Tested,
)
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import full_path

QUESST = Argument(
    "quesst",
    "DIR",
    "holds Audio, dev_queries, eval_queries, scoring",
    example="quesst14Database",
    required=True,
)
SIZES = {DOCUMENTS: 2438, "dev": 138, "eval": 138}  # English files of QUESST 2014
TRIALS = {"documents": 12492, "dev": 560, "eval": 555}  # of all languages, over which MTWV is computed
DETECTIONS = "benchmark.stdlist.xml"


@dataclass(frozen=True, kw_only=True)
class QuesstCorpus(CheckedCorpus):
    """QUESST 2014, checked."""


def check_packages() -> None:
    """Make sure that s3prl's expert can be imported.

    Raises:
        MelHuBERTError: a package is not there; the message says which, and what to install.
    """
    try:
        import lxml.etree  # noqa: F401
        from dtw import asymmetric, dtw  # noqa: F401
    except Exception as error:
        raise MelHuBERTError(
            f"s3prl's query-by-example needs dtw-python and lxml, which cannot be imported ({error}): "
            "pip install 's3prl-melhubert[qbe]'"
        ) from None


def check(options: TaskOptions) -> QuesstCorpus:
    """Check QUESST 2014, and the packages that s3prl needs for it.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    check_packages()
    problems = Problems()
    root = options.needed(QUESST.name)
    quesst = check_quesst(root, problems)
    problems.raise_if_any(f"QUESST 2014 in {root}")
    return QuesstCorpus(
        path=full_path(root),
        summary=[f"{name}: {len(paths)} English files" for name, paths in quesst.files.items()],
        test_utterances=[path.stem for path in quesst.files["eval"]],
        differences=_differences(quesst),
        content=content_of(root, quesst),
    )


def _differences(quesst: Quesst) -> list[Difference]:
    counts = {f"English files of {name}": (SIZES[name], len(quesst.files[name])) for name in SIZES}
    for name in QUERIES:
        truth = quesst.truth[name]
        counts[f"queries in the truth of {name}"] = (TRIALS[name], len(truth.queries))
        counts[f"documents in the truth of {name}"] = (TRIALS["documents"], len(truth.documents))
    return differences_of(counts)


def fill_in(settings: dict[str, Any], preparation: Preparation[QuesstCorpus]) -> None:
    """Set the path of the corpus, and the number of processes."""
    section = settings["downstream_expert"]
    section["max_workers"] = max(1, preparation.workers)
    section["datarc"]["num_workers"] = preparation.workers
    if preparation.corpus is not None:
        section["datarc"]["dataset_root"] = preparation.corpus.path


def replacements(folder: Path) -> list[Replacement]:
    """Let s3prl's expert keep the features of every layer of a pass on the disk."""
    from s3prl_melhubert.downstream_recipes.query_by_example.expert import QuesstExpert

    return [Replacement("s3prl.downstream.quesst14_dtw.expert", "DownstreamExpert", QuesstExpert)]


def score(tested: Tested) -> float:
    """Compute the MTWV of s3prl's detections.

    Raises:
        MelHuBERTError: the detections or the ground truth cannot be read.
    """
    queries = "dev" if tested.split == "dev" else "eval"
    root = Path(tested.options.needed(QUESST.name)).expanduser()
    truth = read_ground_truth(ground_truth_folder(root, queries))
    return maximum_term_weighted_value(read_detections(tested.folder / DETECTIONS), truth)


def queries_of(text: str) -> list[str]:
    """A line for each query, its name and its scores.

    Raises:
        ValueError: the text is no list of detections.
    """
    return [" ".join([query, *map(str, scores.values())]) for query, scores in detections_of(text).items()]


def fault_in_scores(scores: Sequence[str]) -> str | None:
    """Return what is wrong with the scores of a query's documents."""
    if not scores:
        return "no documents"
    return next((score for score in scores if not math.isfinite(float(score))), None)


SCORES = LineFormat("a query with a finite score for each document", fault_in_scores)

TASK = Task(
    key="qbe",
    name="query-by-example spoken term detection",
    column=7,
    downstream="quesst14_dtw",
    folder=Path(__file__).parent,
    arguments=(QUESST,),
    check=check,
    fill_in=fill_in,
    metric=Metric("MTWV", higher_is_better=True, printed="maxTWV", scale=100.0),
    test_split="test",
    test_name="eval",
    best_checkpoint=None,
    predictions=(PredictionFile(DETECTIONS, f"qbe_public/{DETECTIONS}", SCORES, lines_of=queries_of),),
    sizes=SIZES,
    trained=False,
    score=score,
    replacements=replacements,
)
