"""The encoder's inner operations: as torch's own, with gradients, and repeatable."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, kernels

LENGTHS = (4, 1, 9)


def seeded(function, *arguments):
    torch.manual_seed(3)
    return function(*arguments)


@pytest.fixture(params=[True, False], ids=["AVX-512", "no AVX-512"])
def avx512(request, monkeypatch) -> bool:
    """Take the forms for processors with it, then those for processors without it, wherever this runs."""
    monkeypatch.setattr(kernels, "HAS_AVX512", request.param)
    return request.param


def packed(width: int = 8, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(sum(LENGTHS), width, dtype=dtype, requires_grad=True) for _ in range(3)]


def plain_attention(q, k, v, heads):
    outputs = []
    for parts in zip(*(x.split(LENGTHS) for x in (q, k, v)), strict=True):
        q_i, k_i, v_i = (x.unflatten(1, (heads, -1)).transpose(0, 1) for x in parts)
        outputs.append(F.scaled_dot_product_attention(q_i, k_i, v_i).transpose(0, 1).flatten(1))
    return torch.cat(outputs)


@pytest.mark.parametrize("block", [10, 40, 10_000], ids=["rows", "heads", "all heads"])
def test_packed_attention_is_that_of_torch_however_it_is_cut(monkeypatch, avx512, block):
    monkeypatch.setattr(kernels, "BLOCK", block)
    q, k, v = packed()
    ours, theirs = kernels.packed_attention(q, k, v, LENGTHS, 2, 0.0), plain_attention(q, k, v, 2)
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(y, (q, k, v), g) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("block", [10, 10_000])
def test_gradients_of_what_drops_are_those_of_what_was_dropped(monkeypatch, avx512, block):
    """The masks are made again in the backward pass: they must be the same."""
    monkeypatch.setattr(kernels, "BLOCK", block)
    monkeypatch.setattr(kernels, "CHUNK", 7)
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    for function in (kernels.dropout, kernels.gelu_dropout):
        assert torch.autograd.gradcheck(lambda x, f=function: seeded(f, x, 0.3, True), (x,))
    assert torch.autograd.gradcheck(
        lambda q, k, v: seeded(kernels.packed_attention, q, k, v, LENGTHS, 2, 0.3), packed()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_share_that_it_is_told_and_scales_the_rest(dtype):
    x = torch.ones(1_000_000, dtype=dtype)
    y = seeded(kernels.dropout, x, 0.1, True)
    assert (y == 0).float().mean().item() == pytest.approx(0.1, abs=0.002)
    assert y[y != 0].unique().float().tolist() == pytest.approx([1 / 0.9], rel=5e-3)
    assert kernels.dropout(x, 0.1, False) is x


def test_a_dropped_infinity_is_gone():
    """Zero times infinity would not be a number."""
    y = seeded(kernels.dropout, torch.full((1000,), float("inf")), 0.5, True)
    assert set(y.tolist()) == {0.0, float("inf")}


def test_torch_seed_decides_what_is_dropped():
    x = torch.randn(300)
    first, again = (seeded(kernels.dropout, x, 0.5, True) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, kernels.dropout(x, 0.5, True))


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
    monkeypatch.setattr(kernels, "HAS_AVX512", False)
    torch.manual_seed(0)
    x, weight = torch.randn(70, 300).bfloat16(), torch.randn(20, 300).bfloat16()
    assert torch.equal(kernels.linear(x, weight), (x.float() @ weight.float().t()).bfloat16())


def test_bfloat16_hidden_states_are_within_two_percent():
    torch.manual_seed(0)
    model = MelHuBERT(MelHuBERTConfig(encoder_layers=3)).eval()
    features = torch.randn(2, 100, 80)
    padding_mask = torch.arange(100) >= torch.tensor([[100], [60]])
    with torch.no_grad():
        exact = model(features, padding_mask).hidden_states
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(features, padding_mask).hidden_states
    for a, b in zip(exact, rough, strict=True):
        assert (b - a).norm() < 0.02 * a.norm()


def error_of(attention, scale: float, dtype: torch.dtype) -> tuple[float, float]:
    """Relative errors of attention's output and of its gradients, whose scores are so many times larger."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(200, 192) for _ in range(3))
    q, k = q * scale**0.5, k * scale**0.5
    inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    g = torch.randn(200, 192).to(dtype)
    results = []
    for some, weight in ((inputs, g), (exact, g.double())):
        y = attention(*some)
        results.append([y, *torch.autograd.grad(y, some, weight)])
    norms = [float((a.double() - b).norm() / b.norm()) for a, b in zip(*results, strict=True)]
    return norms[0], max(norms[1:])


@pytest.mark.parametrize("scale", [1.0, 5.0, 10.0, 30.0])
@pytest.mark.parametrize("block", [200 * 100, 200 * 200 * 8], ids=["rows", "all heads"])
def test_peaked_attention_in_bfloat16_is_as_exact_as_torchs(monkeypatch, avx512, scale, block):
    monkeypatch.setattr(kernels, "BLOCK", block)

    def theirs(*qkv):
        heads = [x.unflatten(1, (3, -1)).transpose(0, 1)[None] for x in qkv]
        return F.scaled_dot_product_attention(*heads)[0].transpose(0, 1).flatten(1)

    ours = error_of(lambda q, k, v: kernels.packed_attention(q, k, v, [200], 3, 0.0), scale, torch.bfloat16)
    torchs = error_of(theirs, scale, torch.bfloat16)
    assert ours[0] < 1.5 * torchs[0]
    assert ours[1] < 1.5 * torchs[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_backward_inside_autocast_computes_in_the_types_of_the_forward_pass(dtype):
    torch.manual_seed(0)
    settings = {"encoder_layers": 1, "encoder_embed_dim": 64, "encoder_ffn_embed_dim": 128}
    model = MelHuBERT(MelHuBERTConfig(**settings, encoder_attention_heads=2, conv_pos=8, conv_pos_groups=2))
    features, weight = torch.randn(2, 90, 80), torch.randn(2, 90, 64)
    gradients = []
    for autocast in (nullcontext(), torch.autocast("cpu", dtype=dtype)):
        model.zero_grad()
        torch.manual_seed(1)
        loss = (model(features).last_hidden_state * weight).sum()
        with autocast:
            loss.backward()
        gradients.append([p.grad for p in model.encoder.layers.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(4, 8), (4, 32), (2, 4, 8)])
def test_linear_layer_refuses_rows_of_another_width(shape):
    """A view of their elements as rows of its own width would join neighbours."""
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        kernels.Linear(16, 3)(torch.zeros(shape))
