"""A save of s3prl's programs leaves a whole checkpoint, whenever it is cut short."""

from __future__ import annotations

import errno
import glob
import os
from pathlib import Path

import pytest
import torch
import yaml

from s3prl_melhubert.compat import pretrain_workplace
from s3prl_melhubert.compat.experiments.saving import saved_whole, states_in
from s3prl_melhubert.compat.programs import run_pretrain
from s3prl_melhubert.errors import MelHuBERTError


class Fault(Exception):
    """What cuts a save short."""


class Cut:
    """What raises while it is written, as a full disk does."""

    def __reduce__(self):
        raise Fault


def save_as_s3prl(folder: Path, name: str, max_keep: int, more: object = None) -> None:
    """What the runners of s3prl do: make room first, then write the best checkpoint and the states."""
    found = glob.glob(f"{folder}/states-*.ckpt")
    if len(found) >= max_keep:
        found = sorted(found, key=lambda path: int(path.split("-")[-1].split(".")[0]))
        for path in found[: len(found) - max_keep + 1]:
            os.remove(path)
    for each in ("dev-best.ckpt", name):
        torch.save({"Step": name, "more": more if each == name else None}, os.path.join(folder, each))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("max_keep", [0, 1, 2, 3])
def test_as_many_checkpoints_are_left_as_by_s3prl(max_keep, tmp_path):
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    for folder in (plain, whole):
        folder.mkdir()
    # A run of epochs writes its last checkpoint under a low number, and the next one under the same name.
    for step in ("2", "4", "6", "epoch-1", "8", "epoch-1"):
        save_as_s3prl(plain, f"states-{step}.ckpt", max_keep)
        with saved_whole():
            save_as_s3prl(whole, f"states-{step}.ckpt", max_keep)
        assert names(whole) == names(plain)
        for name in names(plain):
            assert (whole / name).read_bytes() == (plain / name).read_bytes()


@pytest.mark.parametrize("name", ["e[1]", "e*", "e?"])
def test_the_states_of_a_folder_are_found_whatever_it_is_called(name, tmp_path, monkeypatch):
    folder = tmp_path / name
    for each in (folder, tmp_path / "e1"):
        each.mkdir()
        (each / "states-1.ckpt").touch()
    for step in (2, 4, 6):
        with saved_whole():
            save_as_s3prl(folder, f"states-{step}.ckpt", 2)
            assert glob.glob(f"{tmp_path}/e[1]*/states-*[0-9].ckpt") == [f"{tmp_path}/e1/states-1.ckpt"]
    assert names(folder) == ["dev-best.ckpt", "states-4.ckpt", "states-6.ckpt"]
    assert names(tmp_path / "e1") == ["states-1.ckpt"]
    monkeypatch.chdir(tmp_path)
    assert sorted(states_in(name)) == [f"{name}/states-4.ckpt", f"{name}/states-6.ckpt"]


def test_a_save_that_is_cut_short_leaves_the_checkpoint_before_it(tmp_path):
    with saved_whole():
        save_as_s3prl(tmp_path, "states-2.ckpt", 1)
    with pytest.raises(Fault), saved_whole():
        save_as_s3prl(tmp_path, "states-4.ckpt", 1, Cut())
    assert names(tmp_path) == ["dev-best.ckpt", "states-2.ckpt"]
    assert torch.load(tmp_path / "states-2.ckpt")["Step"] == "states-2.ckpt"
    with saved_whole():
        save_as_s3prl(tmp_path, "states-6.ckpt", 1)
    assert names(tmp_path) == ["dev-best.ckpt", "states-6.ckpt"]


class Full:
    """What a full disk refuses while it is written."""

    def __reduce__(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("same_command", "before", "words"),
    [
        (False, True, "go on with -e {folder}"),
        (False, False, "give the same command again"),
        (True, True, "give the same command again"),
    ],
)
def test_a_full_disk_is_told_with_what_goes_on(same_command, before, words, tmp_path):
    if before:
        (tmp_path / "states-2.ckpt").touch()
    with pytest.raises(MelHuBERTError) as told, saved_whole(same_command=same_command):
        save_as_s3prl(tmp_path, "states-4.ckpt", 1, Full())
    assert str(told.value).endswith(f": make space, and {words.format(folder=tmp_path)}")


@pytest.mark.parametrize(("fault", "error"), [(Cut(), Fault), (Full(), MelHuBERTError)])
def test_a_program_of_s3prl_runs_so(fault, error, tmp_path, monkeypatch):
    def start() -> None:
        save_as_s3prl(tmp_path, "states-2.ckpt", 1)
        save_as_s3prl(tmp_path, "states-4.ckpt", 1, fault)

    monkeypatch.setattr(pretrain_workplace, "run_in_workplace", start)
    with pytest.raises(error) as told:
        run_pretrain([])
    assert error is Fault or str(told.value).endswith(f"go on with -e {tmp_path}")
    assert names(tmp_path) == ["dev-best.ckpt", "states-2.ckpt"]


def test_what_is_no_checkpoint_is_removed_and_saved_as_ever(tmp_path):
    before = torch.save, os.remove, glob.glob
    with saved_whole():
        for name in ("other.ckpt", "states-2.ckpt"):
            (tmp_path / name).touch()
            os.remove(tmp_path / name)
            assert (tmp_path / name).exists() == (name == "states-2.ckpt")
        with pytest.raises(FileNotFoundError):
            os.remove(tmp_path / "states-4.ckpt")
        with (tmp_path / "stream").open("wb") as stream:
            torch.save([1], stream)
    assert names(tmp_path) == ["stream"]
    assert torch.load(tmp_path / "stream") == [1]
    assert (torch.save, os.remove, glob.glob) == before


EXAMPLE = {
    "runner": {
        "total_steps": 20,
        "gradient_clipping": 1,
        "gradient_accumulate_steps": 1,
        "log_step": 1,
        "eval_step": 20,
        "save_step": 20,
        "max_keep": 1,
        "eval_dataloaders": [],
    },
    "optimizer": {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 0.01},
    "downstream_expert": {
        "datarc": {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0},
        "modelrc": {"input_dim": 8},
    },
}


@pytest.mark.parametrize("save_step", [1, 20])
def test_full_disk_of_a_thread_of_s3prls_program_is_one_line(run_with_full_event_files, save_step, tmp_path):
    """The program waited for ever when it had added ten events, and printed tracebacks of others' threads."""
    EXAMPLE["runner"]["save_step"] = save_step
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(EXAMPLE))
    run = ["-u", "fbank", "-d", "example", "-c", "c.yaml", "-p", "EXP", "--device", "cpu"]
    result = run_with_full_event_files("run-downstream", "-m", "train", *run)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    then = "go on with -e EXP" if states_in(str(tmp_path / "EXP")) else "give the same command again"
    *_, line = result.stderr.splitlines()
    assert line.startswith("melhubert: EXP/events.out.tfevents.")
    assert line.endswith(f": cannot be written (No space left on device); make space, and {then}")
