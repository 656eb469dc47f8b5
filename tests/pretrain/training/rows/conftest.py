"""Batches of rows, and the same utterances padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.frontend import padding_mask
from s3prl_melhubert.masking import draw_mask
from s3prl_melhubert.pretrain.training.dataset import Batch
from s3prl_melhubert.pretrain.training.rows.batch import RowBatch, RowForm


@pytest.fixture(scope="session")
def both_forms() -> Callable[..., tuple[Batch, RowBatch]]:
    """`both_forms(config, rows, time=40, most=4)`: stretches of so many frames, padded and in rows."""

    def make(
        config: MelHuBERTConfig, rows: Sequence[Sequence[int]], time: int = 40, most: int = 4, seed: int = 0
    ) -> tuple[Batch, RowBatch]:
        random = torch.Generator().manual_seed(seed)
        lengths = [length for row in rows for length in row]
        parts = []
        for length in lengths:
            mask = draw_mask(config, [length], length, random)[0]
            features = torch.randn(length, config.feat_emb_dim, generator=random)
            parts.append((features, torch.randint(config.num_cluster, (length,), generator=random), mask))
        features, labels, mask = (pad_sequence(kind, batch_first=True) for kind in zip(*parts, strict=True))
        padded = Batch(features, labels, mask, padding_mask(lengths), tuple(lengths), int(mask.sum()))

        whole = [
            torch.zeros(len(rows), time, *tensor.shape[2:], dtype=tensor.dtype)
            for tensor in (features, labels, mask)
        ]
        stretches = iter(parts)
        for number, row in enumerate(rows):
            at = 0
            for length in row:
                for tensor, part in zip(whole, next(stretches), strict=True):
                    tensor[number, at : at + length] = part
                at += length
        return padded, RowBatch.of(RowForm(config, time, most), *whole, rows)

    return make
