"""Compressed checkpoints of the authors' formats load, and compute what the dense models with zeros do."""

from __future__ import annotations

import warnings

import pytest
import torch
from compressed_checkpoints import SETTINGS

from s3prl_melhubert import MelHuBERTConfig, MelHuBERTError, load_checkpoint, load_model, save_checkpoint
from s3prl_melhubert.compression.stored import dense_config
from s3prl_melhubert.config import layer_sizes

KINDS = ("weights", "heads", "rows", "uneven", "distilled")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_compressed_model_computes_what_the_dense_one_with_zeros_does(kind, compressed):
    one = compressed(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint, dense = (load_checkpoint(path) for path in (one.path, one.dense))
    sizes = layer_sizes(checkpoint.config)
    assert [each.heads for each in sizes] == one.heads
    assert [each.rows for each in sizes] == one.rows
    assert list(checkpoint.build_model().state_dict()) == list(dense.build_model().state_dict())

    features = torch.randn(2, 40, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    padding_mask = torch.arange(40) >= torch.tensor([[40], [17]])
    found, expected = (
        each.build_model().double()(features, padding_mask).hidden_states for each in (checkpoint, dense)
    )
    assert len(found) == len(one.heads) + 1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)
    assert all((a - b).abs().max() > 0.1 for a, b in zip(found[1:], found[:-1], strict=True))


def test_masked_weights_are_the_product_of_their_parts(compressed):
    one = compressed("weights")
    checkpoint, dense = load_checkpoint(one.path), load_checkpoint(one.dense)
    assert checkpoint.config == dense.config
    assert checkpoint.state.keys() == dense.state.keys()
    assert all(torch.equal(tensor, dense.state[name]) for name, tensor in checkpoint.state.items())
    assert "RandomState" not in checkpoint.rest
    # As torch's own pruning stores them.
    content = torch.load(one.path, weights_only=False)
    content["model"] = {
        name: tensor.float() if name.endswith("_mask") else tensor
        for name, tensor in content["model"].items()
    }
    torch.save(content, one.path.with_name("float-masks.ckpt"))
    again = load_checkpoint(one.path.with_name("float-masks.ckpt"))
    assert again.weights_digest() == checkpoint.weights_digest()


@pytest.mark.parametrize("name", ["again.ckpt", "again.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_loaded_is_written_and_loaded_again(kind, name, compressed, tmp_path):
    loaded = load_checkpoint(compressed(kind).path)
    save_checkpoint(tmp_path / name, loaded.config, loaded.state, None, rest=loaded.rest)
    again = load_checkpoint(tmp_path / name)
    assert again.config == loaded.config
    assert again.weights_digest() == loaded.weights_digest()
    dense = [dense_config(each.config, each.rest, name) for each in (loaded, again)]
    assert dense[0] == dense[1]
    assert dense[0].encoder_layers == 3
    assert set(layer_sizes(dense[0])) == {(4, 12, 96)}


def test_statistics_are_given_as_for_any_published_checkpoint(compressed):
    with pytest.raises(MelHuBERTError, match="statistics are unknown"):
        load_model(compressed("heads").path)
    model, frontend = load_model(compressed("heads").path, "librispeech-960h")
    assert model(*frontend([torch.randn(16_000)])).last_hidden_state.shape == (1, 49, 48)


QUERY, MASK = "encoder.layers.1.self_attn.q_proj.weight", "encoder.layers.0.fc1.bias_mask"
CHANGES = {
    "mask is missing": ("weights", lambda m: m.pop(MASK), "fc1.bias_mask is missing"),
    "weight of a mask is missing": (
        "weights",
        lambda m: m.pop(MASK.replace("mask", "orig")),
        "orig is m",
    ),
    "weight stands beside its parts": (
        "weights",
        lambda m: m.update({MASK.removesuffix("_mask"): torch.ones(96)}),
        "fc1.bias found beside",
    ),
    "mask is of another shape": ("weights", lambda m: m.update({MASK: torch.ones(95).bool()}), r"\(95,\)"),
    "mask is of integers": ("weights", lambda m: m.update({MASK: torch.ones(96).int()}), "0 and 1"),
    "mask is of halves": ("weights", lambda m: m.update({MASK: torch.full((96,), 0.5)}), "0 and 1"),
    "mask is no tensor": ("weights", lambda m: m.update({MASK: [1] * 96}), "no dense tensor"),
    "masked weight is not finite": (
        "weights",
        lambda m: m[MASK.replace("mask", "orig")].fill_(float("nan")),
        "bias_orig holds NaN",
    ),
    "head in part": (
        "heads",
        lambda m: m.update({QUERY: torch.ones(13, 48)}),
        "13 rows, expected",
    ),
    "keys of other heads": (
        "heads",
        lambda m: m.update({QUERY.replace("q_", "k_"): torch.ones(24, 48)}),
        r"k_proj.weight has shape \(24, 48\), expected \(12, 48\)",
    ),
    "more heads": (
        "heads",
        lambda m: m.update({QUERY: torch.ones(60, 48)}),
        r"1\.self_attn\.k_proj",
    ),
    "no heads anywhere": (
        "heads",
        lambda m: m.update({QUERY.replace("1", str(i)): torch.ones(0, 48) for i in range(3)}),
        "encoder_attention_heads: 0 found",
    ),
    "more rows": (
        "rows",
        lambda m: m.update({"encoder.layers.0.fc1.weight": torch.ones(97, 48)}),
        r"\(97, 48\), expected \(96, 48\)",
    ),
    "other columns": (
        "rows",
        lambda m: m.update({"encoder.layers.0.fc2.weight": torch.ones(48, 47)}),
        r"fc2.weight has shape \(48, 47\), expected \(48, 48\)",
    ),
    "queries are a vector": (
        "heads",
        lambda m: m.update({QUERY: torch.ones(48)}),
        r"1\.self_attn\.k_proj",
    ),
    "layer is missing": (
        "rows",
        lambda m: m.pop("encoder.layers.2.fc1.weight"),
        "2.fc1.weight is m",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_wrong_content_is_refused_in_one_line(case, compressed, tmp_path):
    kind, change, words = CHANGES[case]
    content = torch.load(compressed(kind).path, weights_only=False)
    change(content["model"])
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(MelHuBERTError, match=words) as error:
        load_checkpoint(tmp_path / "bad.ckpt").build_model()
    assert "bad.ckpt" in str(error.value)
    assert "\n" not in str(error.value)


class Runs:
    """What runs code where it is unpickled."""

    def __reduce__(self):
        return print, ("run",)


def test_states_of_random_generators_run_nothing(compressed, tmp_path, capsys):
    content = torch.load(compressed("weights").path, weights_only=False)
    content["RandomState"]["numpy"] = Runs()
    torch.save(content, tmp_path / "runs.ckpt")
    with pytest.raises(MelHuBERTError, match="refused, because reading it would run code"):
        load_checkpoint(tmp_path / "runs.ckpt")
    assert not capsys.readouterr().out


def test_arrays_elsewhere_are_refused_as_ever(compressed, tmp_path):
    content = torch.load(compressed("weights").path, weights_only=False)
    content["Runner"]["random"] = content["RandomState"]["numpy"]
    torch.save(content, tmp_path / "array.ckpt")
    with pytest.raises(MelHuBERTError, match=r"numpy.*_reconstruct.*--trust"):
        load_checkpoint(tmp_path / "array.ckpt")
    assert load_checkpoint(tmp_path / "array.ckpt", trust=True).rest["Runner"]["random"][0] == "MT19937"


@pytest.mark.parametrize(
    "origin", [5, {}, {"dense": 5}, {"dense": {"rows": 5}}, {"dense": {"encoder_layers": 0}}]
)
def test_an_impossible_origin_is_refused(origin, compressed, tmp_path):
    loaded = load_checkpoint(compressed("heads").path)
    with pytest.raises(MelHuBERTError, match=r"here\.ckpt: Compression"):
        dense_config(loaded.config, {"Compression": origin}, "here.ckpt")


PRUNED = {"Runner": {"prune": {"total_steps": 2}}}


@pytest.mark.parametrize(
    ("settings", "rest", "heads"),
    [
        ({}, PRUNED, 4),
        ({}, {"Runner": {"runner": {}}}, None),
        ({}, {}, None),
        ({"encoder_ffn_embed_dim": 192}, PRUNED, None),
        ({"encoder_ffn_embed_dim": 192, "encoder_head_dim": 12, "encoder_attention_heads": 1}, PRUNED, 4),
        ({"encoder_head_dim": 20}, PRUNED, None),
    ],
    ids=["fewer rows", "other training", "unknown", "all rows", "fewer heads", "heads of no dense model"],
)
def test_the_dense_model_of_the_authors_pruning_is_told_where_there_is_one(settings, rest, heads):
    """Their rows are four times the width, and their heads share it. What was made narrow is not pruned."""
    config = MelHuBERTConfig(**{**SETTINGS, **settings})
    dense = dense_config(config, rest, "here.ckpt")
    found = dense and (dense.encoder_attention_heads, dense.encoder_ffn_embed_dim, dense.encoder_head_dim)
    assert found == (heads and (heads, 192, None))
