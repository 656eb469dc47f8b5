"""`melhubert compress`: what counts least is removed, and what is left computes what it did before."""

from __future__ import annotations

import re

import pytest
import torch

from s3prl_melhubert import FeatureStats, load_checkpoint, save_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.compression.pruning import Target, head_scores, row_scores
from s3prl_melhubert.config import layer_sizes
from s3prl_melhubert.units.quantizer import Quantizer

STATS = "librispeech-960h"


@pytest.fixture(scope="module")
def dense(compressed, tmp_path_factory):
    """A checkpoint of a dense model with statistics and a quantizer."""
    loaded = load_checkpoint(compressed("heads").dense)
    random = torch.Generator().manual_seed(3)
    # What counts is to differ between heads and rows: the first of each are the smallest.
    state = {
        name: torch.randn(tensor.shape, generator=random)
        * torch.linspace(0.1, 1, len(tensor)).view(-1, *[1] * (tensor.dim() - 1))
        if name.startswith("encoder.layers")
        else tensor
        for name, tensor in loaded.state.items()
    }
    path = tmp_path_factory.mktemp("dense") / "dense.ckpt"
    rest = {"Runner": {"a": 1}, "Optimizer": {"state": {}}}
    quantizer = Quantizer.from_arrays(0, torch.randn(8, 40).numpy(), "log-Mel", {}, "here")
    save_checkpoint(path, loaded.config, state, FeatureStats.load(STATS), 500, rest, quantizer)
    return path


def test_scores_are_the_published_sums(dense):
    state = load_checkpoint(dense).state
    layer = {
        name.removeprefix("encoder.layers.1."): x.double() for name, x in state.items() if "layers.1." in name
    }
    expected = 0.0
    for name in ("q_proj", "k_proj", "v_proj"):
        expected += layer[f"self_attn.{name}.weight"][12:24].abs().sum()
        expected += layer[f"self_attn.{name}.bias"][12:24].abs().sum()
    assert head_scores(state, 1, 4)[1] == pytest.approx(float(expected))
    expected = (
        layer["fc1.weight"][5].abs().sum()
        + layer["fc1.bias"][5].abs()
        + layer["fc2.weight"][:, 5].abs().sum()
    )
    assert row_scores(state, 1)[5] == pytest.approx(float(expected))


@torch.no_grad()
def test_the_smaller_model_computes_what_the_dense_one_does_with_the_rest_zeroed(dense, tmp_path, capsys):
    out = tmp_path / "small.ckpt"
    assert main(["compress", str(dense), "--heads", "2", "--ffn", "30", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "3 layers of 2 heads (of 4) and 30 MLP rows (of 96)" in printed
    before, after = load_checkpoint(dense), load_checkpoint(out)
    assert set(layer_sizes(after.config)) == {(2, 12, 30)}
    assert isinstance(after.config.encoder_attention_heads, int)  # regular
    assert (after.stats, after.step, after.quantizer.digest) == (before.stats, 500, before.quantizer.digest)
    assert after.rest["Runner"] == before.rest["Runner"] == {"a": 1}
    assert [bool(each.rest["Optimizer"]) for each in (before, after)] == [True, False]
    made = after.rest["Compression"]
    assert made["how"].startswith("heads and rows of the smallest")
    assert made["dense"]["encoder_ffn_embed_dim"] == 96
    assert made["from"]["weights_sha256"] == before.weights_digest()

    zeroed = {name: tensor.clone() for name, tensor in before.state.items()}
    for layer in range(3):
        prefix = f"encoder.layers.{layer}."
        heads = head_scores(before.state, layer, 4).topk(2, largest=False).indices
        for head in heads.tolist():
            for name in ("q_proj", "k_proj", "v_proj"):
                for part in ("weight", "bias"):
                    zeroed[f"{prefix}self_attn.{name}.{part}"][12 * head : 12 * head + 12] = 0
        rows = row_scores(before.state, layer).topk(66, largest=False).indices
        zeroed[f"{prefix}fc1.weight"][rows] = 0
        zeroed[f"{prefix}fc1.bias"][rows] = 0
    before.state = zeroed
    features = torch.randn(1, 50, 80, dtype=torch.float64)
    outputs = [each.build_model().double()(features).last_hidden_state for each in (before, after)]
    torch.testing.assert_close(*outputs, atol=1e-10, rtol=0)
    assert out.stat().st_size < 0.7 * dense.stat().st_size


def test_heads_alone_rows_alone_and_safetensors(dense, tmp_path, capsys):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.ckpt"
    assert main(["compress", str(dense), "--heads", "3", "--out", str(first)]) == 0
    assert set(layer_sizes(load_checkpoint(first).config)) == {(3, 12, 96)}
    # What was pruned can be pruned further, and still tells what it was at first.
    assert main(["compress", str(first), "--ffn", "10", "--out", str(second)]) == 0
    again = load_checkpoint(second)
    assert set(layer_sizes(again.config)) == {(3, 12, 10)}
    assert again.rest["Compression"]["how"].startswith("rows of the smallest")
    assert again.rest["Compression"]["before"]["how"].startswith("heads of the smallest")
    assert again.rest["Compression"]["dense"]["encoder_attention_heads"] == 4
    assert again.rest["Compression"]["from"]["sizes"]["encoder_attention_heads"] == 3
    assert again.quantizer is not None


@pytest.mark.parametrize(
    ("layer", "source", "kept"), [(0, "model", True), (1, "model", False), (2, "teacher", True)]
)
def test_a_quantizer_of_hidden_states_that_are_others_now_is_left_out(
    layer, source, kept, dense, tmp_path, capsys
):
    whole, small = load_checkpoint(dense), tmp_path / "small.ckpt"
    quantizer = Quantizer.from_arrays(layer, torch.randn(8, 48).numpy(), source, {}, "here")
    save_checkpoint(tmp_path / "units.ckpt", whole.config, whole.state, whole.stats, 500, {}, quantizer)
    assert main(["compress", str(tmp_path / "units.ckpt"), "--heads", "2", "--out", str(small)]) == 0
    assert (load_checkpoint(small).quantizer is not None) == kept
    line = "left out (it is of the larger model): its quantizer of layer 1"
    assert (line in capsys.readouterr().out) != kept


def test_stages_remove_equal_parts_and_end_at_the_target(dense):
    config = load_checkpoint(dense).config
    stages = [Target(1, 16).stage(config, number, 4) for number in range(1, 5)]
    assert stages == [Target(3, 76), Target(2, 56), Target(2, 36), Target(1, 16)]
    assert Target(1).stage(config, 2, 2) == Target(1, None)


BAD = {
    "nothing to do": ([], "neither --heads nor --ffn found"),
    "more heads": (["--heads", "5"], "layer 1 of .* has 4 heads; give at most 4"),
    "more rows": (["--ffn", "97"], "layer 1 of .* has 96 rows; give at most 96"),
    "no heads": (["--heads", "0"], "--heads 0: expected at least 1"),
    "no rows": (["--ffn", "-3"], "--ffn -3: expected at least 1"),
    "all heads": (["--heads", "4"], "no more heads and rows than are to be kept"),
    "steps alone": (["--heads", "2", "--steps", "5"], "--steps 5: trains, and needs --data"),
    "stages alone": (["--heads", "2", "--stages", "5"], "--stages 5: trains, and needs --data"),
    "seed alone": (["--heads", "2", "--seed", "-5"], "--seed -5: trains, and needs --data"),
    "device alone": (["--heads", "2", "--device", "cpu"], "--device cpu: trains, and needs --data"),
    "huge seed": (
        ["--heads", "2", "--data", ".", "--steps", "4", "--seed", "9" * 20],
        f"--seed {'9' * 20}: expected 0 to",
    ),
    "data alone": (["--heads", "2", "--data", "."], "--data: found without --steps"),
    "few steps": (
        ["--heads", "2", "--data", ".", "--steps", "3"],
        "--steps 3: expected at least one for each",
    ),
    "no stages": (["--heads", "2", "--data", ".", "--steps", "3", "--stages", "0"], "--stages 0: expected"),
    "no data": (["--heads", "2", "--data", "absent", "--steps", "4"], "absent: no such file or folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_told_in_one_line(case, dense, tmp_path, capsys):
    arguments, words = BAD[case]
    assert main(["compress", str(dense), *arguments, "--out", str(tmp_path / "out.ckpt")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(words, line), line
    assert not (tmp_path / "out.ckpt").exists()


def test_bad_files_are_told_in_one_line(dense, compressed, tmp_path, capsys):
    out = str(tmp_path / "out.ckpt")
    uneven = str(compressed("uneven").path)
    assert main(["compress", uneven, "--heads", "1", "--out", out, "--stats", STATS]) == 2
    line = capsys.readouterr().err
    assert "layer 2" in line
    assert "has 0 heads (its layers are pruned unevenly)" in line
    assert main(["compress", str(compressed("rows").path), "--heads", "2", "--out", out]) == 2
    assert "statistics are unknown" in capsys.readouterr().err
    assert main(["compress", str(dense), "--heads", "2", "--out", str(dense)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["compress", str(dense), "--heads", "2", "--out", str(tmp_path / "no" / "x.ckpt")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_an_uneven_model_becomes_regular_where_every_layer_has_enough(compressed, tmp_path, capsys):
    out = tmp_path / "even.ckpt"
    source = str(compressed("heads").path)
    assert main(["compress", source, "--heads", "1", "--ffn", "8", "--out", str(out), "--stats", STATS]) == 0
    assert set(layer_sizes(load_checkpoint(out).config)) == {(1, 12, 8)}
    assert main(["info", str(out)]) == 0
    printed = capsys.readouterr().out
    for words in ("1 in each layer, 12 wide", "3 layers, 4 heads, 96 MLP rows", "times as fast"):
        assert words in printed
