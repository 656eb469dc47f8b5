"""The picture of results: every figure in its place."""

import struct

import pytest

from s3prl_melhubert.downstream_recipes.report.picture import DPI, build_picture, draw
from s3prl_melhubert.downstream_recipes.report.results import Trial
from s3prl_melhubert.downstream_recipes.report.table import table
from s3prl_melhubert.downstream_recipes.running.experiments.parts import mean_of_parts
from s3prl_melhubert.downstream_recipes.tasks import all_tasks


def test_bars_are_the_values_and_each_is_labelled(results):
    scores = build_picture(results).axes[:3]
    assert [axes.get_title().splitlines() for axes in scores] == [
        ["phone recognition", "PER, %: lower is better"],
        ["speaker identification", "ACC, %: higher is better"],
        ["speech recognition", "WER, %: lower is better"],
    ]
    assert [[bar.get_width() for bar in axes.patches] for axes in scores] == [
        [82.5, 10.125, 82.01, 5.74, 5.41],
        [44.0, 8.5e-4, 75.18, 81.42],
        [101.25, 20.5, 23.18, 6.43, 6.42],
    ]
    assert [[text.get_text() for text in axes.texts] for axes in scores] == [
        ["82.50", "10.12", "82.01", "5.74", "5.41"],
        ["–", "44.00", "8.5e-4", "75.18", "81.42"],
        ["101.25", "20.50 (LM 15.25)", "23.18", "6.43", "6.42"],
    ]
    hatched = [[bar.get_hatch() is not None for bar in axes.patches] for axes in scores]
    assert hatched == [[False] * 5, [True, False, False, False], [False] * 5]
    names = [label.get_text() for label in scores[0].get_yticklabels()]
    assert names == ["fbank", "melhubert_local\ndigits/last.ckpt", "FBANK", "wav2vec 2.0 Base", "HuBERT Base"]


@pytest.mark.filterwarnings("error")
def test_scores_of_zero_have_an_axis(result, tmp_path):
    search = [Trial(None, 0.0, f"layer-{layer}", None, layer) for layer in range(2)]
    zeros = [result("qbe", 0.0, search=search, layer=0, learning_rate=None, dev=0.0), result("sf", 0.0)]
    draw(zeros, tmp_path / "report.png")
    assert [axes.get_xlim() for axes in build_picture(zeros).axes[:2]] == [(0, 1), (0, 1)]


def test_a_score_below_zero_is_drawn_to_the_left(result):
    search = [Trial(rate, -rate, f"lr-{rate}") for rate in (1.0, 2.0)]
    picture = build_picture([result("ss", -4.5, dev=-1.0, search=search, learning_rate=1.0)])
    scores, tried = picture.axes
    assert scores.get_title().splitlines()[1] == "SI-SDRi, dB: higher is better"
    assert scores.get_xlim()[0] == -4.5
    assert next((text.get_text(), text.xy[0]) for text in scores.texts) == ("-4.50", 0)
    assert tried.get_title() == "SI-SDRi on dev, dB, by learning rate"


def test_lines_are_the_layer_weights_whatever_their_number(result, results):
    results = [*results, result("pr", 9.0, "hubert", layer_weights=[0.25] * 4)]
    picture = build_picture(results)
    weights = picture.axes[3:]
    assert [
        [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines] for axes in weights
    ] == [
        [([0, 1, 2], [0.2, 0.3, 0.5]), ([0, 1, 2, 3], [0.25] * 4)],
        [([0, 1, 2], [0.6, 0.3, 0.1])],
        [([0, 1, 2], [0.1, 0.8, 0.1])],
    ]
    assert [axes.get_title() for axes in weights] == [
        "layer weights\n(one layer only: fbank)",
        "layer weights",
        "layer weights\n(one layer only: fbank)",
    ]
    assert [text.get_text() for text in picture.legends[0].get_texts()] == [
        "melhubert_local digits/last.ckpt",
        "hubert",
        "published, full corpora (arXiv 2105.01051)",
        "not SUPERB's settings or corpus",
    ]


def test_there_are_no_panels_for_absent_tasks_and_weights(result):
    assert len(build_picture([result("sid", 50.0)]).axes) == 1
    assert len(build_picture([result("sid", 50.0, layer_weights=[0.5, 0.5])]).axes) == 2


def test_rates_of_a_sweep_are_a_line_and_the_one_that_counts_is_named(result):
    search = [Trial(1e-1, 81.0, "lr-0.1", 80.0), Trial(1e-4, 67.0, "lr-0.0001", 66.0), Trial(1e-3, None, "x")]
    swept = result("sid", 80.0, search=search, learning_rate=1e-1, dev=81.0)
    axes = build_picture([swept, result("pr", 20.0)]).axes
    line, ring = axes[-1].lines
    assert line.get_xydata().tolist() == [[1e-4, 67.0], [1e-1, 81.0]]
    assert ring.get_xydata().tolist() == [[1e-1, 81.0]]
    assert not axes[-2].lines  # PR was not searched
    told = "learning rate 0.1, the best by ACC on dev, of 0.0001 (67.00 %), 0.1 (81.00 %); none for 0.001"
    assert told in table([swept])


def test_what_counts_is_drawn_by_the_split_and_the_metric_that_chose_it(result):
    """ASV has no dev split, SD's best is by its accuracy, QbE has layers, ER's curve is its folds' mean."""
    search = [Trial(1e-1, None, "lr-0.1", 9.0), Trial(1e-2, None, "lr-0.01", 7.0)]
    layers = [Trial(None, 1.0 + layer, f"layer-{layer}", None, layer) for layer in range(3)]
    devs = [Trial(1e-1, 60.0, "lr-0.1"), Trial(1e-2, 70.0, "lr-0.01")]
    results = [
        result("qbe", 3.0, search=layers, layer=2, learning_rate=None, dev=3.0),
        result("asv", 7.0, search=search, learning_rate=1e-2),
        result("sd", 12.0, search=devs, learning_rate=1e-2, dev=70.0),
    ]
    panels = build_picture(results).axes[3:]
    assert [panel.get_title() for panel in panels] == [
        "MTWV on dev, %, by layer",
        "EER on test, %, by learning rate",
        "ACC on dev, %, by learning rate",
    ]
    assert [panel.lines[0].get_xydata().tolist() for panel in panels] == [
        [[0, 1], [1, 2], [2, 3]],
        [[1e-2, 7.0], [1e-1, 9.0]],
        [[1e-2, 70.0], [1e-1, 60.0]],
    ]
    assert [panel.lines[1].get_xydata().tolist() for panel in panels] == [[[2, 3]], [[1e-2, 7]], [[1e-2, 70]]]
    assert "asv: learning rate 0.01, the best by EER on test, of 0.01 (7.00 %), 0.1 (9.00 %)" in table(
        results
    )

    folds = {
        f"fold{n}": result("er", 50.0 + n, search=devs, learning_rate=rate, dev=70.0)
        for n, rate in enumerate((1e-2, 1e-2, 1e-1, 1e-2, 1e-2), 1)
    }
    mean = mean_of_parts(folds)
    assert mean.learning_rate is None
    assert mean.curve == [(1e-2, 70.0), (1e-1, 60.0)]
    assert mean.chosen == (
        "er: learning rates fold1 0.01, fold2 0.01, fold3 0.1, fold4 0.01, fold5 0.01, each the best of its "
        "part; mean ACC on dev, of 0.01 (70.00 %), 0.1 (60.00 %)"
    )


def test_all_tasks_are_two_bands_of_panels_each_with_a_column_in_the_table(result):
    weights, tasks = [0.5, 0.3, 0.2], all_tasks().values()
    results = [
        result(task.key, 10.0 + n, layer_weights=weights if task.trained else [])
        for n, task in enumerate(tasks)
    ]
    picture = build_picture(results)
    titles = [panel.get_title().split("\n")[0] for panel in picture.axes if panel.patches]
    assert titles == [task.name for task in tasks]
    assert len([panel for panel in picture.axes if panel.lines]) == sum(task.trained for task in tasks)
    assert "no layer weights: nothing is trained" in [panel.get_title() for panel in picture.axes]
    assert len({round(panel.get_position().y0, 2) for panel in picture.axes}) > 2
    header = table(results).splitlines()[0]
    columns = [header.count(f"| {task.title}: ") for task in tasks]
    assert columns == [1 + len(task.further_metrics) for task in tasks]
    assert {3, 2, 1} == set(columns)


def test_picture_is_a_png_of_the_figures_size(results, tmp_path):
    path = tmp_path / "report.png"
    draw(results, path)
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == pytest.approx(
        build_picture(results).get_size_inches() * DPI, abs=1
    )


def test_labels_that_look_like_formulas_are_drawn_as_they_are(result, tmp_path):
    strange = result("pr", 50.0, "m", "$a_$/|b.ckpt", layer_weights=[0.5, 0.5])
    draw([strange], tmp_path / "report.png")
    assert "| m $a_$/\\|b.ckpt " in table([strange])
