"""s3prl.hub is imported without transformers, which is there as soon as an upstream of it is made."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

HUBERT, WAV2VEC2 = "s3prl.upstream.hf_hubert.expert", "s3prl.upstream.hf_wav2vec2.expert"

USE = f"""
import sys, torch
from s3prl import hub
assert "transformers" not in sys.modules
module = sys.modules["{HUBERT}"]
assert "torch" not in vars(module)

from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
sizes["conv_dim"] = (8,) * 7
HubertModel(HubertConfig(**sizes)).save_pretrained("hubert")
Wav2Vec2Model(Wav2Vec2Config(**sizes)).save_pretrained("wav2vec2")
for name in ("hubert", "wav2vec2"):
    Wav2Vec2FeatureExtractor().save_pretrained(name)

for name, make in (("hubert", hub.hf_hubert_custom), ("wav2vec2", hub.hf_wav2vec2_custom)):
    upstream = make(name).eval()
    assert len(upstream([torch.randn(16000)])["hidden_states"]) == 3
    # What was made is of the class that the module has now, as if it had been there from the start.
    module = sys.modules[f"s3prl.upstream.hf_{{name}}.expert"]
    assert type(upstream) is module.UpstreamExpert, type(upstream)
    assert module.SAMPLE_RATE == 16000
    assert "__getattr__" not in vars(module)
"""

IMPORTED_AFTER_THE_HUB = f"""
import sys
from s3prl import hub
from {WAV2VEC2} import UpstreamExpert
assert isinstance(UpstreamExpert, type), UpstreamExpert
import {HUBERT} as module
assert module.__name__ == "{HUBERT}" and not hasattr(module, "__path__")
assert not hasattr(module, "no_such_name")
assert module.HubertModel.__name__ == "HubertModel"
"""

IMPORTED_ALONE = f"""
import sys
from {HUBERT} import UpstreamExpert
assert isinstance(UpstreamExpert, type) and "transformers" in sys.modules
"""

WITHOUT_TRANSFORMERS = """
import sys
sys.modules["transformers"] = None
from s3prl import hub
for _ in range(2):  # the second time must not find the half of a module
    try:
        hub.hf_hubert_custom("somewhere")
    except ImportError as error:
        assert "transformers" in str(error), error
    else:
        raise AssertionError("no error")
assert callable(hub.fbank)
"""


WITHOUT_ESPNET = """
from s3prl import hub
print("imported", flush=True)
try:
    hub.espnet_hubert_local("somewhere")
except AssertionError as error:
    print(error)
"""


def test_upstreams_of_transformers_are_imported_at_their_first_use(run_python):
    done = run_python("-c", USE)
    assert done.returncode == 0, done.stderr


def test_whoever_imports_them_later_gets_the_module_itself(run_python):
    done = run_python("-c", IMPORTED_AFTER_THE_HUB)
    assert done.returncode == 0, done.stderr


def test_without_the_hub_nothing_is_put_off(run_python):
    done = run_python("-c", IMPORTED_ALONE)
    assert done.returncode == 0, done.stderr


def test_a_library_that_is_missing_is_told_where_it_is_needed(run_python):
    done = run_python("-c", WITHOUT_TRANSFORMERS)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(find_spec("espnet2") is not None, reason="ESPnet is installed")
def test_that_espnet_is_missing_is_said_only_where_it_is_needed(run_python):
    done = run_python("-c", "from s3prl import hub")
    assert "ESPnet" not in done.stdout + done.stderr
    done = run_python("-c", WITHOUT_ESPNET)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "imported"
    assert "ESPnet is not installed" in done.stdout.splitlines()[1]
    assert "ESPnet is not installed" in done.stderr
