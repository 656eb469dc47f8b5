"""Speaker diarization: its check, and runs of it by s3prl's own expert."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.outputs import Turn
from s3prl_melhubert.downstream_recipes.prediction import Predictor
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.downstream_recipes.speaker_diarization.error_rate import (
    CHOICES,
    read_probabilities,
    turns_of,
)
from s3prl_melhubert.downstream_recipes.speaker_diarization.kaldi_data import check_kaldi_data
from s3prl_melhubert.downstream_recipes.speaker_diarization.task import TASK
from s3prl_melhubert.errors import MelHuBERTError

RATE = 16_000
SMALL = "config.downstream_expert.modelrc.hidden_size=8,,config.runner.gradient_accumulate_steps=1"


@pytest.fixture
def packages() -> None:
    """What the `sd` extra installs."""
    pytest.importorskip("h5py")
    pytest.importorskip("pyannote.metrics")


# -- corpora ---------------------------------------------------------------------------------------------


def write_set(folder: Path, mixtures: dict[str, tuple[np.ndarray, list[Turn]]]) -> None:
    """Write mixtures and their turns in Kaldi's layout."""
    (folder / "wav").mkdir(parents=True)
    lists: dict[str, list[str]] = {
        name: [] for name in ("wav.scp", "reco2dur", "segments", "utt2spk", "spk2utt")
    }
    for name, (wave, turns) in mixtures.items():
        path = folder / "wav" / f"{name}.wav"
        soundfile.write(path, wave, RATE)
        lists["wav.scp"].append(f"{name} {path}")
        lists["reco2dur"].append(f"{name} {len(wave) / RATE}")
        for i, (speaker, start, end) in enumerate(turns):
            lists["segments"].append(f"{name}_{i} {name} {start} {end}")
            lists["utt2spk"].append(f"{name}_{i} {speaker}")
            lists["spk2utt"].append(f"{speaker} {name}_{i}")
    for name, lines in lists.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def libri2mix(tmp_path) -> Path:
    """Mixtures of two hums of one second, which overlap by half: four in train, two in dev and in test."""
    root = tmp_path / "libri2mix"
    time = np.arange(RATE) / RATE
    for split, count in (("train", 4), ("dev", 2), ("test", 2)):
        mixtures = {}
        for i in range(count):
            first, second = (0.3 * np.sin(2 * np.pi * pitch * time) for pitch in (150 + 10 * i, 900 - 20 * i))
            wave = np.zeros(RATE * 3 // 2)
            wave[:RATE] += first
            wave[RATE // 2 :] += second
            mixtures[f"{split}{i}"] = (wave, [("low", 0.0, 1.0), ("high", 0.5, 1.5)])
        write_set(root / split, mixtures)
    return root


@pytest.fixture
def spoken(tmp_path, spoken_librispeech) -> Path:
    """Digits of two speakers at a time, the second of whom begins in the middle of the first."""
    root = tmp_path / "libri2mix"
    for split, chapter, count in (("train", 1, 16), ("dev", 2, 4), ("test", 3, 4)):
        folder = spoken_librispeech / {1: "train-clean-100", 2: "dev-clean", 3: "test-clean"}[chapter]
        mixtures = {}
        for i in range(count):
            speakers = (9001 + i % 3, 9004 + i % 3)
            waves = [soundfile.read(sorted(folder.glob(f"{s}/*/*.flac"))[i // 3])[0] for s in speakers]
            start = len(waves[0]) // 2
            wave = np.zeros(max(len(waves[0]), start + len(waves[1])))
            wave[: len(waves[0])] += waves[0]
            wave[start : start + len(waves[1])] += waves[1]
            turns = [(str(speakers[0]), 0.0, len(waves[0]) / RATE)]
            turns.append((str(speakers[1]), start / RATE, (start + len(waves[1])) / RATE))
            mixtures[f"{split}{i}"] = (wave / 2, turns)
        write_set(root / split, mixtures)
    return root


def command(
    corpus: Path, experiment: Path, *arguments: str, upstream: Sequence[str] = ("-u", "fbank")
) -> list[str]:
    return ["superb", "sd", "--libri2mix", str(corpus), *upstream, "-p", str(experiment), *arguments]


# -- runs ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("packages")
def test_task_trains_tests_reports_and_submits(libri2mix, upstream, tmp_path, short, capsys):
    experiment = tmp_path / "EXP"
    assert main(command(libri2mix, experiment, *short(), "-o", SMALL, upstream=upstream)) == 0
    printed = capsys.readouterr().out
    result = read_result(experiment)
    assert result.predictions_sha256 is not None
    rates = json.loads((experiment / "scoring/der.json").read_text())
    assert result.value == pytest.approx(100 * min(rates.values()))
    assert 0 < result.value <= 100
    assert result.tested_checkpoint == "best-states-dev.ckpt"
    assert f"(dev ACC {result.dev:.2f} %)" in printed
    assert (experiment / "frame_shift").read_text().strip() == "320"  # the upstream's
    settings = {each.setting for each in result.differences}
    assert {"utterances of test", "downstream_expert.modelrc.hidden_size"} <= settings
    assert not {name for name in settings if "num_workers" in name or name.endswith("_dir")}

    assert main(["superb", "report", str(experiment)]) == 0
    assert "SD: DER % ↓" in capsys.readouterr().out
    out = tmp_path / "out"
    submit = ["superb", "submit", "--sd", str(experiment), "--out", str(out)]
    assert main(submit) == 0
    names = [
        "predict/sd_public/frame_shift",
        *(f"predict/sd_public/scoring/predictions/test{i}.h5" for i in range(2)),
    ]
    with zipfile.ZipFile(out / "predict.zip") as archive:
        assert archive.namelist() == names
        assert archive.read(names[1]) == (experiment / "scoring/predictions/test0.h5").read_bytes()
    assert sorted(f"{path.relative_to(out)}" for path in out.rglob("predict/**/*.*")) == names[1:]
    assert (out / "predict/sd_public/frame_shift").read_text() == "320\n"

    # What is missing or no prediction is named.
    (experiment / "frame_shift").rename(tmp_path / "frame_shift")
    assert main(submit) == 2
    assert f"{experiment / 'frame_shift'}: cannot be read" in capsys.readouterr().err
    (tmp_path / "frame_shift").rename(experiment / "frame_shift")
    capsys.readouterr()
    (experiment / "scoring/predictions/test0.h5").unlink()
    (experiment / "scoring/predictions/test1.h5").write_bytes(b"nothing")
    assert main(submit) == 2
    said = capsys.readouterr().err
    assert "test utterances that are missing: 1 (test0)" in said
    assert "files that are no predictions: 1 (test1: no HDF5 file)" in said


@pytest.mark.usefixtures("packages")
def test_turns_in_new_audio_are_those_that_the_test_scored(
    libri2mix, upstream, tmp_path, short, capsys, predicted, monkeypatch
):
    experiment = tmp_path / "EXP"
    train = command(libri2mix, experiment, *short(6), "-o", SMALL, "--lr", "1e-1,1e-9", upstream=upstream)
    assert main(train) == 0
    tested = experiment / Path(read_result(experiment).predictions).parent
    rates = json.loads((tested / "scoring/der.json").read_text())
    for best in ("median 1, threshold 0.4", min(rates, key=rates.get)):
        (tested / "scoring/der.json").write_text(json.dumps({**rates, best: -1.0}))
        median, threshold = CHOICES[best]
        rows = predicted(experiment, libri2mix, "test/wav/*.wav")
        assert sorted(rows) == ["test0", "test1"]
        for name, row in rows.items():
            probabilities = read_probabilities(tested / f"scoring/predictions/{name}.h5")
            expected = turns_of(probabilities, threshold, median, 320)
            found = [(each["speaker"], each["start"], each["end"]) for each in row["turns"]]
            assert found
            assert sorted(found) == [(who, start, round(end, 2)) for who, start, end in expected]
    wave = libri2mix / "test/wav/test0.wav"
    predict = ["superb", "predict", str(experiment), str(wave), "--device", "cpu"]
    capsys.readouterr()
    assert main(predict) == 0
    line = capsys.readouterr().out
    assert main([*predict, "--rttm"]) == 0
    fields = [line.split() for line in capsys.readouterr().out.splitlines()]
    said = ", ".join(
        f"{each[7].replace('_', ' ')} {float(each[3]):.2f}-{float(each[3]) + float(each[4]):.2f}"
        for each in fields
    )
    assert line == f"{wave}\t{said}\n"
    assert {(each[0], each[1], each[2], each[5]) for each in fields} == {("SPEAKER", "test0", "1", "<NA>")}
    blank = shutil.copy(wave, tmp_path / "a b.wav")
    assert main(["superb", "predict", str(experiment), str(blank), "--rttm", "--device", "cpu"]) == 2
    assert "a b.wav: RTTM has no names with blanks" in capsys.readouterr().err
    # Not even a message of s3prl's leaves a handler in the program that uses it.
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        assert Predictor(experiment, device="cpu").marks_turns
        assert logging.getLogger().handlers == []
    for damaged in ("[]", '{"median 2, threshold 0.4": 0.1}', '{"median 1, threshold 0.4": "low"}', "{"):
        (tested / "scoring/der.json").write_text(damaged)
        assert main(["superb", "predict", str(experiment), str(wave), "--device", "cpu"]) == 2
        assert "scoring/der.json" in capsys.readouterr().err


def test_what_is_less_than_a_frame_is_not_heard():
    settings = {"downstream_expert": {"datarc": {"frame_shift": 320}}}
    assert len(TASK.outputs.hear(torch.zeros(1279), settings)) == 960
    assert len(TASK.outputs.hear(torch.zeros(100), settings)) == 100
    expert = SimpleNamespace(datarc={"frame_shift": 320})
    assert TASK.outputs.turns(expert, torch.zeros(1, 4), torch.zeros(100), "") == []


@pytest.mark.usefixtures("packages")
def test_of_several_learning_rates_the_most_accurate_on_dev_is_tested(libri2mix, tmp_path, short):
    experiment = tmp_path / "EXP"
    assert main(command(libri2mix, experiment, *short(6), "-o", SMALL, "--lr", "1e-1,1e-9")) == 0
    result = read_result(experiment)
    devs = [trial.dev for trial in result.search]
    assert len(set(devs)) == 2
    assert result.dev == max(devs)
    assert result.predictions == f"lr-{result.learning_rate:g}/frame_shift"
    assert main(["superb", "submit", "--sd", str(experiment), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.usefixtures("packages")
def test_training_on_real_speech_lowers_the_error(spoken, tmp_path, short):
    settings = SMALL.replace("=8", "=32")
    values = []
    for steps, rate in ((1, "1e-9"), (40, "1e-2")):
        experiment = tmp_path / f"EXP{steps}"
        assert main(command(spoken, experiment, *short(steps), "-o", settings, "--lr", rate)) == 0
        values.append(read_result(experiment).value)
    assert values[1] < values[0]


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_it_runs_in_s3prls_own_program(libri2mix, run_python, s3prl_checkout, tmp_path, capsys):
    config_command = ["superb", "config", "sd", "--libri2mix", str(libri2mix), "--workers", "0"]
    assert main([*config_command, "--out", str(tmp_path / "c")]) == 0
    config = capsys.readouterr().out.strip()
    steps = [f"config.runner.{name}=2" for name in ("total_steps", "eval_step", "save_step")]
    start = ["-u", "fbank", "-d", "diarization", "-c", config, "-p", tmp_path / "EXP"]
    for arguments in (
        ["-m", "train", *start, "-o", ",,".join([*steps, SMALL])],
        ["-m", "evaluate", "-e", tmp_path / "EXP/best-states-dev.ckpt"],
    ):
        program = ["run_downstream.py", *arguments, "--device", "cpu"]
        done = run_python(*program, cwd=s3prl_checkout, PYTHONPATH=str(s3prl_checkout.parent))
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "EXP/scoring/predictions").glob("*.h5"))) == 2


@pytest.mark.parametrize("package", ["h5py", "pyannote.metrics"])
def test_absent_package_is_named_with_what_to_install(
    package, libri2mix, tmp_path, short, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(command(libri2mix, tmp_path / "EXP", *short())) == 2
    assert "pip install 's3prl-melhubert[sd]'" in capsys.readouterr().err


# -- the check -------------------------------------------------------------------------------------------


def test_mixtures_and_labels_are_those_that_s3prl_reads(libri2mix):
    pytest.importorskip("h5py")
    from s3prl_melhubert.compat import finder

    finder.install()
    from s3prl.downstream.diarization.dataset import DiarizationDataset

    problems = Problems()
    mixtures = check_kaldi_data(libri2mix / "test", problems)
    problems.raise_if_any("mixtures")
    theirs = DiarizationDataset("test", str(libri2mix / "test"), frame_shift=160, num_speakers=2)
    assert theirs.rec_list == [mixture.name for mixture in mixtures]
    [wave], [labels], name = theirs[0]
    assert (name, len(wave)) == (mixtures[0].name, mixtures[0].samples)
    speakers = sorted({speaker for speaker, _, _ in mixtures[0].turns})
    for speaker, start, end in mixtures[0].turns:
        talks = np.flatnonzero(labels[:, speakers.index(speaker)])
        assert (talks[0], talks[-1] + 1) == (100 * start, 100 * end)


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "wav/train1.wav").unlink(), "not there: 1 (train: "),
        (
            lambda folder: (folder / "wav/train1.wav").write_bytes(b"RIFF"),
            "read to their end: 1 (train: train1.wav",
        ),
        (edit("wav.scp", "train1.wav", "train1.wav |"), "are commands: 1 (train: train1)"),
        (edit("wav.scp", "train1 ", "train9 "), "not in wav.scp: 2 (train: train1_0 of train1"),
        (
            edit("reco2dur", "train1 1.5", "train1 3.5"),
            "as reco2dur says: 1 (train: train1 of 1.5 s, not 3.5)",
        ),
        (
            edit("reco2dur", "train1 1.5", "train1 nan"),
            "as reco2dur says: 1 (train: train1 of 1.5 s, not nan)",
        ),
        (edit("reco2dur", "train1 1.5\n", ""), "without a duration in reco2dur: 1 (train: train1)"),
        (
            edit("utt2spk", "train1_1 ", "train1_0 third\ntrain1_1 "),
            "of the same name: 1 (train/utt2spk line 4",
        ),
        (edit("reco2dur", "train1 1.5\n", "train1 1.5\ntrain1 1.5\n"), None),  # the same twice is no fault
        (edit("segments", "train1_1 train1 0.5 1.5\n", ""), None),  # one speaker alone is no fault
        (
            edit("segments", "train1_1 train1 0.5 1.5", "train1_1 train1 0.5 9"),
            "after the mixture: 1 (train: train1 from",
        ),
        (
            edit("segments", "train1_1 train1 0.5 1.5", "train1_1 train1 0.5"),
            "than Kaldi's: 1 (train/segments line 4",
        ),
        *(
            (edit("segments", "train1_1 train1 0.5 1.5", f"train1_1 train1 {times}"), said)
            for times, said in (
                ("1.5 0.5", "after the mixture: 1 (train: train1 from 1.5 to 0.5 of 1.5 s)"),
                ("-0.1 1.5", "after the mixture: 1 (train: train1 from -0.1 to 1.5 of 1.5 s)"),
                ("0.5 1.7", "after the mixture: 1 (train: train1 from 0.5 to 1.7 of 1.5 s)"),
                ("0.5 inf", "after the mixture: 1 (train: train1_1 from 0.5 to inf)"),
                ("now 1.5", "after the mixture: 1 (train: train1_1 from now to 1.5)"),
                ("0.5 1.55", None),  # times are rounded
            )
        ),
        (edit("reco2dur", "train1 1.5", "train1 1.45"), None),
        (
            lambda folder: (folder / "segments").write_text("train1_0 train1 0 1\n"),
            "without a segment: 3 (train: train0, train: train2, train: train3)",
        ),
        (lambda folder: (folder / "wav.scp").write_text(""), "sets without a mixture: 1 (train)"),
        (
            lambda folder: (folder / "wav.scp").write_text("train1 -\n"),
            "are commands: 1 (train: train1)",
        ),
        (edit("utt2spk", "train1_1 high\n", ""), "without a speaker in utt2spk: 1 (train: train1_1)"),
        (
            lambda folder: (
                edit("segments", "train1_1 ", "more train1 0 1\ntrain1_1 ")(folder),
                edit("utt2spk", "train1_1 ", "more third\ntrain1_1 ")(folder),
            ),
            "of more than 2 speakers: 1 (train: train1)",
        ),
        (lambda folder: (folder / "spk2utt").unlink(), "no such file; s3prl opens it"),
        (lambda folder: (folder / "segments").unlink(), "cannot be read (No such file"),
        (shutil.rmtree, "cannot be read (No such file"),
    ],
)
def test_faults_are_named(damage, message, libri2mix):
    damage(libri2mix / "train")
    problems = Problems()

    def check() -> None:
        check_kaldi_data(libri2mix / "train", problems)
        problems.raise_if_any("mixtures")

    if message is None:
        check()
        return
    with pytest.raises(MelHuBERTError) as error:
        check()
    assert message in str(error.value)
