"""s3prl's speech enhancement and source separation on a CPU and on any GPU."""

from __future__ import annotations

import sys
from types import ModuleType

import torch

from s3prl_melhubert.compat.experts import separation_device


def test_what_the_modules_move_goes_where_the_features_are(monkeypatch):
    loss, module = ModuleType("room.loss"), ModuleType("room.expert")
    module.__package__, module.device = "room", torch.device("cuda:0")
    monkeypatch.setitem(sys.modules, "room.loss", loss)

    class DownstreamExpert:
        def forward(self, mode, features):
            return torch.zeros(1).to(module.device), torch.zeros(1).to(loss.device)

    module.DownstreamExpert = DownstreamExpert
    assert separation_device.restore(module)
    assert not separation_device.restore(module)  # once is enough
    for device in ("cpu", "meta"):
        moved = module.DownstreamExpert().forward("train", [torch.ones(1, device=device)])
        assert [each.device.type for each in moved] == [device, device]
