"""The model under what traces or transforms its operations: the faster forms on a CPU must stand aside."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, kernels
from s3prl_melhubert.errors import MelHuBERTError

SIZES = {
    "feat_emb_dim": 8,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "encoder_layers": 2,
    "conv_pos": 64,  # long enough for the convolution by transforms, with the frames of `batch`
    "conv_pos_groups": 2,
    "num_cluster": 6,
}
WITHOUT_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


@pytest.fixture(params=["evaluation", "training"])
def model(request) -> MelHuBERT:
    """A model in float64, of whose operations each has a faster form here, and whose results are exact."""
    torch.manual_seed(0)
    model = MelHuBERT(MelHuBERTConfig(**SIZES, **WITHOUT_DROPOUT)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.train(request.param == "training")


def batch(utterances: int = 3, frames: int = 140) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    padding = torch.zeros(utterances, frames, dtype=torch.bool)
    padding[1:, frames // 2 :] = True
    return torch.randn(utterances, frames, 8, dtype=torch.float64), padding


def total(output: torch.Tensor) -> torch.Tensor:
    """A sum that is no constant after a LayerNorm, and whose derivative has a derivative."""
    return output.pow(3).sum()


def parameters(model: MelHuBERT) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if not name.startswith("final_proj")}


def test_gradient_by_functions_is_that_of_autograd(model):
    x, padding = batch()

    def loss(weights):
        return total(functional_call(model, weights, (x, padding)).last_hidden_state)

    ours = grad(loss)(parameters(model))
    total(model(x, padding).last_hidden_state).backward()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loss_under_a_transform_has_its_gradient(dropout):
    model = MelHuBERT(MelHuBERTConfig(**SIZES, dropout=dropout, attention_dropout=dropout)).train()
    x, padding = batch()
    labels, mask = torch.zeros(x.shape[:2], dtype=torch.long), ~padding

    def loss(weights):
        last = functional_call(model, weights, (x.float(), padding)).last_hidden_state
        return model.prediction_loss(last, labels, mask, padding).loss

    assert all(g.isfinite().all() for g in grad(loss)(parameters(model)).values())


def test_utterances_and_models_may_be_a_vmap(model):
    x, padding = batch()

    def one(x, padding):
        return model(x[None], padding[None]).last_hidden_state[0]

    torch.testing.assert_close(vmap(one)(x, padding), model(x, padding).last_hidden_state)
    weights, _ = stack_module_state([model, model])
    outputs = vmap(lambda w: functional_call(model, w, (x,)).last_hidden_state)(weights)
    torch.testing.assert_close(outputs[1], model(x).last_hidden_state)


def test_jacobian_and_hessian(model):
    x = batch(1, 300)[0]

    def few(x):
        return model(x).last_hidden_state[0, 0, :2]

    rows = jacrev(few)(x)
    x.requires_grad_()
    torch.testing.assert_close(rows[1], torch.autograd.grad(few(x)[1], x)[0])
    point = torch.zeros((), dtype=torch.float64)
    assert hessian(lambda t: total(model(x.detach() * (1 + t)).last_hidden_state))(point).isfinite()


def test_forward_mode_agrees_with_backward_mode(model):
    x, padding = batch()
    direction = torch.randn_like(x)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(total(model(x, padding).last_hidden_state), x)
    expected = (gradient * direction).sum()
    x = x.detach()
    _, ours = jvp(lambda x: total(model(x, padding).last_hidden_state), (x,), (direction,))
    torch.testing.assert_close(ours, expected)
    with forward_ad.dual_level():
        y = total(model(forward_ad.make_dual(x, direction), padding).last_hidden_state)
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, expected)


def test_forward_mode_of_weights(model):
    x, padding = batch()
    weights = parameters(model)
    directions = {name: torch.randn_like(weight) for name, weight in weights.items()}

    def loss(weights):
        return total(functional_call(model, weights, (x, padding)).last_hidden_state)

    _, ours = jvp(loss, (weights,), (directions,))
    gradients = grad(loss)(weights)
    torch.testing.assert_close(ours, sum((gradients[name] * directions[name]).sum() for name in weights))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_derivatives_of_derivatives_are_right_or_refused(model, dtype):
    """With `once_differentiable`, what goes through our forms was missing from the sum, in silence."""
    model = model.to(dtype)
    x, padding = batch()
    x = x.to(dtype).requires_grad_()

    def penalty():
        (gradient,) = torch.autograd.grad(total(model(x, padding).last_hidden_state), x, create_graph=True)
        return gradient.square().sum()

    with pytest.raises(MelHuBERTError, match=r"derivatives of derivatives.*torch_operations\(\)"):
        penalty()
    with kernels.torch_operations():
        torch.autograd.grad(penalty(), [p for p in model.encoder.parameters() if p.requires_grad])
        if dtype == torch.float64:
            short = batch(1, 34)[0].requires_grad_()
            assert torch.autograd.gradgradcheck(
                lambda x: model(x).last_hidden_state[:, 0], (short,), fast_mode=True
            )


@pytest.mark.parametrize("function", [kernels.dropout, kernels.gelu_dropout])
def test_derivatives_of_derivatives_of_dropout_are_refused(function):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(MelHuBERTError, match="derivatives of derivatives"):
        torch.autograd.grad(function(x, 0.5, True).sum(), x, create_graph=True)


def test_gradients_of_several_outputs_at_once_are_right_or_refused(model):
    x = batch(1, 300)[0].requires_grad_()
    several = torch.eye(2, dtype=torch.float64)

    def gradients():
        return torch.autograd.grad(model(x).last_hidden_state[0, 0, :2], x, several, is_grads_batched=True)[0]

    with pytest.raises(MelHuBERTError, match="several outputs at once"):
        gradients()
    with kernels.torch_operations():
        ours = gradients()
    torch.testing.assert_close(ours[1], torch.autograd.grad(model(x).last_hidden_state[0, 0, 1], x)[0])


class LastState(torch.nn.Module):
    """What a tracer takes: a module of tensors alone."""

    def __init__(self, model: MelHuBERT):
        super().__init__()
        self.model = model

    def forward(self, x, padding):
        return self.model(x, padding).last_hidden_state


def test_traced_model_takes_other_batches(model):
    traced = torch.jit.trace(LastState(model), batch(), check_trace=False)
    for other in (batch(), batch(5, 77), batch(1, 300)):
        torch.testing.assert_close(traced(*other), model(*other).last_hidden_state)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_program_computes_the_same(model, strict):
    program = torch.export.export(LastState(model), batch(), strict=strict).module()
    torch.testing.assert_close(program(*batch()), model(*batch()).last_hidden_state)


def test_graph_of_operations_computes_the_same(model):
    x = batch()[0]
    graph = make_fx(lambda x: model(x).last_hidden_state)(x)
    torch.testing.assert_close(graph(x.flip(1)), model(x.flip(1)).last_hidden_state)


def test_fake_tensors_have_shapes(model):
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.randn(3, 140, 8, dtype=torch.float64)
        assert model(x).last_hidden_state.shape == (3, 140, 16)


def test_counter_of_operations_sees_them_all():
    """oneDNN's matrix products are not among those that torch's counter knows."""
    model = MelHuBERT(MelHuBERTConfig(**SIZES)).eval()
    layer = model.encoder.layers[0].fc1
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(100, 16))
    assert counter.get_total_flops() == 2 * 100 * 16 * 24


def test_weight_of_another_kind_is_asked_for_its_own_product():
    class Quantized(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.linear:
                return torch.full((len(args[0]), len(args[1])), 7.0)
            return super().__torch_function__(function, types, args, kwargs)

    layer = kernels.Linear(4, 3)
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Quantized))
    assert layer(torch.randn(100, 4)).unique().tolist() == [7.0]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activations_may_be_computed_again(dropout, reentrant):
    torch.manual_seed(0)
    model = MelHuBERT(MelHuBERTConfig(**SIZES, dropout=dropout, attention_dropout=dropout)).double()
    x, padding = batch()
    gradients = []
    for again in (False, True):
        torch.manual_seed(2)
        inputs = x.clone().requires_grad_()

        def last(x):
            return model(x, padding).last_hidden_state

        y = checkpoint(last, inputs, use_reentrant=reentrant) if again else last(inputs)
        total(y).backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients)  # A pass without gradients may convolve by the other form.
