"""Linear layers and products: as torch's own, with gradients."""

from contextlib import nullcontext

import pytest
import torch

from s3prl_melhubert import kernels
from s3prl_melhubert.kernels import conditions


@pytest.mark.parametrize("onednn", [True, False])
def test_linear_is_that_of_torch(onednn):
    torch.manual_seed(0)
    ours = kernels.Linear(24, 40)
    theirs = torch.nn.Linear(24, 40)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 50, 24)
    with nullcontext() if onednn else kernels.torch_operations(products_only=True):
        for y in (x, x.requires_grad_()):
            torch.testing.assert_close(ours(y), theirs(y))
        for layer in (ours, theirs):
            layer(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_linear_in_half_precision_is_exact_up_to_rounding(avx512, dtype, autocast):
    torch.manual_seed(0)
    layer = kernels.Linear(24, 40)
    x = torch.randn(2, 50, 24)
    g = torch.randn(2, 50, 40).to(dtype)
    if not autocast:
        layer, x = layer.to(dtype), x.to(dtype)
    exact = torch.nn.Linear(24, 40).double()
    exact.load_state_dict(layer.state_dict())
    inputs = x.requires_grad_(), x.detach().double().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=autocast):
        y = layer(inputs[0])
    assert y.dtype == dtype
    y.backward(g)
    exact(inputs[1]).backward(g.double())
    pairs = [(y, exact(inputs[1])), (inputs[0].grad, inputs[1].grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(layer.parameters(), exact.parameters(), strict=True)]
    for a, b in pairs:
        assert (a.double() - b).norm() < 0.01 * b.norm()
    assert layer.weight.grad.dtype == layer.weight.dtype


def test_products_in_half_precision_are_sums_in_float32_where_the_processor_has_no_avx512(monkeypatch):
    """There torch's own take 9 to 40 times as long as in float32."""
    monkeypatch.setattr(conditions, "HAS_AVX512", False)
    torch.manual_seed(0)
    x, weight = torch.randn(70, 300).bfloat16(), torch.randn(20, 300).bfloat16()
    assert torch.equal(kernels.linear(x, weight), (x.float() @ weight.float().t()).bfloat16())


@pytest.mark.parametrize("shape", [(4, 8), (4, 32), (2, 4, 8)])
def test_linear_layer_refuses_rows_of_another_width(shape):
    """A view of their elements as rows of its own width would join neighbours."""
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        kernels.Linear(16, 3)(torch.zeros(shape))
