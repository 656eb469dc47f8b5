"""A checkpoint from which s3prl cannot go on is told in a line, with one from which it can."""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from s3prl_melhubert.compat import finder
from s3prl_melhubert.compat.experiments.past import TRAINED, Past, check_past, check_weights
from s3prl_melhubert.errors import MelHuBERTError


@pytest.fixture
def exp(tmp_path, monkeypatch) -> Path:
    """The folder EXP with checkpoints of steps 9 and 12 and the best one."""
    finder.install()
    import s3prl.run_downstream  # noqa: F401 (it lets torch read a Namespace)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "EXP").mkdir()
    for name in ("states-9", "states-12", "dev-best"):
        content = {"Args": Namespace(seed=1), "Config": {}, "Upstream": torch.zeros(1000)}
        content |= dict.fromkeys(TRAINED, 1)
        torch.save(content, tmp_path / f"EXP/{name}.ckpt")
    return Path("EXP")


def check(argument: str, place: str) -> Past:
    return check_past(argument, place, "run-downstream", TRAINED)


def cut(path: Path, size: int = 3000) -> None:
    os.truncate(path, size)


@pytest.mark.parametrize("size", [0, 1, 3000])
def test_damaged_checkpoint_is_told_with_the_newest_whole_one(exp, size):
    (exp / "states-11.ckpt").symlink_to("gone.ckpt")
    cut(exp / "states-12.ckpt", size)
    words = (
        rf"^-a EXP/states-12.ckpt: cannot be read \({size} bytes; [^;]+\); remove it to go on from EXP/states"
    )
    with pytest.raises(MelHuBERTError, match=words):
        check("-a", "EXP")
    cut(exp / "dev-best.ckpt", size)
    with pytest.raises(
        MelHuBERTError, match=r"^-e EXP/dev-best.ckpt: cannot .*; give -e EXP/states-9.ckpt, the"
    ):
        check("-e", "EXP/dev-best.ckpt")
    cut(exp / "states-9.ckpt", size)
    with pytest.raises(MelHuBERTError, match="; no whole one is there, so begin a new experiment"):
        check("-a", "EXP")
    with pytest.raises(MelHuBERTError, match=r"^-i EXP/states-9.ckpt: cannot be read .*; name a whole one"):
        check_weights("EXP/states-9.ckpt", "evaluate")


def test_checkpoint_of_an_older_torch_is_taken(exp):
    content = {"Args": 1, "Config": {}, "Upstream_Config": {"melhubert": {}}, **dict.fromkeys(TRAINED, 1)}
    torch.save(content, exp / "states-13.ckpt", _use_new_zipfile_serialization=False)
    assert check("-a", "EXP").upstream == {"melhubert": {}}
    assert check("-e", "EXP/states-9.ckpt").upstream is None
    cut(exp / "states-13.ckpt", (exp / "states-13.ckpt").stat().st_size - 9)
    with pytest.raises(
        MelHuBERTError, match=r"states-13.ckpt: cannot be read .* go on from EXP/states-12.ckpt"
    ):
        check("-a", "EXP")


def test_the_checkpoint_is_chosen_as_s3prl_does(exp):
    (exp / "states-epoch-10.ckpt").touch()
    check("-a", "EXP")
    (exp / "states-100.ckpt").touch()
    with pytest.raises(MelHuBERTError, match=r"states-100.ckpt: cannot be read \(0 bytes"):
        check("-a", "EXP")
    (exp / "states-last.ckpt").touch()
    with pytest.raises(MelHuBERTError, match=r"states-last.ckpt: no number in its name"):
        check("-a", "EXP")


@pytest.mark.parametrize(
    ("content", "downstream", "evaluate", "train"),
    [
        ({"model": {}}, False, False, False),
        ({"Args": 1, "Config": 1, "Upstream_Config": 1, "model": 1}, False, False, False),  # a pre-training's
        ({"Args": 1, "Config": 1, "Featurizer": 1}, False, False, True),
        ({"Upstream": 1}, False, False, True),  # to begin with
        ({"Featurizer": 1, "Downstream": 1}, False, True, True),
        ({"Args": 1, "Config": 1, "Featurizer": 1, "Downstream": 1}, True, True, True),
        ([], False, False, False),
    ],
)
def test_what_is_no_checkpoint_of_the_program_is_told(exp, content, downstream, evaluate, train):
    torch.save(content, exp / "model.ckpt")
    with nullcontext() if downstream else pytest.raises(MelHuBERTError, match=r"^-e EXP/model.ckpt: no ch"):
        check("-e", "EXP/model.ckpt")
    for mode, taken in (("evaluate", evaluate), ("inference", evaluate), ("train", train)):
        with nullcontext() if taken else pytest.raises(MelHuBERTError, match=r"^-i EXP/model.ckpt: no ch"):
            check_weights("EXP/model.ckpt", mode)


@pytest.mark.parametrize(
    ("more", "mode", "trainable", "words"),
    [
        ({"Upstream": 1, "Optimizer": {1: 1}}, "train", False, "trains the upstream, too; add -f"),
        ({"Optimizer": {1: 1}}, "train", True, "does not train the upstream; leave out -f"),
        ({"Upstream": 1, "Optimizer": {1: 1}}, "train", True, None),
        ({"Upstream": 1, "Optimizer": {1: 1}}, "train", None, None),
        ({"Upstream": 1}, "train", False, None),
        ({"Upstream": 1, "Optimizer": {1: 1}}, "evaluate", False, None),
    ],
)
def test_optimizer_of_other_parameters_is_told(exp, more, mode, trainable, words):
    torch.save({"Featurizer": 1, "Downstream": 1, **more}, exp / "model.ckpt")
    with (
        nullcontext()
        if words is None
        else pytest.raises(MelHuBERTError, match=f"^-i EXP/model.ckpt: .*{words}")
    ):
        check_weights("EXP/model.ckpt", mode, trainable)


def test_an_ended_pre_training_is_not_gone_on_with_over_its_final_model(exp):
    def save(name: str, step: int) -> None:
        content = {"Args": 1, "Config": {}, "Step": step, **dict.fromkeys(TRAINED, 1)}
        torch.save(content, exp / name)

    save("states-55.ckpt", 55)
    check("-a", "EXP")
    save("states-epoch-10.ckpt", 60)  # s3prl orders it by its 10
    words = (
        r"^-a EXP: the run has ended with EXP/states-epoch-10.ckpt \(step 60\), .* from EXP/states-55.ckpt \("
    )
    with pytest.raises(MelHuBERTError, match=words):
        check("-a", "EXP")
    check("-e", "EXP/states-55.ckpt")
    save("states-epoch-10.ckpt", 50)  # of a run with fewer steps, which went on
    check("-e", "EXP")
    save("states-epoch-70.ckpt", 60)  # which s3prl takes
    check("-e", "EXP")
