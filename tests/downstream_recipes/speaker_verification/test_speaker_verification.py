"""Speaker verification: its check, its lengths, and runs of it by s3prl's own expert."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.downstream_recipes.speaker_verification.sounding import sounding_lengths, write_lengths
from s3prl_melhubert.downstream_recipes.speaker_verification.trials import (
    VoiceFile,
    check_verification,
    find_trial_list,
    read_trials,
)
from s3prl_melhubert.errors import MelHuBERTError

LIST = "voxceleb1_test_v2.txt"


@pytest.fixture
def spoken(tmp_path, spoken_voxceleb) -> Path:
    """The digits of four speakers to train on, and trials of the other two."""
    root = tmp_path / "VoxCeleb1"
    for entry in sorted((spoken_voxceleb[0] / "dev/wav").glob("id*/*")):
        part = "test" if entry.parent.name in ("id10005", "id10006") else "dev"
        link = root / part / "wav" / entry.parent.name / entry.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(entry.resolve())
    names = [
        path.relative_to(root / "test/wav").as_posix() for path in sorted(root.glob("test/wav/*/3/*.flac"))
    ]
    trials = list(itertools.combinations(names, 2))[::3]
    (root / LIST).write_text("".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in trials))
    return root


def faults(root: Path) -> str:
    """The report of a check that has to find something."""
    problems = Problems()
    check_verification(root, root / LIST, problems)
    with pytest.raises(MelHuBERTError) as error:
        problems.raise_if_any("VoxCeleb1")
    return str(error.value)


def test_every_saved_checkpoint_is_tested_and_the_best_is_the_result(
    hummed, tmp_path, installed_s3prl, short, capsys, small
):
    experiment = tmp_path / "EXP"
    command = ["superb", "asv", "--voxceleb", str(hummed), "-u", "fbank", "-p", str(experiment), *short(4)]
    command += ["-o", f"{small['asv']},,config.runner.save_step=2"]
    kept = installed_s3prl / "downstream/sv_voxceleb1/.wav_lengths"
    before = kept.exists()
    assert main(command) == 0
    printed = capsys.readouterr().out
    result = read_result(experiment)

    log = (experiment / "log.txt").read_text().splitlines()
    figures = [float(line.split()[-1]) for line in log if line.startswith("sv-voxceleb1/test-EER: ")]
    assert len(figures) == 2
    assert result.value == pytest.approx(100 * min(figures))
    best = ("states-2", "states-4")[figures.index(min(figures))]
    assert result.tested_checkpoint == f"{best}.ckpt"
    assert result.dev is None
    assert result.notes == []
    assert {"runner.save_step", "trials", "utterances of train"} <= {
        each.setting for each in result.differences
    }
    for name in ("states-2", "states-4"):
        assert f"EER of {name}.ckpt: " in printed
    # The predictions are those of the best, with each trial once.
    predictions = experiment / "test_predict.txt"
    assert predictions.read_text() == (experiment / "tested" / best / "test_predict.txt").read_text()
    names = [line.split()[0] for line in predictions.read_text().splitlines()]
    assert names == (experiment / "test_utterances.txt").read_text().split()
    assert names[0] == "id10270-video0-00000_id10270-video1-00001"
    assert kept.exists() == before  # s3prl's own folder is as it was

    # Tested again after a kill, what was scored is not scored again.
    (experiment / "results.json").unlink()
    (experiment / "tested/states-4/score.json").unlink()
    scored = experiment / "tested/states-2/test_predict.txt"
    time = scored.stat().st_mtime_ns
    assert main([*command, "--stage", "test"]) == 0
    assert scored.stat().st_mtime_ns == time
    assert read_result(experiment).value == result.value

    # The report has its column, and the submission its file.
    capsys.readouterr()
    assert main(["superb", "report", str(experiment)]) == 0
    assert "ASV: EER % ↓" in capsys.readouterr().out
    assert main(["superb", "submit", "--asv", str(experiment), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/predict/sv_public/predict.txt").read_bytes() == predictions.read_bytes()

    # Tested again when it has ended, everything is: what was damaged since is whole then.
    whole = predictions.read_bytes()
    damaged = experiment / "tested" / best / "test_predict.txt"
    damaged.write_text("".join(damaged.read_text().splitlines(keepends=True)[:3]))
    assert main([*command, "--stage", "test"]) == 0
    assert predictions.read_bytes() == damaged.read_bytes() == whole


def test_of_several_learning_rates_the_best_on_the_trials_is_the_result(
    hummed, tmp_path, short, capsys, small
):
    experiment = tmp_path / "EXP"
    command = ["superb", "asv", "--voxceleb", str(hummed), "-u", "fbank", "-p", str(experiment), *short(2)]
    assert main([*command, "-o", small["asv"], "--lr", "1e-1,1e-9"]) == 0
    printed = capsys.readouterr().out
    for name in ("lr-0.1/states-2.ckpt", "lr-1e-09/states-2.ckpt"):
        assert f"asv: testing {name} on test\nasv EER of {name}: " in printed
    result = read_result(experiment)
    scores = [trial.test for trial in result.search]
    assert result.value == min(scores)
    assert result.learning_rate == (1e-1, 1e-9)[scores.index(min(scores))]
    tested = experiment / f"lr-{result.learning_rate:g}/tested/states-2/score.json"
    assert json.loads(tested.read_text()) == result.value


def test_training_on_real_speech_lowers_the_loss_and_ends_in_an_error_rate(spoken, tmp_path, short, small):
    experiment = tmp_path / "EXP"
    command = ["superb", "asv", "--voxceleb", str(spoken), "-u", "fbank", "-p", str(experiment), *short(30)]
    larger = small["asv"].replace("_dim=8", "_dim=32")
    assert main([*command, "--lr", "1e-2", "-o", f"{larger},,config.runner.log_step=15"]) == 0
    # So short a training tells two new speakers apart on some machines and not on others.
    assert 0 <= read_result(experiment).value <= 100
    losses = [
        float(line.split()[-1])
        for line in (experiment / "log.txt").read_text().splitlines()
        if line.startswith("sv-voxceleb1/train-loss")
    ]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_it_runs_in_s3prls_own_program(hummed, run_python, s3prl_checkout, tmp_path, capsys, small):
    assert main(["superb", "config", "asv", "--voxceleb", str(hummed), "--workers", "0"]) == 0
    config = capsys.readouterr().out.strip()
    steps = [f"config.runner.{name}=2" for name in ("total_steps", "save_step")]
    start = ["-u", "fbank", "-d", "sv_voxceleb1", "-c", config, "-p", tmp_path / "EXP"]
    for arguments in (
        ["-m", "train", *start, "-o", ",,".join([*steps, small["asv"]])],
        ["-m", "evaluate", "-e", tmp_path / "EXP"],
    ):
        command = ["run_downstream.py", *arguments, "--device", "cpu"]
        done = run_python(*command, cwd=s3prl_checkout, PYTHONPATH=str(s3prl_checkout.parent))
        assert done.returncode == 0, done.stderr[-3000:]
    assert "sv-voxceleb1/test-EER: " in done.stdout
    # It kept its lengths in its own folder, which the command points out from now on.
    command = ["-m", "s3prl_melhubert", "superb", "config", "asv", "--voxceleb", hummed, "--workers", "0"]
    done = run_python(*command, PYTHONPATH=str(s3prl_checkout.parent))
    assert "sv_voxceleb1/.wav_lengths: " in done.stderr


# -- the corpus ------------------------------------------------------------------------------------------


@pytest.fixture
def s3prls_module(monkeypatch, tmp_path) -> Iterator:
    """s3prl's module of data sets, which looks for lengths below tmp_path."""
    from s3prl_melhubert.compat import finder

    finder.install()
    from s3prl.downstream.sv_voxceleb1 import dataset

    monkeypatch.setattr(dataset, "__file__", str(tmp_path / "s3prl/dataset.py"))
    (tmp_path / "s3prl").mkdir()
    return dataset


def test_lengths_and_files_are_those_that_s3prl_finds(hummed, write_audio, s3prls_module, tmp_path, cache):
    quiet = write_audio(hummed / "dev/wav/id10001/video1/00009.wav", samples=33_000)
    wave = torch.zeros(40_000)
    wave[:20_000] = torch.sin(torch.arange(20_000) / 5)
    s3prls_module.torchaudio.save(str(quiet), wave[None], 16_000)  # 1.25 s of it sound
    problems = Problems()
    sets = check_verification(hummed, hummed / LIST, problems)
    problems.raise_if_any("VoxCeleb1")
    arguments = [{"min_sec": 32_000}, ["Voxceleb1"], [hummed / "dev/wav"], None]

    lengths = sounding_lengths(sets.training, workers=2)
    write_lengths(tmp_path / "s3prl/.wav_lengths/Voxceleb1_length.pt", sets.training, lengths)
    ours = s3prls_module.SpeakerVerifi_train(*arguments)
    shutil.rmtree(tmp_path / "s3prl/.wav_lengths")
    theirs = s3prls_module.SpeakerVerifi_train(*arguments, n_jobs=1)
    assert sorted(map(str, ours.dataset)) == sorted(theirs.dataset)
    assert len(theirs.dataset) == 6  # all but the quiet one
    assert (ours.all_speakers, ours.speaker_num) == (theirs.all_speakers, sets.speakers)
    # They are in the cache now; a file that has changed has another length.
    [cached] = cache.rglob("asv-lengths-*.pt")
    assert torch.load(cached) == lengths
    write_audio(quiet, samples=34_500)
    sets = check_verification(hummed, hummed / LIST, Problems())
    assert sounding_lengths(sets.training, workers=0) != lengths


@pytest.fixture
def checked(hummed) -> Callable[[], list[VoiceFile]]:
    """`checked()`: the training files as they are now."""
    return lambda: check_verification(hummed, hummed / LIST, Problems()).training


def test_lengths_of_audio_that_took_the_place_of_other_are_computed_again(checked):
    files = checked()
    lengths = sounding_lengths(files, workers=0)
    wave = torch.zeros(files[0].samples)
    wave[:20_000] = torch.sin(torch.arange(20_000) / 5)
    soundfile.write(files[0].path, wave.numpy(), 16_000)
    again = checked()
    assert again == files
    assert sounding_lengths(again, workers=0)[0] < lengths[0]


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-100]])
def test_lengths_are_computed_again_where_the_cache_is_damaged(damage, checked, cache):
    lengths = sounding_lengths(checked(), workers=0)
    [kept] = cache.rglob("asv-lengths-*.pt")
    kept.write_bytes(damage(kept.read_bytes()))
    assert sounding_lengths(checked(), workers=0) == lengths
    assert torch.load(kept) == lengths
    torch.save(lengths[:-1], kept)
    assert sounding_lengths(checked(), workers=0) == lengths


def test_lengths_are_computed_where_no_cache_can_be_written(checked, cache):
    cache.write_text("a file, where a folder is expected")
    with pytest.warns(UserWarning, match="cannot be written, .* let XDG_CACHE_HOME name"):
        assert len(sounding_lengths(checked(), workers=0)) == 6


def test_trials_are_named_as_s3prl_names_them(hummed):
    problems = Problems()
    trials = read_trials(hummed / LIST, problems)
    assert len(problems) == 0
    assert [trial.same for trial in trials] == [True, False, False, False, False, True]
    assert trials[1].prediction_name == "id10270-video0-00000_id10271-video0-00000"


def put(line: str) -> Callable[[Path], None]:
    return lambda root: (root / LIST).write_text((root / LIST).read_text() + line + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "test/wav/id10271/video0/00000.wav").unlink(),
            "not there: 1 (id10271/video0/00000.wav)",
        ),
        (put(""), "lines of the list of trials that are not `1|0 "),
        (put("2 id10270/video0/00000.wav id10270/video1/00001.wav"), "line 7: '2 id10270"),
        (
            put("1 id10270/video0/00000.wav id10271/video0/00000.wav"),
            "contradicts the speakers in their names: 1",
        ),
        (lambda root: (root / "dev/wav/id10009").mkdir(), "without a file: 1 (id10009)"),
        (
            lambda root: shutil.copytree(root / "test/wav/id10271", root / "dev/wav/id10271"),
            "trained on: 1 (id10271)",
        ),
        (lambda root: shutil.rmtree(root / "dev/wav/id10001"), "less than two speakers: 1 (dev/wav with 1)"),
        (
            lambda root: (root / "dev/wav/id10001/video0/00000.wav").write_bytes(b"RIFF"),
            "read to their end: 1 (id10001/video0/00000.wav: ",
        ),
        (
            lambda root: (root / LIST).write_text("1 id10270/video0/00000.wav id10270/video1/00001.wav\n"),
            "kinds of trials that are absent: 1 (0 (two speakers))",
        ),
        (
            lambda root: (root / LIST).write_text("0 id10270/video0/00000.wav id10271/video1/00001.wav\n"),
            "kinds of trials that are absent: 1 (1 (one speaker))",
        ),
        (
            lambda root: (root / LIST).write_text(""),
            "kinds of trials that are absent: 2 (1 (one speaker), 0 (two speakers))",
        ),
        (put("1 id10270/video0/00.000.wav id10270/video1/00001.wav"), "line 7: '1 id10270/video0/00.000.wav"),
        (
            put("0 id10270/video0/00000.wav id10270/video1/00001.wav"),
            "contradicts the speakers in their names: 1 (line 7: 0 id10270",
        ),
        (
            lambda root: (root / "test/wav/id10271/video0/00000.wav").write_bytes(b"RIFF"),
            "read to their end: 1 (id10271/video0/00000.wav: ",
        ),
    ],
)
def test_faults_are_named(damage, message, hummed):
    damage(hummed)
    assert message in faults(hummed)


@pytest.mark.parametrize("part", ["dev", "test"])
def test_folder_without_one_of_the_archives_is_told(part, hummed, tmp_path):
    (hummed / part).rename(tmp_path / "away")
    with pytest.raises(MelHuBERTError, match=f"expected dev/wav and test/wav in this folder, {part}/wav is"):
        check_verification(hummed, hummed / LIST, Problems())


def test_what_is_trained_on_and_tested_is_listed_once(hummed):
    (hummed / "dev/wav/id10001/notes.txt").touch()
    (hummed / "dev/wav/id10001/video0/notes.txt").touch()
    sets = check_verification(hummed, hummed / LIST, Problems())
    names = ["/".join(file.path.parts[-3:]) for file in sets.training]
    assert names == sorted(set(names))
    assert (len(names), sets.speakers) == (6, 2)
    assert len(sets.testing) == len({file.path for file in sets.testing}) == 4
    assert [file.samples for file in sets.training[:3]] == [33_000, 35_000, 34_000]


def test_list_of_trials_is_found_beside_the_corpus_or_asked_for(hummed, tmp_path):
    assert find_trial_list(hummed) == hummed / LIST
    (hummed / LIST).rename(tmp_path / "veri_test.txt")
    assert find_trial_list(hummed) == tmp_path / "veri_test.txt"
    (tmp_path / "veri_test.txt").unlink()
    with pytest.raises(MelHuBERTError, match="give it with --trials"):
        find_trial_list(hummed)


def test_files_too_short_to_train_on_are_told_before_anything_is_trained(hummed, tmp_path, short, capsys):
    command = ["superb", "asv", "--voxceleb", str(hummed), "-u", "fbank", *short()]
    command += ["-p", str(tmp_path / "EXP")]
    assert main([*command, "-o", "config.downstream_expert.datarc.vad_config.min_sec=64000"]) == 2
    assert "no training file has over 64000 samples without its pauses" in capsys.readouterr().err


def test_files_too_short_to_test_are_told_before_anything_is_trained(
    hummed, write_audio, tmp_path, short, capsys
):
    write_audio(hummed / "test/wav/id10271/video1/00001.wav", samples=6000)
    command = ["superb", "asv", "--voxceleb", str(hummed), "-u", "fbank", *short()]
    command += ["-p", str(tmp_path / "EXP")]
    assert main(command) == 2
    said = "under half a second is left without pauses: 1 (id10271/video1/00001.wav)"
    assert said in capsys.readouterr().err


def test_a_pair_that_is_there_twice_may_be_submitted(hummed, tmp_path, short, capsys, small):
    put((hummed / LIST).read_text().splitlines()[0])(hummed)
    experiment = tmp_path / "EXP"
    command = ["superb", "asv", "--voxceleb", str(hummed), "-u", "fbank", "-p", str(experiment), *short()]
    assert main([*command, "-o", small["asv"]]) == 0
    submit = ["superb", "submit", "--asv", str(experiment), "--out", str(tmp_path / "out")]
    assert main(submit) == 0
    predictions = experiment / "test_predict.txt"
    predictions.write_text(predictions.read_text() + predictions.read_text().splitlines()[0] + "\n")
    assert main(submit) == 2
    assert "names that are there more than once: 1" in capsys.readouterr().err
