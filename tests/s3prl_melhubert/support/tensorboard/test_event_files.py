"""A program that writes for TensorBoard on a full disk is told so, and does not wait for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

# A file has no room for more than `limit` bytes, as on a disk that is full. The writer gets to know of it in
# its own thread, in the program's, or when it is closed.
PROGRAM = """
import resource, sys, time
from tensorboardX import SummaryWriter
from s3prl_melhubert.support.tensorboard.event_files import faults_told

folder, limit, steps, wait, ending = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
with faults_told():
    logger = SummaryWriter(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    for step in range(steps):
        logger.add_scalar("loss", 0.5, global_step=step)
        time.sleep(wait / 1000)
    if ending == "flush":
        logger.flush()
    if ending != "leave":
        logger.close()
except OSError as error:
    print("told:", error)
"""


def run(run_python, folder: Path, *arguments: object):
    result = run_python("-c", PROGRAM, folder, *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    return result


@pytest.mark.parametrize(
    ("limit", "steps", "wait", "ending"),
    [
        (20, 60, 1, "close"),  # in the thread, from the first event on; the queue holds ten
        (20, 1, 100, "close"),
        (20, 1, 100, "flush"),
        (20, 1, 0, "close"),
        (2000, 5000, 0, "close"),  # when a buffer is written
        (2000, 60, 0, "close"),  # at the end alone
    ],
)
def test_full_disk_is_told_once_with_the_file(limit, steps, wait, ending, run_python, tmp_path):
    result = run(run_python, tmp_path / "EXP", limit, steps, wait, ending)
    (file,) = (tmp_path / "EXP").iterdir()
    assert result.stdout == f"told: [Errno 27] File too large: '{file}'\n"
    assert result.stderr == ""


@pytest.mark.parametrize(("limit", "steps"), [(20, 1), (100_000, 1), (100_000, 0)])
def test_program_that_ends_without_closing_is_left_in_peace(limit, steps, run_python, tmp_path):
    """Where it has written nothing, tensorboardX would begin a thread, which Python 3.12 refuses by then."""
    result = run(run_python, tmp_path / "EXP", limit, steps, 100, "leave")
    assert (result.stdout, result.stderr) == ("", "")


def test_what_is_written_is_what_tensorboardx_writes(tmp_path, monkeypatch):
    import tensorboardX.event_file_writer
    from tensorboardX import SummaryWriter
    from tensorboardX import writer as names

    from s3prl_melhubert.support.tensorboard.event_files import faults_told

    monkeypatch.setattr("time.time", lambda: 1e9)

    def write(folder: Path) -> bytes:
        with SummaryWriter(str(folder)) as logger:
            for step in range(30):
                logger.add_scalar("loss", step / 2, global_step=step)
            logger.flush()
        (file,) = folder.iterdir()
        return file.read_bytes()

    with faults_told():
        told = write(tmp_path / "told")
    assert told == write(tmp_path / "plain")
    assert names.EventFileWriter is tensorboardX.event_file_writer.EventFileWriter
