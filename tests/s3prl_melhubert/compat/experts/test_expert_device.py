"""Experts of s3prl's that know the first GPU alone, on a CPU and on any GPU."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest
import torch

from s3prl_melhubert.compat import finder
from s3prl_melhubert.compat.experts import expert_device


class DownstreamExpert(torch.nn.Module):
    """Moves tensors as s3prl's experts do."""

    def __init__(self, device):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, device=device)

    def forward(self, mode, features, fail=False):
        mask = torch.ones(1).cuda()
        if fail:
            raise ValueError(mode)
        return mask

    def log_records(self, mode, records):
        return records.cuda()


def test_tensors_are_put_where_the_expert_is_and_cuda_is_itself_again():
    cuda = torch.Tensor.cuda
    module = ModuleType("task.expert")
    module.DownstreamExpert = type("Expert", (DownstreamExpert,), {})
    assert expert_device.restore(module)
    assert not expert_device.restore(module)  # once is enough
    for device in ("cpu", "meta"):
        expert = module.DownstreamExpert(device)
        assert expert("train", [torch.ones(1, device=device)]).device.type == device
        assert expert.log_records("test", torch.ones(1)).device.type == device
    with pytest.raises(ValueError, match="train"):
        expert("train", [torch.ones(1)], fail=True)
    assert torch.Tensor.cuda is cuda


def test_a_device_that_modules_chose_is_the_experts(monkeypatch):
    module, loss = ModuleType("task.expert"), ModuleType("task.loss")
    module.__package__ = "task"
    module.device = loss.device = torch.device("cuda:0")
    monkeypatch.setitem(sys.modules, "task.loss", loss)
    module.DownstreamExpert = type("Expert", (DownstreamExpert,), {})
    expert_device.restore(module)
    for device in ("cpu", "meta"):
        module.DownstreamExpert(device)("train", [])
        assert module.device.type == loss.device.type == device


def test_every_expert_that_knows_the_first_gpu_alone_is_mended(installed_s3prl):
    """voxceleb2_ge2e is left out, because s3prl's runner cannot use it on any device."""
    calling = {
        f"s3prl.downstream.{path.parent.name}.expert"
        for path in (installed_s3prl / "downstream").glob("*/expert.py")
        if re.search(r"\.cuda\(\)|^device = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    mended = {name for name, act in finder._AFTER_LOADING.items() if act is finder._restore_device}
    assert mended == calling - {"s3prl.downstream.voxceleb2_ge2e.expert"}
