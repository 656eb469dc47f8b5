"""The plan of rows: what lies where, that nothing is lost, and that little is padding."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.rows.plan import Piece, RowPlan, lay
from s3prl_melhubert.pretrain.training.sampler import PlanSampler
from s3prl_melhubert.pretrain.training.settings import DataSettings


def make(lengths, rows=6, rows_per_batch=3, processes=1, time=150, seed=0):
    return RowPlan(
        lengths, time=time, rows=rows, rows_per_batch=rows_per_batch, processes=processes, seed=seed
    )


def lengths_of(count, time=150, seed=0):
    """Crops of which a third fill a row."""
    return np.minimum(np.random.default_rng(seed).integers(20, 3 * time // 2, count), time)


def pieces_of(plan, epoch=0):
    """The pieces of an epoch, row after row."""
    return [piece for step in plan.epoch(epoch) for part in step for row in part.rows for piece in row]


def test_an_epoch_has_every_frame_once_but_for_what_is_too_short_to_be_a_piece():
    lengths = lengths_of(500)
    plan = make(lengths)
    assert len(plan.epoch(0)) == plan.steps_per_epoch == -(-lengths.sum() // (6 * 150))
    seen = [np.zeros(length, dtype=int) for length in lengths]
    for piece in pieces_of(plan):
        again = piece.place // len(lengths)  # beyond the end of the stream, which fills up the last step
        if not again:
            seen[piece.utterance][piece.start : piece.start + piece.length] += 1
    counts = np.concatenate(seen)
    assert counts.max() == 1
    assert (counts == 0).mean() < 0.02


def test_rows_are_full_to_within_two_percent_and_hold_so_many_pieces_at_most():
    plan = make(lengths_of(500))
    rows = [row for step in plan.epoch(0) for part in step for row in part.rows]
    used = [sum(piece.length for piece in row) for row in rows]
    assert max(used) <= plan.time
    assert sum(used) > 0.98 * len(rows) * plan.time
    assert max(map(len, rows)) <= plan.most
    shortest = min(piece.length for piece in pieces_of(plan) if piece.length < plan.lengths[piece.utterance])
    assert shortest >= plan.time // 15


def test_epochs_differ_and_each_is_a_function_of_the_seed():
    lengths = lengths_of(60)
    first, again, second, other = (
        pieces_of(make(lengths, seed=seed), epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again
    assert first != second
    assert first != other


def test_a_step_has_the_same_rows_however_many_processes_share_it():
    lengths = lengths_of(200)
    alone, shared = (
        make(lengths, rows=8, rows_per_batch=4),
        make(lengths, rows=8, rows_per_batch=2, processes=2),
    )
    for one, two in zip(alone.epoch(0), shared.epoch(0), strict=True):
        rows = [sorted(itertools.chain.from_iterable(part.rows for part in step)) for step in (one, two)]
        assert rows[0] == rows[1]
        assert [len(part.rows) for part in two] == [2] * 4
        assert [part.ends_step for part in two] == [False, False, True, True]


def test_rows_that_processes_cannot_share_evenly_are_filled_up_with_empty_ones():
    plan = make(lengths_of(100), rows=5, rows_per_batch=2, processes=2)
    for step in plan.epoch(0):
        assert [len(part.rows) for part in step] == [2] * 4
        assert sum(1 for part in step for row in part.rows if row) == 5


# Settings of a plan, the steps of its epoch, and a hash of the rows of two epochs. A run that was begun goes
# on exactly with another version of this package as long as these stay.
KNOWN = [
    (lengths_of(300), {}, 38, "b4b242a456936908"),
    (lengths_of(300, seed=1), {"rows": 8, "rows_per_batch": 2, "processes": 2}, 28, "6dd4b0cdad987830"),
    (np.random.default_rng(0).integers(4, 25, 900), {"rows": 5}, 18, "b6adbde3df104f5f"),
    (lengths_of(300, time=20), {"time": 20}, 50, "f89d40c4d8fce79a"),
]


@pytest.mark.parametrize(("lengths", "settings", "steps", "digest"), KNOWN)
def test_rows_are_those_that_a_run_was_begun_with(lengths, settings, steps, digest):
    plan = make(lengths, seed=7, **settings)
    rows = [part.rows for epoch in (0, 3) for step in plan.epoch(epoch) for part in step]
    plain = [[[tuple(map(int, piece)) for piece in row] for row in part] for part in rows]
    assert (plan.steps_per_epoch, hashlib.sha256(repr(plain).encode()).hexdigest()[:16]) == (steps, digest)


def test_a_sampler_begins_anywhere_with_what_would_have_come():
    plan = make(lengths_of(40))
    total = 3 * plan.steps_per_epoch
    everything = list(PlanSampler(plan, 0, 0, total))
    assert len(everything) == total * plan.accumulate
    assert list(PlanSampler(plan, 0, 5, total)) == everything[5 * plan.accumulate :]


@pytest.mark.parametrize("lengths", [[7], [150], [3, 2, 1], [150, 10, 140]])
def test_few_utterances_fill_the_only_step(lengths):
    plan = make(lengths)
    assert plan.steps_per_epoch == 1
    assert {piece.utterance for piece in pieces_of(plan)} == set(range(len(lengths)))


def test_short_utterances_are_laid_whole_and_fill_the_rows():
    lengths = np.random.default_rng(0).integers(4, 25, 3000)
    plan = make(lengths, rows=32, rows_per_batch=8)
    steps = itertools.islice(plan.epoch(0), plan.steps_per_epoch - 1)  # the last is not full
    rows = [row for step in steps for part in step for row in part.rows]
    used = sum(piece.length for row in rows for piece in row)
    assert used > 0.97 * len(rows) * plan.time


def test_what_fits_nowhere_is_cut_into_pieces_that_fill_the_rows():
    pieces = [Piece(number, number, 0, length) for number, length in enumerate((80, 80, 80, 60))]
    rows = lay(pieces, 3, 100, 4, 10)
    assert [sum(piece.length for piece in row) for row in rows] == [100, 100, 100]
    cut = [piece for row in rows for piece in row if piece.utterance == 3]
    assert [(piece.start, piece.length) for piece in cut] == [(0, 20), (20, 20), (40, 20)]


def test_a_plan_of_a_million_utterances_is_small_and_quick_to_index():
    plan = make(lengths_of(1_000_000), rows=64, rows_per_batch=32)
    epoch = plan.epoch(3)
    assert epoch.nbytes <= 16 * 1_000_000
    assert sum(len(row) for part in epoch[len(epoch) - 1] for row in part.rows) > 64


def test_settings_that_rows_cannot_have_are_refused():
    from s3prl_melhubert.pretrain.training.rows.size import rows_of_batch, rows_of_step

    with pytest.raises(MelHuBERTError, match="sequence_length: -1 found"):
        DataSettings(rows=True, sequence_length=-1)
    with pytest.raises(MelHuBERTError, match="rows: 'often' found"):
        DataSettings(rows="often")
    with pytest.raises(MelHuBERTError, match="max_frames: 700 found"):
        rows_of_batch(DataSettings(rows=True, max_frames=700))
    assert rows_of_batch(DataSettings(rows=True, max_frames=1700)) == 2
    assert rows_of_step(DataSettings(rows=True, frames_per_batch=24_000), 7) == 32
    with pytest.raises(
        MelHuBERTError, match="frames_per_batch: 700 found, but a row has sequence_length 750"
    ):
        rows_of_step(DataSettings(rows=True, frames_per_batch=700), 1)
    with pytest.raises(MelHuBERTError, match=r"2 rows of 150 frames .* at least one for each of 3 processes"):
        make(lengths_of(60), rows=2, processes=3)
    with pytest.raises(MelHuBERTError, match="frames_per_batch: 1000001 rows in a step, expected at most"):
        make(lengths_of(60), rows=1_000_001)
    with pytest.raises(MelHuBERTError, match="no utterances"):
        make([])
