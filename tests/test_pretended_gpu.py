"""The GPU in name only: what it finds wrong, and that it computes what a CPU does."""

from __future__ import annotations

import pytest
import torch
from pretended_gpu import pretended_gpu
from torch import nn

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def test_a_step_there_is_a_step_on_a_cpu():
    parameters = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        with pretended_gpu():
            model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 2)).to(device)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
            x = X.to(device)
            assert x.is_cuda == (device == "cuda")
            nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 1, 0], device=device)).backward()
            optimizer.step()
            parameters.append([parameter.detach().cpu() for parameter in model.parameters()])
    for a, b in zip(*parameters, strict=True):
        assert type(b) is torch.Tensor
        torch.testing.assert_close(a, b)


def test_tensors_of_two_devices_are_refused_as_on_a_gpu():
    with pretended_gpu():
        there = X.cuda()
        for together in (lambda: there + X, lambda: there @ X.T, lambda: nn.Linear(6, 2)(there)):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                together()
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            there.numpy()
        assert (there + 1).cpu().equal(X + 1)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: bool(x.any()),
    ],
    ids=["item", "tolist", "cpu", "index by a mask", "bool"],
)
def test_what_waits_for_the_device_is_found(wait):
    with pretended_gpu():
        there = X.cuda()
        torch.cuda.set_sync_debug_mode("error")
        torch.where(there > 0, there, 0).sum()  # which waits for nothing
        with pytest.raises(RuntimeError, match="synchronizing"):
            wait(there)


def test_out_of_the_block_there_is_no_gpu_left():
    with pretended_gpu():
        assert torch.cuda.is_available()
        X.cuda()
    assert X.to("cpu") is X
    assert nn.Linear(2, 2).to("cpu").weight.device.type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            X.to("cuda")
