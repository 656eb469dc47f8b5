"""Stretches that lie end to end in rows give what they give in a padded batch."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad

from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.rows import attention
from s3prl_melhubert.pretrain.training.rows.layout import RowLayout, put, take

# Full rows, one of a single stretch, one that ends with padding, one that is empty; stretches of one frame.
ROWS = ((40,), (13, 27), (9, 1, 20), (1, 12, 18, 5), ())


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"feat_emb_dim": 40}, {"skip_nomask": False, "pred_nomask_weight": 0.5}]
)
def test_loss_and_gradients_in_rows_are_those_of_padded_utterances(
    tiny_model, both_forms, norm_first, settings
):
    no_dropout = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    model = tiny_model(layer_norm_first=norm_first, **no_dropout, **settings).train()
    with torch.no_grad():
        for parameter in model.parameters():  # a LayerNorm of a frame of zeros has a huge gradient
            parameter += 0.1 * torch.randn_like(parameter)
    padded, rows = both_forms(model.config, ROWS)
    expected, found = padded.loss(model), rows.loss(model)
    assert (rows.masked_frames, rows.unmasked_frames) == (padded.masked_frames, padded.unmasked_frames)
    names = ("masked_loss", "masked_correct", "masked_frames")
    if rows.unmasked is not None:
        names += ("unmasked_loss", "unmasked_correct", "unmasked_frames")
    for name in names:
        torch.testing.assert_close(
            getattr(found, name).float(), getattr(expected, name).float(), atol=1e-5, rtol=1e-6, msg=name
        )
    theirs, ours = gradients(model, expected.loss), gradients(model, found.loss)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=0, msg=name)


def test_attention_by_a_mask_is_that_by_blocks():
    """What a device without a kernel does, and torch.compile on a CPU."""
    torch.manual_seed(0)
    layout = RowLayout.of(ROWS, 40, 8, 4)
    q, k, v = (torch.randn(200, 24, dtype=torch.float64) for _ in range(3))
    blocks = layout.attention(q, k, v, 3, 0.0)
    by_head = (x.unflatten(-1, (3, 8)) for x in (q, k, v))
    mask = attention.by_mask(*by_head, layout.bounds, 40, 0.0).flatten(1)
    torch.testing.assert_close(mask, blocks)


def test_shapes_do_not_depend_on_what_lies_in_the_rows(tiny_model, both_forms):
    config = tiny_model().config
    kinds = (ROWS, ((40,),) * 5, ((10, 10, 10, 10),) * 5, ((), (3,), (2, 2), (40,), ()))
    shapes = []
    for number, rows in enumerate(kinds):
        batch = both_forms(config, rows, seed=number)[1]
        tensors = (batch.features, batch.mask, batch.layout.bounds, batch.layout.places, *batch.masked)
        shapes.append([tensor.shape for tensor in tensors])
    assert shapes[1:] == shapes[:-1]


def test_take_and_put_have_the_gradients_of_indexing():
    torch.manual_seed(0)
    x, places = torch.randn(6, 3, dtype=torch.float64, requires_grad=True), torch.tensor([4, 0, 5])
    assert torch.equal(take(x, places), x[places])
    assert torch.autograd.gradcheck(lambda x: take(x, places), (x,))
    assert torch.autograd.gradcheck(lambda x: put(x, places, 7), (x[:3].detach().requires_grad_(),))
    assert torch.autograd.gradgradcheck(lambda x: take(x, places), (x,))


def test_a_compiled_model_takes_any_rows_without_compiling_again(tiny_model, both_forms):
    from torch._dynamo.testing import CompileCounter

    model = tiny_model(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0).train()
    counter = CompileCounter()
    batches = [both_forms(model.config, rows, seed=3)[1] for rows in (ROWS, ROWS[::-1], ((40,),) * 5)]
    expected = [batch.loss(model).loss.item() for batch in batches]
    torch._dynamo.reset()
    model.encoder.compile(backend=counter, fullgraph=True)
    found = [batch.loss(model).loss.item() for batch in batches]
    assert found == pytest.approx(expected, abs=1e-5)
    assert counter.frame_count == 1


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name.removeprefix("aten::"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dtype", "kernel"),
    [(torch.bfloat16, "_flash_attention"), (torch.float32, "_efficient_attention")],
    ids=["bf16", "fp32"],
)
def test_a_micro_batch_goes_by_the_kernels_of_a_gpu_and_waits_for_nothing(
    tiny_model, both_forms, dtype, kernel
):
    """Without a GPU, on tensors without content: whoever asks for it raises."""
    model = tiny_model(encoder_embed_dim=64).to("meta", dtype).train()
    batch = both_forms(model.config, ROWS)[1].to(torch.device("meta"))
    batch.features = batch.features.to(dtype)
    batch.layout.kernels = (attention.FLASH, attention.EFFICIENT)
    with Operations() as operations:
        batch.loss(model).share_of(10, 10).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    layers = model.config.encoder_layers
    for direction in ("forward", "backward"):
        assert operations.names.count(f"{kernel}_{direction}") == layers
    waits = {"nonzero", "_local_scalar_dense", "item", "masked_select", "is_nonzero", "index"}
    assert not waits & set(operations.names)


def test_a_gpu_takes_q_k_and_v_as_one_product(tiny_model, both_forms):
    """Without a GPU, on tensors that are on one in name only."""
    config = tiny_model().config
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad(), Operations() as operations:
        model = MelHuBERT(config).train()
        operations.names.clear()
        model(torch.randn(2, 40, 80))
    # Of each layer: q, k and v; the output; two of the MLP. Before them, the projection.
    assert operations.names.count("addmm") == 1 + 4 * config.encoder_layers


def test_rows_may_be_transformed(tiny_model, both_forms):
    """On a CPU, and with what a GPU does without a kernel of its own."""
    model = tiny_model(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0).train()
    rows = both_forms(model.config, ROWS)[1]
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights):
        outputs = (rows.features, rows.padding_mask, rows.mask)
        last = functional_call(model, weights, outputs, {"frames": rows.layout, "every_layer": False})
        return take(last.last_hidden_state.flatten(0, 1), rows.masked.places).pow(3).sum()

    expected = torch.autograd.functional.vjp(
        lambda *w: loss(dict(zip(weights, w, strict=True))), (*weights.values(),)
    )
    for name, ours, theirs in zip(weights, grad(loss)(weights).values(), expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3, msg=name)
