"""The positional convolution: as torch's own, with gradients, by either of its forms."""

import pytest
import torch
import torch.nn.functional as F

from s3prl_melhubert.encoder import PositionalConv
from s3prl_melhubert.kernels import conditions, convolution


def by_transforms(monkeypatch) -> None:
    """Let every convolution go through Fourier transforms."""
    monkeypatch.setattr(convolution, "LEAST_KERNEL", 1)
    monkeypatch.setattr(convolution, "LEAST_BLOCKS", 1)
    monkeypatch.setattr(convolution, "TIMES_FOR_SHORT", 1)
    monkeypatch.setattr(conditions, "HAS_AVX512", False)
    monkeypatch.setattr(convolution, "direct_conv1d", None)


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 50])
@pytest.mark.parametrize(("kernel", "padding"), [(16, 8), (15, 7), (16, 0), (2, 1), (1, 0)])
def test_convolution_by_transforms_is_that_of_torch(monkeypatch, frames, kernel, padding):
    if frames + 2 * padding < kernel:
        pytest.skip("there is no output")
    by_transforms(monkeypatch)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 12, frames), torch.randn(12, 4, kernel), torch.randn(12)
    inputs = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    ours = convolution.grouped_conv1d(*inputs, padding, 3)
    theirs = F.conv1d(*inputs, padding=padding, groups=3)
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(y, inputs, g) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_base_models_convolution_and_its_gradients_are_as_exact_as_torchs(monkeypatch):
    """Either form has rounding errors of its own; ours may not be twice as far from the right sums."""
    torch.manual_seed(0)
    conv = PositionalConv(768, 128, 16)
    x, g = torch.randn(1, 768, 600), torch.randn(1, 768, 600)
    torch.nn.init.normal_(conv.bias)
    results = []
    for dtype, transforms in ((torch.float64, False), (torch.float32, False), (torch.float32, True)):
        monkeypatch.setattr(convolution, "LEAST_BLOCKS", 1 if transforms else 1000)
        conv = conv.to(dtype)
        inputs = [x.to(dtype).requires_grad_(), *conv.parameters()]
        y = conv(inputs[0])
        results.append([y, *torch.autograd.grad(y, inputs, g.to(dtype))])
    for exact, theirs, ours in zip(*results, strict=True):
        assert not torch.equal(theirs, ours) or ours.shape == (768,)  # a bias has the same gradient
        assert (ours - exact).norm() < max(2 * (theirs - exact).norm(), 1e-6 * exact.norm())


def test_convolution_by_transforms_repeats_bit_for_bit(monkeypatch):
    by_transforms(monkeypatch)
    torch.manual_seed(0)
    inputs = [t.requires_grad_() for t in (torch.randn(2, 48, 300), torch.randn(48, 12, 64), torch.randn(48))]
    runs = []
    for _ in range(2):
        y = convolution.grouped_conv1d(*inputs, 32, 4)
        runs.append([y, *torch.autograd.grad(y, inputs, torch.ones_like(y))])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_short_inputs_go_through_torchs_own_convolution():
    """The transform of the weight must pay; that of a weight that stays is there already."""
    x, weight = torch.randn(1, 8, 750), torch.randn(8, 4, 128, requires_grad=True)
    worth = convolution._is_worth_transforms
    assert worth(x, weight, 64)
    assert not worth(x[..., :300], weight, 64)  # three blocks
    with torch.no_grad():
        assert worth(x[..., :300], weight, 64)
        assert not worth(x[..., :100], weight, 64)
    assert worth(x, weight[..., :32], 16)
    assert not worth(x[..., :400], weight[..., :32], 16)  # 13 blocks
    assert not worth(x, weight[..., :16], 8)


def test_a_changed_weight_is_noticed_however_it_was_changed():
    torch.manual_seed(0)
    x, conv = torch.randn(1, 8, 1000), PositionalConv(8, 128, 2)
    changes = [
        lambda: None,
        lambda: conv.weight_v.data.view(-1)[5:6].add_(0.5),  # which no version of the tensor tells
        lambda: conv.load_state_dict({name: 2 * value for name, value in conv.state_dict().items()}),
        lambda: conv.double(),
        lambda: conv.float(),
    ]
    for change in changes:
        change()
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                weight = torch._weight_norm(conv.weight_v, conv.weight_g, 2)
                exact = F.conv1d(x.double(), weight.double(), conv.bias.double(), padding=64, groups=2)
                y = conv(x.to(weight.dtype)).double()
                torch.testing.assert_close(y, exact[..., :1000], atol=1e-5, rtol=1e-5)


def test_a_frozen_weight_is_transformed_once(monkeypatch):
    of, made = convolution._spectrum, []
    monkeypatch.setattr(convolution, "_spectrum", lambda weight: made.append(1) or of(weight))
    monkeypatch.setattr(convolution, "_kept", [])
    x, models = torch.randn(1, 8, 1000), [PositionalConv(8, 128, 2) for _ in range(3)]
    with torch.inference_mode():
        first = [conv(x) for conv in (*models[:2], *models[:2])]
    with torch.no_grad():
        assert torch.equal(models[0](x), first[2])
    assert len(made) == 2
    with torch.no_grad():
        models[2](x), models[0](x)
    assert len(made) == 3
    assert len(convolution._kept) == 2
    models[0](x).sum().backward()  # what a gradient goes through is not kept
    assert len(made) == 4


def test_what_is_not_finite_stays_where_the_kernel_reaches():
    """Utterances lie in one row, and a broken one must not break the others."""
    x, conv = torch.randn(1, 8, 1000), PositionalConv(8, 128, 2)
    x[..., 500] = float("nan")
    y = conv(x)
    broken = ~y.isfinite().all(1)[0]
    assert broken.nonzero().flatten().tolist() == list(range(500 - 63, 500 + 65))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("width", "groups"), [(48, 4), (64, 16), (192, 16), (64, 4), (768, 16)])
@pytest.mark.parametrize("avx512", [True, False])
def test_convolution_in_half_precision_is_right_for_any_number_of_channels(
    monkeypatch, avx512, width, groups, dtype
):
    """On a processor with AMX, oneDNN's sums are wrong for the first three of these."""
    monkeypatch.setattr(conditions, "HAS_AVX512", avx512)
    torch.manual_seed(0)
    x, weight = torch.randn(2, width, 50), torch.randn(width, width // groups, 16) / width**0.5
    bias = torch.randn(width)
    rounded = [tensor.to(dtype) for tensor in (x, weight, bias)]
    exact = F.conv1d(*(tensor.double() for tensor in rounded), padding=8, groups=groups)
    y = convolution.grouped_conv1d(*rounded, 8, groups)
    with torch.autocast("cpu", dtype):
        same = convolution.grouped_conv1d(x, weight, bias, 8, groups)
    assert y.dtype == same.dtype == dtype
    assert (y.double() - exact).norm() < 0.01 * exact.norm()
    assert (same.double() - exact).norm() < 0.01 * exact.norm()


def test_convolution_of_doubles_is_not_rounded():
    x, weight, bias = (torch.randn(shape).double() for shape in ((1, 12, 50), (12, 4, 16), (12,)))
    exact = F.conv1d(x, weight, bias, padding=8, groups=3)
    torch.testing.assert_close(convolution.grouped_conv1d(x, weight, bias, 8, 3), exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_what_is_not_frozen_has_its_gradient(frozen):
    x, weight, bias = torch.randn(1, 8, 512), torch.randn(8, 2, 64), torch.zeros(8)
    learns = (x if frozen == "weight" else weight).requires_grad_()
    gradients = [
        torch.autograd.grad(y.square().sum(), learns)[0]
        for y in (
            convolution.grouped_conv1d(x, weight, bias, 32, 4),
            F.conv1d(x, weight, bias, padding=32, groups=4),
        )
    ]
    torch.testing.assert_close(*gradients, atol=0.05, rtol=1e-4)
