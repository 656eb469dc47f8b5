"""What cannot be written is told before the work."""

from __future__ import annotations

import errno
import os

import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.support.writable import check_target, check_writable, try_to_write, write_faults


def test_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MelHuBERTError, match="file/EXP: cannot be written"):
        check_writable(tmp_path / "file/EXP")
    with pytest.raises(MelHuBERTError, match=r"free on this disk, 1000000000.0 GB are needed"):
        check_writable(tmp_path / "EXP", need_bytes=10**18)
    assert check_writable(tmp_path / "new/EXP", need_bytes=1).is_dir()
    assert os.listdir(tmp_path / "new/EXP") == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("there", "is a folder, expected a file"),
        ("absent/a.npz", "no such folder .*absent; make it first"),
        ("n" * 300, "cannot be written .File name too long"),
        ("a\0b", r"'.*a\\x00b': a name cannot hold a NUL character"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(name, said, tmp_path):
    (tmp_path / "there").mkdir()
    check_target(tmp_path / "a.npz")
    with pytest.raises(MelHuBERTError, match=said):
        check_target(tmp_path / name)


def test_what_to_do_ends_the_error(tmp_path):
    with (
        pytest.raises(MelHuBERTError, match=r"OUT: cannot be written \(Not a directory\); give another$"),
        write_faults("OUT", "give another"),
    ):
        raise NotADirectoryError(20, "Not a directory", str(tmp_path))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that not even root can write")
def test_read_only_folder_is_told():
    with pytest.raises(MelHuBERTError, match="cannot be written"):
        check_writable("/proc/EXP")


def test_a_reader_that_has_gone_is_no_fault_of_the_place():
    with pytest.raises(BrokenPipeError), write_faults("OUT"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_link_that_leads_nowhere_is_called_so(tmp_path):
    (tmp_path / "OUT").symlink_to("nowhere")
    with pytest.raises(
        MelHuBERTError, match=r"OUT: cannot be written \(a link to nowhere, which is not there\)"
    ):
        check_writable(tmp_path / "OUT")


def test_it_is_tried_in_the_folder_itself(tmp_path):
    try_to_write(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        try_to_write(tmp_path / "none")
