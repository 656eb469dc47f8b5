"""A file that torch wrote is held against its checksums, at which torch does not look."""

from __future__ import annotations

import os

import pytest
import torch

from s3prl_melhubert.support.tensor_files import damage_in


def test_damage_is_found_that_torch_passes_over(change_a_byte, tmp_path):
    path, weights = tmp_path / "states-2.ckpt", torch.ones(1000)
    torch.save({"weights": weights}, path)
    assert damage_in(path) is None
    before = path.stat()
    change_a_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # written anew, at some other time
    assert not torch.equal(torch.load(path)["weights"], weights)
    assert damage_in(path) == "the checksum of states-2/data/0 in it differs"
    torch.save({"weights": weights}, path)
    assert damage_in(path) is None


@pytest.mark.parametrize("size", [100, 3000])
def test_what_is_no_whole_archive_is_damaged(size, tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"weights": torch.ones(1000)}, path)
    os.truncate(path, size)
    assert damage_in(path) == "File is not a zip file"


def test_file_without_checksums_is_not_damaged(tmp_path):
    path = tmp_path / "old.ckpt"
    torch.save({"weights": torch.ones(1000)}, path, _use_new_zipfile_serialization=False)
    assert damage_in(path) is None
    path.write_bytes(b"")
    assert damage_in(path) is None
    with pytest.raises(FileNotFoundError):
        damage_in(tmp_path / "none.ckpt")
