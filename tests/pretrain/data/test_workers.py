"""Work on shards in other processes: what is done beside it, and what stays as it was."""

import os
import signal
from importlib.util import find_spec

import joblib
import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.pretrain.data.workers import Workers, run_tasks


@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_what_is_done_meanwhile_is_done_while_the_tasks_run(backend, wait_for, tmp_path):
    if backend == "dask" and not find_spec("distributed"):
        pytest.skip("pip install 'dask[distributed]'")
    path = tmp_path / "done"
    before = dict(os.environ)
    run_tasks(Workers(2, backend), wait_for, [path, path, path], "waiting", "tasks", 3, meanwhile=path.touch)
    assert dict(os.environ) == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_tasks_are_asked_for_when_they_are_about_to_be_done(jobs, wait_for, tmp_path):
    """Each of `prepare` names the audio files of a shard; all of them together would name millions."""
    path, asked, at_first = tmp_path / "done", [], []
    tasks = (asked.append(number) or path for number in range(50))

    def meanwhile():
        at_first.append(len(asked))
        path.touch()

    run_tasks(Workers(jobs), wait_for, tasks, "waiting", "tasks", 50, meanwhile)
    assert len(asked) == 50
    assert at_first[0] <= 8


def test_one_process_does_it_first(wait_for, tmp_path):
    path = tmp_path / "done"
    run_tasks(Workers(1), wait_for, [path, path], "waiting", "tasks", 2, meanwhile=path.touch)
    assert path.exists()


def test_workers_leave_ctrl_c_to_the_command(tmp_path):
    """A terminal sends it to all processes; those that are importing would end in a traceback each."""

    def note(path):
        path.write_text(str(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        return 1

    # Workers that another test began would be taken again.
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    paths = [tmp_path / name for name in "abcd"]
    run_tasks(Workers(2), note, paths, "noting", "tasks", len(paths))
    assert [path.read_text() for path in paths] == ["True"] * len(paths)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_killed_worker_is_one_line():
    def die(task):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(MelHuBERTError, match=r"a worker process was killed .* the same command continues"):
        run_tasks(Workers(2), die, range(4), "dying", "tasks", 4)
