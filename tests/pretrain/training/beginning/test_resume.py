"""A run that was killed and resumed is the run that was not."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s3prl_melhubert.checkpoint import load_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.pretrain.data.description import read_prepared, write_dataset_info
from s3prl_melhubert.pretrain.data.integrity import set_files, write_sums
from s3prl_melhubert.pretrain.data.manifest import open_array
from s3prl_melhubert.pretrain.training.beginning.identity import (
    FORMER,
    VALIDATION,
    identity_changes,
    run_identity,
)
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.settings import Settings


@pytest.mark.slow  # test_a_run_on_rows_that_was_killed_... is the quicker one
def test_five_kills_and_resumes_end_with_the_same_bits(
    prepared, yamls, tmp_path, start, killed_after, finish, same_training, repeated
):
    settings = yamls(
        model={"encoder_layerdrop": 0.1},
        runner={"total_steps": 200, "log_step": 10, "save_step": 4, "max_keep": 2},
        optimizer={"name": "AdamW"},
        scheduler={"name": "cosine", "warmup_steps": 20},
        datarc={"num_workers": 1},
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ["pretrain", *settings, "--data", prepared, "--resume"]
    uninterrupted = start(*arguments, "-n", whole)

    moments = random.Random(0)
    saved = []
    for kill in range(5):  # at another place between two checkpoints, or in the writing of one
        step = 30 * (kill + 1) + moments.randrange(8)
        finish(start(*arguments, "-n", killed, launcher=killed_after(step)), -signal.SIGKILL)
        saved.append(load_checkpoint(killed / "last.ckpt").step)
    assert len(set(saved)) == 5
    output = finish(start(*arguments, "-n", killed))
    assert "continuing after step" in output
    finish(uninterrupted)
    same_training(whole, killed)
    assert repeated(whole) == repeated(killed)


@pytest.mark.parametrize(("asked", "done"), [(3, "all steps are"), (2, "step 3 is")])
def test_a_run_that_has_all_steps_that_are_asked_for_says_so(asked, done, prepared, yamls, tmp_path, capsys):
    arguments = ["pretrain", "-n", str(tmp_path / "exp"), "--data", str(prepared), "--resume"]
    assert main([*arguments, *yamls(runner={"total_steps": 3})]) == 0
    assert main([*arguments, *yamls(runner={"total_steps": asked})]) == 0
    said = capsys.readouterr().out
    assert f"{done} done already; nothing is left to train" in said
    assert "continuing" not in said


def test_a_last_checkpoint_that_was_lost_is_written_anew(prepared, yamls, tmp_path, capsys):
    """Also where nothing is left to train, and the last line names it."""
    exp = tmp_path / "exp"
    settings = yamls(runner={"total_steps": 2, "save_step": 2})
    arguments = ["pretrain", "-n", str(exp), "--data", str(prepared), "--resume", *settings]
    assert main(arguments) == 0
    before = load_checkpoint(exp / "last.ckpt")
    (exp / "last.ckpt").unlink()
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "last.ckpt: is not there; resuming from step-2.ckpt" in said.err
    assert "nothing is left to train" in said.out
    after = load_checkpoint(exp / "last.ckpt")
    assert (after.step, after.weights_digest()) == (2, before.weights_digest())
    assert after.rest["Progress"] == before.rest["Progress"]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_another_number_of_steps_is_refused_where_the_learning_rate_depends_on_it(
    name, prepared, yamls, tmp_path, capsys
):
    last = tmp_path / "exp" / "last.ckpt"
    arguments = ["pretrain", "-n", str(last.parent), "--data", str(prepared), "--resume"]

    def run(steps: int) -> int:
        return main([*arguments, *yamls(runner={"total_steps": steps}, scheduler={"name": name})])

    assert run(2) == 0
    assert run(2) == 0
    assert run(4) == 2
    said = capsys.readouterr().err
    assert "the run was started with steps of the schedule 2, now 4; " in said
    assert f"start a new run from its weights with -i {last}" in said
    content = torch.load(last, weights_only=False)
    del content["Progress"]["identity"]["steps of the schedule"]  # as an earlier version wrote it
    torch.save(content, last)
    assert run(4) == 2
    assert "the run was started with steps of the schedule 2, now 4; " in capsys.readouterr().err
    del content["Runner"]
    torch.save(content, last)
    assert run(4) == 0


@pytest.fixture
def pretrain(tmp_path, yamls, capsys):
    """`pretrain(ARGUMENT, ..., status=0, datarc={...})`: go on in exp by one step; what was printed."""
    steps = iter(range(1, 100))

    def run(*arguments: object, status: int = 0, datarc: Mapping[str, object] | None = None) -> str:
        settings = yamls(runner={"total_steps": next(steps)}, datarc=datarc or {})
        command = ["pretrain", *settings, "-n", tmp_path / "exp", "--device", "cpu", "--resume", *arguments]
        capsys.readouterr()
        assert main(list(map(str, command))) == status
        return "".join(capsys.readouterr())

    return run


def prove(folder: Path) -> None:
    """Give a set the hashes that `melhubert prepare` gives it."""
    prepared = read_prepared(folder)
    proofs = write_sums(folder, set_files(folder), folder / "SHA256SUMS")
    counts = {"utterances": len(prepared.utterances), "frames": prepared.utterances.frames}
    write_dataset_info(folder / "dataset.yaml", replace(prepared.info, proofs=proofs, **counts))


def test_data_of_other_content_is_refused_and_a_moved_set_is_not(make_prepared, pretrain, tmp_path):
    data, moved, other = (tmp_path / name for name in ("data", "moved", "other"))
    make_prepared(data, [80] * 4)
    shutil.copytree(data, other)
    features = np.load(other / "features" / "0.npy")
    np.save(other / "features" / "0.npy", features[::-1])
    prove(data)
    prove(other)
    shutil.copytree(data, moved)
    pretrain("--data", data)
    pretrain("--data", moved)
    assert "the run was started with features of the training data " in pretrain("--data", other, status=2)

    last = tmp_path / "exp" / "last.ckpt"
    content = torch.load(last, weights_only=False)
    for what in ("content", "features", "labels", "some utterances"):  # which an earlier version did not note
        del content["Progress"]["identity"][f"{what} of the training data"]
    torch.save(content, last)
    pretrain("--data", other)


@pytest.fixture
def identity(tiny_model):
    """`identity(data)`: what is noted of a run that trains and validates on a set."""
    config = tiny_model().config

    def note(data: Path) -> dict[str, object]:
        dataset = PretrainingDataset([read_prepared(data)], config)
        return run_identity(config, Settings.from_mapping({}, "test"), dataset, 0, 1, valid=dataset)

    return note


def changed(before: Mapping[str, object], now: Mapping[str, object]) -> set[str]:
    return {change.name for change in identity_changes(before, now)}


OTHER_TRAININGS = [
    {"optimizer": {"lr": 2e-4}},
    {"optimizer": {"name": "AdamW"}},
    {"scheduler": {"warmup_steps": 3}},
    {"scheduler": {"name": "linear"}},
    {"runner": {"gradient_clipping": 5.0}},
    {"runner": {"gradient_accumulate_steps": 4}},
    {"datarc": {"train_batch_size": 8}},
    {"datarc": {"max_frames": 3000}},
    {"datarc": {"frames_per_batch": 3000}},
    {"datarc": {"rows": True}},
    {"datarc": {"sequence_length": 700}},
    {"model": {"mask_prob": 0.6}},
    {"model": {"dropout": 0.2}},
    {"seed": 1},
    {"processes": 2},
    {"lengths": [80, 81]},
]
THE_SAME_TRAINING = [
    {"runner": {"log_step": 3, "save_step": 3, "save_minutes": 0, "max_keep": 2, "valid_step": 3}},
    {"runner": {"precision": "bf16", "compile": True, "max_skipped_steps": 3}},
    {"runner": {"total_steps": 100}},
    {"datarc": {"num_workers": 0}},
    {"runner": {"gradient_accumulate_steps": 4}, "processes": 2},
    {"runner": {"gradient_accumulate_steps": 2}, "datarc": {"train_batch_size": 16}},
]


@pytest.mark.parametrize("change", [*OTHER_TRAININGS, *THE_SAME_TRAINING], ids=str)
def test_a_run_goes_on_with_other_settings_only_where_its_weights_do_not_depend_on_them(
    change, make_prepared, tiny_settings, tmp_path
):
    def noted(name, model=None, seed=0, processes=1, lengths=(80, 80), **sections):
        data = read_prepared(make_prepared(tmp_path / name, list(lengths)))
        config = MelHuBERTConfig(**{**tiny_settings, **(model or {})})
        settings = Settings.from_mapping(sections, "test")
        dataset = PretrainingDataset([data], config, seed=seed)
        return run_identity(config, settings, dataset, seed, processes)

    assert (not changed(noted("before"), noted("now", **change))) == (change in THE_SAME_TRAINING)


@pytest.mark.parametrize("features", ["float32", "none"])
def test_data_that_was_prepared_again_from_a_copy_of_its_audio_is_the_same(
    features, make_corpus, identity, tmp_path
):
    data = [tmp_path / name / "data" for name in ("here", "there")]
    options = ["--features", features, "--clusters", 8, "--jobs", 1, "--max-rejected", 1]
    for folder in data:
        audio = make_corpus(folder.parent / "audio", 4, ("train-clean-100",))
        (audio / "broken.flac").touch()
        assert main(list(map(str, ["prepare", "--audio", audio, *options, "--out", folder]))) == 0
    assert len({(folder / "rejected.csv").read_text() for folder in data}) == 2
    assert len({(folder / "manifest.csv").read_text() for folder in data}) == 1 + (features == "none")
    here, there = map(identity, data)
    assert changed(here, there) == set()

    former = {"content of the training data", "validation data"}
    noted = {name: value for name, value in here.items() if name not in FORMER.values()}
    assert changed(noted, there) == former  # as versions that noted these alone did
    assert changed(noted, here) == set()


def test_a_set_without_its_list_of_hashes_and_a_list_beside_it_are_known_by_some_utterances(
    make_prepared, identity, tmp_path
):
    data = make_prepared(tmp_path / "data", [80] * 4)
    np.save(data / "labels" / "1.npy", 15 - np.load(data / "labels" / "0.npy"))
    prove(data)
    manifest = (data / "manifest.csv").read_text()
    (data / "copy.csv").write_text(manifest)
    (data / "other.csv").write_text(manifest.replace("labels/0.npy", "labels/1.npy"))
    before = identity(data)
    assert changed(before, identity(data / "copy.csv")) <= {VALIDATION}
    differs = {"some utterances of the training data", VALIDATION}
    assert changed(before, identity(data / "other.csv")) == differs
    with (data / "SHA256SUMS").open("a") as file:
        file.write("damaged\n")
    assert changed(before, identity(data)) <= {VALIDATION}
    features = np.load(data / "features" / "0.npy")
    (data / "features" / "0.npy").unlink()  # This process has it mapped.
    open_array.cache_clear()
    np.save(data / "features" / "0.npy", features.astype(np.float16))
    for folder in (data, data / "copy.csv"):
        assert changed(before, identity(folder)) == differs


def test_other_labels_or_statistics_of_a_published_csv_are_refused(make_published, pretrain, tmp_path):
    data = ["--data", make_published([60] * 40)]
    pretrain(*data, datarc={"feature_stats": "librispeech-360h"})
    said = pretrain(*data, status=2, datarc={"feature_stats": "librispeech-100h"})
    assert "the run was started with statistics of the training data " in said
    for path in (tmp_path / "published").glob("*.label.npy"):
        np.save(path, 15 - np.load(path))
    said = pretrain(*data, status=2, datarc={"feature_stats": "librispeech-360h"})
    assert "the run was started with some utterances of the training data " in said


def test_a_run_that_goes_on_says_that_its_initial_weights_are_not_read(
    prepared, reference, pretrain, tmp_path, monkeypatch
):
    first, other = tmp_path / "first.ckpt", tmp_path / "other.ckpt"
    shutil.copy(reference / "tiny-20ms.ckpt", first)
    monkeypatch.chdir(tmp_path)
    begin = ["--data", prepared]
    pretrain(*begin, "-i", "first.ckpt", "--init_layers", "1-2")
    first.unlink()
    said = pretrain(*begin, "-i", first, "--init_layers", "1-2", "--init_stats", "model")
    assert f"-i {first}: not read; the run goes on from {tmp_path / 'exp' / 'last.ckpt'}" in said
    assert "not read" not in pretrain(*begin)
    for arguments, words in (
        (["-i", other, "--init_layers", "1-2"], f"-i {first}, now {other}"),
        (["-i", first, "--init_layers", "1"], "--init_layers 1-2, now 1"),
        (["-i", first, "--init_layers", "1-2", "--init_stats", "data"], "--init_stats model, now data"),
    ):
        assert f"the run was begun with {words}" in pretrain(*begin, *arguments, status=2)


def test_layers_of_initial_weights_are_compared_by_their_meaning(prepared, reference, pretrain, tmp_path):
    first, last = tmp_path / "first.ckpt", tmp_path / "exp" / "last.ckpt"
    shutil.copy(reference / "tiny-20ms.ckpt", first)
    begin = ["--data", prepared, "-i", first, "--init_layers"]
    pretrain(*begin, "1-2")
    refused = "the run was begun with --init_layers 1-2, now "
    for same in ("1,2", "1-2", "1,-1", "1--1"):
        assert "the run goes on" in pretrain(*begin, same)
    for other in ("2,1", "1,2,2", "1", "1-3"):
        assert refused + other in pretrain(*begin, other, status=2)
    content = torch.load(last, weights_only=False)
    del content["Args"].initial_weights_layers  # an earlier version noted the text alone
    torch.save(content, last)
    assert "the run goes on" in pretrain(*begin, "1,-1")
    first.unlink()
    assert "the run goes on" in pretrain(*begin, "1,2")
    assert f"{refused}1,-1" in pretrain(*begin, "1,-1", status=2)
    # Without the option all layers are taken, which are two.
    shutil.copy(reference / "tiny-20ms.ckpt", first)
    shutil.rmtree(last.parent)
    pretrain(*begin[:-1])
    assert "the run goes on" in pretrain(*begin, "1-2")


def test_initial_weights_are_known_wherever_they_lie(prepared, reference, pretrain, tmp_path):
    first, moved, other = (tmp_path / f"{name}.ckpt" for name in ("first", "moved", "other"))
    for copy in (first, moved):
        shutil.copy(reference / "tiny-20ms.ckpt", copy)
    (tmp_path / "link").symlink_to(tmp_path)
    begin = ["--data", prepared]
    pretrain(*begin, "-i", first)
    assert "first.ckpt: not read;" in pretrain(*begin, "-i", tmp_path / "link" / first.name)
    known = f"-i {moved}: the same weights as those of {first}, with which the run was begun; the run goes on"
    assert known in pretrain(*begin, "-i", moved)

    last = tmp_path / "exp" / "last.ckpt"
    shutil.copy(last, other)
    assert f"was begun with -i {first}, now {other}" in pretrain(*begin, "-i", other, status=2)
    content = torch.load(last, weights_only=False)
    del content["Args"].initial_weights_digest  # an earlier version noted the path alone
    torch.save(content, last)
    assert f"was begun with -i {first}, now {other}" in pretrain(*begin, "-i", other, status=2)
    first.unlink()
    said = pretrain(*begin, "-i", moved)
    assert f"-i {moved}: not read, and not compared with {first}, which is gone; the run goes on" in said


def test_a_run_goes_on_with_other_validation_data_and_says_so(make_prepared, pretrain, tmp_path):
    data, small = make_prepared(tmp_path / "data", [80] * 4), make_prepared(tmp_path / "small", [60] * 3)
    pretrain("--data", data, "--valid", data)
    assert "validation data" not in pretrain("--data", data, "--valid", data)
    said = pretrain("--data", data, "--valid", small)
    assert "validation data: 3 utterances" in said
    assert "up to here 4 utterances" in said


@pytest.mark.slow
def test_resume_is_exact_from_the_middle_of_a_line_of_the_log(
    prepared, yamls, tmp_path, start, killed_after, finish, same_training, repeated
):
    """Killed soon after each of several checkpoints, two of them between lines of the log."""
    settings = yamls(
        runner={"total_steps": 60, "log_step": 25, "save_step": 7},
        datarc={"max_frames": 200, "num_workers": 2},
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ["pretrain", *settings, "--data", prepared, "--resume"]
    finish(start(*arguments, "-n", whole))
    for step in (15, 30, 44):
        finish(start(*arguments, "-n", killed, launcher=killed_after(step)), -signal.SIGKILL)
    finish(start(*arguments, "-n", killed))
    same_training(whole, killed)
    assert repeated(whole) == repeated(killed)
