"""Several processes train as one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from s3prl_melhubert import load_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training import processes
from s3prl_melhubert.pretrain.training.signals import StopSignals

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


@pytest.fixture
def apart(tmp_path) -> Callable[[list, list], str]:
    """`apart(ARGUMENTS, ARGUMENTS)`: two processes of a run get other command lines; what they say."""

    def run(*command_lines: list) -> str:
        program = tmp_path / "apart.py"
        lines = [[*map(str, arguments)] for arguments in command_lines]
        program.write_text(
            "import os, sys\nfrom s3prl_melhubert.cli import main\n"
            f"sys.exit(main({lines}[int(os.environ['RANK'])]))\n"
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, *TORCHRUN, program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            cwd=tmp_path,
        )
        assert result.returncode != 0
        return result.stderr + result.stdout

    return run


def test_processes_that_are_asked_for_different_things_train_nothing(prepared, yamls, tmp_path, apart):
    settings = yamls()
    faster = tmp_path / "faster.yaml"
    faster.write_text(Path(settings[3]).read_text().replace("total_steps: 6", "total_steps: 5"))
    common = ["pretrain", *settings[:2], "--data", prepared, "--device", "cpu", "-n", tmp_path / "exp"]
    said = apart([*common, "-c", settings[3]], [*common, "-c", faster])
    assert "runner.total_steps is 6 in process 0 and 5 in process 1; give one command" in said
    assert not list((tmp_path / "exp").glob("*.ckpt"))


def test_a_process_that_cannot_begin_is_waited_for_by_none(prepared, yamls, tmp_path, apart):
    common = ["pretrain", *yamls(), "--device", "cpu", "-n", tmp_path / "exp", "--data"]
    said = apart([*common, prepared], [*common, tmp_path / "nowhere"])
    assert "nowhere: no such file or folder" in said
    assert "another process of this run cannot begin; see what it said" in said


@pytest.mark.slow
def test_processes_that_see_other_checkpoints_or_initial_weights_do_not_go_on(
    prepared, yamls, tmp_path, apart
):
    common = ["pretrain", "--data", prepared, "--device", "cpu"]
    for name, steps in (("a", 4), ("b", 6)):
        settings = yamls(runner={"total_steps": steps})
        assert main([*map(str, [*common, *settings, "--seed", 1, "-n", tmp_path / name])]) == 0
    more = [*yamls(runner={"total_steps": 9, "gradient_accumulate_steps": 1}), "--seed", 1]
    said = apart(*([*common, *more, "--resume", "-n", tmp_path / name] for name in ("a", "b")))
    assert "step of last.ckpt is 4 in process 0 and 6 in process 1" in said
    begin = [*common, *more, "-n", tmp_path / "new", "-i"]
    said = apart(*([*begin, tmp_path / name / "last.ckpt"] for name in ("a", "b")))
    assert "weights of -i is " in said
    begin += [tmp_path / "a/last.ckpt"]
    for option, differs in (
        (["--init_layers", "1,1"], "--init_layers is '1,1' in process 0 and '2,2' in process 1"),
        (["--init_stats", "data"], 'statistics of -i is "the data'),
        (["--init_optimizer_from_initial_weight"], "--init_optimizer_from_initial_weight is True in process"),
    ):
        other = [*begin, "--init_layers", "2,2"] if "1,1" in option else begin
        assert differs in apart([*begin, *option], other)
    same = [*begin, "--init_layers", "1,2"], [*begin, "--init_layers", "1-2", "--init_stats", "data"]
    assert "--init_layers" not in apart(*same)


def test_all_processes_begin_with_the_weights_of_the_first(tmp_path):
    """A seed gives other last bits on another kind of processor."""
    program = tmp_path / "share.py"
    program.write_text(
        "import os, torch\n"
        "from s3prl_melhubert.pretrain.training.processes import Processes\n"
        "processes, mine = Processes('cpu', 'fp32'), torch.nn.Linear(2, 2)\n"
        "torch.nn.init.constant_(mine.weight, float(os.environ['RANK']) + 7)\n"
        "processes.share(mine.state_dict().values())\n"
        "assert mine.weight.unique().tolist() == [7], mine.weight\n"
        "processes.close()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *TORCHRUN, program], env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr


def test_a_difference_deep_in_a_long_setting_is_found(monkeypatch):
    alone = processes.Processes("cpu", "fp32")
    heads = [[12] * 12, [12] * 11 + [6]]
    monkeypatch.setattr(
        alone, "gather", lambda mine: [{"model encoder_attention_heads": each} for each in heads]
    )
    with pytest.raises(MelHuBERTError, match="model encoder_attention_heads is "):
        alone.refuse_differences({})


def test_a_signal_that_torchrun_passes_on_is_the_one_that_came_already(monkeypatch):
    ended = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    try:
        with StopSignals() as signals:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
            monkeypatch.setattr("s3prl_melhubert.pretrain.training.signals.SAME_SIGNAL_S", 3600)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert signals.received == signal.SIGTERM
            assert not ended
            monkeypatch.setattr("s3prl_melhubert.pretrain.training.signals.SAME_SIGNAL_S", 0)
            signal.raise_signal(signal.SIGTERM)
            assert ended == [signal.SIGTERM]
        monkeypatch.delenv("TORCHELASTIC_RUN_ID")
        with StopSignals():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert len(ended) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


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
    launcher = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1")
    launcher += ("--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--max-restarts", "3")
    launcher += ("--local_addr", "127.0.0.1")
    nodes = [start(*arguments, "-n", tmp_path / "nodes", launcher=launcher) for _ in range(2)]
    wait_for_a_save(tmp_path / "nodes" / "last.ckpt", nodes[0])
    os.kill(workers_of(nodes[1].pid)[0], signal.SIGKILL)
    outputs = [finish(node) for node in nodes]
    assert any("continuing after step" in output for output in outputs)
    same_training(tmp_path / "whole", tmp_path / "nodes")


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
