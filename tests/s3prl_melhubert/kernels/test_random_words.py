"""The random words of dropout: those of SplitMix64, in both forms, however many are asked for at a time."""

import sys

import numpy as np
import pytest

from s3prl_melhubert.kernels import random_words
from s3prl_melhubert.kernels.random_words import MANY, RandomWords, compiled_fill, fill_by_numpy

# The first words of the seed 1234567, which Vigna's splitmix64.c (public domain) gives.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


@pytest.fixture
def no_numba(monkeypatch):
    """An environment in which `import numba` fails, as where it does not know the installed numpy."""
    monkeypatch.setitem(sys.modules, "numba", None)
    compiled_fill.cache_clear()
    yield
    compiled_fill.cache_clear()


def test_words_are_the_published_ones():
    assert RandomWords(1234567).next(5).tolist() == PUBLISHED


def test_compiled_words_are_those_of_numpy():
    fill = compiled_fill()
    assert fill is not fill_by_numpy
    words = np.empty((2, 3 * MANY + 5), np.uint64)
    for each, form in zip(words, (fill, fill_by_numpy), strict=True):
        form(each, np.uint64(2**64 - 7))
    assert np.array_equal(*words)


def test_a_stream_is_the_same_however_many_are_asked_for_at_a_time():
    whole = RandomWords(2**62 - 1).next(2 * MANY)
    stream = RandomWords(2**62 - 1)
    parts = [stream.next(count) for count in (1, 7, 0, MANY, MANY - 8)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_without_numba_the_words_are_the_same(no_numba):
    words = RandomWords(5).next(MANY)
    assert random_words.compiled_fill() is fill_by_numpy
    compiled_fill.cache_clear()
    assert np.array_equal(words, RandomWords(5).next(MANY))


def test_where_numba_compiles_nothing_the_words_are_numpys(monkeypatch):
    """NUMBA_DISABLE_JIT=1 would make them one by one, in Python."""
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    assert compiled_fill.__wrapped__() is fill_by_numpy


def test_each_bit_is_one_half_of_the_time_and_tells_nothing_of_another_stream():
    """Over 2^18 words a share of one half has a deviation of 0.001."""
    one, other = (RandomWords(seed).next(1 << 18) for seed in (5, 6))
    for words in (one, one ^ other, one[1:] ^ one[:-1]):
        shares = [float((words >> np.uint64(bit) & np.uint64(1)).mean()) for bit in range(64)]
        assert shares == pytest.approx([0.5] * 64, abs=0.006)
