"""Several processes train as one."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from s3prl_melhubert import load_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.training import processes

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_two_processes_with_half_the_batch_each_lose_as_one(prepared, yamls, tmp_path, start, finish, log):
    run = {"total_steps": 20, "log_step": 1}
    one = yamls(model=NO_DROPOUT, runner=run, datarc={"train_batch_size": 4})
    two = yamls(model=NO_DROPOUT, runner=run, datarc={"train_batch_size": 2})
    common = ["--data", prepared, "--valid", prepared, "--device", "cpu"]
    alone = start("pretrain", *one, "-n", tmp_path / "one", *common)
    finish(start("pretrain", *two, "-n", tmp_path / "two", *common, launcher=TORCHRUN))
    finish(alone)
    rows = list(zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True))
    assert len(rows) == 20
    for name in ("loss", "unmasked_loss", "gradient_norm", "masked_accuracy"):
        for a, b in rows:
            assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-4), (name, a["step"])
    for name in ("valid_loss", "valid_masked_accuracy"):
        assert float(rows[-1][0][name]) == pytest.approx(float(rows[-1][1][name]), abs=1e-4)


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_exactly(
    prepared, yamls, tmp_path, start, finish, same_training
):
    settings = yamls(runner={"total_steps": 80, "log_step": 10, "save_step": 5})
    arguments = ["pretrain", *settings, "--data", prepared, "--device", "cpu", "--resume"]
    finish(start(*arguments, "-n", tmp_path / "whole", launcher=TORCHRUN))
    exp = tmp_path / "stopped"
    process = start(*arguments, "-n", exp, launcher=TORCHRUN)
    while not (exp / "last.ckpt").is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode != 0
    assert load_checkpoint(exp / "last.ckpt").step < 80
    finish(start(*arguments, "-n", exp, launcher=TORCHRUN))
    same_training(tmp_path / "whole", exp)


@pytest.mark.slow
def test_accelerate_launch_starts_a_run(prepared, yamls, tmp_path, start, finish):
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    launcher += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
    exp = tmp_path / "exp"
    process = start("pretrain", *yamls(), "-n", exp, "--data", prepared, "--device", "cpu", launcher=launcher)
    finish(process)
    assert load_checkpoint(exp / "last.ckpt").step == 6


def workers_of(launcher: int) -> list[int]:
    """The processes that torchrun started."""
    return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


def wait_for_a_save(last: Path, process, before: float = 0) -> float:
    while (saved := last.stat().st_mtime_ns if last.is_file() else 0) <= before:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    return saved


@pytest.mark.slow
@pytest.mark.timeout(900)  # ten processes start one after another, which takes a minute on two free cores
def test_a_killed_worker_restarts_the_group_which_ends_with_the_same_bits(
    prepared, yamls, tmp_path, start, finish, same_training
):
    """On one machine, and on two of them, which this one stands for."""
    settings = yamls(runner={"total_steps": 60, "log_step": 10, "save_step": 5})
    arguments = ["pretrain", *settings, "--data", prepared, "--device", "cpu"]
    finish(start(*arguments, "-n", tmp_path / "whole", launcher=TORCHRUN))

    process = start(*arguments, "-n", tmp_path / "killed", launcher=(*TORCHRUN, "--max-restarts", "3"))
    wait_for_a_save(tmp_path / "killed" / "last.ckpt", process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    output = finish(process)
    assert "continuing after step" in output
    same_training(tmp_path / "whole", tmp_path / "killed")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--rdzv_id", "7")
    launcher += ("--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--max-restarts", "3")
    launcher += ("--local_addr", "127.0.0.1")
    nodes = [start(*arguments, "-n", tmp_path / "nodes", launcher=launcher) for _ in range(2)]
    wait_for_a_save(tmp_path / "nodes" / "last.ckpt", nodes[0])
    os.kill(workers_of(nodes[1].pid)[0], signal.SIGKILL)
    outputs = [finish(node) for node in nodes]
    assert any("continuing after step" in output for output in outputs)
    same_training(tmp_path / "whole", tmp_path / "nodes")


def test_only_the_same_launch_goes_on_without_being_asked(prepared, yamls, tmp_path, monkeypatch, capsys):
    arguments = ["pretrain", *yamls(), "--data", str(prepared), "-n", str(tmp_path / "exp")]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert "all steps are done already; nothing is left to train" in capsys.readouterr().out
    for other in ("second", "none"):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", other)
        assert main(arguments) == 2
        assert "holds a run already" in capsys.readouterr().err


def test_a_torchrun_in_a_container_is_another_one_each_time_though_its_number_is_the_same(
    tmp_path, monkeypatch
):
    def launch_with(began: int, boot: str) -> str | None:
        folder = tmp_path / f"{began}-{boot}"
        (folder / str(os.getppid())).mkdir(parents=True)
        fields = [f"{os.getppid()} (a name) of (two))", "S", *map(str, range(1, 19)), str(began), "0"]
        (folder / str(os.getppid()) / "stat").write_text(" ".join(fields))
        (folder / "sys/kernel/random").mkdir(parents=True)
        (folder / "sys/kernel/random/boot_id").write_text(f"{boot}\n")
        monkeypatch.setattr(processes, "PROC", folder)
        return processes.launch()

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert processes.launch() == processes.launch()
    assert len({launch_with(100, "a"), launch_with(200, "a"), launch_with(100, "b")}) == 3
    monkeypatch.setattr(processes, "PROC", tmp_path / "absent")  # as on macOS
    assert processes.launch() == f"{socket.gethostname()} {os.getppid()}"


def test_a_wait_for_all_processes_is_no_barrier_whose_works_a_thread_of_gloos_lets_go_of(monkeypatch):
    """Such a thread may end a process with SIGABRT that is on its way out: one run in ten, on a busy CPU."""
    alone = processes.Processes("cpu", "fp32")
    alone.count = 2

    class Work:
        waited = False

        def wait(self) -> None:
            self.waited = True

    work = Work()
    monkeypatch.setattr(processes.dist, "all_reduce", lambda tensor, async_op: work)
    monkeypatch.setattr(processes.dist, "barrier", None)
    alone.wait()
    assert work.waited
    assert processes._last_work == [work]
