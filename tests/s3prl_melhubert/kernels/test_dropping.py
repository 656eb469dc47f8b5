"""Dropout: how much it drops, and that its seed decides what."""

import pytest
import torch
import torch.nn.functional as F

from s3prl_melhubert import kernels
from s3prl_melhubert.kernels import dropping


def seeded(function, *arguments):
    torch.manual_seed(3)
    return function(*arguments)


@pytest.mark.parametrize("function", [kernels.dropout, kernels.gelu_dropout])
def test_gradients_of_what_drops_are_those_of_what_was_dropped(monkeypatch, function):
    """The masks are made again in the backward pass: they must be the same."""
    monkeypatch.setattr(dropping, "CHUNK", 7)
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: seeded(function, x, 0.3, True), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_share_that_it_is_told_and_scales_the_rest(dtype):
    x = torch.ones(1_000_000, dtype=dtype)
    y = seeded(kernels.dropout, x, 0.1, True)
    assert (y == 0).float().mean().item() == pytest.approx(0.1, abs=0.002)
    assert y[y != 0].unique().float().tolist() == pytest.approx([1 / 0.9], rel=5e-3)
    assert kernels.dropout(x, 0.1, False) is x


@pytest.mark.parametrize(
    ("function", "activation"), [(kernels.dropout, torch.clone), (kernels.gelu_dropout, F.gelu)]
)
def test_evaluation_drops_nothing_and_training_scales_what_stays(function, activation):
    """A tensor with other strides goes through torch's own: its elements cannot be taken in their order."""
    for x in (torch.randn(40, 30), torch.randn(40, 30).t()):
        torch.testing.assert_close(function(x, 0.5, False), activation(x))
        y = seeded(function, x, 0.5, True)
        assert 0.4 < (y == 0).float().mean() < 0.6
        torch.testing.assert_close(y[y != 0], 2 * activation(x)[y != 0])


def test_a_dropped_infinity_is_gone():
    """Zero times infinity would not be a number."""
    y = seeded(kernels.dropout, torch.full((1000,), float("inf")), 0.5, True)
    assert set(y.tolist()) == {0.0, float("inf")}


def test_torch_seed_decides_what_is_dropped():
    x = torch.randn(300)
    first, again = (seeded(kernels.dropout, x, 0.5, True) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, kernels.dropout(x, 0.5, True))
