"""A file that torch wrote is held against its checksums, at which torch does not look."""

from __future__ import annotations

import os
from decimal import Decimal
from fractions import Fraction

import pytest
import torch

from s3prl_melhubert import load_checkpoint
from s3prl_melhubert.support.tensor_files import allowed, content_hash, damage_in


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


def test_hash_of_a_content_is_of_names_types_shapes_and_metadata_but_not_of_their_order():
    x, y = torch.arange(6.0), torch.zeros(0)
    contents = [
        ({"x": x, "y": y}, {}),
        ({"y": x, "x": y}, {}),
        ({"x": x.view(2, 3), "y": y}, {}),
        ({"x": x.view(torch.int32), "y": y}, {}),
        ({"x": x + 1, "y": y}, {}),
        ({"x": x, "y": y}, {"Step": "1"}),
    ]
    assert len({content_hash(*content) for content in contents}) == len(contents)
    assert content_hash({"y": y, "x": x}, {"b": "1", "a": "2"}) == content_hash(
        {"x": x, "y": y}, {"a": "2", "b": "1"}
    )


def test_checkpoints_are_read_with_the_oldest_torch(reference, monkeypatch):
    """torch 2.4 lacks `safe_globals`, and all of them were called damaged."""
    monkeypatch.delattr(torch.serialization, "safe_globals", raising=False)
    assert load_checkpoint(reference / "tiny-20ms.ckpt").step == 1234


def test_what_is_allowed_for_a_while_takes_away_nothing_else():
    before = set(torch.serialization.get_safe_globals())
    try:
        with allowed([Fraction]):
            torch.serialization.add_safe_globals([Decimal])  # which a thread of the program may do
            with allowed([Fraction]):
                pass
            assert {Fraction, Decimal} <= set(torch.serialization.get_safe_globals())
        assert set(torch.serialization.get_safe_globals()) == before | {Decimal}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*before])
