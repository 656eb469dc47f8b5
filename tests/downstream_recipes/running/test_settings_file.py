"""The settings that `melhubert superb config` writes work in s3prl's own program."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from s3prl_melhubert.cli import main
from s3prl_melhubert.compat.command_lines.downstream import RUNNER


def test_phone_recognition_runs_in_s3prls_own_program(run_in_checkout, s3prl_checkout, corpus, small):
    """pip's s3prl has no ctc/corpus, which a checkout has: ours stands in."""
    assert not (s3prl_checkout / "downstream/ctc/corpus").exists()
    experiment = run_in_checkout("pr", "ctc", "test", corpus["pr"], small["pr"])
    assert len((experiment / "test-hyp.ark").read_text().splitlines()) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "downstream", "split", "predictions"),
    [
        ("sid", "voxceleb1", "test", "test_predict.txt"),
        ("asr", "asr", "test-clean", "test-clean-noLM-hyp.ark"),
    ],
)
def test_other_tasks_run_in_s3prls_own_program(
    task, downstream, split, predictions, run_in_checkout, corpus, small
):
    experiment = run_in_checkout(task, downstream, split, corpus[task], small[task])
    assert (experiment / predictions).read_text()


def test_corpus_module_of_a_checkout_goes_before_ours(run_python, s3prl_checkout):
    folder = s3prl_checkout / "downstream/ctc/corpus"
    folder.mkdir()
    (folder / "libriphone.py").write_text("LibriPhoneDataset = 'theirs'\n")
    code = "from s3prl.downstream.ctc.corpus.libriphone import LibriPhoneDataset as it; print(it)"
    result = run_python("-c", code, PYTHONPATH=str(s3prl_checkout.parent))
    assert result.stdout.strip() == "theirs", result.stderr


def test_settings_without_a_corpus_say_what_is_left_to_be_set(tmp_path, lexicon_file, capsys):
    command = ["superb", "config", "pr", "--lexicon", str(lexicon_file), "--out", str(tmp_path)]
    assert main(command) == 0
    printed = capsys.readouterr()
    settings = yaml.safe_load(Path(printed.out.strip()).read_text())
    assert settings["downstream_expert"]["corpus"]["lexicon"] == [str(lexicon_file)]
    assert settings["runner"]["total_steps"] == 100_000
    assert "downstream_expert.corpus.path" in printed.err


def test_cache_that_cannot_be_written_is_one_clear_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["superb", "config", "pr"]) == 2
    assert "cannot be written (Not a directory); choose another folder with --out" in capsys.readouterr().err


def test_stale_lists_of_s3prls_own_program_are_pointed_out(run_python, s3prl_checkout, voxceleb, tmp_path):
    arguments = ["config", "sid", "--voxceleb", voxceleb[0], "--out", tmp_path / "out"]

    def warned() -> bool:
        path = str(s3prl_checkout.parent)
        result = run_python("-m", "s3prl_melhubert", "superb", *arguments, PYTHONPATH=path)
        assert result.returncode == 0, result.stderr
        return "voxceleb1/.cache" in result.stderr

    assert not warned()
    (s3prl_checkout / "downstream/voxceleb1/.cache").mkdir()
    assert warned()


def test_stale_lists_are_pointed_out_to_those_who_run_s3prls_own_program(
    run_python, s3prl_checkout, tmp_path
):
    (s3prl_checkout / "downstream/voxceleb1/.cache").mkdir()
    settings = {"downstream_expert": {}, "optimizer": {}, "runner": dict.fromkeys(RUNNER, 1)}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    command = ["run-downstream", "-m", "train", "-u", "fbank", "-d", "voxceleb1", "-c", tmp_path / "c.yaml"]
    result = run_python(
        "-m",
        "s3prl_melhubert",
        *command,
        *("-p", tmp_path / "exp", "--device", "cpu"),
        PYTHONPATH=str(s3prl_checkout.parent),
    )
    assert "-d voxceleb1: " in result.stdout
    assert "voxceleb1/.cache: s3prl takes its files from these lists" in result.stdout
