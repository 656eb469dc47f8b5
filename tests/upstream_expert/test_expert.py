"""The upstream as s3prl uses it: lists of waveforms in, hidden states out, training and evaluation."""

import copy
import math

import pytest
import torch
from s3prl.nn.upstream import Featurizer, S3PRLUpstream
from s3prl.upstream.interfaces import Featurizer as RunnerFeaturizer

from s3prl_melhubert import MelHuBERTError, load_checkpoint, save_checkpoint
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.upstream_expert import hubconf
from s3prl_melhubert.upstream_expert.expert import UpstreamExpert


@pytest.fixture
def upstream(published) -> UpstreamExpert:
    return hubconf.melhubert_local(published["ckpt"], feature_stats=published["stats"]).eval()


def through_s3prl(published, **settings) -> S3PRLUpstream:
    settings = {"feature_stats": published["stats"], **settings}
    return S3PRLUpstream("melhubert_local", str(published["ckpt"]), extra_conf=settings)


@torch.no_grad()
def test_outputs_match_published_implementation(upstream, published):
    outputs = upstream([torch.from_numpy(published[f"wav_{i}"]) for i in range(3)])
    for i in range(3):
        for layer, hidden in enumerate(outputs["hidden_states"]):
            expected = torch.from_numpy(published[f"hidden_{layer}_{i}"])
            torch.testing.assert_close(hidden[i, : len(expected)], expected, atol=1e-4, rtol=0)
            assert torch.equal(hidden, outputs[f"hidden_state_{layer}"])
        expected = torch.from_numpy(published[f"last_{i}"])
        torch.testing.assert_close(
            outputs["last_hidden_state"][i, : len(expected)], expected, atol=1e-4, rtol=0
        )


def test_downsample_rate_is_the_frame_period(upstream, published):
    for key in ("hidden_states", "last_hidden_state"):
        assert upstream.get_downsample_rates(key) == 16 * int(published["frame_period"])


@torch.no_grad()
def test_evaluation_is_deterministic_and_does_not_depend_on_the_batch(upstream):
    short, long = torch.randn(5000), torch.randn(30000)
    together, again, alone = upstream([short, long]), upstream([short, long]), upstream([short])
    assert torch.equal(together["last_hidden_state"], again["last_hidden_state"])
    frames = alone["last_hidden_state"].shape[1]
    torch.testing.assert_close(
        together["last_hidden_state"][0, :frames], alone["last_hidden_state"][0], atol=1e-4, rtol=0
    )


def test_s3prl_accepts_every_length_of_input(published):
    """s3prl compares lengths of waveforms and hidden states, and asserts that they are near."""
    upstream = through_s3prl(published).eval()
    rate = 16 * int(published["frame_period"])
    with torch.no_grad():
        for samples in [*range(1, 1600, 13), *range(800, 1100), 16000, 40000]:
            lengths = torch.tensor([samples, max(1, samples - 37)])
            hidden_states, frames = upstream(torch.randn(2, samples), lengths)
            assert len(hidden_states) == 3
            for hidden, count in zip(hidden_states, frames, strict=True):
                assert count.tolist() == [-(-int(n) // rate) for n in lengths]
                assert hidden.shape == (2, max(count), 48)


@pytest.mark.parametrize("seconds", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_forward_and_backward_under_anomaly_detection(published, seconds, batch):
    with torch.autograd.set_detect_anomaly(True):
        upstream = through_s3prl(published)
        featurizer = Featurizer(upstream)
        waveforms = torch.randn(batch, round(16000 * seconds), requires_grad=True)
        hidden, lengths = featurizer(*upstream(waveforms, torch.full((batch,), waveforms.shape[1])))
        hidden.sum().backward()
    assert waveforms.grad.isfinite().all()
    assert hidden.shape[0] == len(lengths) == batch


def test_zero_waveforms_pass(published):
    upstream = through_s3prl(published)
    hidden_states, _ = upstream(torch.zeros(2, 8000), torch.tensor([8000, 4000]))
    assert all(hidden.isfinite().all() for hidden in hidden_states)


def test_randomized_upstream_runs(published):
    """s3prl's own way to compare with an untrained model."""
    upstream = S3PRLUpstream(
        "melhubert_local",
        str(published["ckpt"]),
        extra_conf={"feature_stats": published["stats"]},
        randomize=True,
    )
    hidden_states, _ = upstream(torch.randn(1, 8000), torch.tensor([8000]))
    assert all(hidden.isfinite().all() for hidden in hidden_states)


def test_it_can_be_the_frontend_of_espnet(published):
    """ESPnet looks the name up, may want the last layer alone, and resets the upstream to what it was."""
    assert "melhubert_local" in S3PRLUpstream.available_names()
    upstream = through_s3prl(published)
    pretrained = copy.deepcopy(upstream.state_dict())
    layers, lengths = upstream(torch.randn(2, 8000), torch.tensor([8000, 5000]))
    features, frames = Featurizer(upstream)(layers[-1:], lengths[-1:])
    hop = upstream.downsample_rates[-1]
    assert features.equal(layers[-1])
    assert frames.tolist() == [math.ceil(8000 / hop), math.ceil(5000 / hop)]
    features.sum().backward()
    torch.optim.SGD(upstream.parameters(), lr=1.0).step()
    assert not all(value.equal(pretrained[name]) for name, value in upstream.state_dict().items())
    upstream.load_state_dict(pretrained)
    again, _ = upstream.eval()(torch.ones(1, 8000), torch.tensor([8000]))
    torch.testing.assert_close(
        again, through_s3prl(published).eval()(torch.ones(1, 8000), torch.tensor([8000]))[0]
    )


def test_fine_tuning_reaches_every_parameter_used(published):
    upstream = hubconf.melhubert_local(published["ckpt"], feature_stats=published["stats"]).train()
    wavs = [torch.randn(16000), torch.randn(9000)]
    first, second = upstream(wavs), upstream(wavs)
    assert not torch.equal(first["last_hidden_state"], second["last_hidden_state"])  # dropout is on
    sum(hidden.sum() for hidden in first["hidden_states"]).backward()
    idle = [name for name, parameter in upstream.named_parameters() if parameter.grad is None]
    assert idle == ["model.final_proj.weight", "model.final_proj.bias"]  # the head of pre-training
    upstream.eval()
    assert torch.equal(upstream(wavs)["last_hidden_state"], upstream(wavs)["last_hidden_state"])


def test_state_dict_is_what_s3prl_saves_and_loads_when_fine_tuning(upstream, published):
    other = hubconf.melhubert_local(published["ckpt"], feature_stats=published["stats"])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(upstream.state_dict())
    wavs = [torch.randn(8000)]
    with torch.no_grad():
        assert torch.equal(upstream(wavs)["last_hidden_state"], other.eval()(wavs)["last_hidden_state"])


@pytest.mark.parametrize("selection", ["hidden_states", "last_hidden_state", "hidden_state_1"])
def test_feature_selection_of_the_runner(upstream, selection):
    featurizer = RunnerFeaturizer(upstream, selection, upstream_device="cpu")
    assert featurizer.output_dim == 48
    wavs = [torch.randn(16000), torch.randn(12000)]
    features = featurizer(wavs, upstream(wavs))
    assert [len(f) for f in features] == pytest.approx(
        [len(w) / featurizer.downsample_rate for w in wavs], abs=2
    )


def test_layer_selection_of_the_runner(upstream):
    featurizer = RunnerFeaturizer(upstream, "hidden_states", upstream_device="cpu", layer_selection=1)
    wavs = [torch.randn(16000)]
    with torch.no_grad():
        outputs = upstream(wavs)
        (feature,) = featurizer(wavs, outputs)
    assert torch.equal(feature, outputs["hidden_states"][1][0, : len(feature)])


def test_bfloat16_on_request_is_near_and_returned_as_float32(published, tmp_path):
    (tmp_path / "g.yaml").write_text(f"feature_stats: {published['stats']}\nprecision: bf16\n")
    exact = hubconf.melhubert_local(published["ckpt"], feature_stats=published["stats"]).eval()
    fast = hubconf.melhubert_local(published["ckpt"], str(tmp_path / "g.yaml")).eval()
    wavs = [torch.randn(16000) * 0.1, torch.randn(9000) * 0.1]
    with torch.no_grad():
        for a, b in zip(exact(wavs)["hidden_states"], fast(wavs)["hidden_states"], strict=True):
            assert b.dtype == torch.float32
            assert 0 < (a - b).norm() / a.norm() < 0.02


class TestSettings:
    """s3prl's -g file."""

    @pytest.mark.parametrize("how", ["name", "mapping", "beside", "npy"])
    def test_statistics_from_the_file(self, reference, tmp_path, monkeypatch, how):
        import numpy as np
        import yaml

        stats = FeatureStats.load("librispeech-360h")
        np.save(tmp_path / "stats.npy", np.stack([stats.mean, stats.std]))
        (tmp_path / "stats.yaml").write_text(yaml.safe_dump(stats.to_mapping()))
        value = {
            "name": "librispeech-360h",
            "mapping": stats.to_mapping(),
            "beside": "stats.yaml",  # relative to the -g file, wherever the program runs
            "npy": str(tmp_path / "stats.npy"),
        }[how]
        (tmp_path / "g.yaml").write_text(yaml.safe_dump({"feature_stats": value}))
        upstream = hubconf.melhubert_local(reference / "tiny-20ms.ckpt", tmp_path / "g.yaml")
        assert torch.equal(upstream.frontend.mean, torch.tensor(stats.mean))

    def test_arguments_go_before_the_settings(self, reference, tmp_path):
        (tmp_path / "g.yaml").write_text("feature_stats: librispeech-360h\nprecision: bf16\n")
        for settings in (
            str(tmp_path / "g.yaml"),
            {"feature_stats": "librispeech-360h", "precision": "bf16"},
        ):
            upstream = hubconf.melhubert_local(reference / "tiny-20ms.ckpt", settings)
            assert upstream.stats.digest() == FeatureStats.load("librispeech-360h").digest()
            assert upstream.precision == torch.bfloat16
            given = {"feature_stats": "librispeech-100h", "precision": "fp32"}
            upstream = hubconf.melhubert_local(reference / "tiny-20ms.ckpt", settings, **given)
            assert upstream.stats.digest() == FeatureStats.load("librispeech-100h").digest()
            assert upstream.precision == torch.float32

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"feature_stat": "librispeech-360h"}, "model_config: unknown key feature_stat; expected"),
            ({"precision": "fp8"}, "model_config: precision: 'fp8' found"),
            (3, "model_config: int found, expected a YAML file or a mapping"),
        ],
    )
    def test_bad_mappings_are_named(self, reference, settings, words):
        with pytest.raises(MelHuBERTError, match=words):
            hubconf.melhubert_local(reference / "tiny-20ms.ckpt", settings)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, ["g.yaml", "No such file"]),
            ("- 1", ["g.yaml", "list found", "mapping"]),
            ("feature_stat: librispeech-360h", ["g.yaml", "unknown key feature_stat", "feature_stats"]),
            ("precision: fp8", ["g.yaml", "'fp8' found", "fp32 or bf16"]),
            ("feature_stats: nowhere.npy", ["nowhere.npy", "cannot be read"]),
            ("feature_stats: {mean: [1], std: [1]}", ["mean has 1 figures", "expected 40"]),
        ],
    )
    def test_bad_files_are_named(self, reference, tmp_path, content, words):
        if content is not None:
            (tmp_path / "g.yaml").write_text(content)
        with pytest.raises(MelHuBERTError) as error:
            hubconf.melhubert_local(reference / "tiny-20ms.ckpt", str(tmp_path / "g.yaml"))
        for word in words:
            assert word in str(error.value)
        assert "\n" not in str(error.value)


class TestEntries:
    """What a user can get wrong with the entries."""

    def test_statistics_in_the_checkpoint_need_no_settings(self, reference, tmp_path):
        loaded = load_checkpoint(reference / "tiny-20ms.ckpt")
        stats = FeatureStats.load("librispeech-100h")
        save_checkpoint(tmp_path / "ours.safetensors", loaded.config, loaded.state, stats)
        upstream = hubconf.melhubert_custom(tmp_path / "ours.safetensors", refresh=False)
        assert torch.equal(upstream.frontend.std, torch.tensor(stats.std))

    def test_named_entry_takes_no_checkpoint(self):
        with pytest.raises(MelHuBERTError, match=r"melhubert_local -k my\.ckpt"):
            hubconf.melhubert(ckpt="my.ckpt")

    @pytest.mark.parametrize("ckpt", [None, ""])
    @pytest.mark.parametrize("kind", ["local", "url", "gdriveid", "custom", "hf"])
    def test_missing_checkpoint_is_asked_for(self, kind, ckpt):
        with pytest.raises(MelHuBERTError, match=f"melhubert_{kind}: needs .*; give it with -k"):
            getattr(hubconf, f"melhubert_{kind}")(ckpt=ckpt, model_config=None, refresh=False)

    def test_absent_file_is_named(self):
        with pytest.raises(MelHuBERTError, match=r"no such checkpoint \(looked for /.*/model\.ckpt\)"):
            hubconf.melhubert_custom("model.ckpt")

    def test_no_url(self):
        for ckpt in ("model.ckpt", "https://[::1/model.ckpt"):
            with pytest.raises(MelHuBERTError, match="not a URL"):
                hubconf.melhubert_url(ckpt)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_autocast_of_the_caller_changes_nothing(reference, dtype, training):
    expert = hubconf.melhubert_local(reference / "tiny-20ms.ckpt", feature_stats="librispeech-360h")
    wavs = [0.3 * torch.randn(9000), 0.3 * torch.randn(5000)]
    alone = expert(wavs)["hidden_states"]
    expert.train(training)
    for module in expert.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = module.attention_dropout = module.activation_dropout = 0.0
    with torch.autocast("cpu", dtype=dtype):
        inside = expert(wavs)["hidden_states"]
    for a, b in zip(alone, inside, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("entry", ["melhubert_local", "melhubert_custom", "melhubert_url", "melhubert"])
def test_misspelt_argument_is_refused_with_the_nearest_name(entry):
    with pytest.raises(MelHuBERTError, match=r"precison .*did you mean precision"):
        getattr(hubconf, entry)(ckpt="x", precison="bf16")


def test_named_entry_refuses_other_statistics():
    with pytest.raises(MelHuBERTError, match="takes no feature_stats"):
        hubconf.melhubert(feature_stats="librispeech-100h")


def test_arguments_of_s3prls_base_class_are_passed_on(reference):
    upstream = hubconf.melhubert_local(
        reference / "tiny-20ms.ckpt", feature_stats="librispeech-360h", refresh=False, hooks=None
    )
    assert upstream.get_downsample_rates("hidden_states") == 320
