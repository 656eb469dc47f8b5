"""`melhubert superb report`: the results of several experiments as one table and one picture.

A row per upstream (s3prl's name and its checkpoint), a column per task; under them SUPERB's published
figures, for orientation. What a result was made with that is not SUPERB's stands in a footnote of the table,
and its bar in the picture is hatched.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.downstream_recipes.problems import check_writable
from s3prl_melhubert.downstream_recipes.results import METRICS, RESULTS, TASK_NAMES, Result, read_result
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPORT, PICTURE = "report.md", "report.png"

# Percent, without a language model, trained and tested on the full corpora; from the SUPERB paper.
PUBLISHED = {
    "FBANK": {"pr": 82.01, "sid": 8.5e-4, "asr": 23.18},
    "wav2vec 2.0 Base": {"pr": 5.74, "sid": 75.18, "asr": 6.43},
    "HuBERT Base": {"pr": 5.41, "sid": 81.42, "asr": 6.42},
}
SOURCE = "arXiv 2105.01051"
MISSING = "–"

# Okabe and Ito's palette without its black, yellow last (pale on paper): told apart by the colour-blind, too.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442"]
GREY = "#9A9A9A"
MARKERS = "osD^vPX"
HATCH = "////"
DPI = 150
CHARACTER = 0.078  # inches, a little over the average of the 9-point font
PANEL = 3.3  # inches, the width of a panel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiments",
        nargs="+",
        metavar="EXP",
        help="an experiment's folder, or a folder with several of them somewhere below",
    )
    parser.add_argument("--out", metavar="DIR", help=f"also write {REPORT} and {PICTURE} there")


def run(args: argparse.Namespace) -> int:
    folders = find_experiments(args.experiments)
    results = [read_result(folder) for folder in folders]
    text = table(results, folders)
    print(text)
    if args.out is not None:
        print(f"\nwritten: {', '.join(map(str, write_report(results, Path(args.out), folders)))}")
    return 0


def find_experiments(places: Iterable[str | Path]) -> list[Path]:
    """The experiments' folders in the order of `places`, those below one place by name; each once.

    Below an experiment's folder nothing is searched: a search of learning rates keeps its trials there.

    Raises:
        MelHuBERTError: there is none at or below one of the places.
    """
    found: dict[Path, Path] = {}  # by the resolved path
    for place in places:
        here = []
        for folder, below, files in os.walk(place):
            below.sort()
            if RESULTS in files:
                here.append(Path(folder))
                below.clear()
        if not here:
            raise MelHuBERTError(
                f"{place}: no {RESULTS} here or below; give folders in which `melhubert superb TASK` ended"
            )
        for path in here:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def write_report(results: Sequence[Result], out: Path, folders: Sequence[Path] = ()) -> list[Path]:
    """Write `report.md` and `report.png` into `out`; return their paths. Arguments as in `table`."""
    check_writable(out)
    draw(results, out / PICTURE, folders)
    with atomic_path(out / REPORT) as temporary:
        temporary.write_text(
            f"# SUPERB results\n\n{table(results, folders)}\n\n![The table's figures as bars]({PICTURE})\n",
            encoding="utf-8",
        )
    return [out / REPORT, out / PICTURE]


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


def draw(results: Sequence[Result], path: str | Path, folders: Sequence[Path] = ()) -> None:
    """Draw the table's figures, and below them the weights that each task gave the upstreams' layers.

    Args:
        results, folders: as in `table`.
        path: of the PNG to write.
    """
    with atomic_path(path) as temporary:
        figure(results, folders).savefig(temporary, dpi=DPI, format="png")


def figure(results: Sequence[Result], folders: Sequence[Path] = ()) -> Figure:
    """The picture as a matplotlib figure: a column of panels per task that has a result."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    table_rows = rows(results, folders)
    tasks = [task for task in METRICS if any(task in row.results for row in table_rows)]
    layered = [
        number
        for number, row in enumerate(table_rows)
        if any(len(result.layer_weights) > 1 for result in row.results.values())
    ]
    handles: list[Line2D | Patch] = [
        Line2D([], [], **_style(number), label=_plain(table_rows[number].label)) for number in layered
    ]
    handles.append(Patch(color=GREY, label=f"published, full corpora ({SOURCE})"))
    if not all(result.comparable for result in results):
        handles.append(
            Patch(
                facecolor="white", edgecolor="#444444", hatch=HATCH, label="not SUPERB's settings or corpus"
            )
        )

    # Sizes in inches.
    name = max(len(line) for row in table_rows for line in _two_lines(row.label).splitlines())
    width = CHARACTER * max(name, 20) + PANEL * len(tasks)
    heights = [0.3 * (len(table_rows) + len(PUBLISHED)) + 0.6, *([2.3] if layered else [])]
    entry = CHARACTER * max(len(str(handle.get_label())) for handle in handles) + 0.7
    legend_columns = max(1, min(3, int(width / entry)))
    legend = 0.25 * -(-len(handles) // legend_columns)
    size = (width, sum(heights) + legend + 1.2)
    picture = Figure(figsize=size, layout="constrained")
    axes = picture.subplots(len(heights), len(tasks), squeeze=False, sharey="row", height_ratios=heights)
    for column, task in enumerate(tasks):
        _draw_scores(axes[0, column], task, table_rows)
        if layered:
            _draw_weights(axes[1, column], task, table_rows)
    if layered:
        axes[1, 0].set_ylabel("weight")
        axes[1, 0].set_ylim(bottom=0)
    for panel in axes.flat:
        panel.tick_params(labelsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    picture.legend(
        handles=handles, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=9
    )
    return picture


def _style(number: int) -> dict[str, Any]:
    """How a row's line looks; from the eighth row on, colours come again with other dashes."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3],
        "markersize": 4,
        "linewidth": 1.4,
    }


def _two_lines(label: str) -> str:
    """A label with the upstream above the rest."""
    return label.replace(" ", "\n", 1)


def _plain(label: str) -> str:
    """A label in which matplotlib sees no formula."""
    return label.replace("$", r"\$")


def _draw_scores(axes: Axes, task: str, table_rows: Sequence[Row]) -> None:
    """A bar per row, the published ones below, each with its value."""
    metric, published = METRICS[task], {name: scores[task] for name, scores in PUBLISHED.items()}
    texts: list[tuple[float, float, str, str]] = []  # the bar's length and position, the text and its colour
    for number, row in enumerate(table_rows):
        result = row.results.get(task)
        if result is None:
            texts.append((0, number, MISSING, "black"))
            continue
        colour = COLOURS[number % len(COLOURS)]
        axes.barh(
            number,
            result.value,
            height=0.7,
            facecolor=colour if result.comparable else (colour, 0.3),
            edgecolor=colour,
            hatch=None if result.comparable else HATCH,
        )
        with_lm = result.with_language_model
        more = f" (LM {percent(with_lm['value'])})" if with_lm else ""
        texts.append((result.value, number, percent(result.value) + more, "black"))
    positions = [len(table_rows) + 0.4 + number for number in range(len(published))]  # a gap sets them apart
    axes.barh(positions, list(published.values()), height=0.7, color=GREY)
    for position, value in zip(positions, published.values(), strict=True):
        texts.append((value, position, percent(value), "#555555"))
    for value, position, text, colour in texts:
        axes.annotate(
            text, (value, position), (4, 0), textcoords="offset points", va="center", fontsize=9, color=colour
        )
    # The text beside the longest bar needs its share of the axis.
    axes.set_xlim(0, max(value / (1 - (CHARACTER * len(text) + 0.1) / PANEL) for value, _, text, _ in texts))

    better = "higher" if metric.higher_is_better else "lower"
    axes.set_title(f"{TASK_NAMES[task]}\n{metric.name}, %: {better} is better", fontsize=10)
    labels = [_plain(_two_lines(row.label)) for row in table_rows]
    axes.set_yticks([*range(len(labels)), *positions], [*labels, *published])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(positions[-1] + 0.6, -0.6)  # the first row on top


def _draw_weights(axes: Axes, task: str, table_rows: Sequence[Row]) -> None:
    """A line per row over its hidden states; an upstream with only one has no weights to show."""
    from matplotlib.ticker import MaxNLocator

    single = []
    for number, row in enumerate(table_rows):
        weights = row.results[task].layer_weights if task in row.results else None
        if weights is None:
            continue
        if len(weights) > 1:
            axes.plot(range(len(weights)), weights, **_style(number))
        else:
            single.append(_plain(row.label))
    not_drawn = fill(f"(one layer only: {', '.join(single)})", 45) if single else ""
    axes.set_title(f"layer weights\n{not_drawn}".rstrip(), fontsize=9)
    axes.set_xlabel("layer (0: the first one's input)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if not axes.lines:
        axes.set_xticks([])  # the frame stays: the first panel carries the scale of all
