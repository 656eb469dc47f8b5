"""The table and the picture of results: every figure in its place, and what is not SUPERB's."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.report.picture import DPI, build_picture, draw
from s3prl_melhubert.downstream_recipes.report.results import Result, Trial, write_result
from s3prl_melhubert.downstream_recipes.report.table import percent, rows, table
from s3prl_melhubert.downstream_recipes.running.experiments.parts import mean_of_parts
from s3prl_melhubert.downstream_recipes.tasks import all_tasks

SHORTER = [Difference("runner.total_steps", 100000, 1500)]


@pytest.fixture
def results(result) -> list[Result]:
    """A spectrum with two tasks, a model of three layers with three, one of them not made as SUPERB's."""
    model = {"upstream": "melhubert_local", "checkpoint": "exp/digits/last.ckpt"}
    return [
        result("pr", 82.5),
        result("asr", 101.25),
        result("pr", 10.125, **model, layer_weights=[0.2, 0.3, 0.5]),
        result("sid", 44.0, **model, layer_weights=[0.6, 0.3, 0.1], differences=SHORTER),
        result("asr", 20.5, **model, layer_weights=[0.1, 0.8, 0.1], with_language_model={"value": 15.25}),
    ]


def cells(text: str) -> dict[str, list[str]]:
    """The table's cells by the first of each line."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    return {first: rest for first, *rest in lines}  # fmt: skip


def test_table_has_a_row_per_upstream_and_the_published_figures(results):
    found = cells(table(results))
    assert found["upstream"] == ["PR: PER % ↓", "SID: ACC % ↑", "ASR: WER % ↓", "ASR with LM: WER % ↓"]
    assert found["fbank"] == ["82.50", "–", "101.25", "–"]
    assert found["melhubert_local digits/last.ckpt"] == ["10.12", "44.00 [1]", "20.50", "15.25"]
    assert found["*published, full corpora (arXiv 2105.01051):*"] == [""] * 4
    assert found["*FBANK*"] == ["*82.01*", "*8.5e-4*", "*23.18*", "*–*"]
    assert found["*wav2vec 2.0 Base*"] == ["*5.74*", "*75.18*", "*6.43*", "*–*"]
    assert found["*HuBERT Base*"] == ["*5.41*", "*81.42*", "*6.42*", "*–*"]


def test_table_has_no_column_and_no_footnotes_that_nothing_needs(result):
    text = table([result("pr", 82.5)])
    assert len(cells(text)["upstream"]) == 3
    assert "[1]" not in text


def test_footnotes_tell_what_is_not_superbs_and_equal_ones_are_shared(result):
    other = [*SHORTER, Difference("utterances of test", 8251, 40)]
    text = table(
        [
            result("pr", 50, differences=SHORTER, notes=["pronunciations from\nCMUdict"]),
            result("sid", 30, differences=other),
            result("pr", 40, "hubert", differences=SHORTER),
        ]
    )
    assert cells(text)["fbank"] == ["50.00 [1] [2]", "30.00 [3]", "–"]
    assert cells(text)["hubert"] == ["40.00 [1]", "–", "–"]
    assert text.splitlines()[-6:] == [
        "- [1] not SUPERB's settings or corpus:",
        "    - runner.total_steps 1500 (SUPERB: 100000)",
        "- [2] pronunciations from CMUdict",
        "- [3] not SUPERB's settings or corpus:",
        "    - runner.total_steps 1500 (SUPERB: 100000)",
        "    - utterances of test 40 (SUPERB: 8251)",
    ]


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ({"checkpoint": "a/last.ckpt"}, {"checkpoint": "b/last.ckpt"}, ["m a/last.ckpt", "m b/last.ckpt"]),
        ({"checkpoint": "a/x/c.pt"}, {"checkpoint": "b/x/c.pt"}, ["m a/x/c.pt", "m b/x/c.pt"]),
        ({"checkpoint": None}, {"checkpoint": "c.pt"}, ["m", "m c.pt"]),
        ({"upstream_config": "g/1.yaml"}, {"upstream_config": "g/2.yaml"}, ["m 1.yaml", "m 2.yaml"]),
        (
            {"checkpoint": "x/c.pt", "checkpoint_sha256": "1234567890"},
            {"checkpoint": "x/c.pt", "checkpoint_sha256": "abcdefghij"},
            ["m x/c.pt 12345678", "m x/c.pt abcdefgh"],
        ),
    ],
)
def test_labels_are_as_long_as_it_takes_to_tell_models_apart(result, first, second, labels):
    found = rows(
        [result("pr", 1, "m", **first), result("pr", 2, "m", **second), result("asr", 3, "m", **second)]
    )
    assert [row.label for row in found] == labels
    assert [sorted(row.results) for row in found] == [["pr"], ["asr", "pr"]]


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ({"statistics_sha256": "1" * 64}, {"statistics_sha256": "2" * 64}, ["11111111", "22222222"]),
        ({"precision": "fp32"}, {"precision": "bf16"}, ["fp32", "bf16"]),
        (
            {"upstream_config_sha256": "1" * 64},
            {"upstream_config_sha256": "2" * 64},
            ["g.yaml", "g.yaml (2)"],
        ),
    ],
)
def test_what_an_upstream_computed_with_tells_models_apart_and_not_the_path_of_its_settings(
    result, first, second, labels
):
    model = {"upstream": "m", "checkpoint": "x/c.pt", "upstream_config": "g.yaml"}
    both = [result("sid", 1, **model, **first), result("er", 2, **model, **second)]
    assert [row.label.endswith(label) for row, label in zip(rows(both), labels, strict=True)] == [True, True]
    elsewhere = replace(both[0], task="er", upstream_config="there/g.yaml")
    assert len(rows([both[0], elsewhere])) == (2 if "precision" in first else 1)
    older = result("pr", 3, **model)
    assert len(rows([both[0], older])) == 1


def test_a_checkpoint_that_was_moved_is_still_one_upstream(result):
    found = rows(
        [result(task, 1, "m", f"{task}/c.pt", checkpoint_sha256="1" * 64) for task in ("pr", "sid", "asr")]
    )
    assert [(row.label, list(row.results)) for row in found] == [("m pr/c.pt", ["pr", "sid", "asr"])]


def test_repeated_experiments_are_told_apart_by_their_folders(result):
    twice = [result("pr", 1), result("asr", 2), result("pr", 3), result("asr", 4), result("sid", 5)]
    folders = [Path(f"exp/{name}") for name in ("seed1/pr", "seed1/asr", "seed2/pr", "seed2/asr", "sid")]
    found = {
        row.label: {task: each.value for task, each in row.results.items()} for row in rows(twice, folders)
    }
    assert found == {
        "fbank [seed1]": {"pr": 1, "asr": 2},
        "fbank [seed2]": {"pr": 3, "asr": 4},
        "fbank": {"sid": 5},
    }
    without_folders = [row.label for row in rows(twice[::2])]
    assert without_folders == ["fbank [result 1]", "fbank [result 2]", "fbank"]


def test_percent_shows_something_of_tiny_values():
    assert [percent(value) for value in (0.0, 8.5e-4, 0.004, 0.005, 100.0)] == [
        "0.00",
        "8.5e-4",
        "4.0e-3",
        "0.01",
        "100.00",
    ]


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


def test_ten_tasks_are_two_bands_of_panels_each_with_a_column_in_the_table(result):
    weights = [0.5, 0.3, 0.2]
    results = [
        result(key, 10.0 + n, layer_weights=weights if task.trained else [])
        for n, (key, task) in enumerate(all_tasks().items())
    ]
    picture = build_picture(results)
    titles = [panel.get_title().split("\n")[0] for panel in picture.axes if panel.patches]
    assert titles == [task.name for task in all_tasks().values()]
    assert len([panel for panel in picture.axes if panel.lines]) == 9
    assert "no layer weights: nothing is trained" in [panel.get_title() for panel in picture.axes]
    assert len({round(panel.get_position().y0, 2) for panel in picture.axes}) > 2
    header = table(results).splitlines()[0]
    assert [header.count(f"| {task.title}: ") for task in all_tasks().values()] == [
        1,
        1,
        1,
        1,
        1,
        1,
        1,
        2,
        1,
        1,
    ]


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


def test_command_prints_the_table_and_writes_it_only_when_asked(results, tmp_path, capsys):
    for number, each in enumerate(results):
        (tmp_path / "exp" / str(number)).mkdir(parents=True)
        write_result(tmp_path / "exp" / str(number), each)
    before = sorted(tmp_path.rglob("*"))
    assert main(["superb", "report", str(tmp_path / "exp")]) == 0
    text = table(results)
    assert capsys.readouterr().out == f"{text}\n"
    assert sorted(tmp_path.rglob("*")) == before

    out = tmp_path / "new" / "out"
    assert main(["superb", "report", str(tmp_path / "exp"), "--out", str(out)]) == 0
    assert text in (out / "report.md").read_text(encoding="utf-8")
    assert "](report.png)" in (out / "report.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in out.iterdir()) == ["report.md", "report.png"]


def test_command_ends_with_status_2_where_it_cannot_write(results, tmp_path, capsys):
    write_result(tmp_path, results[0])
    assert main(["superb", "report", str(tmp_path), "--out", str(tmp_path / "results.json")]) == 2
    assert "results.json" in capsys.readouterr().err
