"""What is left of a write whose process was killed, and who may remove it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.support.arrays import save_npy
from s3prl_melhubert.support.files import (
    atomic_folder,
    atomic_path,
    refuse_what_is_no_file,
    remove_abandoned,
    write_text,
)
from s3prl_melhubert.support.tensor_files import write_safetensors

WRITER = """
import sys, time
from s3prl_melhubert.support.arrays import save_npy
from s3prl_melhubert.support.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(100)
"""


def test_a_killed_writers_file_is_removed_and_a_living_ones_is_not(tmp_path):
    living, killed = tmp_path / "living.npy", tmp_path / "killed.npy"
    # A date looks like a hash of eight digits.
    names = (
        ".mine.npy",
        ".config.yaml.20260101.yaml",
        ".runs.melhubert.20260101",
        "x.melhubert-0123456789abcdef",
    )
    others = [tmp_path / name for name in names]
    for path in others:
        path.write_text("somebody else's")
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(killed)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    with atomic_path(living) as temporary:
        temporary.write_text("whole")
        remove_abandoned(tmp_path)
        assert len(list(tmp_path.glob(".killed.melhubert-*.npy"))) == 1  # The process is still at work.
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        remove_abandoned(tmp_path)
        assert not list(tmp_path.glob(".killed.*"))
    assert living.read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == sorted([living, *others])


def test_nothing_is_removed_by_way_of_a_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("somebody else's")
    link = tmp_path / ".a.melhubert-0123456789abcdef.npy"
    link.symlink_to(target)
    remove_abandoned(tmp_path)
    assert target.read_text() == "somebody else's"
    assert link.is_symlink()


FOLDER_WRITER = """
import sys, time
from pathlib import Path
from s3prl_melhubert.support.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "file").write_text("half")
    print("writing", flush=True)
    time.sleep(100)
"""


def test_the_first_write_into_a_folder_removes_what_was_abandoned_there(tmp_path, run_python):
    write = (
        "import os, sys; from s3prl_melhubert.support.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary: temporary.write_text('new'); exec(sys.argv[2])"
    )
    for name in ("a.safetensors", "units", "a" * 240 + ".txt"):
        run_python("-c", write, tmp_path / name, "os._exit(1)")
        assert [path.name[1:2] for path in tmp_path.iterdir()] == [name[0]]
    assert run_python("-c", write, tmp_path / "b.txt", "").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_appears_whole_and_a_killed_writers_goes(tmp_path, is_there):
    folder = tmp_path / "place" / "folder"
    (folder if is_there else folder.parent).mkdir(parents=True)
    place = folder if is_there else folder.parent
    process = subprocess.Popen([sys.executable, "-c", FOLDER_WRITER, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    remove_abandoned(place)
    assert len(list(place.glob(".folder.melhubert-*"))) == 1  # The process is still at work.
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (place / ".mine.melhubert").mkdir()
    with atomic_folder(folder) as temporary:
        (temporary / "file").write_text("whole")
        assert not (folder / "file").exists()
    assert (folder / "file").read_text() == "whole"
    assert {path.name for path in place.iterdir()} == {".mine.melhubert", "file" if is_there else "folder"}
    with pytest.raises(MelHuBERTError, match=f"^{tmp_path}/b/file: full"), atomic_folder(tmp_path / "b") as b:
        raise MelHuBERTError(f"{b}/file: full")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "b") as temporary:
        (temporary / "file").write_text(str(1 / 0))
    assert not list(tmp_path.glob(".*"))


def test_a_temporary_file_that_keeps_its_name_is_one_of_a_folder(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(remove_abandoned(tmp_path)))
    with atomic_path(tmp_path / "a.ckpt", own_name=True) as temporary:
        assert temporary.name == "a.ckpt"
        remove_abandoned(tmp_path)
        temporary.write_text("whole")
    assert synced
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def torch_to_a_file(path):
    with path.open("wb") as file:
        torch.save(torch.zeros(100_000), file)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(100_000)),
        lambda path: np.save(path, np.zeros(100_000)),
        lambda path: save_npy(path, np.zeros(100_000)),
        lambda path: save_npy(path, np.zeros(5_010)),  # of which np.save loses the end without a word
        lambda path: torch.save(torch.zeros(100_000), path),
        torch_to_a_file,
        lambda path: save_file({"a": torch.zeros(100_000)}, path),
        lambda path: write_safetensors(path, {"a": torch.zeros(100_000)}, {}),
    ],
    ids=["python", "numpy", "array", "end of an array", "torch", "torch to a file", "safetensors", "weights"],
)
def test_a_disk_without_room_is_named_whichever_library_writes(tmp_path, write):
    """A limit of the size of files fails a write as a full disk does, with another number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    there = tmp_path / "there.npy"
    there.write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        for path, state in ((there, "is as it was"), (tmp_path / "new.npy", "nothing was left there")):
            words = rf"written \(File too large\); .*{state}: make space"
            with pytest.raises(MelHuBERTError, match=words), atomic_path(path) as temporary:
                write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["there.npy"]
    assert there.read_text() == "old"


def test_another_fault_of_a_writer_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text(str(1 / 0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(), (0, 40), (3,), (50_000, 40)])
def test_arrays_are_written_as_numpy_writes_them(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    save_npy(tmp_path / "ours.npy", array)
    np.save(tmp_path / "numpys.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


def test_a_pipe_and_a_device_are_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MelHuBERTError, match="pipe: is a device or a pipe"):
        write_text(tmp_path / "pipe", "content")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(MelHuBERTError, match="/dev/null: is a device or a pipe"):
        refuse_what_is_no_file(Path("/dev/null"))
    with pytest.raises(MelHuBERTError, match="/dev/stdout: is a device or a pipe"):
        refuse_what_is_no_file(Path("/dev/stdout"))  # may be a link to a file
