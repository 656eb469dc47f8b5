"""Settings: the published YAML loads, and a typo or an impossible value is named."""

import dataclasses
import json
import pickle

import pytest
import torch
import yaml

from s3prl_melhubert import MelHuBERTConfig, MelHuBERTError, load_checkpoint
from s3prl_melhubert.config import layer_sizes
from s3prl_melhubert.errors import MelHuBERTWarning
from s3prl_melhubert.pretrain.training.settings import config_folder

PUBLISHED_YAML = """
melhubert:
  feat_emb_dim: 80
  pos_emb_type: "conv"
  pos_conv_depth: 1
  conv_pos: 128
  conv_pos_groups: 16
  encoder_layers: 12
  attention_type: "original"
  mask_selection: 'static'
  mask_other: 0
  no_mask_overlap: False
  mask_min_space: 1
  learnable_mask_emb: False
  mask_before_proj: True
  dropout: 0.1
"""


def test_published_settings_are_the_defaults(tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text(PUBLISHED_YAML)
    assert MelHuBERTConfig.from_yaml(file) == MelHuBERTConfig()


@pytest.mark.parametrize("name", ["config_model.yaml", "config_model_10ms.yaml"])
def test_the_packages_file_names_every_setting(name):
    """It is the page of the model's settings; a dense model needs no width of its heads."""
    named = yaml.safe_load((config_folder() / name).read_text())["melhubert"].keys()
    absent = sorted(MelHuBERTConfig().to_mapping().keys() - named)
    assert not absent, f"pretrain/{name} does not name {', '.join(absent)}, with the default"


def test_settings_survive_a_round_trip(published):
    config = load_checkpoint(published["ckpt"]).config
    assert MelHuBERTConfig.from_mapping({"melhubert": config.to_mapping()}) == config
    assert MelHuBERTConfig.from_mapping({"hubert": config.to_mapping()}) == config
    assert config.frame_period == int(published["frame_period"])


def test_settings_of_uneven_layers_survive_a_file(tmp_path):
    heads, rows = [12, 6, 0], [3072, 1, 7]
    config = MelHuBERTConfig(
        encoder_layers=3, encoder_attention_heads=heads, encoder_ffn_embed_dim=rows, encoder_head_dim=64
    )
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"melhubert": config.to_mapping()}))
    assert MelHuBERTConfig.from_yaml(tmp_path / "model.yaml") == config
    assert MelHuBERTConfig.from_mapping(json.loads(json.dumps(config.to_mapping()))) == config
    assert layer_sizes(config) == [(12, 64, 3072), (6, 64, 1), (0, 64, 7)]


def test_what_is_alike_in_all_layers_is_written_as_one_number():
    even = MelHuBERTConfig(
        encoder_attention_heads=[12] * 12, encoder_head_dim=64, encoder_ffn_embed_dim=[5] * 12
    )
    assert even == MelHuBERTConfig(encoder_ffn_embed_dim=5)
    # The file of a dense model has the published names alone.
    assert "encoder_head_dim" not in even.to_mapping()
    assert MelHuBERTConfig(encoder_attention_heads=6, encoder_head_dim=64).encoder_head_dim == 64


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder_layer": 12}, ["encoder_layer", "did you mean encoder_layers"]),
        ({"encoder_layers": 0}, ["encoder_layers", "0 found", "at least 1"]),
        ({"encoder_layers": "many"}, ["encoder_layers", "'many' found", "int"]),
        ({"encoder_layers": 2.5}, ["encoder_layers", "2.5"]),
        ({"encoder_layers": torch.ones(3)}, ["encoder_layers", "found, expected int"]),
        ({"encoder_attention_heads": 7}, ["encoder_attention_heads", "divisor", "768"]),
        ({"encoder_attention_heads": 7}, ["or encoder_head_dim"]),
        ({"encoder_attention_heads": 0}, ["encoder_attention_heads", "0 found", "at least 1"]),
        ({"encoder_attention_heads": [0] * 12, "encoder_head_dim": 64}, ["0 found", "at least 1"]),
        ({"encoder_attention_heads": [12, 6] * 6}, ["encoder_attention_heads", "expected encoder_head_dim"]),
        ({"encoder_attention_heads": [12, 6], "encoder_head_dim": 64}, ["(12, 6) found", "12 layers"]),
        ({"encoder_attention_heads": []}, ["() found", "12 layers"]),
        ({"encoder_attention_heads": ["6"] * 12}, ["encoder_attention_heads", "'6' found", "int"]),
        ({"encoder_attention_heads": True}, ["encoder_attention_heads", "True found", "int"]),
        ({"encoder_ffn_embed_dim": [3072, -1] * 6}, ["encoder_ffn_embed_dim", "at least 0"]),
        ({"encoder_ffn_embed_dim": [[3072]] * 12}, ["encoder_ffn_embed_dim", "[3072] found", "int"]),
        ({"encoder_head_dim": 0}, ["encoder_head_dim", "0 found", "at least 1"]),
        ({"encoder_head_dim": 64.0}, ["encoder_head_dim", "64.0 found", "int"]),
        ({"encoder_layers": 10**7}, ["encoder_layers", "10000000 found", "at most 1000000"]),
        ({"conv_pos_groups": 7}, ["conv_pos_groups", "divisor"]),
        ({"dropout": 1.0}, ["dropout", "below 1"]),
        ({"dropout": True}, ["dropout", "True found", "a number"]),
        ({"dropout": float("nan")}, ["dropout", "nan found", "a finite number"]),
        ({"pred_masked_weight": float("inf")}, ["pred_masked_weight", "inf found", "a finite number"]),
        ({"pred_masked_weight": "1e400"}, ["pred_masked_weight", "'1e400' found", "a finite number"]),
        ({"pred_masked_weight": 10**400}, ["pred_masked_weight", "a finite number"]),
        ({"encoder_layers": 10**12}, ["encoder_layers", "1000000000000 found", "at most 2147483647"]),
        ({"encoder_layers": 1 << 40_000}, ["encoder_layers", "an integer of 40001 bits", "at most"]),
        ({"skip_masked": True}, ["skip_masked: True", "skip_nomask: True", "nothing would be learned"]),
        ({"pred_masked_weight": 0.0}, ["pred_masked_weight: 0.0", "nothing would be learned"]),
        ({"mask_prob": -0.1}, ["mask_prob", "between 0 and 1"]),
        ({"activation_fn": "swish"}, ["activation_fn", "swish", "gelu"]),
        ({"attention_type": "sparse"}, ["attention_type", "'sparse' found", "original"]),
        ({"layer_norm_first": "yes please"}, ["layer_norm_first", "bool"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, list) else next(iter(value)),
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(MelHuBERTError) as error:
        MelHuBERTConfig.from_mapping(settings, where="model.yaml")
    for word in ["model.yaml", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["model.yaml", "No such file"]),
        ("- a\n- b\n", ["model.yaml", "list found", "mapping"]),
        ("", ["model.yaml", "nothing found"]),
        ("a: [", ["model.yaml", "not valid YAML"]),
        ("melhubert: 3", ["model.yaml", "section melhubert", "int found"]),
    ],
)
def test_bad_files_are_named(tmp_path, content, words):
    file = tmp_path / "model.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(MelHuBERTError) as error:
        MelHuBERTConfig.from_yaml(file)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_setting_without_effect_is_told_where_a_file_is_read(tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text("melhubert: {mask_min_space: 3}")
    with pytest.warns(MelHuBERTWarning, match="model.yaml: mask_min_space: 3 found, which has no effect"):
        assert MelHuBERTConfig.from_yaml(file).mask_min_space == 3


def test_a_model_that_reads_no_log_mel_has_no_frame_period():
    with pytest.raises(MelHuBERTError, match="feat_emb_dim: 48 found"):
        _ = MelHuBERTConfig(feat_emb_dim=48).frame_period


def test_an_unknown_name_is_told_in_python_as_in_a_file():
    with pytest.raises(MelHuBERTError, match=r"unknown key encoder_layer \(did you mean encoder_layers\?\)"):
        MelHuBERTConfig(encoder_layer=6)
    with pytest.raises(MelHuBERTError, match="did you mean dropout"):
        dataclasses.replace(MelHuBERTConfig(), droput=0.0)


def test_settings_can_be_changed_and_pickled():
    config = dataclasses.replace(MelHuBERTConfig(40), encoder_layers=6)
    assert (config.feat_emb_dim, config.encoder_layers) == (40, 6)
    assert pickle.loads(pickle.dumps(config)) == config


def test_the_least_sizes_are_possible():
    names = ("encoder_layers", "encoder_attention_heads", "encoder_ffn_embed_dim", "encoder_embed_dim")
    more = ("conv_pos", "conv_pos_groups", "num_cluster", "mask_length")
    MelHuBERTConfig(**dict.fromkeys((*names, *more), 1))
