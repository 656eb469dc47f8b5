"""Settings: the published YAML loads, and a typo or an impossible value is named."""

import dataclasses
import pickle

import pytest

from s3prl_melhubert import MelHuBERTConfig, MelHuBERTError, load_checkpoint

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


def test_settings_survive_a_round_trip(published):
    config = load_checkpoint(published["ckpt"]).config
    assert MelHuBERTConfig.from_mapping({"melhubert": config.to_mapping()}) == config
    assert MelHuBERTConfig.from_mapping({"hubert": config.to_mapping()}) == config
    assert config.frame_period == int(published["frame_period"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder_layer": 12}, ["encoder_layer", "did you mean encoder_layers"]),
        ({"encoder_layers": 0}, ["encoder_layers", "0 found", "at least 1"]),
        ({"encoder_layers": "many"}, ["encoder_layers", "'many' found", "int"]),
        ({"encoder_layers": 2.5}, ["encoder_layers", "2.5"]),
        ({"encoder_attention_heads": 7}, ["encoder_attention_heads", "divisor", "768"]),
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
