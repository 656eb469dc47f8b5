"""expert.py of a Hub folder: SUPERB's hidden set asks these things of it, and s3prl runs it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires

import pytest
import torch
import yaml
from huggingface_hub import constants

TASKS = ("PR", "SID", "ER", "ASR", "ASV", "SD", "QbE", "ST", "SS", "SE", "KS", "IC", "SF", "VC", "secret")

# What the template of submissions checks, in a process that has torch alone of what the project needs.
CHECKS = """
import json, sys
for name in ("s3prl_melhubert", "s3prl", "transformers", "safetensors", "yaml"):
    for loaded in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[loaded]
    sys.modules[name] = None
sys.path.append(".")
import torch
from expert import UpstreamExpert
upstream = UpstreamExpert(ckpt="./model.pt")
rates = {task: upstream.get_downsample_rates(task) for task in sys.argv[1:]}
outputs = upstream([torch.randn(16000 * seconds).mul(0.1) for seconds in (1, 2)])
lengths = [len(outputs[task]) for task in sys.argv[1:]]
print(json.dumps({"rates": rates, "lengths": lengths, "shape": list(outputs["PR"][-1].shape)}))
"""


def test_checks_of_the_submission_pass(all_exported):
    for period, one in all_exported.items():
        for file in ("README.md", "expert.py", "model.pt", "requirements.txt", "LICENSE"):
            assert (one.folder / file).stat().st_size > 0
        if period == 20:
            done = subprocess.run(
                [sys.executable, "-c", CHECKS, *TASKS], cwd=one.folder, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-2000:]
            found = json.loads(done.stdout.splitlines()[-1])
            assert found["rates"] == dict.fromkeys(TASKS, 320)
            assert found["lengths"] == [3] * len(TASKS)
            assert found["shape"] == [2, 99, 48]


def test_requirements_ask_for_the_torch_that_the_code_needs(all_exported):
    """The code of expert.py is the package's, and so is the oldest torch that it runs with."""
    wanted = next(line for line in requires("s3prl-melhubert") if re.match("torch[<>=]", line))
    assert re.findall(r">=[\d.]+", wanted)[0] in (all_exported[20].folder / "requirements.txt").read_text()


def test_hidden_states_of_the_expert_are_ours(exported, waveforms, ours, monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("expert", exported.folder / "expert.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "expert", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)  # Without an argument the file beside expert.py is found from anywhere.
    upstream = module.UpstreamExpert()
    with pytest.raises(FileNotFoundError, match=r"other\.pt"):  # and no other model in its place
        module.UpstreamExpert("./other.pt")
    output, padding = ours
    with torch.no_grad():
        found = upstream(waveforms)
        short = upstream([waveforms[0][:960]])
    for task in TASKS:
        rate = upstream.get_downsample_rates(task)
        assert type(rate) is int
        assert rate == 16 * exported.period
        assert found[task] is found["hidden_states"]
    for hidden, expected in zip(found["hidden_states"], output.hidden_states, strict=True):
        assert torch.allclose(hidden[~padding], expected[~padding], atol=1e-5)
    hop = 16 * exported.period
    assert short["last_hidden_state"].shape[1] > -(-960 // hop) // 2


def test_damaged_weights_of_the_expert_are_refused(exported, monkeypatch, tmp_path, change_a_byte):
    folder = shutil.copytree(exported.folder, tmp_path / "folder")
    spec = importlib.util.spec_from_file_location("expert", folder / "expert.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "expert", module)
    spec.loader.exec_module(module)
    module.UpstreamExpert()
    change_a_byte(folder / "model.pt")
    with pytest.raises(
        ValueError, match=r"model.pt: is damaged \(the checksum of \S+ in it differs\); fetch it"
    ):
        module.UpstreamExpert()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("revision", "upstream"),
    [
        (None, ["--hub", "huggingface", "-u", "org/melhubert"]),
        ("second", ["--hub", "huggingface", "-u", "org/melhubert", "--upstream_revision", "second"]),
        ("second", ["-u", "melhubert_hf", "-k", "org/melhubert@second"]),
    ],
)
def test_s3prl_runs_a_repository_from_its_cache(hub, all_exported, run_python, tmp_path, revision, upstream):
    """`--hub huggingface` is s3prl's own, and runs expert.py; `melhubert_hf` reads safetensors."""
    from huggingface_hub import snapshot_download

    hub.add("org/melhubert", all_exported[20 if revision is None else 10].folder, revision or "main")
    snapshot_download("org/melhubert", revision=revision)
    settings = {
        "runner": {
            "total_steps": 4,
            "gradient_clipping": 1,
            "gradient_accumulate_steps": 1,
            "log_step": 2,
            "eval_step": 4,
            "save_step": 4,
            "max_keep": 1,
            "eval_dataloaders": ["dev"],
            "evaluate_ratio": 0.02,
        },
        "optimizer": {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 1e-2},
        "downstream_expert": {
            "datarc": {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0},
            "modelrc": {"input_dim": 8},
        },
    }
    (tmp_path / "example.yaml").write_text(yaml.safe_dump(settings))
    task = ["-d", "example", "-c", "example.yaml", "-p", "EXP", "--device", "cpu"]
    done = run_python(
        "-m",
        "s3prl.run_downstream",
        "-m",
        "train",
        *upstream,
        *task,
        HF_HUB_OFFLINE="1",
        HF_HUB_CACHE=constants.HF_HUB_CACHE,
        HF_TOKEN_PATH=str(tmp_path / "token"),
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert f"downsample rate is {320 if revision is None else 160}" in said
    assert ("torch>=2.4" in said) == ("--hub" in upstream)
    (states,) = (tmp_path / "EXP").glob("states-*.ckpt")
    assert torch.load(states, weights_only=False)["Featurizer"]["weights"].shape == (3,)
