"""Batches of rows, read from a prepared set."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.pretrain.training.loading import build_dataset, build_plan, read_batches, reader_of
from s3prl_melhubert.pretrain.training.sampler import PlanSampler
from s3prl_melhubert.pretrain.training.settings import DataSettings


@pytest.fixture
def rows_of(prepared, tiny_settings):
    """`rows_of(first, last)`: the batches of some steps of 2 x 3 rows of 40 frames, and what reads them."""

    def read(first, last, workers=0, **settings):
        config = MelHuBERTConfig(**tiny_settings)
        datarc = DataSettings(
            **{"rows": True, "train_batch_size": 3, "sequence_length": 40, "max_timestep": 0, **settings}
        )
        dataset = build_dataset([str(prepared)], config, datarc, seed=5)
        plan = build_plan(dataset, datarc, 2, 1, 5)
        with read_batches(
            reader_of(dataset, plan), PlanSampler(plan, 0, first, last), workers, torch.device("cpu")
        ) as batches:
            return list(batches), dataset, plan

    return read


def test_rows_hold_the_frames_and_labels_of_their_utterances(rows_of, make_utterance):
    batches, dataset, plan = rows_of(0, 3)
    pieces = [part for step in islice(plan.epoch(0), 3) for part in step]
    looked_at = 0
    for batch, part in zip(batches, pieces, strict=True):
        assert batch.features.shape == (3, 40, 80)
        for row, laid in enumerate(part.rows):
            assert batch.rows[row] == tuple(piece.length for piece in laid)
            at = 0
            for piece in laid:
                length = dataset.utterances[piece.utterance].length
                frames, labels = make_utterance(piece.utterance, length)
                frames = np.pad(frames, ((0, length % 2), (0, 0)))
                found = batch.features[row, at : at + piece.length].reshape(-1, 40).numpy()
                # A piece is a stretch of the utterance, wherever the crop begins.
                windows = np.lib.stride_tricks.sliding_window_view(frames, len(found), axis=0)[::2]
                [begin] = np.flatnonzero(np.abs(windows.transpose(0, 2, 1) - found).max((1, 2)) < 1e-6)
                expected = labels[::2][begin : begin + piece.length]
                assert batch.labels[row, at : at + piece.length].tolist() == expected.tolist()
                looked_at += 1
                at += piece.length
            assert not batch.features[row, at:].any()
            assert batch.padding_mask[row].tolist() == [False] * at + [True] * (40 - at)
        assert not (batch.mask & batch.padding_mask).any()
        assert batch.masked_frames == int(batch.mask.sum())
        count = batch.masked_frames
        flat = batch.mask.flatten()
        assert flat[batch.masked.places[:count]].all()
        assert not flat[batch.masked.places[count:]].any()
        assert len(batch.masked.places.unique()) == len(batch.masked.places)
        assert torch.equal(batch.masked.labels[:count], batch.labels.flatten()[batch.masked.places[:count]])
        assert (batch.masked.labels[count:] == -100).all()
    assert looked_at > 20


def test_two_pieces_of_a_crop_are_two_stretches_of_it(rows_of):
    batches, _, plan = rows_of(0, 3)
    parts = [part for step in islice(plan.epoch(0), 3) for part in step]
    found: dict[int, dict[int, torch.Tensor]] = {}
    for batch, part in zip(batches, parts, strict=True):
        for row, laid in enumerate(part.rows):
            at = 0
            for piece in laid:
                stretch = batch.features[row, at : at + piece.length]
                found.setdefault(piece.place, {})[piece.start] = stretch
                at += piece.length
    cut = {place: stretches for place, stretches in found.items() if len(stretches) > 1}
    assert cut
    for stretches in cut.values():
        starts = sorted(stretches)
        for first, second in pairwise(starts):
            assert len(stretches[first]) <= second - first
            assert not torch.equal(stretches[first][:3], stretches[second][:3])


def test_a_batch_depends_on_its_place_alone(rows_of):
    whole, later, elsewhere = rows_of(0, 4)[0], rows_of(2, 4)[0], rows_of(0, 4, workers=1)[0]
    for one, two in [*zip(whole[4:], later, strict=True), *zip(whole, elsewhere, strict=True)]:
        assert torch.equal(one.features, two.features)
        assert torch.equal(one.mask, two.mask)
        assert one.rows == two.rows


def test_pieces_of_a_batch_have_together_its_loss(rows_of, tiny_model):
    model = tiny_model()
    batch = rows_of(0, 1)[0][0]
    parts = batch.split(2)
    assert [len(part.rows) for part in parts] == [2, 1]
    whole, halves = batch.loss(model).masked_loss, sum(part.loss(model).masked_loss for part in parts)
    torch.testing.assert_close(halves, whole)
    assert len(batch.split(8)) == 3
