"""Intent classification: the check of Fluent Speech Commands, and s3prl's own training and test on it."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
import soundfile

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.intent_classification.fluent_commands import (
    check_fluent_commands,
    trained_values,
    write_tables,
)
from s3prl_melhubert.downstream_recipes.report.results import read_result

SMALL = "config.downstream_expert.modelrc.projector_dim=8"


def change(root: Path, table: str, old: str, new: str) -> None:
    path = root / "data" / f"{table}_data.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_it_trains_tests_is_reported_submitted_and_used(
    fluent_commands, run_task, report_and_submit, predicted
):
    experiment, printed = run_task("ic", ["--fluent-commands", str(fluent_commands)], SMALL)
    assert "train: 12 utterances" in printed
    assert "utterances of valid 4 (SUPERB: 3118)" in printed
    result = read_result(experiment)
    log = (experiment / "log.txt").read_text().splitlines()
    [figure] = [line.split()[-1] for line in log if line.startswith("test acc: ")]
    assert result.value == pytest.approx(100 * float(figure))
    table, predict = report_and_submit("ic", experiment)
    assert "IC: ACC % ↑" in table.splitlines()[0]
    lines = (predict / "ic_public/predict.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"test-{i}" for i in range(4)]
    actions = {row["action"] for row in csv.DictReader((fluent_commands / "data/train_data.csv").open())}
    assert {line.split(",")[1] for line in lines} <= actions
    rows = predicted(experiment, fluent_commands, "wavs/*/*/test-*.wav", "--top", "9")
    slots = [[rows[f"test-{i}"][slot] for slot in ("action", "object", "location")] for i in range(4)]
    assert lines == [
        ",".join([f"test-{i}", *(choices[0]["label"] for choices in of_slots)])
        for i, of_slots in enumerate(slots)
    ]
    for choices in (choices for of_slots in slots for choices in of_slots):
        assert sum(each["probability"] for each in choices) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_it_runs_in_s3prls_own_program(fluent_commands, run_in_checkout):
    corpus = ["--fluent-commands", str(fluent_commands)]
    experiment = run_in_checkout("ic", "fluent_commands", "test", corpus, SMALL)
    assert len((experiment / "test_predict.csv").read_text().splitlines()) == 4


def test_commands_are_those_that_s3prl_reads_in_their_order(fluent_commands):
    """A file that is in two tables is in both."""
    tables = {split: fluent_commands / f"data/{split}_data.csv" for split in ("train", "valid", "test")}
    _, row, *_ = tables["train"].read_text().splitlines()
    with tables["valid"].open("a") as file:
        file.write(f"{row}\n")
    problems = Problems()
    found = check_fluent_commands(fluent_commands, problems)
    assert not problems.report()
    for split, table in tables.items():
        theirs = pd.read_csv(table)[["path", "action", "object", "location"]].to_numpy().tolist()
        assert [[each.path, *each.slots] for each in found[split]] == [
            [fluent_commands / path, *slots] for path, *slots in theirs
        ]
        for each in found[split]:
            assert each.samples == soundfile.info(each.path).frames


def test_a_stand_ins_tables_have_the_values_as_s3prl_reads_them(tmp_path):
    values = {"action": ["bring", 'say "a, b"'], "object": ["shoes", "none", "x\ny"], "location": ["none"]}
    write_tables(tmp_path, values)
    assert trained_values(tmp_path) == values
    theirs = pd.read_csv(tmp_path / "data/train_data.csv")
    assert {slot: list(dict.fromkeys(theirs[slot])) for slot in values} == values
    assert len(pd.read_csv(tmp_path / "data/valid_data.csv")) == 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda root: (root / "wavs/speakers/s1/test-3.wav").unlink(),
            "but that are not there: 1 (wavs/speakers/s1/test-3.wav)",
        ),
        (
            lambda root: (root / "wavs/speakers/s0/train-0.wav").write_bytes(b"RIFF"),
            "cannot be read to their end: 1 (s0/train-0.wav",
        ),
        (lambda root: change(root, "test", "shoes", "boots"), "does not have: 1 (object 'boots')"),
        (lambda root: change(root, "test", "shoes", "socks"), "are not in train: 1 (object 'socks')"),
        (
            lambda root: change(root, "test", "wavs/speakers/s1/test-3.wav", "wavs/speakers/s0/test-2.wav"),
            "in the test table more than once: 1 (test-2)",
        ),
        (lambda root: change(root, "valid", "location", "place"), "line 2 has nothing for location"),
        (lambda root: (root / "data/valid_data.csv").unlink(), "valid_data.csv: no such file"),
        (
            lambda root: (root / "data/valid_data.csv").write_bytes(b"\xff\xfe"),
            "valid_data.csv: cannot be read as a table (",
        ),
        (
            lambda root: (root / "data/test_data.csv").write_text("path,action,object,location\n"),
            "tables without a row: 1 (test_data.csv)",
        ),
        (lambda root: root.rename(root.with_name("elsewhere")), "no such folder"),
    ],
)
def test_each_fault_is_named(fluent_commands, tmp_path, capsys, short, spoil, told):
    spoil(fluent_commands)
    command = ["superb", "ic", "--fluent-commands", str(fluent_commands), "-u", "fbank", *short()]
    assert main([*command, "-p", str(tmp_path / "EXP")]) == 2
    assert told in capsys.readouterr().err


def test_predictions_that_are_no_intents_are_named(fluent_commands, run_task, tmp_path, capsys):
    experiment, _ = run_task("ic", ["--fluent-commands", str(fluent_commands)], SMALL)
    predictions = experiment / "test_predict.csv"
    lines = predictions.read_text().splitlines()
    for wrong in ("test-0,bring", "test-0,bring,shoes,attic"):
        predictions.write_text("\n".join([wrong, *lines[1:]]) + "\n")
        assert main(["superb", "submit", "--ic", str(experiment), "--out", str(tmp_path / "out")]) == 2
        assert f"line 1: '{wrong.partition(',')[2]}'" in capsys.readouterr().err
