"""A folder's lock: one writer at a time, named to the second one, and gone with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.support.locks import LOCK, only_writer, only_writer_of

HOLD = """
import os, sys, time
from s3prl_melhubert.support.locks import only_writer
with only_writer(sys.argv[1]):
    child = os.fork() if len(sys.argv) > 2 else None
    if child == 0:
        time.sleep(600)
    print(child, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path):
    """`hold(*arguments)`: another process that holds the lock of `tmp_path`; killed at the end."""
    processes = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path), *arguments]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        processes[-1].first_line = processes[-1].stdout.readline().strip()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_second_writer_is_told_who_the_first_is(hold, tmp_path):
    holder = hold()
    who = rf"at work .*host .*process {holder.pid}, since 2\d\d\d-"
    with pytest.raises(MelHuBERTError, match=who), only_writer(tmp_path):
        pass


def test_lock_of_a_killed_process_stands_in_nobodys_way(hold, tmp_path):
    holder = hold()
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with only_writer(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_child_that_outlives_the_holder_does_not_keep_its_lock(hold, tmp_path):
    holder = hold("fork")
    holder.kill()
    holder.wait()
    try:
        with only_writer(tmp_path):
            pass
    finally:
        os.kill(int(holder.first_line), signal.SIGKILL)


def test_one_process_does_not_get_the_lock_twice(tmp_path):
    with only_writer(tmp_path), pytest.raises(MelHuBERTError, match="this process"), only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        pass


def test_folder_that_is_not_there_is_named(tmp_path):
    gone = r"nowhere: cannot be written \(No such"
    with pytest.raises(MelHuBERTError, match=gone), only_writer(tmp_path / "nowhere"):
        pass


def test_a_file_or_a_link_of_the_locks_name_that_somebody_made_stops_the_writer_and_stays(tmp_path):
    lock = tmp_path / LOCK
    lock.write_text("my precious notes")
    with pytest.raises(MelHuBERTError, match="is no lock of this command; move it"), only_writer(tmp_path):
        pass
    assert lock.read_text() == "my precious notes"
    lock.rename(tmp_path / "notes")
    lock.symlink_to(tmp_path / "notes")
    with pytest.raises(MelHuBERTError, match="is a link"), only_writer(tmp_path):
        pass
    assert lock.readlink().read_text() == "my precious notes"
    lock.unlink()
    lock.write_bytes(bytes(90))  # as a loss of power may leave one of ours
    with only_writer(tmp_path):
        pass


def test_files_of_one_folder_have_a_writer_each_however_long_their_names(tmp_path):
    one, other = tmp_path / f"{'a' * 245}.npz", tmp_path / "b.npz"
    with only_writer_of(one), only_writer_of(other):
        with pytest.raises(MelHuBERTError, match="this process"), only_writer_of(other):
            pass
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []
