"""Which device computes."""

from __future__ import annotations

import pytest
import torch

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.support.devices import resolve_device


def test_device_is_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "mps", "cuda:x"])
def test_devices_that_cannot_be_used_are_refused(name):
    with pytest.raises(MelHuBERTError, match="expected cpu, cuda or cuda:N"):
        resolve_device(name)


@pytest.mark.parametrize(
    ("devices", "expected"), [(0, "sees no CUDA device"), (2, "expected cuda:0 to cuda:1")]
)
def test_devices_that_are_not_here_are_refused(monkeypatch, devices, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with pytest.raises(MelHuBERTError, match=f"device cuda:2: .*{expected}"):
        resolve_device("cuda:2")
    for name in ("cuda", "cuda:0", "cuda:1") if devices else ():
        assert resolve_device(name) == torch.device(name)
