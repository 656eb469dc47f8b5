"""A Dask cluster writes the same bytes, and does all of the work; what becomes of it when workers die."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from functools import partial
from importlib.util import find_spec
from unittest import mock

import numpy as np
import pytest
import soundfile

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.workers import Workers, cluster_tasks, run_tasks
from s3prl_melhubert.pretrain.data.workers.dask_tasks import _Dask, own_cluster

pytestmark = pytest.mark.skipif(not find_spec("distributed"), reason="pip install 'dask[distributed]'")

SMALL = {"clusters": 6, "shard_files": 2}


@pytest.fixture(autouse=True)
def environment_as_before():
    """A cluster leaves settings for its own processes in the environment of whoever starts it.

    Dask's defaults come with this import. Where it happens within a `dask.config.set`, they go with that.
    """
    import distributed  # noqa: F401

    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Sixteen shards' worth of noise; each takes long enough that a worker can die in the middle of it."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    for i in range(32):
        soundfile.write(folder / f"{i:02d}.flac", random.normal(0, 0.1, 30 * 16_000), 16_000)
    return folder


def test_a_dask_cluster_writes_the_same_bytes(prepared, corpus, tmp_path, folder_bytes):
    with own_cluster(2) as cluster:
        more = {"clusters": 6, "shard_files": 4}
        workers = Workers(None, "dask", cluster.scheduler_address)
        prepare_audio([corpus], tmp_path / "out", subsets=["train-clean-100"], workers=workers, **more)
    assert folder_bytes(tmp_path / "out") == folder_bytes(prepared.folder)


def test_one_worker_is_given_all_tasks_a_few_at_once(tmp_path):
    """The command would be busy with them itself, and the scheduler with the names of all audio files."""

    def say_who(task: int) -> int:
        time.sleep(0.02)
        (tmp_path / str(task)).write_text(str(os.getpid()))
        return 1

    held, done = [], threading.Event()
    with own_cluster(1) as cluster:

        def watch_scheduler() -> None:
            while not done.is_set():
                held.append(len(cluster.scheduler.tasks))
                time.sleep(0.002)

        watch = threading.Thread(target=watch_scheduler)
        watch.start()
        try:
            workers = Workers(None, "dask", cluster.scheduler_address)
            run_tasks(workers, say_who, range(50), "asking", "tasks", 50)
        finally:
            done.set()
            watch.join()
    (process,) = {(tmp_path / str(task)).read_text() for task in range(50)}
    assert process != str(os.getpid())
    assert 0 < max(held) < 10


def test_jobs_are_the_limit_on_a_cluster_too(tmp_path):
    def be_alone(task: int) -> int:
        (tmp_path / "at-work").mkdir()  # an error if it is there
        time.sleep(0.05)
        (tmp_path / "at-work").rmdir()
        return 1

    with own_cluster(2) as cluster:
        workers = Workers(1, "dask", cluster.scheduler_address)
        run_tasks(workers, be_alone, range(10), "alone", "tasks", 10)


def test_a_worker_may_come_later(tmp_path, capsys):
    def touch(task: int) -> int:
        (tmp_path / str(task)).touch()
        return 1

    with own_cluster(0) as cluster:
        begin = threading.Timer(0.5, lambda: cluster.scale(1))
        begin.start()
        workers = Workers(None, "dask", cluster.scheduler_address)
        run_tasks(workers, touch, range(5), "touching", "tasks", 5)
        begin.join()
    assert len(list(tmp_path.iterdir())) == 5
    assert "no worker yet; waiting" in capsys.readouterr().err


def test_a_command_whose_last_worker_is_gone_says_that_it_waits(tmp_path, monkeypatch, wait_for):
    told = tmp_path / "told"
    monkeypatch.setattr(cluster_tasks, "LOOKS_FOR_WORKERS", 0.1)
    monkeypatch.setattr(cluster_tasks, "_tell", told.write_text)

    def begin_and_wait(task: int) -> int:
        (tmp_path / "begun").touch()
        wait_for(told)
        return 1

    with own_cluster(1) as cluster:

        def take_the_worker_away_for_a_while() -> None:
            wait_for(tmp_path / "begun")
            cluster.scale(0)
            wait_for(told)
            cluster.scale(1)

        scale = threading.Thread(target=take_the_worker_away_for_a_while)
        scale.start()
        workers = Workers(None, "dask", cluster.scheduler_address)
        run_tasks(workers, begin_and_wait, range(2), "waiting", "tasks", 2)
        scale.join()
    assert told.read_text() == f"{workers.place}: no worker is left; waiting for one"


@pytest.mark.parametrize("fails", [False, True])
def test_a_cluster_of_this_machine_that_cannot_be_closed_spoils_nothing(monkeypatch, fails):
    """Dask fails at it where a worker that died is just being started again."""
    from distributed import LocalCluster, Nanny, Status

    close, clusters = Nanny.close, []
    failures = ["can only join a started process"]

    async def fail_once(nanny, *args, **options):
        await close(nanny, *args, **options)
        if failures:
            raise AssertionError(failures.pop())

    def remember(cluster, *args, **options):
        clusters.append(cluster)
        begin(cluster, *args, **options)

    def work(task: int) -> int:
        if fails:
            raise MelHuBERTError("a task says why")
        return 1

    begin = LocalCluster.__init__
    monkeypatch.setattr(LocalCluster, "__init__", remember)
    monkeypatch.setattr(Nanny, "close", fail_once)
    with pytest.raises(MelHuBERTError, match="a task says why") if fails else nullcontext():
        run_tasks(Workers(2, "dask"), work, range(4), "working", "tasks", 4)
    assert not failures
    assert [cluster.status for cluster in clusters] == [Status.closed]


def test_a_dask_worker_keeps_the_memory_of_arrays_while_it_works(tmp_path):
    """Dask has its workers give it back, which made them a third slower."""

    def count_faults(task: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(100):
            np.ones(2**18)  # 2 MB, 512 pages
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        (tmp_path / str(task)).write_text(str(faults))
        return 1

    with own_cluster(2) as cluster:
        workers = Workers(None, "dask", cluster.scheduler_address)
        run_tasks(workers, count_faults, [0, 1], "counting", "tasks", 2)
    assert all(int((tmp_path / str(task)).read_text()) < 10_000 for task in (0, 1))


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        ("import sys; sys.modules['s3prl_melhubert'] = None", "a worker on .* cannot import s3prl_melhubert"),
        ("import sys; sys.modules['soundfile'] = None", "and what it needs .*soundfile"),
        (
            "import s3prl_melhubert; s3prl_melhubert.__version__ = '0.0'",
            r"has s3prl-melhubert 0\.0, and this",
        ),
    ],
)
def test_workers_that_cannot_read_the_tasks_are_refused(corpus, tmp_path, begin, message):
    """Dask itself waits forever for a task that a worker cannot read."""
    import dask

    with (
        dask.config.set({"distributed.worker.preload": [begin]}),
        own_cluster(2) as cluster,
    ):
        workers = Workers(None, "dask", cluster.scheduler_address)
        with pytest.raises(MelHuBERTError, match=message):
            prepare_audio([corpus], tmp_path / "out", workers=workers, **SMALL)


def test_a_killed_dask_worker_costs_only_its_shard(audio, tmp_path, folder_bytes):
    from distributed import Client

    whole = prepare_audio([audio], tmp_path / "whole", workers=Workers(jobs=1), **SMALL)
    out = tmp_path / "out"
    records = out / "unfinished" / "log-mel"
    made: dict[str, set[int]] = {}  # each shard's record, by the numbers of the files that it ever was
    killed, done = [], threading.Event()

    with own_cluster(2) as cluster:
        with Client(cluster) as client:
            processes = client.run(os.getpid)

        def kill_one_at_work() -> None:
            while not done.is_set():
                for path in records.glob("[0-9]*.json"):
                    with suppress(FileNotFoundError):  # The folder is removed at the end.
                        made.setdefault(path.name, set()).add(path.stat().st_ino)
                at_work = [state.address for state in cluster.scheduler.workers.values() if state.processing]
                if not killed and 4 <= len(made) < 12 and at_work:
                    os.kill(processes[at_work[0]], signal.SIGKILL)
                    killed.append(len(made))
                time.sleep(0.005)

        watch = threading.Thread(target=kill_one_at_work)
        watch.start()
        try:
            workers = Workers(None, "dask", cluster.scheduler_address)
            prepare_audio([audio], out, workers=workers, **SMALL)
        finally:
            done.set()
            watch.join()
    assert killed
    assert len(made) == 16
    assert all(len(files) == 1 for files in made.values()), "a shard that was done was made again"
    assert folder_bytes(out) == folder_bytes(whole.folder)


def test_a_task_that_kills_every_worker_is_given_up():
    def die(task: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 1

    with own_cluster(2) as cluster:
        workers = Workers(None, "dask", cluster.scheduler_address)
        with pytest.raises(MelHuBERTError, match="several workers were killed by the same task"):
            run_tasks(workers, die, range(4), "dying", "tasks", 4)


@pytest.fixture
def own_processes(tmp_path, wait_for):
    """(scheduler, address): a cluster as its own commands start it; one in this process could not be lost."""
    file = tmp_path / "scheduler.json"
    start = "import sys; from distributed.cli.{0} import main; sys.argv[0] = '{0}'; main()"
    options = ["--no-dashboard", "--scheduler-file", file]
    scheduler, worker = (
        subprocess.Popen(
            [sys.executable, "-c", start.format(name), *more, *options], stderr=subprocess.DEVNULL
        )
        for name, more in [("dask_scheduler", ["--port", "0"]), ("dask_worker", ["--nthreads", "1"])]
    )
    try:
        wait_for(file)
        while not file.read_text():  # Dask makes the file before it writes it.
            time.sleep(0.02)
        yield scheduler, json.loads(file.read_text())["address"]
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


def test_a_lost_scheduler_is_one_line(own_processes, wait_for, tmp_path, capfd):
    scheduler, address = own_processes

    def touch(task: int) -> int:
        (tmp_path / "begun").touch()
        time.sleep(60)
        return 1

    def kill_it_at_work() -> None:
        wait_for(tmp_path / "begun")
        scheduler.kill()

    kill = threading.Thread(target=kill_it_at_work)
    kill.start()
    with pytest.raises(MelHuBERTError, match="the Dask scheduler was lost"):
        run_tasks(Workers(backend="dask", scheduler=address), touch, range(2), "touching", "tasks", 2)
    kill.join()
    assert "Traceback" not in capfd.readouterr().err


def test_a_scheduler_that_is_lost_between_two_tasks_is_one_line_too(own_processes):
    import dask
    from distributed import Client

    scheduler, address = own_processes
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), Client(address) as client:
        cluster = _Dask(client)
        scheduler.kill()

        def submit_and_wait() -> None:  # A client may take what it cannot send.
            cluster.submit(partial(time.sleep, 60))
            cluster.next_outcome(60)

        with pytest.raises(MelHuBERTError, match="the Dask scheduler was lost"):
            cluster.threads()
        with pytest.raises(MelHuBERTError, match="the Dask scheduler was lost"):
            submit_and_wait()


@pytest.mark.parametrize("address", ["tls://127.0.0.1:1", "foo://127.0.0.1:1", ""])
def test_what_can_be_no_address_is_one_line(address):
    """For the first of them, Dask has no keys."""
    with pytest.raises(MelHuBERTError, match=f"^--scheduler {address}: no Dask scheduler answers "):
        run_tasks(Workers(None, "dask", address), int, [1], "waiting", "tasks", 1)
