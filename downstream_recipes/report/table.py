"""The report's table: a row per upstream, a column per task, SUPERB's published figures below."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from s3prl_melhubert.downstream_recipes.report.results import Result, not_superbs, same_model
from s3prl_melhubert.downstream_recipes.task import Metric
from s3prl_melhubert.downstream_recipes.tasks import all_tasks

SOURCE = "arXiv 2105.01051"  # of the published scores: the SUPERB paper
MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One line of the table: an upstream's results by task."""

    label: str
    results: dict[str, Result]


def rows(results: Sequence[Result], folders: Sequence[Path] = ()) -> list[Row]:
    """Sort the results into rows, one for each upstream and checkpoint.

    Results of the same task get a row each, named by their folder.

    Args:
        results: in the order in which their upstreams shall be listed.
        folders: of the experiments, in the same order; without them, equal ones are told apart by number.
    """
    places = [Path(os.path.abspath(folder)) for folder in folders]
    if not places:
        places = [Path(f"result {number}") for number, _ in enumerate(results, 1)]
    models: list[list[tuple[Path, Result]]] = []
    for place, result in zip(places, results, strict=True):
        # An older result, which says less, may be like each of two that differ: all of a row must agree.
        of_model = next(
            (found for found in models if all(same_model(each, result) for _, each in found)), None
        )
        if of_model is None:
            models.append([(place, result)])
        else:
            of_model.append((place, result))
    labels = _labels([found[0][1] for found in models])
    table_rows = []
    for label, found in zip(labels, models, strict=True):
        by_name: dict[str, dict[str, Result]] = {}
        for task in all_tasks():
            of_task = [(place, result) for place, result in found if result.task == task]
            names = _told_apart([place for place, _ in of_task]) if len(of_task) > 1 else [""]
            for name, (_, result) in zip(names, of_task, strict=bool(of_task)):
                by_name.setdefault(name, {})[task] = result
        table_rows += [Row(f"{label} [{name}]" if name else label, each) for name, each in by_name.items()]
    return table_rows


def _labels(models: Sequence[Result]) -> list[str]:
    """Label several models; a label is longer only where a shorter one would fit two of them."""

    def with_folders(depth: int) -> Callable[[Result], str]:
        def label(model: Result) -> str:
            return " ".join([model.upstream, *_tail(model.checkpoint, depth)])

        return label

    def with_config(model: Result) -> str:
        return " ".join([with_folders(2)(model), *_tail(model.upstream_config, 1)])

    def with_hash(model: Result) -> str:
        return f"{with_config(model)} {(model.checkpoint_sha256 or '')[:8]}".rstrip()

    def with_precision(model: Result) -> str:
        return f"{with_hash(model)} {model.precision or ''}".rstrip()

    def with_statistics(model: Result) -> str:
        return f"{with_precision(model)} {model.statistics or ''}".rstrip()

    labels = [""] * len(models)
    writers = (with_folders(2), with_config, with_folders(3), with_folders(4), with_hash)
    for write in (*writers, with_precision, with_statistics):
        counts = Counter(labels)
        labels = [
            write(model) if counts[label] > 1 or not label else label
            for model, label in zip(models, labels, strict=True)
        ]
    return _numbered(labels)


def _tail(path: str | None, depth: int) -> list[str]:
    return [] if path is None else ["/".join(Path(path).parts[-depth:]).replace("//", "/")]


def _told_apart(paths: Sequence[Path]) -> list[str]:
    """Cut from each path what all share at either end; at least one name stays."""
    parts = [list(path.parts) for path in paths]
    for end in (-1, 0):
        while all(len(each) > 1 for each in parts) and len({each[end] for each in parts}) == 1:
            for each in parts:
                each.pop(end)
    return _numbered(["/".join(each) for each in parts])


def _numbered(names: Sequence[str]) -> list[str]:
    """Number equal names: the second one gets a (2), and so on."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return numbered


def two_decimals(value: float) -> str:
    """Write a score with two decimals, and a tiny one with its first digits: 82.01, 8.5e-4."""
    if value == 0 or abs(value) >= 0.005:
        return f"{value:.2f}"
    return f"{value:.1e}".replace("e-0", "e-")


@dataclass(frozen=True)
class Column:
    """The scores of one task, or of its second test."""

    heading: str
    task: str  # its key
    score: Callable[[Result], float | None]
    published: Mapping[str, float]  # by upstream


def columns(results: Sequence[Result]) -> list[Column]:
    """Make a column for each task with published figures or results, and one more for its second test.

    The second test has its column where one of the results has it.
    """
    found = []
    for task in all_tasks().values():
        if not task.published and all(each.task != task.key for each in results):
            continue
        measure = _measure(task.metric)
        heading = f"{task.title}: {measure}"
        found.append(Column(heading, task.key, lambda result: result.value, task.published))
        for metric in task.further_metrics:
            heading = f"{task.title}: {_measure(metric)}"
            found.append(Column(heading, task.key, partial(_further, metric.name), {}))
        tested_again = any(each.task == task.key and each.with_language_model for each in results)
        if task.second_test is not None and tested_again:
            heading = f"{task.title} with {task.second_test.label}: {measure}"
            found.append(Column(heading, task.key, second_score, {}))
    return found


def _measure(metric: Metric) -> str:
    return " ".join(filter(None, (metric.name, metric.unit, "↑" if metric.higher_is_better else "↓")))


def _further(name: str, result: Result) -> float | None:
    return result.further.get(name)


def second_score(result: Result) -> float | None:
    """Return the score of the task's second test, or None where there was none."""
    return result.with_language_model["value"] if result.with_language_model else None


def published_upstreams() -> list[str]:
    """List the upstreams with published scores, in the order in which the tasks name them."""
    return list(dict.fromkeys(name for task in all_tasks().values() for name in task.published))


def table(results: Sequence[Result], folders: Sequence[Path] = ()) -> str:
    """Write the results as a Markdown table with footnotes, and SUPERB's published figures below them.

    Args:
        results: of any tasks and upstreams; an upstream's row stands where its first result does.
        folders: of the experiments, in the same order; they name what is there twice, see `rows`.
    """
    there = columns(results)
    footnotes: dict[str, int] = {}
    lines = [["upstream", *(column.heading for column in there)]]
    for row in rows(results, folders):
        cells = [row.label]
        for column in there:
            result = row.results.get(column.task)
            score = column.score(result) if result else None
            cells.append(MISSING if result is None or score is None else _cell(result, score, footnotes))
        lines.append(cells)
    lines.append([f"*published, full corpora ({SOURCE}):*", *[""] * len(there)])
    for name in published_upstreams():
        scores = [column.published.get(name) for column in there]
        shown = [MISSING if score is None else two_decimals(score) for score in scores]
        lines.append([f"*{name}*", *(f"*{score}*" for score in shown)])
    # A footnote of several lines is a list below its number.
    notes = ["\n    - ".join(f"- [{number}] {text}".split("\n")) for text, number in footnotes.items()]
    return "\n".join([*_markdown(lines), *([""] if notes else []), *notes])


def _cell(result: Result, value: float, footnotes: dict[str, int]) -> str:
    """Write a score with the numbers of its footnotes, which are added to those there are."""
    texts = [*([result.chosen] if result.chosen else []), *result.notes]
    texts = [" ".join(text.split()) for text in texts]
    if not result.comparable:
        texts.insert(0, "\n".join(line.strip() for line in not_superbs(result.differences)))
    numbers = sorted(footnotes.setdefault(text, len(footnotes) + 1) for text in texts)
    return " ".join([two_decimals(value), *(f"[{number}]" for number in numbers)])


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Write rows of cells as a Markdown table that is aligned as text, too; the first column to the left."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
    return [f"| {' | '.join(line)} |" for line in (aligned[0], rule, *aligned[1:])]
