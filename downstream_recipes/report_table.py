"""The report's table: a row per upstream, a column per task, SUPERB's published figures below."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.results import METRICS, Result

# Percent, without a language model, trained and tested on the full corpora; from the SUPERB paper.
PUBLISHED = {
    "FBANK": {"pr": 82.01, "sid": 8.5e-4, "asr": 23.18},
    "wav2vec 2.0 Base": {"pr": 5.74, "sid": 75.18, "asr": 6.43},
    "HuBERT Base": {"pr": 5.41, "sid": 81.42, "asr": 6.42},
}
SOURCE = "arXiv 2105.01051"
MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One line of the table: an upstream's results by task."""

    label: str
    results: dict[str, Result]


def rows(results: Sequence[Result], folders: Sequence[Path] = ()) -> list[Row]:
    """A row per upstream and checkpoint; results of the same task get a row each, named by their folder.

    Args:
        results: in the order in which their upstreams shall be listed.
        folders: of the experiments, in the same order; without them, equal ones are told apart by number.
    """
    places = [Path(os.path.abspath(folder)) for folder in folders]
    if not places:
        places = [Path(f"result {number}") for number, _ in enumerate(results, 1)]
    models: dict[tuple[str | None, ...], list[tuple[Path, Result]]] = {}
    for place, result in zip(places, results, strict=True):
        models.setdefault(_model(result), []).append((place, result))
    labels = _labels([found[0][1] for found in models.values()])
    table_rows = []
    for label, found in zip(labels, models.values(), strict=True):
        by_name: dict[str, dict[str, Result]] = {}
        for task in METRICS:
            of_task = [(place, result) for place, result in found if result.task == task]
            names = _told_apart([place for place, _ in of_task]) if len(of_task) > 1 else [""]
            for name, (_, result) in zip(names, of_task, strict=bool(of_task)):
                by_name.setdefault(name, {})[task] = result
        table_rows += [Row(f"{label} [{name}]" if name else label, each) for name, each in by_name.items()]
    return table_rows


def _model(result: Result) -> tuple[str | None, ...]:
    """What two results of the same model share."""
    checkpoint = result.checkpoint_sha256 or (result.checkpoint and os.path.normpath(result.checkpoint))
    config = result.upstream_config and os.path.normpath(result.upstream_config)
    return result.upstream, checkpoint, config


def _labels(models: Sequence[Result]) -> list[str]:
    """A label for each of several models, longer only where a shorter one would fit two."""

    def with_folders(depth: int) -> Callable[[Result], str]:
        def label(model: Result) -> str:
            return " ".join([model.upstream, *_tail(model.checkpoint, depth)])

        return label

    def with_config(model: Result) -> str:
        return " ".join([with_folders(2)(model), *_tail(model.upstream_config, 1)])

    def with_hash(model: Result) -> str:
        return f"{with_config(model)} {(model.checkpoint_sha256 or '')[:8]}".rstrip()

    labels = [""] * len(models)
    for write in (with_folders(2), with_config, with_folders(3), with_folders(4), with_hash):
        counts = Counter(labels)
        labels = [
            write(model) if counts[label] > 1 or not label else label
            for model, label in zip(models, labels, strict=True)
        ]
    return _numbered(labels)


def _tail(path: str | None, depth: int) -> list[str]:
    return [] if path is None else ["/".join(Path(path).parts[-depth:]).replace("//", "/")]


def _told_apart(paths: Sequence[Path]) -> list[str]:
    """The part of each path that the others do not share, at either end; at least one name."""
    parts = [list(path.parts) for path in paths]
    for end in (-1, 0):
        while all(len(each) > 1 for each in parts) and len({each[end] for each in parts}) == 1:
            for each in parts:
                each.pop(end)
    return _numbered(["/".join(each) for each in parts])


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, the second of equal ones with a (2), and so on."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return numbered


def percent(value: float) -> str:
    """Two decimals, or the first figures of something tiny: 82.01, 8.5e-4."""
    if value == 0 or value >= 0.005:
        return f"{value:.2f}"
    return f"{value:.1e}".replace("e-0", "e-")


def table(results: Sequence[Result], folders: Sequence[Path] = ()) -> str:
    """The results as a Markdown table with footnotes, SUPERB's published figures below them.

    Args:
        results: of any tasks and upstreams; an upstream's row stands where its first result does.
        folders: of the experiments, in the same order; they name what is there twice, see `rows`.
    """
    tasks = list(METRICS)
    with_lm = any(result.with_language_model for result in results)
    head = ["upstream", *(f"{task.upper()}: {METRICS[task].name} % {_arrow(task)}" for task in tasks)]
    if with_lm:
        head.append(f"ASR with LM: {METRICS['asr'].name} % {_arrow('asr')}")
    footnotes: dict[str, int] = {}
    lines = [head]
    for row in rows(results, folders):
        cells = [row.label]
        for task in tasks:
            result = row.results.get(task)
            cells.append(_cell(result, result.value, footnotes) if result else MISSING)
        if with_lm:
            asr = row.results.get("asr")
            model = asr.with_language_model if asr else None
            cells.append(_cell(asr, model["value"], footnotes) if asr and model else MISSING)
        lines.append(cells)
    lines.append([f"*published, full corpora ({SOURCE}):*", *[""] * (len(head) - 1)])
    for name, scores in PUBLISHED.items():
        figures = [*(percent(scores[task]) for task in tasks), *[MISSING] * with_lm]
        lines.append([f"*{name}*", *(f"*{figure}*" for figure in figures)])
    notes = [f"- [{number}] {text}" for text, number in footnotes.items()]
    return "\n".join([*_markdown(lines), *([""] if notes else []), *notes])


def _arrow(task: str) -> str:
    return "↑" if METRICS[task].higher_is_better else "↓"


def _cell(result: Result, value: float, footnotes: dict[str, int]) -> str:
    """The value with the numbers of its footnotes, which are added to those there are."""
    texts = list(result.notes)
    if not result.comparable:
        texts.insert(0, f"not SUPERB's settings or corpus: {'; '.join(map(str, result.differences))}")
    numbers = sorted(footnotes.setdefault(" ".join(text.split()), len(footnotes) + 1) for text in texts)
    return " ".join([percent(value), *(f"[{number}]" for number in numbers)])


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as a Markdown table that is also aligned as text; the first column to the left."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
    return [f"| {' | '.join(line)} |" for line in (aligned[0], rule, *aligned[1:])]
