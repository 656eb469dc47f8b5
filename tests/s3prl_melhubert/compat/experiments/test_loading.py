"""A checkpoint of s3prl's with a byte that has changed is not gone on with, tested or converted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from s3prl_melhubert import load_checkpoint
from s3prl_melhubert.compat import programs
from s3prl_melhubert.compat.experiments.loading import damage_refused
from s3prl_melhubert.errors import MelHuBERTError

EXAMPLE = {
    "runner": {
        "total_steps": 4,
        "gradient_clipping": 1,
        "gradient_accumulate_steps": 1,
        "log_step": 4,
        "eval_step": 4,
        "save_step": 2,
        "max_keep": 3,
        "eval_dataloaders": [],
        "evaluate_ratio": 0.02,
    },
    "optimizer": {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 0.01},
    "downstream_expert": {
        "datarc": {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0},
        "modelrc": {"input_dim": 8},
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with an experiment of run_downstream.py's, with checkpoints of steps 2 and 4."""
    work = tmp_path_factory.mktemp("work")
    (work / "c.yaml").write_text(yaml.safe_dump(EXAMPLE))
    new = ["-u", "fbank", "-d", "example", "-c", str(work / "c.yaml"), "-p", str(work / "EXP")]
    programs.run_downstream(["-m", "train", *new, "--device", "cpu"])
    return work / "EXP"


@pytest.fixture
def exp(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it in the working folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained, Path("EXP"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["-m", "train", "-e", "EXP"],
            r"^-e EXP/states-4.ckpt: {damage}; remove it to go on from EXP/",
        ),
        (
            ["-m", "evaluate", "-e", "EXP/states-4.ckpt"],
            "^-e EXP/states-4.ckpt: {damage}; give -e EXP/s",
        ),
        (
            ["-m", "evaluate", "-i", "EXP/states-4.ckpt", "-u", "fbank", "-d", "example", "-c", "c.yaml"],
            "^-i EXP/states-4.ckpt: {damage}; name a whole one",
        ),
        (
            ["-m", "evaluate", "-e", "EXP/states-2.ckpt", "-o", "args.init_ckpt=EXP/states-4.ckpt"],
            r"^EXP/states-4.ckpt: is damaged \(the checksum of states-4/data/\d+ in it differs\); put a who",
        ),
    ],
)
def test_run_downstream_does_not_use_it(arguments, words, exp, change_a_byte):
    Path("c.yaml").write_text(yaml.safe_dump(EXAMPLE))
    new = ["-p", "EXP"] if "-u" in arguments else []
    command = [*arguments, *new, "--device", "cpu"]
    assert programs.run_downstream(command) == 0
    for path in exp.glob("states-4.ckpt"):
        change_a_byte(path)
    damage = r"cannot be read \(\d+ bytes; the checksum of states-4/data/\d+ in it differs\)"
    with pytest.raises(MelHuBERTError, match=words.format(damage=damage)):
        programs.run_downstream(command)


def test_nor_is_it_converted(exp, change_a_byte):
    with pytest.raises(MelHuBERTError, match="is s3prl's checkpoint of a downstream model"):
        load_checkpoint(exp / "states-4.ckpt")
    change_a_byte(exp / "states-4.ckpt")
    with pytest.raises(MelHuBERTError, match=r"states-4.ckpt: damaged or not a checkpoint .*Bad CRC-32"):
        load_checkpoint(exp / "states-4.ckpt")


@pytest.mark.parametrize("name", ["states-4.ckpt", "dev-best.ckpt", "best-states-dev.ckpt", "upstream.pt"])
def test_what_s3prl_loads_of_its_own_is_looked_at(name, tmp_path, change_a_byte):
    read: list[Callable[[], object]] = [
        lambda: torch.load(tmp_path / name),
        lambda: torch.load(str(tmp_path / name), "cpu"),
    ]
    for load in read:
        torch.save({"weights": torch.ones(1000)}, tmp_path / name)
        with damage_refused():
            load()
        change_a_byte(tmp_path / name)
        with damage_refused():
            torch.load(tmp_path / name, mmap=True)  # for who looks at the settings
            with (tmp_path / name).open("rb") as file:
                torch.load(file)
            if name == "upstream.pt":  # of another program, which may write no checksums
                load()
                continue
            with pytest.raises(MelHuBERTError, match=rf"{name}: is damaged"):
                load()
    assert torch.load.__module__ == "torch.serialization"
