"""A Ray cluster writes the same bytes; what becomes of the work when its workers die or fail."""

import os
import signal
import socket
import time
from importlib.util import find_spec
from unittest import mock

import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.workers import Workers, run_tasks

pytestmark = pytest.mark.skipif(not find_spec("ray"), reason="pip install ray")


@pytest.fixture(scope="module", autouse=True)
def ray_ends_here():
    """Ray is started by the first test, and would stay for all others.

    Where the environment names a cluster, `--backend ray` still starts one on this machine.
    """
    with mock.patch.dict(os.environ, {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "127.0.0.1:1"}):
        yield
        import ray

        ray.shutdown()


def test_a_ray_cluster_writes_the_same_bytes(prepared, corpus, tmp_path, folder_bytes):
    more = {"clusters": 6, "shard_files": 4, "workers": Workers(2, "ray")}
    before = dict(os.environ)
    prepare_audio([corpus], tmp_path / "out", subsets=["train-clean-100"], **more)
    assert folder_bytes(tmp_path / "out") == folder_bytes(prepared.folder)
    assert dict(os.environ) == before


def test_a_killed_ray_worker_costs_only_its_task(tmp_path):
    def die_once(task: int) -> int:
        if task == 3 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with (tmp_path / str(task)).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return 1

    run_tasks(Workers(2, "ray"), die_once, range(8), "dying", "tasks", 8)
    assert (tmp_path / "died").exists()
    done = [(tmp_path / str(task)).read_text().split() for task in range(8)]
    assert all(len(processes) == 1 for processes in done)
    assert str(os.getpid()) not in {process for processes in done for process in processes}


def test_what_a_task_raises_is_raised_here():
    def fail(task: int) -> int:
        raise MelHuBERTError(f"task {task} says why")

    with pytest.raises(MelHuBERTError, match=r"^task [01] says why$"):
        run_tasks(Workers(2, "ray"), fail, range(2), "failing", "tasks", 2)


def test_a_task_that_kills_every_worker_is_given_up():
    def die(task: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 1

    with pytest.raises(MelHuBERTError, match="several workers were killed by the same task"):
        run_tasks(Workers(2, "ray"), die, range(2), "dying", "tasks", 2)


@pytest.mark.slow  # Ray needs 10 s and more to notice it.
def test_a_lost_cluster_is_one_line(tmp_path):
    import ray

    def note_what_started_this_worker(task: int) -> int:
        (tmp_path / "raylet").write_text(str(os.getppid()))
        return 1

    run_tasks(Workers(2, "ray"), note_what_started_this_worker, [1], "noting", "tasks", 1)
    os.kill(int((tmp_path / "raylet").read_text()), signal.SIGKILL)
    try:
        with pytest.raises(MelHuBERTError, match=r"the Ray cluster was lost \(.*\); the same"):
            run_tasks(Workers(2, "ray"), time.sleep, [60], "waiting", "tasks", 1)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("address", ["ray://a..b:1", "http://127.0.0.1"])
def test_what_can_be_no_address_is_one_line(address):
    import ray

    ray.shutdown()
    with pytest.raises(MelHuBERTError, match=rf"^--scheduler {address}: no Ray cluster answers [^\n]*$"):
        run_tasks(Workers(None, "ray", address), int, [1], "waiting", "tasks", 1)


def test_an_address_without_a_cluster_is_refused_at_once():
    import ray

    ray.shutdown()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(MelHuBERTError, match=f"--scheduler {address}: no Ray cluster answers"):
        run_tasks(Workers(None, "ray", address), int, [1], "waiting", "tasks", 1)
