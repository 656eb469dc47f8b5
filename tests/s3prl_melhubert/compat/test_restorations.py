"""Each row of the compatibility table, and what stands in for torchaudio's files and SoX effects."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest
import soundfile

from s3prl_melhubert.compat import huggingface, restorations

OFF = {"S3PRL_MELHUBERT_AUTOLOAD": "0"}

# What makes any Python one of 3.12 or newer in which setuptools' own .pth line was not run.
WITHOUT_DISTUTILS = """
import sys
class WithoutDistutils:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name == "distutils" else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [
    WithoutDistutils(finder) if type(finder).__name__ == "type" else finder
    for finder in sys.meta_path
    if type(finder).__name__ != "DistutilsMetaFinder"
]
def forget_distutils():
    for name in [name for name in sys.modules if name.partition(".")[0] == "distutils"]:
        del sys.modules[name]
forget_distutils()
"""

# What makes any user one whose number alone is known, and forgets the folder that torch called after them.
WITHOUT_A_NAME = """
import os, pwd
def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = unknown
for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "TORCHINDUCTOR_CACHE_DIR"):
    os.environ.pop(name, None)
"""

# A row of the table -> a use of it, by s3prl's own code wherever a small module of s3prl does it.
USES = {
    "torchaudio.set_audio_backend": "import s3prl.upstream.byol_s.byol_a.common",
    "torchaudio.load": """
        from s3prl.upstream.apc.audio import FeatureExtractor
        from s3prl.util.pseudo_data import torchaudio
        waveform, rate = FeatureExtractor()._load_file("a.wav")
        assert (tuple(waveform.shape), rate) == ((1, 1600), 16000)
        torchaudio.save("saved.wav", waveform, sample_rate=rate)
        """,
    "torchaudio.info": """
        from s3prl.util import audio_info
        import torchaudio
        torchaudio.set_audio_backend = lambda backend: None
        [found] = audio_info.get_audio_info(["a.wav"], ["a"], cache_dir="none", num_workers=1)
        assert found == dict(
            sample_rate=16000, num_frames=1600, num_channels=1, bits_per_sample=16, encoding="PCM_S"
        ), found
        """,
    "torchaudio in worker processes": """
        import pickle, torchaudio
        assert pickle.loads(pickle.dumps(torchaudio)) is torchaudio
        """,
    "torchaudio.sox_effects": "import s3prl.upstream.mos_prediction.expert",
    "catalyst.data.sampler": """
        from s3prl.downstream.speech_commands.expert import DistributedSamplerWrapper
        drawn = [list(DistributedSamplerWrapper(range(6), 2, rank, shuffle=False)) for rank in (0, 1)]
        assert drawn == [[0, 2, 4], [1, 3, 5]], drawn
        """,
    "sox": "import s3prl.downstream.sv_voxceleb1.dataset",
    "huggingface_hub.HfFolder": "from huggingface_hub import HfApi, HfFolder, Repository",
    "torch.load": """
        import argparse, torch
        torch.save({"Args": argparse.Namespace(upstream="fbank"), "Step": 1}, "states.ckpt")
        assert torch.load("states.ckpt", map_location="cpu")["Args"].upstream == "fbank"
        """,
    "numpy.int": """
        from s3prl.upstream.wavlm.WavLM import compute_mask_indices
        assert compute_mask_indices((2, 100), None, 0.5, 5, min_masks=2, no_overlap=True).sum() > 0
        """,
    "distutils": """
        from s3prl.upstream.distiller.builder import strtobool
        assert strtobool("yes")
        """,
    "the user's name": "import torch; torch.optim.Adam([torch.zeros(1, requires_grad=True)])",
    "batches without shared memory": """
        import resource, torch.multiprocessing
        from multiprocessing.reduction import ForkingPickler
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        ForkingPickler.dumps(torch.zeros(1000))
        """,
}

# Runs every use in a fork of one process, which has the libraries loaded, so that all of them take seconds.
RUN_USES = (
    WITHOUT_DISTUTILS
    + WITHOUT_A_NAME
    + """
import json, os
import torch, torchaudio, huggingface_hub
from s3prl_melhubert.compat import restorations
forget_distutils()  # a library may have imported setuptools, which puts distutils there

def outcome(use, prepare):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            prepare()
            exec(use, {"__name__": "use"})
            result = "works"
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(write, result.encode()[:1000])
        os._exit(0)
    os.close(write)
    result = open(read).read()
    os.wait()
    return result

uses, ways = json.loads(sys.argv[1]), sys.argv[2:]
prepare = {
    "hook": lambda row: __import__("s3prl.util.override"),
    "restored": lambda row: restorations.restore(),
    "row missing": lambda row: restorations.restore(without={row}),
    "nothing": lambda row: None,
}
print(json.dumps({
    row: {way: outcome(use, lambda: prepare[way](row)) for way in ways} for row, use in uses.items()
}))
"""
)


@pytest.fixture(scope="module")
def uses_of_rows(tmp_path_factory) -> dict[str, dict[str, dict[str, str]]]:
    """Outcomes of every use, with the hook of the .pth file and without it."""
    import os
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("rows")
    soundfile.write(folder / "a.wav", np.zeros(1600), 16000)
    uses = {row: textwrap.dedent(use) for row, use in USES.items()}

    def run(*ways: str, **environment: str) -> dict[str, dict[str, str]]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", RUN_USES, json.dumps(uses), *ways],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return {"autoload": run("hook"), "off": run("hook", "restored", "row missing", "nothing", **OFF)}


def test_every_row_of_the_table_has_a_use():
    assert [row.name for row in restorations.RESTORERS] == list(USES)


@pytest.mark.parametrize("row", USES)
def test_what_s3prl_uses_works_with_the_hook(uses_of_rows, row):
    assert uses_of_rows["autoload"][row]["hook"] == "works"


@pytest.mark.parametrize("row", USES)
def test_what_s3prl_uses_fails_without_the_hook(uses_of_rows, row):
    assert uses_of_rows["off"][row]["nothing"] != "works"
    assert uses_of_rows["off"][row]["hook"] != "works"


@pytest.mark.parametrize("row", USES)
def test_each_row_is_needed(uses_of_rows, row):
    """With all rows but one, the use of that one fails."""
    assert uses_of_rows["off"][row]["restored"] == "works"
    assert uses_of_rows["off"][row]["row missing"] != "works"


def test_worker_processes_of_s3prl_find_what_was_restored(run_python, tmp_path):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(1600), 16000)
    script = (
        "from s3prl.util.audio_info import get_audio_info\n"
        "infos = get_audio_info(['a.wav', 'b.wav'], ['a', 'b'], cache_dir='none', num_workers=2)\n"
        "print([info['num_frames'] for info in infos])"
    )
    done = run_python("-c", script)
    assert done.stdout.strip() == "[1600, 1600]", done.stderr


def test_restoring_twice_changes_nothing_more(run_python):
    script = (
        WITHOUT_DISTUTILS
        + WITHOUT_A_NAME
        + (
            "from s3prl_melhubert.compat.restorations import RESTORERS, restore\n"
            "first, second = restore(), restore()\n"
            "assert first.restored == [row.name for row in RESTORERS], first\n"
            "assert (second.restored, second.failed) == ([], {}), second"
        )
    )
    done = run_python("-c", script, **OFF)
    assert done.returncode == 0, done.stderr


def test_a_row_that_fails_stops_no_other(run_python):
    script = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from s3prl_melhubert.compat.restorations import restore\n"
        "outcome = restore()\n"
        "assert list(outcome.failed) == ['huggingface_hub.HfFolder'], outcome\n"
        "assert 'torch.load' in outcome.restored and 'torchaudio.load' in outcome.restored, outcome"
    )
    done = run_python("-c", script, **OFF)
    assert done.returncode == 0, done.stderr


def test_names_that_a_library_still_has_are_left_alone(run_python):
    """As on an older stack: torchaudio with its own functions, SoX effects that work, HfFolder."""
    script = """
import sys, types
import huggingface_hub, numpy, torchaudio
def own(*arguments, **options): return []
for name in ("set_audio_backend", "get_audio_backend", "list_audio_backends", "load", "info", "save"):
    setattr(torchaudio, name, own)
torchaudio.AudioMetaData = huggingface_hub.HfFolder = huggingface_hub.Repository = own
huggingface_hub.HfApi.login = huggingface_hub.snapshot_download = own
numpy.int = numpy.complex = own
for name in ("distutils", "catalyst", "sox"):
    sys.modules[name] = types.ModuleType(name)
effects = sys.modules["torchaudio.sox_effects"] = torchaudio.sox_effects = types.ModuleType("effects")
effects.effect_names = effects.apply_effects_file = own
from s3prl_melhubert.compat import restorations
assert restorations.restore().restored == ["torch.load", "batches without shared memory"]
assert torchaudio.load is torchaudio.info is huggingface_hub.HfFolder is numpy.int is own
assert huggingface_hub.HfApi.login is huggingface_hub.snapshot_download is own
assert effects.apply_effects_file is own and type(torchaudio) is types.ModuleType
"""
    done = run_python("-c", script, **OFF)
    assert done.returncode == 0, done.stderr


def test_sox_effects_that_cannot_run_are_replaced(run_python):
    """torchaudio up to 2.8 has the module on a system without libsox, and each function raises."""
    script = """
import sys, types, torchaudio
def broken(*arguments): raise OSError("libsox.so: cannot open shared object file")
effects = sys.modules["torchaudio.sox_effects"] = torchaudio.sox_effects = types.ModuleType("effects")
effects.effect_names = effects.apply_effects_file = broken
from s3prl_melhubert.compat import restorations, sox_effects
restorations.restore()
assert torchaudio.sox_effects is effects and effects.apply_effects_file is sox_effects.apply_effects_file
"""
    done = run_python("-c", script, **OFF)
    assert done.returncode == 0, done.stderr


# Checkpoints, the Hub --------------------------------------------------------------------------------


def test_schedules_in_checkpoints_are_loaded(run_python):
    """Three of s3prl's optimizers save an object of one of its own classes."""
    script = """
import torch
from s3prl import optimizers
for name in ("BertAdam", "AdamW", "Lamb"):
    model = torch.nn.Linear(2, 2)
    optimizer = getattr(optimizers, f"get_{name}_with_schedule")([model], lr=0.1, total_steps=10)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    torch.save({"Optimizer": optimizer.state_dict()}, "states.ckpt")
    optimizer.load_state_dict(torch.load("states.ckpt", map_location="cpu")["Optimizer"])
    print(type(optimizer.param_groups[0]["schedule"]).__name__)
"""
    assert run_python("-c", script).stdout.split() == ["WarmupLinearSchedule"] * 3
    assert "UnpicklingError" in run_python("-c", script, **OFF).stderr


def test_checkpoints_that_could_run_code_are_still_refused(run_python):
    script = """
import s3prl.util.override, fractions, torch
torch.save({"x": fractions.Fraction(1, 2)}, "states.ckpt")
torch.load("states.ckpt")
"""
    done = run_python("-c", script)
    assert done.returncode == 1
    assert "UnpicklingError" in done.stderr


def test_tables_of_corpora_are_read_with_todays_pandas(run_python):
    """As s3prl-main does for intent classification."""
    script = """
import pandas
from s3prl.dataio.corpus.base import Corpus
table = pandas.DataFrame({"name": ["a", "b"], "label": [0, 1]})
print(dict(Corpus.dataframe_to_datapoints(table, lambda row: row["name"])))
"""
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'a': {'name': 'a', 'label': 0}, 'b': {'name': 'b', 'label': 1}}\n"


def test_token_is_kept_where_huggingface_hub_reads_it(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    huggingface.HfFolder.save_token("hf_test")
    assert huggingface.HfFolder.get_token() == "hf_test"
    assert (tmp_path / "hf" / "token").stat().st_mode & 0o077 == 0
    huggingface.HfFolder.delete_token()
    huggingface.HfFolder.delete_token()
    assert huggingface.HfFolder.get_token() is None


def test_pushing_says_what_to_do_instead():
    with pytest.raises(RuntimeError, match="hf upload"):
        huggingface.Repository(local_dir="x", clone_from="y", use_auth_token="z")
