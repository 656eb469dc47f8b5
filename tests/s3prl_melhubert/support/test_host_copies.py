"""Copies of tensors in the memory of the host."""

from __future__ import annotations

import pytest
import torch

from s3prl_melhubert.support.host_copies import HostCopies


def state(device: str = "cpu") -> dict:
    weight = torch.nn.Parameter(torch.arange(6.0, device=device).reshape(2, 3))
    return {"a.b": weight, "state": {0: {"step": torch.tensor(3.0), "kind": "Adam"}}, "groups": [(1, weight)]}


def test_copies_stay_what_they_were_in_the_same_memory():
    copies, changing = HostCopies(), state()
    first = copies.take(changing)
    copies.arrive()
    with torch.no_grad():
        changing["a.b"].zero_()
    changing["state"][0]["step"] += 1
    changing["state"][0]["kind"] = "SGD"
    changing["groups"].clear()
    assert torch.equal(first["a.b"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(first["groups"][0][1], first["a.b"])
    assert first["state"] == {0: {"step": torch.tensor(3.0), "kind": "Adam"}}
    assert not first["a.b"].requires_grad

    changing["new"] = torch.ones(4)
    second = copies.take(changing)
    assert second["a.b"] is first["a.b"]
    assert torch.equal(second["a.b"], torch.zeros(2, 3))
    assert torch.equal(second["new"], torch.ones(4))
    third = copies.take({"new": torch.ones(5, dtype=torch.int64)})
    assert torch.equal(third["new"], torch.ones(5, dtype=torch.int64))


@pytest.mark.gpu
def test_what_a_gpu_does_next_does_not_reach_the_copies():
    copies = HostCopies()
    large = torch.ones(1 << 26, device="cuda")
    for value in (1.0, 2.0):
        large.fill_(value)
        copy = copies.take([large])[0]
        large.zero_()
        copies.arrive()
        assert copy.is_pinned()
        assert bool((copy == value).all())
