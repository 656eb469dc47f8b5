"""Mistakes on the command line of run_pretrain.py are told in a line."""

from __future__ import annotations

from argparse import Namespace
from contextlib import nullcontext

import pytest
import torch

from s3prl_melhubert.compat.command_lines.pretrain import PretrainLine
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.locks import only_writer

PRETRAIN = {
    **dict.fromkeys(["past_exp", "override", "config", "upstream_config", "expdir"]),
    "expname": "x",
    "upstream": "melhubert",
    "device": "cpu",
    "auto_resume": False,
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"config": "c.yaml", "upstream_config": "c.yaml"}, None),
        ({"expname": None, "expdir": "first", "auto_resume": True, "device": "cuda:99"}, None),
        ({"expname": None, "upstream": None, "past_exp": "first"}, None),
        ({"expname": None, "expdir": "EXP"}, "no -n: s3prl begins no run without it; give -n NAME"),
        ({"expname": None, "expdir": "empty", "auto_resume": True}, "no -n"),
        ({"upstream": None}, "no -u"),
        ({"config": "short.yaml"}, "-c short.yaml: lacks pretrain_expert.datarc, .*runner.max_keep, without"),
        ({"config": "nope.yaml"}, "-c nope.yaml: no such file"),
        ({"config": "damaged.yaml"}, "-c damaged.yaml: not valid YAML"),
        ({"config": "c.yaml", "override": "runner=1"}, "-o runner=1: expected config.KEY"),
        ({"upstream_config": "nope.yaml"}, "-g nope.yaml: no such file"),
        ({"past_exp": "nope.ckpt"}, "-e nope.ckpt: no such file"),
        ({"past_exp": "empty"}, "-e empty: holds no"),
        (
            {"past_exp": "upstream.ckpt"},
            "-e upstream.ckpt: no checkpoint of run-pretrain, which has Args, Config",
        ),
        ({"device": "cuda:99"}, "--device .*cuda:99"),
    ],
)
def test_mistake_of_pre_training_is_told(changed, words, work):
    line = PretrainLine(Namespace(**{**PRETRAIN, **changed}))
    if words is None:
        line.check()
        return
    with pytest.raises(MelHuBERTError, match=words):
        line.check()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (None, "-e first: without --device, it goes on where it was begun: device cuda:99: "),
        ("cuda:98", "--device .*: device cuda:98: "),
        ("cpu", None),
    ],
)
def test_pre_training_goes_on_on_a_device_that_is_here(typed, words, work):
    content = torch.load("first/states-4.ckpt", weights_only=False)
    content["Args"].device = "cuda:99"
    torch.save(content, "first/states-4.ckpt")
    given = Namespace(**{**PRETRAIN, "past_exp": "first", "device": typed or "cuda"})
    line = PretrainLine(given, {} if typed is None else {"device": "--device"})
    with nullcontext() if words is None else pytest.raises(MelHuBERTError, match=words):
        line.check()
    line.settle_device(content["Args"])
    assert content["Args"].device == (typed or "cuda:99")


def test_copy_of_a_pre_training_is_not_gone_on_with_elsewhere(work, capsys):
    goes_on = Namespace(expdir=str(work / "first"))
    given = Namespace(**{**PRETRAIN, "expdir": str(work / "copy"), "auto_resume": True})
    with pytest.raises(MelHuBERTError, match=f"-a: the checkpoints in {work}/copy name {work}/first"):
        PretrainLine(given).tell_folder(goes_on)
    PretrainLine(Namespace(**{**PRETRAIN, "past_exp": str(work / "copy")})).tell_folder(goes_on)
    assert f"s3prl writes to {work}/first" in capsys.readouterr().out
    PretrainLine(Namespace(**{**PRETRAIN, "past_exp": str(work / "first/states-4.ckpt")})).tell_folder(
        goes_on
    )
    assert not capsys.readouterr().out


def test_new_pre_training_does_not_begin_in_the_folder_of_another(work):
    line = PretrainLine(Namespace(**{**PRETRAIN, "expdir": "empty"}))
    line.check()
    with only_writer(work / "empty"), pytest.raises(MelHuBERTError, match="at work on this folder"):
        line.check()
