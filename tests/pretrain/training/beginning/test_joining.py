"""How processes of one run find each other: by torchrun, by hand, and what is said where they do not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training import processes
from s3prl_melhubert.pretrain.training.beginning import joining
from s3prl_melhubert.pretrain.training.processes import Processes

CPU = torch.device("cpu")
BY_HAND = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody else gets while the test runs, and that a program may open as torch does."""
    with closing(socket.socket()) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("127.0.0.1", 0))
        yield found.getsockname()[1]


@pytest.fixture
def by_hand(tmp_path, port):
    """`by_hand(RANK)`: one of two processes that no launcher started; it says who has come."""
    program = tmp_path / "join.py"
    program.write_text(
        "import os\n"
        "from s3prl_melhubert.pretrain.training.beginning import joining\n"
        "joining.TOLD_EVERY_S = 0.3\n"
        "from s3prl_melhubert.pretrain.training.processes import Processes\n"
        "processes = Processes('cpu', 'fp32')\n"
        "print(processes.gather(os.environ['RANK']), flush=True)\n"
        "processes.close()\n"
    )

    def start(rank: int) -> subprocess.Popen:
        environment = {**os.environ, **BY_HAND, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, program], env=environment, stdout=pipe, stderr=pipe, text=True
        )

    return start


@pytest.mark.parametrize("first", [0, 1])
def test_processes_that_were_started_by_hand_wait_for_each_other_and_say_so(by_hand, first):
    early = by_hand(first)
    assert early.stderr.readline() == f"melhubert: waiting for process {1 - first} of this run\n"
    late = by_hand(1 - first)
    for process in (early, late):
        assert process.communicate(timeout=240)[0] == "['0', '1']\n"
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("changes", "device", "words"),
    [
        ({"RANK": None}, "cpu", "WORLD_SIZE is 2, and RANK is not set"),
        ({"RANK": ""}, "cpu", "WORLD_SIZE is 2, and RANK is not set"),  # as of a scheduler that is not there
        ({"MASTER_ADDR": None}, "cpu", "WORLD_SIZE is 2, and MASTER_ADDR is not set"),
        ({"LOCAL_RANK": None}, "cuda", "WORLD_SIZE is 2, and LOCAL_RANK is not set"),
        ({"WORLD_SIZE": "two"}, "cpu", "WORLD_SIZE: 'two' found, expected a number"),
        ({"RANK": "2"}, "cpu", "RANK: 2 found, expected 0 to 1, by WORLD_SIZE"),
        ({"MASTER_PORT": "65536"}, "cpu", "MASTER_PORT: 65536 found, expected 1 to 65535"),
        ({"MASTER_PORT": "0"}, "cpu", "MASTER_PORT: 0 found, expected 1 to 65535"),
    ],
)
def test_an_environment_that_lacks_something_is_told(monkeypatch, changes, device, words):
    for name, value in {**BY_HAND, "MASTER_PORT": "29500", **changes}.items():
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    with pytest.raises(MelHuBERTError, match=words):
        joining.are_several(torch.device(device))


def test_without_a_port_it_is_that_of_torchs_launchers(monkeypatch):
    for name, value in BY_HAND.items():
        monkeypatch.setenv(name, value)
    assert joining.are_several(CPU)
    asked = []
    monkeypatch.setattr(joining.dist, "TCPStore", lambda address, port, *others, **more: asked.append(port))
    joining._store(2, 0)
    assert asked == [29500]


def test_a_process_of_one_is_alone(monkeypatch):
    monkeypatch.setenv("RANK", "0")  # as torchrun sets it for one process, too
    for count in ("1", ""):
        monkeypatch.setenv("WORLD_SIZE", count)
        assert not joining.are_several(CPU)


def test_processes_of_mpi_need_no_rank(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    assert joining.are_several(CPU)


def test_two_processes_of_one_rank_are_told_instead_of_waiting(monkeypatch, port):
    for name, value in {**BY_HAND, "RANK": "0", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(MelHuBERTError, match=f"MASTER_PORT {port} cannot be opened here"):
            Processes("cpu", "fp32")


def test_a_port_that_torch_2_4_cannot_open_is_told_as_well(monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("The server socket has failed to listen on any local network address")

    monkeypatch.setattr(joining.dist, "TCPStore", refuse)
    for name, value in {**BY_HAND, "RANK": "0", "MASTER_PORT": "29400"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MelHuBERTError, match="MASTER_PORT 29400 cannot be opened here"):
        Processes("cpu", "fp32")


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP", "MEGATRON_LM"])
def test_accelerate_that_is_to_split_the_model_is_refused(monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(MelHuBERTError, match=f"asks for {name}, which splits a model"):
        Processes("cpu", "fp32")


def test_settings_of_accelerate_that_are_not_used_are_told(monkeypatch, capsys):
    asked = {
        "MIXED_PRECISION": "bf16",
        "GRADIENT_ACCUMULATION_STEPS": "4",
        "DYNAMO_BACKEND": "INDUCTOR",
        "TORCH_DEVICE": "meta",
    }
    for name, value in asked.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    Processes("cpu", "fp32")
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" of Accelerate")[0] for line in told] == [
        "melhubert: mixed_precision bf16",
        "melhubert: gradient_accumulation_steps 4",
        "melhubert: dynamo_backend INDUCTOR",
        "melhubert: torch_device meta",
    ]
    for name, value in zip(asked, ("bf16", "1", "NO", ""), strict=True):
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    Processes("cpu", "bf16")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("asked", ["meta", "", "no device"])
def test_a_run_is_on_its_own_device_whatever_accelerate_is_asked_for(monkeypatch, asked):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", asked)
    assert Processes("cpu", "fp32").device == CPU
    assert os.environ["ACCELERATE_TORCH_DEVICE"] == asked


def test_a_gpu_that_was_asked_for_is_not_that_of_a_later_run(monkeypatch):
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    taken = []
    gpu = torch.device("cuda:1")
    monkeypatch.setattr(processes, "resolve_device", lambda name: gpu if name == "cuda:1" else CPU)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    begun = Processes("cuda:1", "fp32")
    assert begun.device == gpu
    assert taken == [gpu]
    assert Processes("cpu", "fp32").device == CPU


def test_what_accelerate_cannot_read_is_named(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "")
    with pytest.raises(MelHuBERTError, match=r"by what the environment says: .*LOCAL_RANK=''.*; unset"):
        Processes("cpu", "fp32")


def test_a_process_that_does_not_come_is_named(monkeypatch, capsys):
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(joining, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    monkeypatch.setattr(joining, "MEETING", timedelta(seconds=0.3))
    monkeypatch.setattr(joining, "TOLD_EVERY_S", 0.2)
    with pytest.raises(MelHuBERTError, match="process 3, 5 of this run has not come in 0 minutes"):
        joining._wait_for(lambda: {5, 3})
    assert capsys.readouterr().err == "melhubert: waiting for process 3, 5 of this run\n"


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
        monkeypatch.setattr(joining, "PROC", folder)
        return joining.launch()

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert joining.launch() == joining.launch()
    assert len({launch_with(100, "a"), launch_with(200, "a"), launch_with(100, "b")}) == 3
    monkeypatch.setattr(joining, "PROC", tmp_path / "absent")  # as on macOS
    assert joining.launch() == f"{socket.gethostname()} {os.getppid()}"
