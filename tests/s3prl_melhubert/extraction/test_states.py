"""Hidden states in batches: the same as one by one, with as little run as the chosen layers need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s3prl_melhubert import FeatureStats, Frontend, MelHuBERTError, load_model
from s3prl_melhubert.extraction import hidden_states, inputs, length_batches, pad_features, resolve_layers
from s3prl_melhubert.extraction.inputs import InputNotes

STATS = "librispeech-360h"


def test_batches_hold_every_utterance_once_within_the_limit():
    lengths = [5, 100, 7, 30, 30, 31, 1, 400]
    batches = length_batches(lengths, 100)
    assert sorted(i for batch in batches for i in batch) == list(range(8))
    assert batches[0] == [7]  # too long for any batch: by itself, and first
    for batch in batches[1:]:
        assert len(batch) * max(lengths[i] for i in batch) <= 100


def test_features_that_are_there_already_and_layers_above_not_run(reference):
    model, _ = load_model(reference / "tiny-20ms.ckpt", STATS)
    torch.manual_seed(0)
    features = [torch.randn(length, 80) for length in (30, 7, 50, 30)]
    ran = []
    for number, layer in enumerate(model.encoder.layers, start=1):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    found = dict(
        hidden_states(
            model,
            [len(frames) for frames in features],
            features.__getitem__,
            pad_features,
            layers=[1],
            max_frames=120,  # two batches, both with padding
        )
    )
    assert set(ran) == {1}
    assert len(model.encoder.layers) == 2  # the model itself is whole
    for i, frames in enumerate(features):
        with torch.no_grad():
            expected = model(frames[None]).hidden_states[1]
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=0)


def test_what_cannot_be_loaded_ends_the_iteration_or_is_told(reference):
    model, _ = load_model(reference / "tiny-20ms.ckpt", STATS)

    def load(i):
        if i == 1:
            raise MelHuBERTError("utterance 1: gone")
        return torch.zeros(10, 80)

    with pytest.raises(MelHuBERTError, match="gone"):
        dict(hidden_states(model, [10, 10, 10], load, pad_features))
    told = {}
    found = dict(hidden_states(model, [10, 10, 10], load, pad_features, on_error=told.__setitem__))
    assert sorted(found) == [0, 2]
    assert list(told) == [1]


def test_running_out_of_memory_says_what_to_lower(reference):
    model, _ = load_model(reference / "tiny-20ms.ckpt", STATS)

    def collate(items):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    with pytest.raises(MelHuBERTError, match="--max-frames"):
        dict(hidden_states(model, [10], lambda i: torch.zeros(10, 80), collate))


@pytest.mark.parametrize("bad", [{"precision": "fp8"}, {"layers": [3]}, {"max_frames": 0}])
def test_impossible_settings_are_refused(reference, bad):
    model, _ = load_model(reference / "tiny-20ms.ckpt", STATS)
    with pytest.raises(MelHuBERTError, match="expected"):
        next(hidden_states(model, [10], lambda i: torch.zeros(10, 80), pad_features, **bad))


def test_fp32_is_computed_without_tf32_and_leaves_the_switch_as_it_was(reference):
    model, _ = load_model(reference / "tiny-20ms.ckpt", STATS)
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    dict(hidden_states(model, [10], lambda i: torch.zeros(10, 80), pad_features))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_negative_layers_count_from_the_end(tiny_model):
    config = tiny_model().config
    assert resolve_layers([-1, -3, 0, 2], config) == [2, 0, 0, 2]
    for layer in (-4, 3):
        with pytest.raises(MelHuBERTError, match=f"layer {layer}: expected 0 .* to 2"):
            resolve_layers([layer], config)


def test_an_empty_list_of_layers_is_refused(tiny_model):
    with pytest.raises(MelHuBERTError, match="layers: none found, expected some of 0 to"):
        resolve_layers([], tiny_model().config)


def test_interrupted_reading_of_headers_does_not_go_on_to_the_last_file(monkeypatch):
    opened = []

    def not_there(path):
        opened.append(path)
        raise MelHuBERTError(f"{path}: not there")

    class Interrupted(InputNotes):
        def skip(self, path, error):
            raise KeyboardInterrupt

    monkeypatch.setattr(inputs, "audio_info", not_there)
    frontend = Frontend(FeatureStats.load(STATS), 20)
    with pytest.raises(KeyboardInterrupt):
        inputs.frame_counts({str(i): Path(f"{i}.wav") for i in range(5000)}, frontend, Interrupted())
    assert 0 < len(opened) <= 1 + inputs.HEADERS_AHEAD + inputs.READERS
