"""Hub folders in transformers: hidden states, saving and loading, the loss, heads that train."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, load_checkpoint, load_model
from s3prl_melhubert.support.huggingface import WEIGHTS

transformers = pytest.importorskip("transformers")
import s3prl_melhubert.hub  # noqa: E402, F401  # this tells transformers of MelHuBERT


@pytest.fixture(scope="session")
def all_alone(all_exported, waveforms, tmp_path_factory) -> Path:
    """A folder with what transformers computes and saves where s3prl_melhubert cannot be imported."""
    work = tmp_path_factory.mktemp("alone")
    np.savez(work / "waveforms.npz", *[waveform.numpy() for waveform in waveforms])
    script = Path(__file__).with_name("in_transformers.py")
    done = subprocess.run(
        [sys.executable, script, "waveforms.npz", *(each.folder for each in all_exported.values())],
        cwd=work,
        env={**os.environ, "HF_HOME": str(work / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return work


@pytest.fixture
def alone(all_alone, exported) -> dict:
    """The arrays of one Hub folder, and the folder that transformers saved."""
    saved = all_alone / exported.folder.name
    return {**np.load(f"{saved}.npz"), "saved": saved}


def test_hidden_states_without_the_package_are_ours(alone, ours, exported):
    output, padding = ours
    valid = ~padding.numpy()
    assert np.array_equal(alone["attention_mask"].astype(bool), valid)
    for i, hidden in enumerate(output.hidden_states):
        assert np.abs(alone[f"hidden_{i}"] - hidden.numpy())[valid].max() < 1e-5
    assert f"hidden_{len(output.hidden_states)}" not in alone
    assert np.abs(alone["last"] - output.last_hidden_state.numpy())[valid].max() < 1e-5
    logits = load_model(exported.folder)[0].predict(output.last_hidden_state).detach().numpy()
    assert np.abs(alone["logits"] - logits)[valid].max() < 1e-5


def test_a_quantizer_beside_the_weights_is_passed_over(all_exported):
    for auto in (transformers.AutoModel, transformers.AutoModelForPreTraining, transformers.AutoModelForCTC):
        _, found = auto.from_pretrained(all_exported[20].folder, output_loading_info=True)
        assert not found["unexpected_keys"]


def test_what_transformers_saved_is_a_checkpoint_of_ours(alone, exported):
    saved, published = load_checkpoint(alone["saved"]), load_checkpoint(exported.checkpoint)
    assert saved.config == published.config
    assert saved.stats is not None
    assert saved.stats == load_checkpoint(exported.folder).stats
    assert all(torch.equal(saved.state[name], published.state[name]) for name in published.state)


def test_with_the_package_no_code_of_the_folder_runs(exported, waveforms, ours):
    for name in ("modeling_melhubert.py", "configuration_melhubert.py", "feature_extraction_melhubert.py"):
        assert (exported.folder / name).is_file()
    model = transformers.AutoModel.from_pretrained(exported.folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(exported.folder)
    assert type(model).__module__ == "s3prl_melhubert.hub.modeling_melhubert"
    assert type(extractor).__module__ == "s3prl_melhubert.hub.feature_extraction_melhubert"
    inputs = extractor([waveform.numpy() for waveform in waveforms], 16000, return_tensors="pt")
    with torch.no_grad():
        output = model.eval()(**inputs, output_hidden_states=True)
        as_tuple = model(**inputs, return_dict=False)
    assert output.hidden_states[-1].shape == output.last_hidden_state.shape
    assert len(as_tuple) == 1
    valid = ~ours[1]
    for found, expected in zip(output.hidden_states, ours[0].hidden_states, strict=True):
        assert torch.allclose(found[valid], expected[valid], atol=1e-6)


def test_what_the_packages_classes_save_needs_no_package(exported, tmp_path):
    """A model that was made here, and not loaded from a folder with code."""
    loaded = transformers.AutoModel.from_pretrained(exported.folder)
    model = type(loaded)(type(loaded.config)(**load_checkpoint(exported.folder).config.to_mapping()))
    model.save_pretrained(tmp_path / "saved")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(exported.folder)
    type(extractor)(extractor.feature_mean, extractor.feature_std, exported.period).save_pretrained(
        tmp_path / "saved"
    )
    for name in ("modeling_melhubert.py", "configuration_melhubert.py", "feature_extraction_melhubert.py"):
        assert (tmp_path / "saved" / name).read_text() == (exported.folder / name).read_text()
    for name in ("config.json", "preprocessor_config.json"):
        written, expected = (
            json.loads((folder / name).read_text()) for folder in (tmp_path / "saved", exported.folder)
        )
        assert written["auto_map"] == expected["auto_map"]
    again = transformers.AutoModel.from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_model_is_pushed_with_its_code(hub, exported, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    model = transformers.AutoModelForPreTraining.from_pretrained(exported.folder)
    model.push_to_hub("org/pushed")
    uploaded = hub.repositories["org/pushed"]["main"]
    assert {"config.json", "model.safetensors", "modeling_melhubert.py", "configuration_melhubert.py"} <= {
        *uploaded
    }
    ours, _ = load_model("org/pushed")
    assert torch.equal(ours.final_proj.weight, model.melhubert.final_proj.weight)


def test_what_is_saved_and_pushed_at_once_takes_the_settings_of_a_push(hub, all_exported, tmp_path):
    folder = all_exported[20].folder
    model = transformers.AutoModel.from_pretrained(folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    pushing = {"push_to_hub": True, "repo_id": "org/at-once", "token": hub.token, "private": True}
    for each in (model, extractor):
        each.save_pretrained(tmp_path / "saved", **pushing, commit_message="first")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    uploaded = hub.repositories["org/at-once"]["main"]
    assert {"modeling_melhubert.py", "feature_extraction_melhubert.py", "model.safetensors"} <= {*saved}
    assert all(uploaded[name] == content for name, content in saved.items())
    assert hub.private["org/at-once"]


def test_extractor_takes_what_its_users_give(exported):
    extractor = transformers.AutoFeatureExtractor.from_pretrained(exported.folder)
    waveform = 0.1 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    one = extractor(waveform, sampling_rate=16000, return_tensors="np")["input_features"]
    assert one.shape[0] == 1
    for other in (torch.from_numpy(waveform), waveform.tolist(), [waveform]):
        assert np.allclose(extractor(other, return_tensors="np")["input_features"], one, atol=1e-5)
    whole = extractor([waveform, waveform[:2000]], return_tensors="pt")["input_features"]
    cut = extractor([waveform, waveform[:2000]], truncation=True, max_length=5, return_tensors="pt")
    assert torch.equal(cut["input_features"], whole[:, :5])
    assert len(extractor(waveform, pad_to_multiple_of=64)["input_features"][0]) == 64
    padded = extractor([waveform], padding="max_length", max_length=60, return_tensors="pt")
    assert padded["input_features"].shape[1] == 60
    assert padded["attention_mask"].sum() == one.shape[1]
    with pytest.raises(ValueError, match="8000 found, expected 16000"):
        extractor(waveform, sampling_rate=8000)
    with pytest.raises(ValueError, match="shape"):
        extractor([waveform[None]])


def test_loss_of_pretraining_is_ours(exported, waveforms):
    ours, frontend = load_model(exported.folder)
    features, padding = frontend(waveforms)
    model = transformers.AutoModelForPreTraining.from_pretrained(exported.folder).eval()
    labels = torch.randint(0, ours.config.num_cluster, features.shape[:2])
    torch.manual_seed(1)
    for attention_mask in ((~padding).long(), None):
        padding = padding if attention_mask is not None else torch.zeros_like(padding)
        with torch.no_grad():
            output = model(features, attention_mask, labels=labels)
            hidden = ours(features, padding, output.mask_time_indices).last_hidden_state
            expected = ours.prediction_loss(hidden, labels, output.mask_time_indices, padding)
        assert output.mask_time_indices.any()
        assert not (output.mask_time_indices & padding).any()
        assert output.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
        assert output.masked_accuracy == expected.masked_accuracy


@pytest.fixture
def new_memory_is_nan():
    """What is not written would otherwise be what an earlier model left there."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("checkpoint", [False, True], ids=["made", "loaded without weights"])
def test_a_new_model_begins_as_one_of_ours(checkpoint, new_memory_is_nan):
    """transformers loads into memory that holds anything, and draws there what a file does not have."""
    settings = {"encoder_layers": 2, "encoder_embed_dim": 96, "encoder_attention_heads": 4}
    settings |= {"encoder_ffn_embed_dim": 192, "learnable_mask_emb": True}
    config = transformers.AutoConfig.for_model("melhubert", **settings)
    torch.manual_seed(0)
    ours = dict(MelHuBERT(MelHuBERTConfig(**settings)).named_parameters())
    model = transformers.AutoModelForPreTraining.from_config(config)
    if checkpoint:
        model = type(model).from_pretrained(None, config=config, state_dict={})
    model = model.melhubert
    found = dict(model.named_parameters())
    assert found.keys() == ours.keys()
    for name, weights in found.items():
        expected = ours[name]
        assert weights.mean().item() == pytest.approx(expected.mean().item(), abs=0.05), name
        assert weights.std().item() == pytest.approx(expected.std().item(), rel=0.4), name
    conv = model.encoder.pos_conv[0]
    torch.testing.assert_close(conv.weight_g, conv.weight_v.norm(dim=(0, 1), keepdim=True))


class Utterances(torch.utils.data.Dataset):
    """Hums of two pitches: the class is the pitch, and the transcript is its letter, twice."""

    def __init__(self, extractor, head: str):
        time = np.arange(8000) / 16000
        self.rows = []
        for i in range(8):
            wave = 0.3 * np.sin(2 * np.pi * (150, 900)[i % 2] * time[: 8000 - 400 * i])
            features = extractor(wave.astype(np.float32), return_tensors="pt")["input_features"][0]
            self.rows.append((features, i % 2 if head == "classes" else [1 + i % 2, 1 + i % 2]))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def collate(rows):
    features = torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
    lengths = torch.tensor([len(row[0]) for row in rows])
    mask = (torch.arange(features.shape[1]) < lengths[:, None]).long()
    return {"input_features": features, "attention_mask": mask, "labels": torch.tensor([r[1] for r in rows])}


@pytest.mark.parametrize("head", ["classes", "ctc"])
def test_heads_train_in_trainer(all_exported, tmp_path, train, head, new_memory_is_nan):
    exported = all_exported[20]
    settings = {"num_labels": 2} if head == "classes" else {"vocab_size": 3}
    auto = transformers.AutoModelForAudioClassification if head == "classes" else transformers.AutoModelForCTC
    extractor = transformers.AutoFeatureExtractor.from_pretrained(exported.folder)
    torch.manual_seed(0)
    model = auto.from_pretrained(exported.folder, use_weighted_layer_sum=True, **settings)
    before = model.melhubert.encoder.layers[0].fc1.weight.clone()
    assert not model.layer_sum.weights.any()  # All layers count the same at first.
    data = Utterances(extractor, head)
    model(**collate(data.rows)).loss.backward()  # On several GPUs, a weight without a gradient is an error.
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    trainer = train(model, data, collate, steps=15, batch=8)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    assert not torch.equal(before, model.melhubert.encoder.layers[0].fc1.weight)
    trainer.save_model(str(tmp_path / "saved"))
    again = auto.from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(again[name], value.cpu()) for name, value in model.state_dict().items())


def shifted(attention_mask, *tensors):
    """The mask and the tensors of a right-padded batch, with the padding of each row before its frames."""
    rows = [int(mask.sum()) for mask in attention_mask]
    return [
        torch.stack([row.roll(len(row) - n, 0) for row, n in zip(each, rows, strict=True)])
        for each in (attention_mask, *tensors)
    ]


@pytest.mark.parametrize("all_frames", [True, False], ids=["one stretch", "with a gap"])
def test_padding_may_stand_anywhere_in_a_row(all_exported, all_frames):
    torch.manual_seed(0)
    mask = torch.arange(60)[None] < torch.tensor([60, 40, 20])[:, None]
    features = torch.randn(3, 60, 80) * mask[..., None]
    left, moved = shifted(mask.long(), features)
    if not all_frames:
        left[:, 50:53] = 0
    model = transformers.AutoModelForPreTraining.from_pretrained(all_exported[20].folder).eval()
    drawn = model(moved, left, labels=torch.zeros(3, 60, dtype=torch.long)).mask_time_indices
    assert not (drawn & ~left.bool()).any()
    share = drawn.sum(1) / left.sum(1)
    assert share.min() > 0.25
    if not all_frames:
        return
    ctc = transformers.AutoModelForCTC.from_pretrained(all_exported[20].folder, vocab_size=8).eval()
    labels = torch.tensor([[1, 2], [3, -100], [5, 6]])
    with torch.no_grad():
        expected, found = (
            ctc(features, mask, labels=labels).loss,
            ctc(moved, left.float(), labels=labels).loss,
        )
        assert ctc(features, mask, labels=labels[:, :0]).loss.isfinite()
        whole = [ctc(features, given, labels=labels).loss for given in (None, torch.ones_like(mask))]
    assert whole[0] == whole[1]
    blank = ctc.config.pad_token_id
    with pytest.raises(ValueError, match=f"labels: {blank} found, which is the blank"):
        ctc(features, mask, labels=labels.masked_fill(labels < 0, blank))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    ctc.config.pad_token_id = None
    with pytest.raises(ValueError, match="pad_token_id: None found"):
        ctc(features, mask, labels=labels)


def test_a_row_of_padding_alone_leaves_the_rest_of_its_batch_as_it_is(all_exported):
    folder, frames = all_exported[20].folder, torch.randn(2, 30, 80)
    attention_mask = torch.ones(2, 30, dtype=torch.long)
    attention_mask[1] = 0
    auto = transformers.AutoModelForAudioClassification
    model = auto.from_pretrained(folder, num_labels=3).eval()
    given = {"input_features": frames, "attention_mask": attention_mask}
    output = model(**given, labels=torch.tensor([0, 1]))
    alone = model(**{name: value[:1] for name, value in given.items()}).logits
    torch.testing.assert_close(output.logits[:1], alone)
    torch.testing.assert_close(output.logits[1], model.classifier.bias)
    output.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"feature_mean": None, "feature_std": None}, "feature_mean: 0 figures found, expected 40"),
        ({"feature_mean": [1.0]}, "feature_mean: 1 figures"),
        ({"feature_std": [0.0] * 40}, "feature_std: 0 found, expected figures above zero"),
        ({"sampling_rate": 8000}, "the extractor's own is 8000, expected 16000"),
    ],
    ids=["none", "one", "zero", "8 kHz"],
)
def test_extractor_without_its_statistics_is_refused(all_exported, tmp_path, change, words):
    extractor = transformers.AutoFeatureExtractor.from_pretrained(all_exported[20].folder, **change)
    extractor.save_pretrained(tmp_path)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        extractor(np.zeros(4000, np.float32), sampling_rate=change.get("sampling_rate"))


@pytest.mark.parametrize(
    "change",
    [
        {"dropout": 1.5},
        {"encoder_attention_heads": 7},
        {"mask_prob": 7.0},
        {"mask_length": 0},
        {"encoder_layerdrop": 2.0},
        {"activation_fn": "swish"},
        {"num_hidden_layers": 0},
        {"encoder_ffn_embed_dim": [96]},
        {"layer_norm_first": "False"},
        {"num_cluster": 16.5},
        {"encoder_layers": True},
        {"dropout": "much"},
        {"use_weighted_layer_sum": "False"},
        {"ctc_zero_infinity": "no"},
        {"ctc_loss_reduction": "none"},
        {"vocab_size": 32.5},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_by_transformers_too(all_exported, change):
    [name] = change
    name = transformers.AutoConfig.from_pretrained(all_exported[20].folder).attribute_map.get(name, name)
    with pytest.raises(ValueError, match=f"{name}: .* found, expected"):
        transformers.AutoConfig.for_model("melhubert", **change)
    with pytest.raises(ValueError, match=f"{name}: .* found, expected"):
        transformers.AutoModel.from_pretrained(all_exported[20].folder, **change)


def test_numbers_of_numpy_and_lists_of_one_number_are_settings(all_exported):
    folder = all_exported[20].folder
    config = transformers.AutoConfig.from_pretrained(folder)
    heads, layers = config.encoder_attention_heads, config.encoder_layers
    changed = transformers.AutoConfig.for_model("melhubert", encoder_layers=np.int64(3))
    assert (changed.encoder_layers, type(changed.encoder_layers)) == (3, int)
    transformers.AutoModel.from_pretrained(folder, encoder_attention_heads=[heads] * layers)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer_norm_first": "False"}, "layer_norm_first: 'False' found, expected bool"),
        (
            {"attention_type": "relative"},
            "attention_type: 'relative' found, but only 'original' is supported",
        ),
        ({"mask_other": 0.5}, "mask_other: 0.5 found, but only 0.0 is supported"),
        ({"frame_period": 10}, "feat_emb_dim"),
    ],
    ids=str,
)
def test_a_folder_whose_settings_were_edited_into_another_model_is_refused(
    all_exported, tmp_path, change, says
):
    folder = tmp_path / "edited"
    shutil.copytree(all_exported[20].folder, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **change}))
    # This package believes the settings that the file of weights itself holds, if it holds some.
    safetensors.torch.save_file(safetensors.torch.load_file(folder / WEIGHTS), folder / WEIGHTS)
    for load in (load_model, transformers.AutoModel.from_pretrained):
        with pytest.raises(ValueError, match=re.escape(says)):
            load(folder)
