"""s3prl's unmodified run_pretrain.py trains, saves and resumes a MelHuBERT."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from s3prl_melhubert import load_checkpoint, load_model
from s3prl_melhubert.cli import main
from s3prl_melhubert.compat.pretrain_workplace import absolute_paths
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.pretrain_expert import UpstreamPretrainExpert
from s3prl_melhubert.support.locks import only_writer


@pytest.fixture
def runner_yaml(tmp_path, prepared) -> Callable[..., Path]:
    """`runner_yaml(folder, sets=[...])`: s3prl's settings of a run of 6 steps, as c.yaml in the folder."""

    def write(folder: Path, sets: list[str] | None = None, optimizer: dict | None = None) -> Path:
        datarc = {"train_batch_size": 2, "sequence_length": 40, "max_timestep": 0, "num_workers": 0}
        runner = {"n_epochs": -1, "total_steps": 6, "gradient_clipping": 10.0, "max_keep": 2, "fp16": False}
        runner |= {"gradient_accumulate_steps": 2, "log_step": 2, "save_step": 4}
        content = {
            "runner": runner,
            "optimizer": optimizer or {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 1e-3},
            "pretrain_expert": {"datarc": {**datarc, "sets": sets or [str(prepared)]}},
        }
        path = folder / "c.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def run_in() -> Callable[..., str]:
    """`run_in(folder, ARGUMENT, ...)`: `python ARGUMENT ...` there; its output, if it succeeded."""

    def run(folder: Path, *arguments: object) -> str:
        process = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return run


def states(path: Path) -> dict:
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize(
    "optimizer", ["TorchOptim", pytest.param("AdamW_with_schedule", marks=pytest.mark.slow)]
)
def test_unmodified_run_pretrain_trains_and_resumes(
    optimizer, s3prl_checkout, runner_yaml, yamls, prepared, run_in, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(s3prl_checkout))  # where the classes in s3prl's optimizers' states are
    assert main(["link", str(s3prl_checkout)]) == 0
    model = Path(yamls()[1])
    ours = None if optimizer == "TorchOptim" else {"name": optimizer, "lr": 1e-3}
    program = s3prl_checkout / "run_pretrain.py"
    common = ["-u", "melhubert", "-g", model, "-c", runner_yaml(tmp_path, optimizer=ours), "--device", "cpu"]
    run_in(s3prl_checkout, program, *common, "-n", "exp", "-o", "config.runner.save_step=3")
    exp = s3prl_checkout / "result" / "pretrain" / "exp"
    assert {path.name for path in exp.glob("*.ckpt")} == {"states-3.ckpt", "states-epoch-1.ckpt"}
    assert list(exp.glob("events*"))
    saved = states(exp / "states-epoch-1.ckpt")
    assert saved["Config"]["runner"]["save_step"] == 3
    assert saved["Step"] == 6

    if optimizer == "TorchOptim":  # s3prl's own optimizers keep objects in their state
        checkpoint = load_checkpoint(exp / "states-epoch-1.ckpt")
        assert checkpoint.stats == read_prepared(prepared).info.stats
        assert checkpoint.frame_period == 20
        network, frontend = load_model(exp / "states-epoch-1.ckpt")
        assert network(*frontend([torch.randn(8000) / 10])).last_hidden_state.shape == (1, 24, 48)

    begun = states(exp / "states-3.ckpt")["Data_Epoch"]
    assert states(exp / "states-3.ckpt")["Step"] == 3
    # -a finds the newest by itself, -e is told the file; both do the last three steps once more.
    (exp / "states-epoch-1.ckpt").unlink()
    output = run_in(s3prl_checkout, program, *common, "-n", "exp", "-a")
    assert "Resume from" in output
    assert "Loading optimizer weights" in output
    again = states(exp / "states-epoch-1.ckpt")
    assert again["Data_Epoch"] > begun
    (exp / "states-epoch-1.ckpt").unlink()
    run_in(s3prl_checkout, program, "-e", exp / "states-3.ckpt")
    ended = states(exp / "states-epoch-1.ckpt")
    assert ended["Step"] == 6
    if optimizer == "TorchOptim":
        assert {int(each["step"]) for each in ended["Optimizer"]["state"].values()} == {6}


def test_run_pretrain_of_pips_s3prl_takes_paths_as_the_user_means_them(
    runner_yaml, yamls, prepared, run_in, tmp_path
):
    work = tmp_path / "work"
    work.mkdir()
    (work / "data").symlink_to(prepared)
    Path(yamls()[1]).rename(work / "model.yaml")
    runner_yaml(work, sets=["data"])
    command = ["-m", "s3prl_melhubert", "run-pretrain", "-u", "melhubert", "--device", "cpu"]
    run_in(work, *command, "-g", "model.yaml", "-c", "c.yaml", "-n", "exp", "-o", "args.expdir=runs/exp")
    exp = work / "runs" / "exp"
    assert load_checkpoint(exp / "states-epoch-1.ckpt").stats is not None
    assert {path.name for path in work.iterdir()} == {
        "data",
        "model.yaml",
        "c.yaml",
        "result",
        "runs",
    }  # s3prl makes two
    # Resumed from another folder.
    run_in(tmp_path, "-m", "s3prl_melhubert", "run-pretrain", "-e", "work/runs/exp/states-4.ckpt")


def test_mistake_on_the_command_line_of_run_pretrain_is_one_line(run_python):
    result = run_python("-m", "s3prl_melhubert", "run-pretrain", "-u", "melhubert", "--device", "cpu")
    assert result.returncode == 2
    assert result.stderr == "melhubert: no -n: s3prl begins no run without it; give -n NAME\n"


def test_a_run_is_not_gone_on_with_beside_itself(run_python, tmp_path):
    args = Namespace(expdir=str(tmp_path / "exp"), upstream="melhubert", seed=1, override=None)
    states = {
        "Args": args,
        "Config": {},
        "Upstream_Config": {"melhubert": {}},
        "Step": 4,
        "Optimizer": {"state": {}},
    }
    (tmp_path / "exp").mkdir()
    torch.save(states, tmp_path / "exp/states-4.ckpt")
    with only_writer(tmp_path / "exp"):
        result = run_python("-m", "s3prl_melhubert", "run-pretrain", "-e", "exp")
    assert result.returncode == 2
    assert "exp: another process is at work on this folder (host " in result.stderr.splitlines()[-1]


def test_a_run_shorter_than_its_intervals_is_told_in_a_line(runner_yaml, yamls, run_python, tmp_path):
    """s3prl asserts it after the data was read, without a word."""
    command = ["run-pretrain", "-u", "melhubert", "-g", yamls()[1], "-c", runner_yaml(tmp_path), "-n", "x"]
    more = ["-p", tmp_path / "exp", "--device", "cpu", "-o", "config.runner.save_step=6"]
    result = run_python("-m", "s3prl_melhubert", *command, *more)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(
        "melhubert: runner.save_step: not below the 6 steps of the run, which s3prl demands"
    )
    assert "Traceback" not in result.stderr


def test_arguments_that_are_paths_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = ["-u", "melhubert", "--config=c.yaml", "-gm.yaml", "-n", "exp", "-o", "x"]
    assert absolute_paths(given) == [
        *given,
        *("-c", f"{tmp_path}/c.yaml"),
        *("-g", f"{tmp_path}/m.yaml"),
        *("-p", f"{tmp_path}/result/pretrain/exp"),
    ]
    assert absolute_paths(["-e", "x.ckpt"]) == ["-e", "x.ckpt", "-e", f"{tmp_path}/x.ckpt"]
    assert absolute_paths(["-h"]) == ["-h"]


def test_expert_trains_the_model_of_its_checkpoint(prepared, yamls, tmp_path):
    datarc = {"sets": [str(prepared)], "train_batch_size": 4, "max_timestep": 0, "num_workers": 0}
    torch.manual_seed(0)
    expert = UpstreamPretrainExpert(datarc, yamls()[1], "cpu", False)
    loader = expert.get_train_dataloader()
    assert len(loader.dataset) == len(loader) == 5
    first, second = ([batch.lengths for batch in loader] for _ in range(2))
    assert len(first) == 5
    assert first != second, "epochs differ"
    records = {"sums": []}
    loss, records = expert(next(iter(loader)), records=records, global_step=1, log_step=1)
    loss.backward()
    assert all(parameter.grad is not None for parameter in expert.model.parameters())

    saved = expert.add_state_to_save({"Step": 4})
    assert saved["Step"] == 5  # s3prl saves before it counts the step
    other = UpstreamPretrainExpert(datarc, saved["Upstream_Config"], "cpu", False)
    other.load_model(saved)
    for a, b in zip(expert.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    following, resumed = (
        [batch.lengths for batch in each.get_train_dataloader()] for each in (expert, other)
    )
    assert following == resumed != second, "the next epoch follows"

    class Logger(dict):
        def add_scalar(self, name, value, global_step):
            self[name] = float(value)

    logger = Logger()
    expert.log_records(records, logger, "melhubert/train-", 1)
    assert logger["melhubert/train-masked_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert 0 <= logger["melhubert/train-masked_accuracy"] <= 1


def test_expert_keeps_its_paths_for_another_folder(prepared, yamls, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / "data").symlink_to(prepared)
    stats = read_prepared(prepared).info.stats
    (work / "stats.yaml").write_text(yaml.safe_dump(stats.to_mapping()))
    datarc = {"sets": ["data"], "feature_stats": "stats.yaml", "max_timestep": 0, "num_workers": 0}
    model = yamls()[1]
    monkeypatch.chdir(work)
    UpstreamPretrainExpert(datarc, model, "cpu", False)
    monkeypatch.chdir(tmp_path)
    again = UpstreamPretrainExpert(datarc, model, "cpu", False)  # s3prl has saved the mapping
    assert again.stats == stats
    assert datarc["feature_stats"] == str(work / "stats.yaml")


@pytest.mark.parametrize("period", [10, 20])
def test_expert_makes_crops_of_15_seconds_where_they_are_not_named(period, prepared, yamls):
    datarc = {"sets": [str(prepared)], "max_timestep": 0, "num_workers": 0}
    model = yamls(model={"feat_emb_dim": 4 * period})[1]
    before = UpstreamPretrainExpert(dict(datarc), yaml.safe_load(Path(model).read_text()), "cpu")
    assert before.dataset.sequence_length == 750  # of a checkpoint of an earlier version
    expert = UpstreamPretrainExpert(datarc, model, "cpu")
    assert datarc["sequence_length"] == expert.dataset.sequence_length == 15_000 // period


@pytest.mark.parametrize(
    ("datarc", "words"),
    [
        ({"frames_per_batch": 100}, "frames_per_batch: 100 found, but s3prl's runner accumulates"),
        ({"rows": True}, "rows: True found, but s3prl's runner pads its batches"),
        (["data"], r"\['data'\] found, expected a mapping"),
    ],
)
def test_expert_refuses_what_s3prls_runner_cannot_follow(datarc, words, yamls):
    with pytest.raises(MelHuBERTError, match=f"pretrain_expert.datarc: {words}"):
        UpstreamPretrainExpert(datarc, yamls()[1], "cpu")


def test_expert_says_which_settings_have_no_effect(prepared, yamls, capsys):
    datarc = {"sets": [str(prepared)], "max_timestep": 0, "num_workers": 0}
    model = yamls()[1]
    UpstreamPretrainExpert({**datarc, "valid_sets": ["nowhere"], "rows": "auto"}, model, "cpu", False)
    lines = capsys.readouterr().out.splitlines()
    assert any("reads no valid_sets; `melhubert pretrain` validates" in line for line in lines)
    assert any("makes no rows and pads" in line for line in lines)
    UpstreamPretrainExpert(datarc, model, "cpu", False)
    assert "datarc" not in capsys.readouterr().out


def test_expert_goes_on_with_no_labels_of_other_clusters(make_prepared, yamls, tmp_path):
    folders = [make_prepared(tmp_path / name, [60, 80, 100, 120]) for name in ("data", "same", "others")]
    for folder, scale in zip(folders, (1, 1, 2), strict=True):
        np.save(folder / "kmeans.npy", np.eye(16, 40, dtype=np.float32) * scale)
    model = yamls()[1]
    data, same, others = (
        UpstreamPretrainExpert(
            {"sets": [str(folder)], "train_batch_size": 2, "max_timestep": 0, "num_workers": 0}, model, "cpu"
        )
        for folder in folders
    )
    saved = data.add_state_to_save({})
    same.load_model(saved)
    with pytest.raises(MelHuBERTError, match=r"the checkpoint to resume from.*final_proj\.weight"):
        same.load_model(
            {**saved, "model": {k: v for k, v in saved["model"].items() if k != "final_proj.weight"}}
        )
    with pytest.raises(MelHuBERTError, match=f"{folders[2]}: the labels are of other clusters"):
        others.load_model(saved)
    del saved["Label_Clusters"]  # as an earlier version wrote it
    others.load_model(saved)


def test_expert_keeps_what_a_compressed_model_was_made_of(prepared, yamls, tmp_path):
    datarc = {"sets": [str(prepared)], "train_batch_size": 2, "max_timestep": 0, "num_workers": 0}
    dense = UpstreamPretrainExpert(datarc, yamls()[1], "cpu")
    assert "Compression" not in dense.add_state_to_save({})
    torch.save({**dense.add_state_to_save({}), "Step": 3}, tmp_path / "dense.ckpt")
    small = tmp_path / "small.ckpt"
    assert main(["compress", *map(str, [tmp_path / "dense.ckpt", "--heads", 1, "--out", small])]) == 0
    begun = torch.load(small, weights_only=False)
    for _ in range(2):  # to begin with it, and to go on
        expert = UpstreamPretrainExpert(datarc, begun["Upstream_Config"]["melhubert"], "cpu")
        expert.load_model(begun)
        saved = expert.add_state_to_save({})
        assert saved["Compression"] == begun["Compression"]
        begun = saved
    dense.load_model(torch.load(tmp_path / "dense.ckpt", weights_only=False))
    assert "Compression" not in dense.add_state_to_save({})


def test_a_compressed_run_that_has_no_optimizer_is_told_in_a_line(run_python, tmp_path):
    """s3prl asserted its state, after the data was read."""
    states = {"Args": Namespace(), "Config": {}, "Upstream_Config": {"melhubert": {}}, "model": {}}
    torch.save({**states, "Optimizer": {}, "Compression": {}}, tmp_path / "small.ckpt")
    result = run_python("-m", "s3prl_melhubert", "run-pretrain", "-e", "small.ckpt")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "which has Args, Config, Optimizer, Upstream_Config" in result.stderr
    assert f"`melhubert pretrain -i {tmp_path / 'small.ckpt'}` begins a run" in result.stderr


def test_expert_keeps_what_labels_stand_for_when_the_set_is_moved(make_prepared, yamls, tmp_path):
    folder = make_prepared(tmp_path / "data", [60, 80, 100, 120])
    np.save(folder / "kmeans.npy", np.eye(16, 40, dtype=np.float32))
    datarc = {"sets": [str(folder)], "train_batch_size": 2, "max_timestep": 0, "num_workers": 0}
    expert = UpstreamPretrainExpert(datarc, yamls()[1], "cpu")
    before = expert.add_state_to_save({})
    folder.rename(tmp_path / "moved")
    after = expert.add_state_to_save({})
    assert after["Quantizer"]["SHA256"] == before["Quantizer"]["SHA256"]
    assert after["Label_Clusters"] == before["Label_Clusters"] is not None


def test_multi_gpu_wraps_what_is_trained_and_not_what_is_saved(prepared, yamls):
    datarc = {"sets": [str(prepared)], "max_timestep": 0, "num_workers": 0}
    expert = UpstreamPretrainExpert(datarc, yamls()[1], "cpu", True)
    assert isinstance(expert.objective, torch.nn.DataParallel)
    assert not any(name.startswith("module") for name in expert.add_state_to_save({})["model"])
    loss, _ = expert(next(iter(expert.get_train_dataloader())), records={"sums": []})
    assert loss.isfinite()
