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
