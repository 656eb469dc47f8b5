"""Tasks through the command line: s3prl trains and tests for real, on corpora of seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import sha256_of, write_json
from s3prl_melhubert.support.locks import LOCK

HOLD = """
import sys, time
from s3prl_melhubert.support.locks import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("task", "predictions", "first"),
    [
        ("pr", "test-hyp.ark", "30-7-0000"),
        ("sid", "test_predict.txt", "id10001-video1-00005"),
        ("asr", "test-clean-noLM-hyp.ark", "30-7-0000"),
    ],
)
def test_task_checks_trains_tests_and_says_what_is_not_superbs(
    task, predictions, first, corpus, upstream, tmp_path, capsys, short, small
):
    experiment = tmp_path / "EXP"
    command = ["superb", task, *corpus[task], *upstream, "-p", str(experiment), *short()]
    command += ["-o", small[task]]
    assert main(command) == 0
    printed = capsys.readouterr().out
    result = read_result(experiment)

    # Once, after the score, a line each.
    _, said = printed.split("not SUPERB's settings or corpus:\n")
    assert said.startswith("  runner.total_steps 2 (SUPERB: ")
    assert said.count("runner.total_steps") == 1
    assert f"{result.metric} {result.value:.2f} %" in printed
    assert not result.comparable
    assert {"runner.total_steps", "runner.eval_step"} < {each.setting for each in result.differences}
    assert any("utterances of" in each.setting for each in result.differences)
    assert sum(result.layer_weights) == pytest.approx(1, abs=1e-4)
    assert result.checkpoint_sha256 is not None
    assert result.hours["train"] > 0
    # The figure is what s3prl printed, and the file has each test utterance once.
    log = (experiment / "log.txt").read_text()
    value = {"pr": "per", "sid": "acc", "asr": "wer"}[task]
    figure = [line for line in log.splitlines() if line.startswith("test") and f" {value}: " in line][-1]
    assert float(figure.split()[-1]) * (1 if task == "asr" else 100) == pytest.approx(result.value)
    names = [line.split()[0] for line in (experiment / predictions).read_text().splitlines()]
    assert sorted(names) == sorted((experiment / "test_utterances.txt").read_text().split())
    assert first in names
    assert result.predictions == predictions
    assert result.predictions_sha256 == sha256_of(experiment / predictions)
    assert result.tested_weights_sha256 is not None
    assert result.statistics_sha256 == FeatureStats.load("librispeech-360h").digest()
    assert result.precision == "fp32"

    # Again: nothing is left to do, and nothing is done.
    before = {path: path.stat().st_mtime_ns for path in experiment.rglob("*")}
    assert main(command) == 0
    assert "this experiment has ended" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in experiment.rglob("*")} == before


@pytest.mark.parametrize("task", ["pr", "sid", "asr"])
def test_paths_may_be_relative(task, corpus, upstream, tmp_path, capsys, monkeypatch, short, small):
    monkeypatch.chdir(tmp_path)
    command = ["superb", task, *corpus[task], *upstream, "-p", str(tmp_path / "EXP"), *short()]
    command = [os.path.relpath(word) if word.startswith("/") else word for word in command]
    command += ["-o", small[task]]
    assert main(command) == 0
    assert read_result(Path("EXP")).steps == 2
    printed = capsys.readouterr().out
    assert "; log: EXP/log.txt\n" in printed
    assert "\nEXP/results.json: written\n" in printed


def test_stages_can_be_run_one_by_one(corpus, tmp_path, capsys, short):
    experiment = tmp_path / "EXP"
    command = ["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(experiment), *short()]
    assert main([*command, "--stage", "check"]) == 0
    assert not list(experiment.glob("*.ckpt"))
    assert main([*command, "--stage", "test"]) == 2
    assert "has not ended" in capsys.readouterr().err
    assert main([*command, "--stage", "train"]) == 0
    assert (experiment / "dev-best.ckpt").is_file()
    assert not (experiment / "results.json").exists()
    assert main([*command, "--stage", "test"]) == 0
    assert read_result(experiment).upstream == "fbank"


def test_copies_that_the_user_makes_of_checkpoints_are_left_alone(corpus, tmp_path, short):
    experiment = tmp_path / "EXP"
    command = ["superb", "sid", *corpus["sid"], "-u", "fbank", "-p", str(experiment), *short(4)]
    command += ["-o", "config.runner.save_step=1,,config.runner.max_keep=1"]
    experiment.mkdir()
    copies = [experiment / f"states-{name}.ckpt" for name in ("2_copy", "2-copy", "copy-2", "copy")]
    for copy in copies:
        copy.write_bytes(b"a copy")
    assert main(command) == 0
    assert [copy.read_bytes() for copy in copies] == [b"a copy"] * 4
    assert sorted(set(experiment.glob("states-*.ckpt")) - set(copies)) == [experiment / "states-4.ckpt"]


def test_search_tests_the_learning_rate_that_is_best_on_dev_and_reports_all(corpus, tmp_path, short):
    experiment = tmp_path / "EXP"
    rates = ["--lr", "1e-1,1e-9"]
    command = ["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(experiment), *short(8), *rates]
    assert main(command) == 0
    result = read_result(experiment)
    assert [trial.learning_rate for trial in result.search] == [1e-1, 1e-9]
    assert result.value == next(t.test for t in result.search if t.learning_rate == result.learning_rate)
    assert all(trial.test is not None for trial in result.search)
    devs = [trial.dev for trial in result.search]
    assert len(set(devs)) > 1
    assert result.dev == min(devs)
    assert result.learning_rate == result.search[devs.index(min(devs))].learning_rate
    assert result.predictions == f"lr-{result.learning_rate:g}/test-hyp.ark"
    assert "optimizer.lr" not in {each.setting for each in result.differences}


def test_no_experiment_goes_on_beside_a_program_in_a_learning_rates_folder(corpus, tmp_path, capsys, short):
    """s3prl's own program trains in such a folder, too, and holds its lock."""
    command = ["superb", "sid", *corpus["sid"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short(4)]
    command += ["--lr", "1e-1,1e-2", "-o", "config.runner.save_step=2"]
    (tmp_path / "EXP/lr-0.01").mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "EXP/lr-0.01"], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        assert main(command) == 2
        other.kill()
    error = capsys.readouterr().err
    assert f"{tmp_path}/EXP/lr-0.01: another process is at work on this folder (host " in error
    assert not list((tmp_path / "EXP").rglob("*.ckpt"))
    assert main(command) == 0
    assert not list((tmp_path / "EXP").rglob(LOCK))


def test_a_learning_rates_folder_is_not_an_experiment_of_its_own(corpus, tmp_path, capsys, short):
    """It would go on from that rate's checkpoints, beside the experiment that writes them."""
    (tmp_path / "EXP/lr-0.1").mkdir(parents=True)
    write_json(tmp_path / "EXP/experiment.json", {"task": "sid"})
    command = ["superb", "sid", *corpus["sid"], "-u", "fbank", "-p", str(tmp_path / "EXP/lr-0.1"), *short(4)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"EXP/lr-0.1: belongs to the experiment in the folder above; give -p {tmp_path}/EXP, or" in error
    assert not list((tmp_path / "EXP").rglob("*.ckpt"))


def test_two_corpora_in_a_row_give_two_right_results(corpus, voxceleb, tmp_path, installed_s3prl, short):
    """s3prl's own list of files stays that of the first corpus that it ever saw."""
    cache = installed_s3prl / "downstream/voxceleb1/.cache"
    before = cache.exists()
    root, split_file = voxceleb
    other = tmp_path / "other"
    shutil.copytree(root, other)
    lines = split_file.read_text().replace("video0", "film0").replace("video1", "film1")
    (other / "iden_split.txt").write_text(lines)
    for folder in [*other.glob("*/wav/*/video?")]:
        folder.rename(folder.with_name(folder.name.replace("video", "film")))
    for place, word in ((root, "video"), (other, "film")):
        experiment = tmp_path / word
        command = ["superb", "sid", "--voxceleb", str(place), "-u", "fbank", "-p", str(experiment), *short()]
        assert main(command) == 0
        assert all(f"-{word}" in line for line in (experiment / "test_predict.txt").read_text().splitlines())
    assert cache.exists() == before


def test_number_of_workers_holds_for_every_split(corpus, tmp_path, short):
    """s3prl's ctc takes it out of its settings with the first split, and starts 12 for the others."""
    experiment = tmp_path / "EXP"
    assert main(["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(experiment), *short()]) == 0
    settings = torch.load(experiment / "dev-best.ckpt", weights_only=True)["Config"]
    assert settings["downstream_expert"]["corpus"]["num_workers"] == 0
