"""Arrays in files are read as they were saved, and written row by row as numpy would write them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.support.arrays import ArrayWriter, npy_rows, open_npy, save_npy

ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    "array", [ARRAY, ARRAY.T, np.zeros((0, 3), np.int16), np.array([2**40])], ids=["C", "F", "empty", "long"]
)
def test_an_array_is_read_as_it_was_saved_in_either_order_of_memory(array, tmp_path):
    """The transpose of an array is saved column by column."""
    for save in (np.save, save_npy):
        save(tmp_path / "a.npy", array)
        read = open_npy(tmp_path / "a.npy")
        np.testing.assert_array_equal(read, array)
        assert (read.dtype, npy_rows(tmp_path / "a.npy")) == (array.dtype, len(array))
        if array.size:  # A write would go to the file.
            assert not read.flags.writeable


@pytest.mark.parametrize("change", [-1, 1])
def test_an_array_of_another_size_than_its_header_says_is_refused(change, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, ARRAY)
    os.truncate(path, path.stat().st_size + change)
    for read in (open_npy, npy_rows):
        with pytest.raises(MelHuBERTError, match=r"a\.npy: \d+ bytes found, but its header"):
            read(path)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([True]), np.array([1j])], ids=str)
def test_an_array_of_no_numbers_is_refused(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(MelHuBERTError, match=rf"a\.npy: an array of {array.dtype} found, expected numbers"):
        open_npy(tmp_path / "a.npy")


def test_a_single_number_has_no_rows(tmp_path):
    np.save(tmp_path / "a.npy", np.float32(3))
    assert open_npy(tmp_path / "a.npy") == 3
    with pytest.raises(MelHuBERTError, match="a single number found, expected rows"):
        npy_rows(tmp_path / "a.npy")


def test_rows_that_were_appended_are_the_array_in_its_type(tmp_path):
    with ArrayWriter(tmp_path / "a.npy", np.int16, 3) as writer:
        writer.append(ARRAY[:1])
        writer.append(np.asfortranarray(ARRAY[1:]))
        assert writer.rows == 4
    read = np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, ARRAY)
    assert read.dtype == np.int16
