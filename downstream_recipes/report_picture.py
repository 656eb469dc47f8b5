"""The report's picture: bars for each task, and the weights that it gave the upstreams' layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.downstream_recipes.report_table import MISSING, PUBLISHED, SOURCE, Row, percent, rows
from s3prl_melhubert.downstream_recipes.results import METRICS, TASK_NAMES, Result
from s3prl_melhubert.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its black, yellow last (pale on paper): told apart by the colour-blind, too.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442"]
GREY = "#9A9A9A"
MARKERS = "osD^vPX"
HATCH = "////"
DPI = 150
CHARACTER = 0.078  # inches, a little over the average of the 9-point font
PANEL = 3.3  # inches, the width of a panel


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
