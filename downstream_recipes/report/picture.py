"""The report's picture: bars for each task, the weights of the upstreams' layers, the search for a rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from s3prl_melhubert.downstream_recipes.report.results import Result
from s3prl_melhubert.downstream_recipes.report.table import (
    MISSING,
    SOURCE,
    Row,
    published_upstreams,
    rows,
    second_score,
    two_decimals,
)
from s3prl_melhubert.downstream_recipes.task import Task
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.support.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

# Okabe and Ito's palette has colours that the colour-blind tell apart, too. Black is left out; yellow, pale
# on paper, comes last.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442"]
GREY = "#9A9A9A"
MARKERS = "osD^vPX"
HATCH = "////"
DPI = 150
CHARACTER = 0.078  # inches, a little over the average of the 9-point font
PANEL = 3.3  # inches, the width of a panel
MOST_COLUMNS = 5  # of panels beside each other; more tasks stand below them


def draw(results: Sequence[Result], path: str | Path, folders: Sequence[Path] = ()) -> None:
    """Draw the table's scores, and below them the weights that each task gave the upstreams' layers.

    Args:
        results, folders: as in `table`.
        path: the PNG to write.
    """
    with atomic_path(path) as temporary:
        build_picture(results, folders).savefig(temporary, dpi=DPI, format="png")


def build_picture(results: Sequence[Result], folders: Sequence[Path] = ()) -> Figure:
    """Build the picture for matplotlib: a column of panels for each task that has a result.

    Below the scores stand the layers' weights and the dev scores by learning rate, where there are any.
    """
    table_rows = rows(results, folders)
    tasks = [task for task in all_tasks().values() if any(task.key in row.results for row in table_rows)]
    layered = _numbers(table_rows, lambda result: len(result.layer_weights) > 1)
    swept = _numbers(table_rows, lambda result: bool(result.curve))
    handles = _handles(results, table_rows, sorted({*layered, *swept}))

    heights = [0.3 * (len(table_rows) + len(published_upstreams())) + 0.6]  # inches
    draws = [_draw_scores]  # what stands in a panel of each height
    for numbers, draw_panel in ((layered, _draw_weights), (swept, _draw_search)):
        if numbers:
            heights.append(2.3)
            draws.append(draw_panel)
    picture, bands = _empty_picture(table_rows, len(tasks), heights, handles)
    for number, task in enumerate(tasks):
        band, column = divmod(number, bands.shape[2])
        for draw_panel, panel in zip(draws, bands[band, :, column], strict=True):
            draw_panel(panel, task, table_rows)
            if column and draw_panel is not _draw_search:
                panel.tick_params(labelleft=False)  # as in the first panel of the band
    if layered:
        _share_scale(bands[:, draws.index(_draw_weights)])
    for panel in bands.flat:
        panel.set_visible(panel.has_data() or bool(panel.get_title()))
        panel.tick_params(labelsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    return picture


def _numbers(table_rows: Sequence[Row], has: Callable[[Result], bool]) -> list[int]:
    """The numbers of the rows in which some result has what is asked for."""
    return [number for number, row in enumerate(table_rows) if any(map(has, row.results.values()))]


def _handles(
    results: Sequence[Result], table_rows: Sequence[Row], lines: Sequence[int]
) -> list[Line2D | Patch]:
    """The entries of the legend: the rows that are drawn as lines, and what the bars' looks mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = [
        Line2D([], [], **_style(number), label=_plain(table_rows[number].label)) for number in lines
    ]
    handles.append(Patch(color=GREY, label=f"published, full corpora ({SOURCE})"))
    if not all(result.comparable for result in results):
        label = "not SUPERB's settings or corpus"
        handles.append(Patch(facecolor="white", edgecolor="#444444", hatch=HATCH, label=label))
    return handles


def _empty_picture(
    table_rows: Sequence[Row], tasks: int, heights: Sequence[float], handles: Sequence[Line2D | Patch]
) -> tuple[Figure, np.ndarray]:
    """The picture with its legend and its panels, which are empty.

    Returns:
        The picture, and its panels (bands, heights, columns): a task has a column of panels in one band.
    """
    from matplotlib.figure import Figure

    # All sizes are in inches.
    name = max(len(line) for row in table_rows for line in _two_lines(row.label).splitlines())
    bands = -(-tasks // MOST_COLUMNS)  # of so many tasks beside each other
    columns = -(-tasks // bands)
    width = CHARACTER * max(name, 20) + PANEL * columns
    entry = CHARACTER * max(len(str(handle.get_label())) for handle in handles) + 0.7
    legend_columns = max(1, min(3, int(width / entry)))
    legend = 0.25 * -(-len(handles) // legend_columns)
    height = bands * (sum(heights) + 0.6) + legend + 0.6
    picture = Figure(figsize=(width, height), layout="constrained")
    axes = picture.subplots(bands * len(heights), columns, squeeze=False, height_ratios=[*heights] * bands)
    picture.legend(
        handles=handles, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=9
    )
    return picture, axes.reshape(bands, len(heights), columns)


def _share_scale(weights: np.ndarray) -> None:
    """Give the panels (bands, columns) of layers' weights one scale."""
    highest = max((panel.get_ylim()[1] for panel in weights.flat if panel.lines), default=1)
    for panel in weights.flat:
        panel.set_ylim(0, highest)
    for panel in weights[:, 0]:
        panel.set_ylabel("weight")


def _style(number: int) -> dict[str, Any]:
    """Return how a row's line looks; from the eighth row on, colours come again with other dashes."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3],
        "markersize": 4,
        "linewidth": 1.4,
    }


def _two_lines(label: str) -> str:
    """Break a label into two lines, the upstream above the rest."""
    return label.replace(" ", "\n", 1)


def _plain(label: str) -> str:
    """Write a label so that matplotlib sees no formula in it."""
    return label.replace("$", r"\$")


def _draw_scores(axes: Axes, task: Task[Any], table_rows: Sequence[Row]) -> None:
    """Draw a bar for each row, those of published scores below, and write its value beside each."""
    texts: list[tuple[float, float, str, str]] = []  # the bar's length and position, the text and its colour
    for number, row in enumerate(table_rows):
        result = row.results.get(task.key)
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
        text, second = two_decimals(result.value), second_score(result)
        if task.second_test is not None and second is not None:
            text += f" ({task.second_test.label} {two_decimals(second)})"
        text += "".join(f" ({name} {two_decimals(value)})" for name, value in result.further.items())
        texts.append((max(0, result.value), number, text, "black"))  # beside a bar to the left, too
    published = [(name, task.published.get(name)) for name in published_upstreams()]
    positions = [len(table_rows) + 0.4 + number for number in range(len(published))]  # a gap sets them apart
    for position, (_, score) in zip(positions, published, strict=True):
        if score is not None:
            axes.barh(position, score, height=0.7, color=GREY)
        texts.append((score or 0, position, MISSING if score is None else two_decimals(score), "#555555"))
    for value, position, text, colour in texts:
        axes.annotate(
            text, (value, position), (4, 0), textcoords="offset points", va="center", fontsize=9, color=colour
        )
    # The text beside the longest bar needs its share of the axis.
    longest = max(value / (1 - (CHARACTER * len(text) + 0.1) / PANEL) for value, _, text, _ in texts)
    lowest = min([0, *(row.results[task.key].value for row in table_rows if task.key in row.results)])
    axes.set_xlim(lowest, longest or 1)  # an axis has a length also where all scores are 0

    better = "higher" if task.metric.higher_is_better else "lower"
    measure = ", ".join(filter(None, (task.metric.name, task.metric.unit)))
    axes.set_title(f"{task.name}\n{measure}: {better} is better", fontsize=10)
    labels = [_plain(_two_lines(row.label)) for row in table_rows]
    axes.set_yticks([*range(len(labels)), *positions], [*labels, *(name for name, _ in published)])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(positions[-1] + 0.6, -0.6)  # the first row on top


def _draw_weights(axes: Axes, task: Task[Any], table_rows: Sequence[Row]) -> None:
    """Draw a line for each row over its hidden states; an upstream with only one has no weights to show."""
    from matplotlib.ticker import MaxNLocator

    if not task.trained:
        axes.set_title("no layer weights: nothing is trained", fontsize=9)
        axes.set_axis_off()
        return
    single = []
    for number, row in enumerate(table_rows):
        weights = row.results[task.key].layer_weights if task.key in row.results else None
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


def _draw_search(axes: Axes, task: Task[Any], table_rows: Sequence[Row]) -> None:
    """Draw each row's scores by learning rate, or by layer, with a ring around the one that counts."""
    drawn: Result | None = None
    for number, row in enumerate(table_rows):
        result = row.results.get(task.key)
        if result is None or not result.curve:
            continue
        drawn, style = result, _style(number)
        axes.plot(*zip(*result.curve, strict=True), **style)
        counts = result.layer if result.learning_rate is None else result.learning_rate
        scores = dict(result.curve)
        if counts in scores:
            axes.plot(counts, scores[counts], "o", markersize=9, color=style["color"], markerfacecolor="none")
    axes.grid(alpha=0.3)
    if drawn is None:
        axes.set_title("(one learning rate)" if task.trained else "", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    tried = "learning rate" if task.trained else "layer"
    metric, split = drawn.chosen_on
    unit = f", {metric.unit}" if metric.unit else ""
    axes.set_title(f"{metric.name} on {split}{unit}, by {tried}", fontsize=9)
    axes.set_xlabel(tried, fontsize=9)
    if task.trained:
        axes.set_xscale("log")
