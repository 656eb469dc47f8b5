"""Training on a GPU: rows, precisions, NCCL, out of memory. `pytest -m gpu` runs these alone.

Where there is none, some run on one in name only (`tests/pretended_gpu.py`).
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
import yaml

from s3prl_melhubert import load_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.pretrain_expert import UpstreamPretrainExpert
from s3prl_melhubert.pretrain.training.beginning.folder import RUNNER_YAML
from s3prl_melhubert.pretrain.training.optimization import (
    accumulate_gradients,
    build_optimizer,
    compile_encoder,
)
from s3prl_melhubert.pretrain.training.rows.attention import EFFICIENT, FLASH, usable_kernels
from s3prl_melhubert.pretrain.training.rows.batch import RowBatch
from s3prl_melhubert.pretrain.training.settings import OptimizerSettings, RunnerSettings

pytestmark = pytest.mark.gpu

ROWS = ((40,), (13, 27), (9, 1, 20), (1, 12, 18, 5), ())
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
GPU = torch.device("cuda")


def bf16():
    return torch.autocast("cuda", torch.bfloat16)


def learn(model, batches, autocast):
    """Loss and gradients of some batches as one step."""
    masked = sum(batch.masked_frames for batch in batches)
    unmasked = sum(batch.unmasked_frames for batch in batches)
    loss = accumulate_gradients(model, batches, masked, unmasked, autocast)
    return loss.on_host().masked_loss, {n: p.grad.float().cpu() for n, p in model.named_parameters()}


def away(ours, theirs):
    """How far gradients are from others, all parameters together, relative to their norm."""
    whole, other = (torch.cat([g.flatten() for g in gradients.values()]) for gradients in (theirs, ours))
    return float((other - whole).norm() / whole.norm())


def plain():
    return torch.autocast("cuda", enabled=False)


@pytest.mark.gpu(or_pretended=True)
def test_the_kernels_for_stretches_are_right_here():
    found = usable_kernels(GPU)
    assert EFFICIENT in found
    assert FLASH in found or torch.cuda.get_device_capability() < (8, 0)


@pytest.mark.gpu(or_pretended=True)
@pytest.mark.parametrize(("autocast", "tolerance"), [(plain, 1e-3), (bf16, 0.05)], ids=["fp32", "bf16"])
def test_rows_on_a_gpu_learn_what_padded_utterances_do_on_a_cpu(tiny_model, both_forms, autocast, tolerance):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = tiny_model(encoder_embed_dim=64, **NO_DROPOUT).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    padded, rows = both_forms(model.config, ROWS)
    expected, theirs = learn(model, [padded], lambda: torch.autocast("cpu", enabled=False))
    model.zero_grad()
    found, ours = learn(model.to(GPU), [rows.to(GPU)], autocast)
    assert found == pytest.approx(expected, rel=tolerance)
    assert away(ours, theirs) <= tolerance


@pytest.mark.gpu(or_pretended=True)
def test_a_step_never_waits_for_the_gpu(tiny_model, both_forms):
    """From the batch in pinned memory to the optimizer; the gradient's norm alone is asked for."""
    model = tiny_model(encoder_embed_dim=64).to(GPU).train()
    optimizer = build_optimizer(model.parameters(), OptimizerSettings())
    batch = both_forms(model.config, ROWS)[1].pin_memory()
    accumulate_gradients(model, [batch.to(GPU)], 10, 10, bf16)
    optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            accumulate_gradients(model, [batch.to(GPU), batch.to(GPU)], 10, 10, bf16)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("graphs", [False, True], ids=["compiled", "with CUDA graphs"])
def test_a_compiled_encoder_learns_the_same(tiny_model, both_forms, graphs):
    torch._dynamo.reset()
    model = tiny_model(encoder_embed_dim=64, **NO_DROPOUT).to(GPU).train()
    batches = [both_forms(model.config, ROWS, seed=seed)[1].to(GPU) for seed in range(2)]
    expected, theirs = learn(model, batches, bf16)
    model.zero_grad()
    compile_encoder(model, RunnerSettings(compile=True, cuda_graphs=graphs))
    for _ in range(4):
        model.zero_grad(set_to_none=not graphs)
        found, ours = learn(model, batches, bf16)
    assert found == pytest.approx(expected, rel=0.02)
    assert away(ours, theirs) <= 0.05


@pytest.mark.gpu(or_pretended=True)
def test_a_seed_repeats_what_attention_drops(tiny_model, both_forms):
    model = tiny_model(encoder_embed_dim=64, dropout=0.0, activation_dropout=0.0, attention_dropout=0.3)
    model = model.to(GPU).train()
    batch = both_forms(model.config, ROWS)[1].to(GPU)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with bf16(), torch.no_grad():
            losses.append(batch.loss(model).masked_loss.item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.gpu(or_pretended=True)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_trains_on_rows_in_every_precision(prepared, yamls, tmp_path, log, precision):
    run = {"total_steps": 24, "log_step": 8, "precision": precision}
    settings = yamls(runner=run, datarc={"rows": "auto"})
    assert main(["pretrain", *settings, "-n", str(tmp_path / "exp"), "--data", str(prepared)]) == 0
    assert yaml.safe_load((tmp_path / "exp" / RUNNER_YAML).read_text())["datarc"]["rows"] is True
    losses = [float(row["loss"]) for row in log(tmp_path / "exp")]
    assert losses[-1] < losses[0]
    assert load_checkpoint(tmp_path / "exp" / "last.ckpt").rest["Optimizer"]["param_groups"][0]["fused"]


@pytest.mark.gpu(or_pretended=True)
def test_a_run_of_a_cpu_goes_on_on_a_gpu_with_padded_batches(prepared, yamls, tmp_path):
    exp = str(tmp_path / "exp")
    for total, device in ((4, "cpu"), (8, "cuda")):
        settings = yamls(runner={"total_steps": total}, datarc={"rows": "auto"})
        command = ["pretrain", *settings, "-n", exp, "--data", str(prepared), "--device", device, "--resume"]
        assert main(command) == 0
    assert load_checkpoint(tmp_path / "exp" / "last.ckpt").step == 8
    assert yaml.safe_load((tmp_path / "exp" / RUNNER_YAML).read_text())["datarc"]["rows"] is False


@pytest.mark.gpu(or_pretended=True)
def test_a_step_that_ran_out_of_memory_is_done_again_in_pieces(
    prepared, yamls, tmp_path, monkeypatch, capsys
):
    plain_loss = RowBatch.loss

    def hungry(self, model):
        if len(self.rows) > 1:
            torch.empty(1 << 50, dtype=torch.uint8, device=GPU)  # as if its activations were too many
        return plain_loss(self, model)

    states = []
    for name in ("roomy", "tight"):
        if name == "tight":
            monkeypatch.setattr(RowBatch, "loss", hungry)
        settings = yamls(model=NO_DROPOUT, runner={"total_steps": 3}, datarc={"rows": "auto"})
        assert main(["pretrain", *settings, "-n", str(tmp_path / name), "--data", str(prepared)]) == 0
        states.append(load_checkpoint(tmp_path / name / "last.ckpt").state)
    assert "out of memory; going on with micro-batches in 2 pieces" in capsys.readouterr().out
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=1e-3, rtol=0, msg=name)


def test_gradients_are_added_up_by_nccl():
    """A group of one, which is what a single GPU can have."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29531")
    dist.init_process_group("nccl", rank=0, world_size=1)
    try:
        total = torch.ones(3, device=GPU)
        dist.all_reduce(total)
        assert total.tolist() == [1, 1, 1]
    finally:
        dist.destroy_process_group()


def test_two_gpus_train_on_the_rows_of_one(prepared, yamls, tmp_path, start, finish, log):
    if torch.cuda.device_count() < 2:
        pytest.skip("a single GPU here")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    run = {"total_steps": 8, "log_step": 1}
    for name, size, by in (("one", 4, ()), ("two", 2, launcher)):
        settings = yamls(model=NO_DROPOUT, runner=run, datarc={"rows": "auto", "train_batch_size": size})
        finish(start("pretrain", *settings, "-n", tmp_path / name, "--data", prepared, launcher=by))
    for a, b in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=1e-2)


def test_s3prls_multi_gpu_trains_on_all_of_them(prepared, yamls):
    datarc = {"sets": [str(prepared)], "max_timestep": 0, "num_workers": 0, "train_batch_size": 4}
    expert = UpstreamPretrainExpert(datarc, yamls()[1], "cuda", True).to(GPU)
    loss, _ = expert(next(iter(expert.get_train_dataloader())), records={"sums": []})
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in expert.model.parameters())
