"""The hook that s3prl finds MelHuBERT by, and `melhubert run-downstream`, in interpreters of their own."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

import s3prl_melhubert

OFF = {"S3PRL_MELHUBERT_AUTOLOAD": "0"}


# Programs that never import s3prl ---------------------------------------------------------------------


OURS = {"s3prl_melhubert", "s3prl_melhubert.compat", "s3prl_melhubert.compat.finder"}


def test_starting_python_installs_the_hook_and_no_library(run_python):
    modules = run_python("-c", "import sys; print(*sys.modules)").stdout.split()
    assert {name for name in modules if name.startswith("s3prl_melhubert")} == OURS
    assert not {"torch", "torchaudio", "numpy", "s3prl", "huggingface_hub"} & set(modules)


def test_the_line_of_the_pth_file_imports_nothing_but_the_hook(run_python):
    script = """
import os, sys
sys.path.append(sys.argv[1])
before = set(sys.modules)
import s3prl_melhubert.compat.finder as p; p.install_from_pth()
print(*set(sys.modules) - before)
"""
    done = run_python("-S", "-c", script, Path(s3prl_melhubert.__file__).parents[1])
    assert set(done.stdout.split()) == OURS, done.stderr


def test_finder_stands_first_and_once(run_python):
    script = (
        "import sys; from s3prl_melhubert.compat import finder\n"
        "finder.install(); finder.install_from_pth()\n"
        "print([type(each).__name__ for each in sys.meta_path].index('S3prlFinder'),\n"
        "      sum(isinstance(each, finder.S3prlFinder) for each in sys.meta_path))"
    )
    assert run_python("-c", script).stdout.split() == ["0", "1"]


def test_autoload_off_leaves_the_import_system_alone(run_python):
    script = "import sys; print([finder for finder in sys.meta_path if 'S3prl' in repr(finder)])"
    assert run_python("-c", script, **OFF).stdout.strip() == "[]"


def test_bare_import_of_s3prl_restores_nothing(run_python):
    script = (
        "import s3prl, sys\n"
        "print('torchaudio' in sys.modules, 's3prl_melhubert.compat.restorations' in sys.modules)"
    )
    assert run_python("-c", script).stdout.split() == ["False", "False"]


def test_other_packages_are_found_as_ever(run_python, tmp_path):
    """Names close to those that the hook waits for: no library is loaded for them, no loader touched."""
    for name in ("s3prlish/hub.py", "pretrain/runner.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).parent.joinpath("__init__.py").touch()
        (tmp_path / name).write_text("WHOSE = 'somebody else'")
    script = """
import sys; sys.path.insert(0, "")
import s3prlish.hub, pretrain.runner
assert s3prlish.hub.WHOSE == pretrain.runner.WHOSE == "somebody else"
assert "exec_module" not in vars(pretrain.runner.__spec__.loader)
assert "torch" not in sys.modules and "s3prl_melhubert.compat.restorations" not in sys.modules
"""
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr


# s3prl.hub ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict:
    """What a program sees that imports s3prl.hub, as JSON: importing it takes seconds."""
    import subprocess
    import sys

    script = """
import importlib, inspect, json, torch, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", RuntimeWarning)
    from s3prl import hub
from s3prl_melhubert.upstream_expert import hubconf
seen = {
    "warnings": [str(warning.message) for warning in caught if "melhubert" in str(warning.message)],
    "missing": [name for name in hubconf.__all__ if getattr(hub, name, None) is not getattr(hubconf, name)],
    "options": hub.options(),
    "source": "from s3prl.upstream.wavlm.hubconf import *" in inspect.getsource(hub),
    "shapes": {},
}
for name in ("baseline", "fbank", "fbank_no_cmvn", "mfcc", "mel", "linear", "spectrogram"):
    upstream = getattr(hub, name)()
    [hidden] = upstream([torch.randn(16000)])["hidden_states"]
    seen["shapes"][name] = [*hidden.shape, upstream.get_downsample_rates("hidden_states")]
del hub.melhubert
seen["after reload"] = hasattr(importlib.reload(hub), "melhubert")
print(json.dumps(seen))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path_factory.mktemp("hub"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_entry_is_registered_without_a_warning(hub):
    assert hub["missing"] == []
    assert hub["warnings"] == []
    assert {"melhubert", "melhubert_local", "melhubert_url"} <= set(hub["options"])
    assert {"fbank", "hubert", "wavlm"} <= set(hub["options"])


def test_hub_is_still_s3prls_own_module(hub):
    assert hub["source"]
    assert hub["after reload"]


def test_upstreams_without_a_checkpoint_run(hub):
    assert hub["shapes"] == {
        "baseline": [1, 98, 240, 160],
        "fbank": [1, 98, 240, 160],
        "fbank_no_cmvn": [1, 98, 240, 160],
        "mfcc": [1, 98, 39, 160],
        "mel": [1, 101, 80, 160],
        "linear": [1, 101, 201, 160],
        "spectrogram": [1, 98, 257, 160],
    }


def test_s3prl_does_not_import_without_the_hook(run_python):
    done = run_python("-c", "import s3prl.hub", **OFF)
    assert done.returncode == 1
    assert "set_audio_backend" in done.stderr


def test_registration_comes_late_where_s3prl_is_loaded_already(run_python):
    script = """
from s3prl_melhubert.compat import restorations, finder
restorations.restore()
from s3prl import hub
assert not hasattr(hub, "melhubert")
finder.install()
assert hub.melhubert_local and hub.melhubert
"""
    done = run_python("-c", script, **OFF)
    assert done.returncode == 0, done.stderr


def complaint(stderr: str) -> str:
    """The one line that a failure in the hook is told in."""
    [line] = [line for line in stderr.splitlines() if "s3prl-melhubert could not" in line]
    assert "melhubert doctor" in line
    assert "S3PRL_MELHUBERT_AUTOLOAD=0" in line
    return line


def test_a_registration_that_fails_warns_and_s3prl_runs_on(run_python):
    script = """
import sys; sys.modules["s3prl_melhubert.upstream_expert.hubconf"] = None
from s3prl import hub
print(hasattr(hub, "melhubert"), hasattr(hub, "fbank"))
"""
    done = run_python("-c", script)
    assert done.stdout.split()[-2:] == ["False", "True"], done.stderr
    assert "RuntimeWarning" in complaint(done.stderr)
    assert "hubconf" in complaint(done.stderr)


@pytest.mark.parametrize("warnings", ["default", "error"])
def test_a_restoration_that_fails_warns_once_and_s3prl_runs_on(run_python, warnings):
    script = "import sys; sys.modules['torchaudio'] = None; import s3prl.util.override; print('runs')"
    done = run_python("-W", f"{warnings}::RuntimeWarning", "-c", script)
    assert done.stdout.strip() == "runs", done.stderr
    for row in ("torchaudio.load", "torchaudio.sox_effects"):
        assert row in complaint(done.stderr)


def test_hook_works_with_an_s3prl_found_by_another_finder(run_python, tmp_path):
    """As some editable installs do it: no entry of sys.path holds the modules."""
    (tmp_path / "elsewhere").mkdir()
    schedules = "class _LRSchedule: pass\nclass Constant(_LRSchedule): pass"
    for name, source in {"__init__": "", "optimizers": schedules}.items():
        (tmp_path / "elsewhere" / f"{name}.py").write_text(source)
    script = """
import sys, importlib.util as util
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "s3prl":
            return util.spec_from_file_location(name, "elsewhere/__init__.py", submodule_search_locations=[])
        if name.startswith("s3prl."):
            return util.spec_from_file_location(name, f"elsewhere/{name[6:]}.py")
sys.meta_path.insert(1, Finder())
from s3prl import optimizers
import torch, torchaudio
assert "elsewhere" in optimizers.__file__ and torchaudio.set_audio_backend("sox_io") is None
assert optimizers.Constant in torch.serialization.get_safe_globals()
"""
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr


# run_pretrain.py -----------------------------------------------------------------------------------------


def test_run_pretrain_loads_its_own_checkpoints(run_python, s3prl_checkout):
    """`run_pretrain.py -e` never imports s3prl.hub: the hook knows s3prl's `pretrain.runner`, too."""
    script = """
import sys; sys.path.insert(0, "")
import argparse, torch
from pretrain.runner import Runner
from optimizers import get_AdamW_with_schedule
model = torch.nn.Linear(2, 2)
optimizer = get_AdamW_with_schedule([model])
args = argparse.Namespace(upstream="mockingjay", expdir="exp", init_ckpt="states.ckpt")
torch.save({"Args": args, "Config": {}, "Optimizer": optimizer.state_dict()}, args.init_ckpt)
Runner._get_upstream = lambda self: None
print(Runner(args, {}).init_ckpt["Args"].upstream)
"""
    done = run_python("-c", script, cwd=s3prl_checkout)
    assert done.stdout.split() == ["mockingjay"], done.stderr
    assert "UnpicklingError" in run_python("-c", script, cwd=s3prl_checkout, **OFF).stderr


# melhubert run-downstream ----------------------------------------------------------------------------------

CONFIG = """
runner:
  total_steps: {steps}
  gradient_clipping: 1
  gradient_accumulate_steps: 1
  log_step: 1
  eval_step: 1000
  save_step: 2
  max_keep: 5
  eval_dataloaders: []
optimizer: {{name: BertAdam_with_schedule, lr: 1.0e-4}}
scheduler: {{name: linear_schedule_with_warmup, num_warmup_steps: 1}}
downstream_expert:
  datarc: {{train_batch_size: 1, eval_batch_size: 1, num_workers: 0}}
  modelrc: {{input_dim: 8}}
"""
FRONT_DOOR = "import sys; from s3prl_melhubert.compat.programs import run_downstream as run; "


def test_run_downstream_trains_and_resumes_with_autoload_off(run_python, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG.format(steps=2))
    front_door = FRONT_DOOR + "sys.exit(run(sys.argv[1:]))"
    options = ["-u", "fbank", "-d", "example", "-c", "config.yaml", "-p", "exp"]
    done = run_python("-c", front_door, "-m", "train", "--device", "cpu", *options, **OFF)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "exp" / "states-2.ckpt").is_file()

    options = ["-e", "exp", "-o", "config.runner.total_steps=4"]
    done = run_python("-c", front_door, "-m", "train", "--device", "cpu", *options, **OFF)
    assert done.returncode == 0, done.stderr
    assert "Resume from exp/states-2.ckpt" in done.stdout
    assert (tmp_path / "exp" / "states-4.ckpt").is_file()


def test_run_downstream_is_s3prls_program_under_our_name(run_python):
    script = FRONT_DOOR + textwrap.dedent(
        """
        print("status", run(["-m", "nonsense"]))
        print("status", run(["--help"]))
        """
    )
    done = run_python("-c", script)
    assert [line for line in done.stdout.splitlines() if line.startswith("status")] == [
        "status 2",
        "status 0",
    ]
    assert "usage: melhubert run-downstream [-h]" in done.stdout
    assert "melhubert run-downstream: error: argument -m/--mode" in done.stderr
    assert "'melhubert_local'" in " ".join(done.stdout.split())


@pytest.mark.parametrize("library", ["torch", "torchaudio", "s3prl"])
def test_run_downstream_names_a_library_that_does_not_import(run_python, tmp_path, library):
    (tmp_path / f"{library}.py").write_text("raise OSError('libc10_cuda.so:\\n cannot open')")
    if library == "torchaudio":  # an empty torch, that this test may take no seconds
        (tmp_path / "torch.py").touch()
    elif library == "s3prl":
        for empty in ("torch", "torchaudio"):
            (tmp_path / f"{empty}.py").touch()
    done = run_python("-c", FRONT_DOOR + "sys.exit(run(['--help']))", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"{library} cannot be imported (OSError: libc10_cuda.so: cannot open)" in line
    assert "melhubert doctor" in line
