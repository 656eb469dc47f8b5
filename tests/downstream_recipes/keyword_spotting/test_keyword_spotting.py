"""Keyword spotting: the check of Speech Commands, and s3prl's own training and test on it."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

import pytest
import soundfile

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.keyword_spotting.speech_commands import (
    CLASSES,
    KEYWORDS,
    NOISE,
    TEST_SET,
    check_speech_commands,
    split_of,
)
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.errors import MelHuBERTError

SMALL = "config.downstream_expert.modelrc.projector_dim=8,,config.downstream_expert.datarc.batch_size=8"


def clip_names(split: str):
    """Names of clips whose speakers are in the split."""
    return (name for n in count() if split_of(name := f"{n:08x}_nohash_0.wav") == split)


def test_it_trains_tests_is_reported_submitted_and_used(
    speech_commands, run_task, report_and_submit, predicted
):
    experiment, printed = run_task("ks", ["--speech-commands", str(speech_commands)], SMALL)
    assert "train: 34 utterances" in printed
    assert "utterances of test 12 (SUPERB: 3081)" in printed
    result = read_result(experiment)
    log = (experiment / "log.txt").read_text().splitlines()
    [figure] = [line.split()[-1] for line in log if line.startswith("test acc: ")]
    assert result.value == pytest.approx(100 * float(figure))
    table, predict = report_and_submit("ks", experiment)
    assert "KS: ACC % ↑" in table.splitlines()[0]
    lines = (predict / "ks_public/predict.txt").read_text().splitlines()
    assert lines == (experiment / "test_predict.txt").read_text().splitlines()
    assert "yes-0_nohash_0.wav" in [line.split()[0] for line in lines]
    rows = predicted(experiment, speech_commands.parent / TEST_SET, "*/*.wav")
    said = {name.rpartition("-")[2]: keyword for name, keyword in map(str.split, lines)}
    assert {f"{stem}.wav": row["keyword"][0]["label"] for stem, row in rows.items()} == said


@pytest.mark.slow
def test_it_runs_in_s3prls_own_program(speech_commands, run_in_checkout):
    corpus = ["--speech-commands", str(speech_commands)]
    experiment = run_in_checkout("ks", "speech_commands", "test", corpus, SMALL)
    assert len((experiment / "test_predict.txt").read_text().splitlines()) == 12


@pytest.fixture
def spoken_keywords(spoken_librispeech, tmp_path) -> Path:
    """The first second of strings of digits in Speech Commands' layout, which is all that is true of it."""
    root = tmp_path / "speech_commands_v0.01"
    for split, place in (("train-clean-100", "train"), ("dev-clean", "dev"), ("test-clean", "test")):
        files = sorted((spoken_librispeech / split).rglob("*.flac"))[:60]
        names = clip_names("train" if place == "test" else place)
        for number, (file, name) in enumerate(zip(files, names, strict=False)):
            wave, rate = soundfile.read(file, dtype="int16", frames=16000)
            word = CLASSES[number % 12] if place == "test" else (*KEYWORDS, "bed")[number % 11]
            path = (root.parent / TEST_SET if place == "test" else root) / word / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, rate)
    (root / NOISE).mkdir()
    soundfile.write(root / NOISE / "noise.wav", soundfile.read(files[0])[0][:20000], rate)
    return root


def test_real_speech_in_its_layout_trains_and_tests(spoken_keywords, run_task, report_and_submit):
    experiment, _ = run_task("ks", ["--speech-commands", str(spoken_keywords)], SMALL)
    assert read_result(experiment).test_utterances == 59
    report_and_submit("ks", experiment)


def test_splits_are_those_of_s3prl(speech_commands):
    from s3prl.downstream.speech_commands.dataset import SpeechCommandsTestingDataset
    from s3prl.downstream.speech_commands.expert import split_dataset

    problems = Problems()
    test_set = speech_commands.parent / TEST_SET
    splits = check_speech_commands(speech_commands, test_set, problems)
    problems.raise_if_any("Speech Commands")
    for split, theirs in zip(("train", "dev"), split_dataset(speech_commands), strict=True):
        ours = {clip.path for clip in splits[split] if clip.path.parent.name != NOISE}
        assert ours == {path for _, path in theirs}
        assert len(ours) == {"train": 33, "dev": 11}[split]
    dataset = SpeechCommandsTestingDataset(speech_commands_test_root=test_set)
    wave, _, name = dataset[0]
    [ours] = [clip for clip in splits["test"] if clip.prediction_name == name]
    assert len(wave) == ours.samples


def test_split_of_any_name_is_that_of_s3prl(tmp_path):
    """Of 1500 speakers, about fifteen are as near as a hundredth to each border between two splits."""
    from s3prl.downstream.speech_commands.expert import split_dataset

    (tmp_path / "yes").mkdir()
    names = {f"{n:08x}_nohash_{n % 3}.wav" for n in range(1500)} | {"a-speaker-alone.wav"}
    for name in names:
        (tmp_path / "yes" / name).touch()
    for split, theirs in zip(("train", "dev"), split_dataset(tmp_path), strict=True):
        assert {path.name for _, path in theirs} == {name for name in names if split_of(name) == split}


def absent_keyword(root: Path) -> None:
    shutil.rmtree(root / "go")


def absent_listed_file(root: Path) -> None:
    (root / "bed" / next(clip_names("dev"))).unlink()


def foreign_folder(root: Path) -> None:
    (root.parent / TEST_SET / "bed").mkdir()


def short_noise(root: Path) -> None:
    path = root / NOISE / "pink_noise.wav"
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave[:15999], rate)


def no_dev_clips(root: Path) -> None:
    for path in root.rglob(next(clip_names("dev"))):
        path.unlink()


def cut_short(root: Path) -> None:
    (root / "yes" / next(clip_names("train"))).write_bytes(b"RIFF")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (absent_keyword, "classes without a clip: 1 (go in train)"),
        (absent_listed_file, "lists but that are not there: 1 (bed/"),
        (foreign_folder, "none of the twelve classes: 1 (bed)"),
        (short_noise, "less than a second: 1 (pink_noise.wav)"),
        (no_dev_clips, "splits without a clip: 1 (dev)"),
        (lambda root: shutil.rmtree(root / NOISE), "classes without a clip: 1 (_silence_ in train)"),
        (cut_short, "cannot be read to their end: 1 (yes/"),
        (lambda root: shutil.rmtree(root.parent / TEST_SET), f"no {TEST_SET} beside it"),
        (lambda root: [shutil.rmtree(root / word) for word in KEYWORDS], "expected a folder for each word"),
    ],
)
def test_each_fault_is_named(speech_commands, tmp_path, capsys, short, spoil, told):
    spoil(speech_commands)
    command = ["superb", "ks", "--speech-commands", str(speech_commands), "-u", "fbank", *short()]
    assert main([*command, "-p", str(tmp_path / "EXP")]) == 2
    assert told in capsys.readouterr().err


def test_a_test_set_that_s3prl_would_train_on_is_refused(speech_commands, tmp_path):
    """Among the words it would be one more of them."""
    inside = (speech_commands.parent / TEST_SET).rename(speech_commands / "test")
    with pytest.raises(MelHuBERTError, match="test: the test set cannot lie among the words"):
        check_speech_commands(speech_commands, inside, Problems())
    with pytest.raises(MelHuBERTError, match="nowhere: no such folder"):
        check_speech_commands(speech_commands, tmp_path / "nowhere", Problems())


def test_batches_larger_than_the_corpus_are_refused(speech_commands, tmp_path, capsys, short):
    """s3prl leaves out the batch that is not full, and would wait for another one for ever."""
    command = ["superb", "ks", "--speech-commands", str(speech_commands), "-u", "fbank", *short()]
    command += ["-o", "config.downstream_expert.datarc.batch_size=64"]
    assert main([*command, "-p", str(tmp_path / "EXP")]) == 2
    assert "34 clips for training, a batch has 64" in capsys.readouterr().err
