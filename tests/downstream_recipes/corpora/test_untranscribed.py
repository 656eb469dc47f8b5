"""Files without a transcript are a fault, or are left out where the user wants it; the result says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import read_result

OPTION = "--skip-untranscribed"


@pytest.fixture
def partly_transcribed(librispeech, write_audio) -> Path:
    """A FLAC file more than transcripts, an utterance without a word, and a chapter without transcripts."""
    write_audio(librispeech / "train-clean-100/10/7/10-7-0099.flac", samples=9000)
    said = librispeech / "dev-clean/20/7/20-7.trans.txt"
    said.write_text(said.read_text().replace("20-7-0002 THE BOY LAUGHED AT THE DOG", "20-7-0002"))
    (librispeech / "test-clean/31/7/31-7.trans.txt").unlink()  # two utterances
    return librispeech


@pytest.mark.parametrize(
    ("task", "predictions"), [("pr", "test-hyp.ark"), ("asr", "test-clean-noLM-hyp.ark")]
)
def test_they_are_left_out_on_request(
    task, predictions, partly_transcribed, corpus, small, tmp_path, short, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    experiment = tmp_path / "EXP"
    named = [word.replace(f"{tmp_path}/", "") for word in corpus[task]]
    command = ["superb", task, *named, "-u", "fbank", "-p", str(experiment), *short(), "-o", small[task]]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "FLAC files without a transcript: 1" in told
    assert "transcripts without a word: 1" in told
    assert f"or leave them out with {OPTION}" in told

    assert main([*command, OPTION]) == 0
    assert "  files without a transcript, left out 4 (SUPERB: 0)\n" in capsys.readouterr().out
    assert read_result(experiment).test_utterances == 3
    tested = [line.split()[0] for line in (experiment / predictions).read_text().splitlines()]
    assert sorted(tested) == ["30-7-0000", "30-7-0002", "30-7-0004"]


def test_other_faults_stay_faults(partly_transcribed, corpus, tmp_path, short, capsys):
    next(partly_transcribed.glob("train-clean-100/10/7/10-7-0002.flac")).unlink()
    command = ["superb", "asr", *corpus["asr"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
    assert main([*command, OPTION]) == 2
    told = capsys.readouterr().err
    assert "transcripts whose FLAC is not there: 1" in told
    assert "\n" not in told.strip()


def test_a_corpus_without_such_files_is_superbs(librispeech, corpus, tmp_path, short, capsys):
    command = ["superb", "asr", *corpus["asr"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
    assert main([*command, OPTION, "--stage", "check"]) == 0
    assert "left out" not in capsys.readouterr().out
    assert not (tmp_path / "EXP/transcribed").exists()


def test_settings_for_s3prls_own_program_leave_them_out_too(partly_transcribed, corpus, tmp_path, capsys):
    command = ["superb", "config", "pr", *corpus["pr"], "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert main([*command, OPTION]) == 0
    assert f"path: {tmp_path}/out/transcribed\n" in Path(capsys.readouterr().out.strip()).read_text()
