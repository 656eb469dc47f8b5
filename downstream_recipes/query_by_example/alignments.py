"""The alignments of all queries with all documents, for s3prl's expert: faster, in one order, and kept.

s3prl's expert hands each pair to a pool of processes, with copies of both, and takes the scores as they
come, so that two runs of it write the same scores in different orders. `Alignments` stands in the place of
that pool while the expert runs: it computes one document with all queries at a time (`subsequence`), in
processes that share the features, writes each document's scores to a file when they are there, and hands
them out in the order in which the expert asked.

What the expert writes is what it writes with its own pool. A score has four decimals there, and ours differ
from s3prl's by less than 1e-13 before they are normalized; a query of which any score is so near to the
middle between two that the difference might show is computed again by s3prl's own function.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from s3prl_melhubert.downstream_recipes.query_by_example.subsequence import Floats, Queries
from s3prl_melhubert.support.progress import progress

DECIMALS, DETECTED = 4, 2.0  # of s3prl's scores, and from where on it says YES
NEAR = 1e-9  # of normalized scores; a thousand times what the rounding can make of them
LEAST_DEVIATION = 1e-5  # of a query's scores; below it, to divide by it enlarges the rounding

SUPERBS = {"step_pattern": "asymmetric", "open_begin": True, "open_end": True}  # what `subsequence` computes
PR_SET_PDEATHSIG = 1  # Linux' prctl: the signal that a process gets when its parent is gone


@dataclass(frozen=True)
class Score:
    """What s3prl takes for a finished call of its function."""

    query: str
    document: str
    value: float

    def result(self) -> tuple[str, str, float]:
        return self.query, self.document, self.value


@dataclass
class _Work:
    """Everything that a process needs; it has it from the process that it was forked from."""

    match: Callable[..., tuple[str, str, float]]
    distance: Callable[[Floats, Floats], Floats]
    how: tuple[Any, ...]  # the last arguments of s3prl's function
    queries: dict[str, Floats]
    documents: dict[str, Floats]
    stacked: Queries | None = None  # where `subsequence` can do it

    def in_document(self, document: str) -> list[float]:
        """The scores of all queries in a document, NaN where s3prl's function has to tell."""
        if self.stacked is None or not len(self.documents[document]):
            return [self.exactly((query, document)) for query in self.queries]
        return (-self.stacked.costs_in(self.documents[document])).tolist()

    def exactly(self, pair: tuple[str, str]) -> float:
        """The score of one query in one document by s3prl's own function."""
        query, document = pair
        arrays = self.queries[query], self.documents[document]
        return float(self.match(*arrays, query, document, self.distance, *self.how)[2])


class Alignments:
    """s3prl's pool of processes, as its expert uses it.

    Args:
        kept: the file of what was computed; what it has already is not computed again.
        title: for the display of progress.
    """

    def __init__(self, kept: Path, title: str):
        self.kept, self.title = kept, title
        self.processes = 1
        self.work: _Work | None = None

    def __call__(self, max_workers: int | None = None) -> Alignments:
        self.processes = max_workers or get_context().cpu_count()
        return self

    def __enter__(self) -> Alignments:
        return self

    def __exit__(self, *raised: object) -> None:
        self.work = None

    def submit(
        self,
        match: Callable[..., tuple[str, str, float]],
        query: Floats,
        document: Floats,
        query_name: str,
        document_name: str,
        distance: Callable[[Floats, Floats], Floats],
        *how: Any,
    ) -> tuple[str, str]:
        """Take a call of s3prl's function; return what stands for its result."""
        if self.work is None:
            self.work = _Work(match, distance, how, {}, {})
        self.work.queries[query_name] = query
        self.work.documents[document_name] = document
        return query_name, document_name

    def as_completed(self, pairs: Sequence[tuple[str, str]]) -> Iterator[Score]:
        """Compute what is left to compute; yield the scores of the pairs in their order."""
        work = self.work
        if work is None:
            return
        minmax_norm, settings = work.how
        if (
            getattr(work.distance, "__name__", None) == "cosine_exp"
            and minmax_norm
            and settings.items() >= SUPERBS.items()
            and all(len(document) for document in work.documents.values())
        ):
            work.stacked = Queries(list(work.queries.values()))
        found = self._all(work)
        columns = {query: number for number, query in enumerate(work.queries)}
        for query, document in pairs:
            yield Score(query, document, float(found[document][columns[query]]))

    def _all(self, work: _Work) -> dict[str, NDArray[np.float64]]:
        """The scores in each document, of all queries."""
        found = self._read(len(work.queries))
        left = [name for name in work.documents if name not in found]
        with (
            progress(
                total=len(work.documents), title=self.title, unit="documents", initial=len(found)
            ) as bar,
            self.kept.open("a", encoding="utf-8") as file,
        ):
            for document, scores in _in_processes(work, _Work.in_document, left, self.processes):
                file.write(json.dumps([document, scores]) + "\n")
                file.flush()
                found[document] = np.array(scores)
                bar.update()
        if work.stacked is not None:
            names = list(work.documents)
            table = np.stack([found[name] for name in names])  # (documents, queries)
            doubtful = [i for i in range(len(work.queries)) if is_doubtful(table[:, i])]
            queries = list(work.queries)
            again = [(queries[i], name) for i in doubtful for name in names]
            with progress(total=len(again), title=f"{self.title}, exactly", unit="pairs") as bar:
                for (query, document), score in _in_processes(work, _Work.exactly, again, self.processes):
                    found[document][queries.index(query)] = score
                    bar.update()
        return found

    def _read(self, queries: int) -> dict[str, NDArray[np.float64]]:
        """What was computed before a kill."""
        found = {}
        for line in self.kept.read_text(encoding="utf-8").splitlines() if self.kept.is_file() else []:
            try:
                document, scores = json.loads(line)
            except ValueError:  # cut off; what is computed now is written after it
                continue
            if len(scores) == queries:
                found[document] = np.array(scores)
        return found


def is_doubtful(scores: NDArray[np.float64]) -> bool:
    """Whether a difference in the last digits of a query's scores might show in what s3prl writes of them."""
    deviation = scores.std()
    if not np.isfinite(deviation) or deviation < LEAST_DEVIATION:
        return True
    normalized = (scores - scores.mean()) / deviation
    unit = 10.0**-DECIMALS
    from_middle = np.abs(normalized / unit - np.floor(normalized / unit) - 0.5) * unit
    return bool(from_middle.min() < NEAR or np.abs(normalized - DETECTED).min() < NEAR)


def without_display(pairs: Iterable[Any], **options: Any) -> Iterable[Any]:
    """Stands in the place of s3prl's tqdm: `Alignments` has a display of its own."""
    return pairs


# -- processes -------------------------------------------------------------------------------------------

_work: _Work | None = None


def _in_processes(
    work: _Work, method: Callable[[_Work, Any], Any], items: Sequence[Any], processes: int
) -> Iterator[tuple[Any, Any]]:
    """Yield each item with what the method gives for it, as it comes."""
    global _work
    if processes == 1 or len(items) < 2:
        yield from ((item, method(work, item)) for item in items)
        return
    _work = work
    try:
        # Forked, they have all features without a copy. They use no torch and no device.
        with ProcessPoolExecutor(processes, get_context("fork"), _begin) as pool:
            futures = {pool.submit(_call, method, item): item for item in items}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        _work = None


def _begin() -> None:
    """Begin a process: one thread, and it ends with its parent, also where that is killed."""
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _call(method: Callable[[_Work, Any], Any], item: Any) -> Any:
    assert _work is not None
    return method(_work, item)
