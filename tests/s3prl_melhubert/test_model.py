"""The model: parity with the published implementation, and what must hold for any settings."""

import pytest
import torch

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, load_checkpoint
from s3prl_melhubert.checkpoint import load_model
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.model import parameter_count
from s3prl_melhubert.packing import Frames


def padded_batch(*lengths: int, dim: int = 80):
    features = torch.nn.utils.rnn.pad_sequence([torch.randn(n, dim) for n in lengths], batch_first=True)
    padding_mask = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    return features, padding_mask


@pytest.fixture(scope="module")
def published_batch(published):
    inputs = [torch.from_numpy(published[f"input_{i}"]) for i in range(3)]
    lengths = torch.tensor([len(x) for x in inputs])
    features = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    return features, torch.arange(features.shape[1]) >= lengths[:, None], lengths


@torch.no_grad()
def test_hidden_states_match_published_implementation(published, published_batch):
    features, padding_mask, lengths = published_batch
    model = load_checkpoint(published["ckpt"]).build_model()
    output = model(features, padding_mask)
    assert len(output.hidden_states) == 3
    for i, length in enumerate(lengths):
        for layer, hidden in enumerate(output.hidden_states):
            expected = torch.from_numpy(published[f"hidden_{layer}_{i}"])
            torch.testing.assert_close(hidden[i, :length], expected, atol=1e-4, rtol=0)
        expected = torch.from_numpy(published[f"last_{i}"])
        torch.testing.assert_close(output.last_hidden_state[i, :length], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_hidden_states_from_waveforms_match_published_implementation(published):
    model, frontend = load_model(published["ckpt"], published["stats"])
    features, padding_mask = frontend([torch.from_numpy(published[f"wav_{i}"]) for i in range(3)])
    output = model(features, padding_mask)
    for i in range(3):
        expected = torch.from_numpy(published[f"last_{i}"])
        torch.testing.assert_close(output.last_hidden_state[i, : len(expected)], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_masked_loss_and_accuracy_match_published_implementation(published, published_batch):
    features, padding_mask, _ = published_batch
    mask, labels = torch.from_numpy(published["mask"]), torch.from_numpy(published["label"])
    model = load_checkpoint(published["ckpt"]).build_model()
    last = model(features, padding_mask, mask).last_hidden_state
    loss = model.prediction_loss(last, labels, mask, padding_mask)
    assert loss.loss.item() == pytest.approx(float(published["masked_loss"]), abs=1e-4)
    assert loss.masked_accuracy.item() == pytest.approx(float(published["masked_accuracy"]), abs=1e-4)
    assert loss.masked_loss / loss.masked_frames == pytest.approx(loss.loss.item(), rel=1e-6)


def test_parameters_stand_in_published_order(published):
    """Optimizer states refer to parameters by their place."""
    checkpoint = load_checkpoint(published["ckpt"])
    names = [name for name, _ in checkpoint.build_model().named_parameters()]
    assert names == list(checkpoint.state)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer_norm_first": True},
        {"conv_pos": 15},
        {"feat_emb_dim": 40, "conv_pos": 1},
        {"feat_emb_dim": 80, "encoder_embed_dim": 80},
        {"activation_fn": "relu"},
    ],
    ids=str,
)
@torch.no_grad()
def test_utterance_gives_the_same_alone_as_in_a_padded_batch(tiny_model, settings):
    model = tiny_model(**settings)
    lengths = (50, 3, 21, 1)
    features, padding_mask = padded_batch(*lengths, dim=model.config.feat_emb_dim)
    together = model(features, padding_mask)
    assert together.last_hidden_state.isfinite().all()
    for i, length in enumerate(lengths):
        alone = model(features[i : i + 1, :length])
        for a, b in zip(alone.hidden_states, together.hidden_states, strict=True):
            torch.testing.assert_close(a[0], b[i, :length], atol=1e-4, rtol=0)
        assert (together.hidden_states[0][i, length:] == 0).all()


def test_no_projection_where_sizes_agree(tiny_model):
    names = tiny_model(feat_emb_dim=80, encoder_embed_dim=80).state_dict()
    assert not any(name.startswith("pre_extract_proj") for name in names)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("learned", [True, False])
@torch.no_grad()
def test_masked_frames_are_replaced(tiny_model, before, learned):
    model = tiny_model(mask_before_proj=before, learnable_mask_emb=learned)
    features = torch.randn(2, 20, 80)
    mask = model.draw_mask([20, 20], 20)
    projected = model(features, mask=mask).hidden_states[0]
    width = 80 if before else 48
    vector = model.mask_emb if learned else torch.zeros(width)
    assert vector.shape == (width,)
    expected = model.pre_extract_proj(vector) if before else vector
    torch.testing.assert_close(projected[mask], expected.expand(int(mask.sum()), 48))
    torch.testing.assert_close(projected[~mask], model.pre_extract_proj(features[~mask]))
    assert ("mask_emb" in model.state_dict()) == learned


def test_masked_positions_do_not_leak_into_what_is_read(tiny_model):
    """The prediction at masked frames may not depend on what they hid."""
    model = tiny_model()
    features, mask = torch.randn(1, 40, 80), torch.zeros(1, 40, dtype=torch.bool)
    mask[0, 10:20] = True
    other = torch.where(mask[..., None], torch.randn_like(features), features)
    with torch.no_grad():
        assert torch.equal(
            model(features, mask=mask).last_hidden_state, model(other, mask=mask).last_hidden_state
        )


@pytest.mark.parametrize("projection", [True, False])
def test_nothing_is_learned_from_padding_whatever_stands_there(tiny_model, projection):
    """The hidden states were right, and the gradient of the projection was not a number."""
    model = tiny_model(feat_emb_dim=80 if projection else 48).train(False)
    features, padding_mask = torch.randn(2, 40, model.config.feat_emb_dim), padded_batch(40, 30)[1]
    gradients = []
    for filling in (0.0, float("nan"), float("inf"), 1e38):
        filled = features.masked_fill(padding_mask[..., None], filling).requires_grad_()
        model.zero_grad()
        model(filled, padding_mask).last_hidden_state.pow(3).sum().backward()
        assert not filled.grad[padding_mask].any()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for other in gradients[1:]:
        assert all(torch.equal(gradients[0][name], gradient) for name, gradient in other.items())


def test_gradients_reach_every_parameter(tiny_model):
    model = tiny_model(learnable_mask_emb=True).train()
    features, padding_mask = padded_batch(40, 30)
    mask = model.draw_mask([40, 30], 40)
    labels = torch.randint(0, 16, (2, 40))
    last = model(features, padding_mask, mask).last_hidden_state
    model.prediction_loss(last, labels, mask, padding_mask).loss.backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias of the keys adds the same to all scores of a query, which the softmax does not see.
    assert all(name.endswith("k_proj.bias") for name in untouched)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    ("activation_fn", "activation"),
    [
        ("gelu", torch.nn.functional.gelu),
        ("relu", torch.relu),
        ("tanh", torch.tanh),
        ("linear", torch.nn.Identity()),
    ],
)
@torch.no_grad()
def test_a_layer_is_torchs_with_either_place_of_the_norms(tiny_model, norm_first, activation_fn, activation):
    """The published checkpoints are post-norm and have GELU: parity with them tells nothing of the rest."""
    model = tiny_model(encoder_layers=1, layer_norm_first=norm_first, activation_fn=activation_fn)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    layer = torch.nn.TransformerEncoderLayer(
        48, 4, 96, 0.0, activation, batch_first=True, norm_first=norm_first
    ).eval()
    state = model.encoder.layers[0].state_dict()
    for kind in ("weight", "bias"):
        qkv = [state.pop(f"self_attn.{name}_proj.{kind}") for name in "qkv"]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(qkv)
    for ours, torchs in (
        ("self_attn_layer_norm.", "norm1."),
        ("final_layer_norm.", "norm2."),
        ("fc1.", "linear1."),
        ("fc2.", "linear2."),
    ):
        state = {name.replace(ours, torchs): tensor for name, tensor in state.items()}
    layer.load_state_dict(state)

    output = model(torch.randn(2, 30, 80))
    projected, last = output.hidden_states
    x = projected + torch.nn.functional.gelu(model.encoder.pos_conv(projected.mT).mT)
    expected = layer(x if norm_first else model.encoder.layer_norm(x))
    torch.testing.assert_close(last, expected, atol=1e-5, rtol=0)
    final = model.encoder.layer_norm(last) if norm_first else last
    torch.testing.assert_close(output.last_hidden_state, final, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_is_on_in_training_only(tiny_model, name, layout):
    model = tiny_model(**{"dropout": 0, "attention_dropout": 0, "activation_dropout": 0, name: 0.5})
    features, frames = torch.randn(2, 30, 80), Frames(None) if layout == "padded" else None
    once, again = (model(features, frames=frames).last_hidden_state for _ in range(2))
    assert torch.equal(once, again)
    model.train()
    once, again = (model(features, frames=frames).last_hidden_state for _ in range(2))
    assert not torch.equal(once, again)


def test_layerdrop_skips_layers_in_training_only(tiny_model):
    model = tiny_model(encoder_layerdrop=0.99, dropout=0, attention_dropout=0, activation_dropout=0)
    features = torch.randn(1, 10, 80)
    assert not torch.equal(*model(features).hidden_states[1:])
    torch.manual_seed(0)
    skipped = model.train()(features)
    assert len(skipped.hidden_states) == 3  # s3prl's weighted sum counts on it
    assert torch.equal(*skipped.hidden_states[1:])


def test_initialization_follows_bert():
    torch.manual_seed(0)
    model = MelHuBERT(MelHuBERTConfig(encoder_layers=1))
    layer = model.encoder.layers[0]
    for linear in (model.pre_extract_proj, model.final_proj, layer.self_attn.q_proj, layer.fc1):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()
    conv = model.encoder.pos_conv[0]
    assert conv.weight_v.std().item() == pytest.approx((4 / (128 * 768)) ** 0.5, rel=0.02)
    weight = torch._weight_norm(conv.weight_v, conv.weight_g, 2)
    torch.testing.assert_close(weight, conv.weight_v)


def test_base_model_has_90_million_parameters():
    with torch.device("meta"):
        model = MelHuBERT()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(90.2, abs=0.05)


UNEVEN = {"encoder_attention_heads": [3, 0], "encoder_ffn_embed_dim": [0, 7], "encoder_head_dim": 12}


def test_uneven_layers_have_the_parameters_that_their_settings_say(tiny_model, recwarn):
    model = tiny_model(**UNEVEN)
    assert not recwarn.list  # torch warns of matrices without rows
    assert sum(parameter.numel() for parameter in model.parameters()) == parameter_count(model.config)
    dense = tiny_model()
    assert list(model.state_dict()) == list(dense.state_dict())
    features, padding_mask = padded_batch(20, 13)
    output = model.train()(features, padding_mask)
    output.last_hidden_state.sum().backward()
    assert output.last_hidden_state.shape == (2, 20, 48)


@pytest.mark.parametrize("padding_first", [False, True])  # on a CPU it chooses the layout of the frames
@torch.no_grad()
def test_uneven_layers_give_what_a_dense_model_gives_with_the_rest_zeroed(tiny_model, padding_first):
    pruned, dense = tiny_model(**UNEVEN).double(), tiny_model().double()
    small, large = pruned.state_dict(), dense.state_dict()
    for name, tensor in small.items():
        # What is there stands before what is not; new weights are of 0.02 at most, these make a difference.
        tensor.uniform_(-0.3, 0.3)
        large[name].zero_()[tuple(slice(size) for size in tensor.shape)] = tensor
    features, padding_mask = padded_batch(20, 13)
    if padding_first:
        features, padding_mask = features.flip(1), padding_mask.flip(1)
    outputs = [model(features.double(), padding_mask) for model in (pruned, dense)]
    for a, b in zip(*(output.hidden_states for output in outputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("with_mask", [False, True])
@torch.no_grad()
def test_empty_batch_has_empty_hidden_states(tiny_model, with_mask):
    model = tiny_model()
    features, padding_mask = padded_batch(30, 20)
    output = model(features[:0], padding_mask[:0] if with_mask else None)
    assert {hidden.shape for hidden in output.hidden_states} == {(0, 30, model.config.encoder_embed_dim)}


@pytest.mark.parametrize("shape", [(3, 300, 40), (3, 301, 40), (3, 150, 160), (300, 80), (80,)])
def test_features_of_another_width_are_refused(tiny_model, shape):
    with pytest.raises(MelHuBERTError, match=r"features: shape .* found, expected \(B, T, 80\)"):
        tiny_model()(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_model_takes_features_in_its_own_type(tiny_model, dtype):
    model = tiny_model().eval()
    features, padding_mask = padded_batch(30, 20)
    with torch.no_grad():
        expected = model(features, padding_mask).last_hidden_state
        found = model.to(dtype)(features, padding_mask).last_hidden_state
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


def test_inputs_that_cannot_be_are_named(tiny_model):
    model = tiny_model().eval()
    features, padding_mask = padded_batch(30, 20)
    mask = padding_mask
    for bad in (mask.long(), mask.float(), mask[:, :10], mask[1:], mask[0], mask.numpy()):
        for name in ("padding_mask", "mask"):
            with pytest.raises(MelHuBERTError, match=rf"^{name}: .* bools of shape \(2, 30\)"):
                model(features, **{name: bad})
    with pytest.raises(MelHuBERTError, match="int32 found, expected floating-point"):
        model(features.int())
    with pytest.raises(MelHuBERTError, match=r"\(2, 0, 80\) found"):
        model(features[:, :0])
    for bad in (None, features.numpy(), [features]):
        with pytest.raises(MelHuBERTError, match=rf"features: {type(bad).__name__} found, expected a tensor"):
            model(bad)
