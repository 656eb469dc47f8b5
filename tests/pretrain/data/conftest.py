"""A prepared set of synthesized speech, for the tests of this folder."""

from __future__ import annotations

import pytest

from s3prl_melhubert.pretrain.data.description import PreparedSet
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.workers import Workers


@pytest.fixture(scope="session")
def prepared(corpus, tmp_path_factory) -> PreparedSet:
    """The training subset, 12 files in 3 shards, with labels of 6 clusters. Not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    workers = Workers(jobs=1)
    return prepare_audio(
        [corpus], out, subsets=["train-clean-100"], clusters=6, shard_files=4, workers=workers
    )
