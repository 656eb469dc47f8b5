"""A SUPERB task is one folder: with no more than that, every command knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import Result, write_result
from s3prl_melhubert.downstream_recipes.tasks import all_tasks

TOY = """
from pathlib import Path

from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.task import Argument, CheckedCorpus, Metric, Task
from s3prl_melhubert.errors import MelHuBERTError


def check(options):
    toys = Path(options.needed("toybox")) / "toys.txt"
    if not toys.is_file():
        raise MelHuBERTError(f"{toys}: no toys")
    return CheckedCorpus(
        path=options.needed("toybox"), summary=["toys: 3"], test_utterances=["bear"], differences=[]
    )


def fill_in(settings, preparation):
    if preparation.corpus is not None:
        settings["path"] = preparation.corpus.path


TASK = Task(
    key="toy",
    name="toy recognition",
    column=13,
    downstream="toys",
    folder=Path(__file__).parent,
    arguments=(Argument("toybox", "DIR", "holds the toys", example="box", required=True),),
    check=check,
    fill_in=fill_in,
    metric=Metric("FUN", higher_is_better=True, printed="fun", scale=100.0),
    test_split="test",
    test_name="test",
    best_checkpoint="dev-best.ckpt",
    predictions=(
        PredictionFile(
            "toys.txt", "toy_public/toys.txt", LineFormat("`TOY`", lambda fields: "noise" if fields else None)
        ),
    ),
    sizes={"train": 2, "test": 1},
)
"""


@pytest.fixture
def toy(tmp_path, add_task) -> Path:
    """The folder of a toy task's corpus."""
    add_task("toy", TOY, "path: null\n")
    box = tmp_path / "box"
    box.mkdir()
    (box / "toys.txt").touch()
    return box


@pytest.fixture
def toy_experiment(toy, tmp_path, result: Callable[..., Result]) -> Path:
    """An experiment with the toy task that has ended."""
    folder = tmp_path / "EXP"
    folder.mkdir()
    write_result(folder, result("toy", 75.0, predictions="toys.txt", test_utterances=1))
    (folder / "test_utterances.txt").write_text("bear\n")
    (folder / "toys.txt").write_text("bear\n")
    return folder


def shown(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_tasks_are_in_superbs_order():
    order = ["pr", "ks", "ic", "sid", "er", "asr", "qbe", "sf", "asv", "sd", "se", "ss"]
    assert list(all_tasks()) == order


def test_a_folder_with_a_task_is_a_command(toy, capsys):
    assert "Toy recognition: check the corpus, train, test (FUN)" in shown(["superb", "--help"], capsys)
    of_the_task = shown(["superb", "toy", "--help"], capsys)
    assert "--toybox DIR holds the toys" in of_the_task
    assert "melhubert superb toy --toybox box -u melhubert_local" in of_the_task
    assert {"--steps", "--lr", "--keep-states"} <= set(of_the_task.split())
    assert "for s3prl's -d toys" in shown(["superb", "config", "--help"], capsys)
    of_config = shown(["superb", "config", "toy", "--help"], capsys)
    assert of_config.endswith("example: melhubert superb config toy --toybox box")


def test_help_of_a_task_without_training_has_nothing_of_training(capsys):
    of_the_task = shown(["superb", "qbe", "--help"], capsys)
    assert "--precision" in of_the_task
    assert not [option for option in ("--steps", "--lr", "--keep-states") if option in of_the_task]


def test_its_corpus_is_checked_and_its_settings_filled_in(toy, tmp_path, capsys):
    command = ["superb", "config", "toy", "--toybox", str(toy), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(Path(printed.out.strip()).read_text()) == {"path": str(toy)}
    assert printed.err == "toys: 3\n"
    (toy / "toys.txt").unlink()
    assert main(command) == 2
    assert "no toys" in capsys.readouterr().err


def test_it_has_its_column_in_the_report_and_no_published_figures(toy_experiment, tmp_path, capsys):
    assert main(["superb", "report", str(toy_experiment), "--out", str(tmp_path / "report")]) == 0
    head, _, row, _, *published = capsys.readouterr().out.splitlines()[:7]
    assert head.split("|")[-2].strip() == "TOY: FUN % ↑"
    assert row.split("|")[-2].strip() == "75.00"
    assert [line.split("|")[-2].strip() for line in published] == ["*–*"] * 3
    assert (tmp_path / "report/report.png").is_file()


def test_it_has_its_place_in_the_submission(toy_experiment, tmp_path, capsys):
    command = ["superb", "submit", "--toy", str(toy_experiment), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert (tmp_path / "out/predict/toy_public/toys.txt").read_text() == "bear\n"
    (toy_experiment / "toys.txt").write_text("bear growls\n")
    assert main(command) == 2
    assert "lines that are not `TOY`: 1 (line 1: noise)" in capsys.readouterr().err


def test_result_of_a_task_that_is_not_there_is_refused(result, tmp_path, capsys):
    write_result(tmp_path, replace(result("pr", 1.0), task="tlk"))
    assert main(["superb", "report", str(tmp_path)]) == 2
    assert f"task is 'tlk', expected one of {', '.join(all_tasks())}" in capsys.readouterr().err
