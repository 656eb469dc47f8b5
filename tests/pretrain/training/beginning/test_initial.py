"""`melhubert pretrain -i`: what a run takes of a checkpoint, what is new, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from s3prl_melhubert import FeatureStats, load_checkpoint, save_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data.description import load_stats, read_prepared
from s3prl_melhubert.pretrain.pretrain_expert import UpstreamPretrainExpert
from s3prl_melhubert.pretrain.training import metrics
from s3prl_melhubert.pretrain.training.beginning.initial import Initial
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.sampler import MicroBatch
from s3prl_melhubert.summary import checkpoint_facts, table

OLD = FeatureStats.load("librispeech-360h")
NO_STEP = {"runner": {"total_steps": 1, "gradient_accumulate_steps": 1}, "optimizer": {"lr": 0.0}}


@pytest.fixture
def old(tmp_path, reference) -> Path:
    """The published 20 ms checkpoint, of two layers and 32 clusters, with statistics."""
    published = load_checkpoint(reference / "tiny-20ms.ckpt")
    path = tmp_path / "old.ckpt"
    save_checkpoint(path, published.config, published.state, OLD, step=1234)
    return path


@pytest.fixture
def pretrain(yamls, tmp_path, capsys, monkeypatch):
    """`pretrain(data, ARGUMENT, ..., g=None)`: status, checkpoint and output of a run that learns nothing.

    With `g`, the model has these settings, by `-g`.
    """
    monkeypatch.setattr(metrics, "draw_curves", lambda folder: None)  # most of the time of so short a run

    def run(data: Path, *arguments: object, g: dict | None = None, name: str = "exp", **sections):
        settings = yamls(model=g, **{**NO_STEP, **sections})
        settings = settings if g is not None else settings[2:]
        common = ["pretrain", *settings, "--data", str(data), "-n", str(tmp_path / name), "--device", "cpu"]
        status = main([*common, *map(str, arguments)])
        output = capsys.readouterr()
        if status:
            assert output.err.startswith("melhubert: ")
            assert output.err.count("\n") == 1
            return status, None, output.err
        assert output.err == ""
        return status, load_checkpoint(tmp_path / name / "last.ckpt"), output.out

    return run


HEAD = "new: final_proj (head), weight 50 x 48, bias 50; there: weight 32 x 48, bias 32"
PROJECTION = "new: pre_extract_proj (projection), weight 48 x 40; there: weight 48 x 80"


@pytest.mark.parametrize(
    ("clusters", "arguments", "layers", "lines"),
    [
        (50, [], [0, 1], [HEAD]),
        (32, ["-f", "10"], [0, 1], [PROJECTION]),
        (50, ["-f", "10", "--init_layers", "2"], [1], [PROJECTION, HEAD]),
        (32, ["--init_layers", "1-2,-1"], [0, 1, 1], []),
    ],
)
def test_a_run_takes_what_fits_and_names_what_is_new(
    clusters, arguments, layers, lines, old, make_prepared, pretrain, tmp_path
):
    data = make_prepared(tmp_path / "set", [60] * 4, clusters=clusters)
    status, new, output = pretrain(data, "-i", old, *arguments)
    assert status == 0
    before = load_checkpoint(old)
    assert (new.config.num_cluster, new.config.encoder_layers) == (clusters, len(layers))
    assert new.frame_period == (10 if "-f" in arguments else 20)
    assert new.config.mask_prob == before.config.mask_prob  # without -g, the settings are the checkpoint's
    fresh = {"final_proj.weight", "final_proj.bias"} if clusters == 50 else set()
    fresh |= {"pre_extract_proj.weight"} if "-f" in arguments else set()
    for name, tensor in new.state.items():
        source = name
        if name.startswith("encoder.layers."):
            number, rest = name.removeprefix("encoder.layers.").split(".", 1)
            source = f"encoder.layers.{layers[int(number)]}.{rest}"
        kept = tensor.shape == before.state[source].shape and torch.equal(tensor, before.state[source])
        assert kept == (name not in fresh), name
    assert f"initial weights: {old}, trained for 1234 steps" in output
    assert [line for line in output.splitlines() if line.startswith(("new:", "left out:"))] == lines


def test_a_head_is_for_the_most_clusters_or_the_checkpoints_where_a_set_does_not_say_them(
    old, make_prepared, tmp_path
):
    few, many = (str(make_prepared(tmp_path / f"set{n}", [60] * 4, clusters=n)) for n in (40, 50))
    for sets, clusters in (([few, many], 50), ([many, few], 50), ([many, str(tmp_path / "train.csv")], 32)):
        assert Initial(old).settings(None, sets).num_cluster == clusters


def test_a_model_that_goes_on_learns(old, make_prepared, pretrain, tmp_path):
    data = make_prepared(tmp_path / "set", [60] * 4, clusters=50)
    _, new, _ = pretrain(data, "-i", old, "-f", "10", optimizer={"lr": 1e-3}, runner={"total_steps": 3})
    before = load_checkpoint(old).state
    assert not torch.equal(new.state["encoder.layers.0.fc1.weight"], before["encoder.layers.0.fc1.weight"])


def test_parts_that_only_one_of_two_models_has(tmp_path, make_prepared, pretrain, tiny_model):
    data = make_prepared(tmp_path / "set", [60] * 4)
    bare = tiny_model(encoder_embed_dim=40, feat_emb_dim=40, learnable_mask_emb=True)
    save_checkpoint(tmp_path / "bare.safetensors", bare.config, bare.state_dict(), OLD)
    _, projected, output = pretrain(data, "-i", tmp_path / "bare.safetensors", "-f", "20")
    assert "new: pre_extract_proj (projection), weight 40 x 80, bias 40; there: none" in output
    assert "new: mask_emb (learned mask), mask_emb 80; there: mask_emb 40" in output
    assert "pre_extract_proj.weight" in projected.state
    last = tmp_path / "exp" / "last.ckpt"
    _, again, output = pretrain(data, "-i", last, "-f", "10", name="again")
    assert "left out: pre_extract_proj (projection), weight 40 x 80, bias 40; this model has none" in output
    assert "pre_extract_proj.weight" not in again.state


def test_the_model_keeps_its_statistics_and_the_data_is_rescaled(old, prepared, pretrain):
    _, kept, output = pretrain(prepared, "-i", old, "--valid", prepared)
    assert kept.stats == OLD
    told = f"statistics: those of {old}; the data was normalized with others, and is rescaled to these"
    assert output.count("statistics:") == output.count(told) == 1
    _, given_up, output = pretrain(prepared, "-i", old, "--init_stats", "data", name="data")
    assert given_up.stats == load_stats(prepared)
    assert "statistics: the data's, as --init_stats data says" in output
    # What is resumed goes on as it began, also where the first checkpoint is no longer there.
    old.unlink()
    for name, stats in {"exp": OLD, "data": given_up.stats}.items():
        _, resumed, _ = pretrain(prepared, "-i", old, "--resume", name=name)
        assert resumed.stats == stats


def test_rescaled_frames_are_those_of_the_other_statistics(prepared, tiny_model):
    config = tiny_model().config
    here = read_prepared(prepared)
    odd = next(number for number, utterance in enumerate(here.utterances) if utterance.length % 2)
    item = MicroBatch(0, places=(0,), utterances=(odd,))
    plain, rescaled = (PretrainingDataset([here], config) for _ in range(2))
    rescaled.read_as(OLD, here.info.stats)
    frames, found = plain[item].features[0], rescaled[item].features[0]
    log_mel = frames.reshape(-1, 40).numpy() * here.info.stats.std + here.info.stats.mean
    expected = (log_mel - OLD.mean) / OLD.std
    assert np.abs(found.reshape(-1, 40).numpy()[:-1] - expected[:-1]).max() < 1e-4
    assert not found.reshape(-1, 40)[-1].any()  # an odd tail is padded after the normalization


def test_clusters_of_other_frames_are_no_quantizer(old, make_prepared, pretrain, tmp_path):
    centroids = np.random.default_rng(0).normal(size=(16, 40)).astype(np.float32)
    for name, stats in {"same": OLD, "other": FeatureStats.load("librispeech-100h")}.items():
        data = make_prepared(tmp_path / f"{name}-set", [60] * 4, stats=stats)
        np.save(data / "kmeans.npy", centroids)
        _, new, output = pretrain(data, "-i", old, name=name)
        assert new.stats == OLD
        if name == "same":
            assert np.array_equal(new.quantizer.centroids, centroids)
            assert "statistics:" not in output
        else:
            assert new.quantizer is None
            assert "quantizer: none; the clusters are of frames normalized with the data's" in output
    assert load_stats(old) == OLD  # of which `prepare --stats` makes a set that needs no rescaling


def test_a_head_of_the_same_clusters_stays_whatever_it_counts(old, make_prepared, pretrain, tmp_path):
    data = make_prepared(tmp_path / "set", [60] * 4, stats=OLD)  # 16 clusters, and the head has 32
    np.save(data / "kmeans.npy", np.eye(16, 40, dtype=np.float32))
    pretrain(data, "-i", old, g=vars(load_checkpoint(old).config), name="first")
    _, new, output = pretrain(data, "-i", tmp_path / "first" / "last.ckpt")
    assert new.config.num_cluster == 32
    assert "new:" not in output


OTHER_KINDS = {
    "encoder_embed_dim": 64,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 8,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "layer_norm_first": True,
    "activation_fn": "relu",
    "encoder_layers": 1,
}


@pytest.mark.parametrize("setting", OTHER_KINDS)
def test_another_kind_of_model_is_refused_by_the_name_of_its_setting(setting, old, prepared, pretrain):
    before = vars(load_checkpoint(old).config)
    here = OTHER_KINDS[setting]
    status, _, error = pretrain(prepared, "-i", old, g={**before, setting: here})
    assert status == 2
    assert f"{setting} is {before[setting]} there and {here} in the model of this run" in error
    assert ("--init_layers 1-1" in error) == (setting == "encoder_layers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init_layers", "0-1"], "has no layer 0; expected layers of 1 to 2"),
        (["--init_layers", "1-3"], "has no layer 3"),
        (["--init_layers", "2-1"], "layer 2 is above 1"),
        (["--init_layers", "1;2"], "'1;2' found, expected layers such as 1-6 or 1,3,5"),
        (["--init_layers", "1-999999999"], "expected layers such as"),
        (["--init_layers", "2,1", "--init_optimizer_from_initial_weight"], "chooses among its layers"),
        (["-f", "10", "--init_optimizer_from_initial_weight"], "pre_extract_proj is new here"),
    ],
)
def test_what_cannot_be_taken_is_one_clear_line(arguments, message, old, make_prepared, pretrain, tmp_path):
    data = make_prepared(tmp_path / "set", [60] * 4, clusters=32)
    status, _, error = pretrain(data, "-i", old, *arguments)
    assert status == 2
    assert message in error


def test_options_of_a_checkpoint_need_one(prepared, pretrain):
    for arguments in (["--init_layers", "1"], ["--init_stats", "data"]):
        status, _, error = pretrain(prepared, *arguments)
        assert status == 2
        assert f"{arguments[0]}: needs a checkpoint, -i CKPT" in error


def test_s3prls_runner_goes_on_with_the_models_statistics(old, prepared, capsys):
    data = {"sets": [str(prepared)], "num_workers": 0, "max_timestep": 0}
    before = load_checkpoint(old)
    expert = UpstreamPretrainExpert(data, {"melhubert": before.config.to_mapping()}, device="cpu")
    expert.load_model({"model": before.state, "Feature_Stats": OLD.to_mapping()})
    assert "is rescaled" in capsys.readouterr().out
    assert expert.add_state_to_save({})["Feature_Stats"] == OLD.to_mapping()


def made_of(checkpoint: Path) -> list[str]:
    """What `melhubert info` says of a checkpoint's compression, but for times."""
    lines = table("", checkpoint_facts(load_checkpoint(checkpoint))).splitlines()
    return [" ".join(line.split()) for line in lines if line.split()[:1] in (["made"], ["compressed"])]


def test_what_a_compressed_model_was_made_of_stays_known(old, make_prepared, pretrain, tmp_path):
    small, data = tmp_path / "small.ckpt", make_prepared(tmp_path / "set", [60] * 4, clusters=32)
    assert main(["compress", str(old), "--heads", "2", "--ffn", "40", "--out", str(small)]) == 0
    known = [
        "made of 2 layers, 4 heads, 96 MLP rows",
        "compressed heads and rows of the smallest L1 norms removed",
    ]
    assert made_of(small) == known
    last = tmp_path / "exp" / "last.ckpt"
    pretrain(data, "-i", small)
    assert made_of(last) == known
    pretrain(data, "--resume", runner={"total_steps": 2})
    assert made_of(last) == known
    _, deeper, _ = pretrain(data, "-i", last, "--init_layers", "2,1,2", name="deeper")
    assert deeper.config.encoder_layers == 3
    assert made_of(deeper.path) == [known[0], f"{known[1]}, layers 2,1,2 of it taken"]


def test_nothing_is_told_of_a_model_whose_checkpoint_does_not_say_what_it_was_made_of(
    tmp_path, prepared, pretrain, tiny_model
):
    pruned = tiny_model(
        encoder_attention_heads=2, encoder_head_dim=12, encoder_ffn_embed_dim=40, num_cluster=16
    )
    for name, rest in (("none", None), ("damaged", {"Compression": {"dense": {"encoder_layers": 0}}})):
        save_checkpoint(tmp_path / f"{name}.ckpt", pruned.config, pruned.state_dict(), OLD, rest=rest)
        _, new, _ = pretrain(prepared, "-i", tmp_path / f"{name}.ckpt", name=name)
        assert made_of(new.path) == []


def test_nothing_is_left_of_masks_after_training(compressed, prepared, pretrain):
    _, new, _ = pretrain(prepared, "-i", compressed("weights").path)
    assert made_of(compressed("weights").path)[1] == "compressed weights pruned, by masks"
    assert made_of(new.path) == []


def test_sizes_of_a_layer_go_with_it(tmp_path, make_prepared, pretrain, tiny_model):
    pruned = tiny_model(
        encoder_attention_heads=(4, 2), encoder_head_dim=12, encoder_ffn_embed_dim=(96, 40), num_cluster=16
    )
    save_checkpoint(tmp_path / "pruned.ckpt", pruned.config, pruned.state_dict(), OLD)
    data = make_prepared(tmp_path / "set", [60] * 4)
    _, new, _ = pretrain(data, "-i", tmp_path / "pruned.ckpt", "--init_layers", "2")
    name = "encoder.layers.{}.fc1.weight".format
    assert torch.equal(new.state[name(0)], pruned.state_dict()[name(1)])
    assert new.config.encoder_layers == 1
