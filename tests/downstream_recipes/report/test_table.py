"""The table of results: every figure in its place, what is not SUPERB's, and models told apart."""

from dataclasses import replace
from pathlib import Path

import pytest

from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.report.table import rows, table, two_decimals

SHORTER = [Difference("runner.total_steps", 100000, 1500)]


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


def test_two_decimals_show_something_of_tiny_values():
    assert [two_decimals(value) for value in (0.0, 8.5e-4, 0.004, 0.005, 100.0, -4.5)] == [
        "0.00",
        "8.5e-4",
        "4.0e-3",
        "0.01",
        "100.00",
        "-4.50",
    ]
