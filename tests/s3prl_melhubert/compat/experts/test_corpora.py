"""s3prl's code for some corpora, on today's Python and pandas."""

from __future__ import annotations

import random
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from s3prl_melhubert.compat.experts import corpora

NAMES = ["QMRO", "EPUX", "QMRO", "ASQH"]


@pytest.fixture
def judged(tmp_path, write_judged):
    """s3prl's data set of a table of VCC 2018 with four judgements, and the file of the judges' numbers."""
    from s3prl.downstream.mos_prediction.dataset import VCC18SegmentalDataset

    table = pd.DataFrame({"WAV_PATH": "N11_a_SPO.wav", "MEAN": 3.0, "MOS": range(1, 5), "JUDGE": NAMES})
    write_judged(tmp_path / "Converted_speech_of_submitted_systems/N11_a_SPO.wav")
    numbers = tmp_path / "idtable.pkl"
    return lambda: VCC18SegmentalDataset(table, tmp_path, idtable=numbers), numbers


@pytest.fixture
def write_judged():
    import soundfile

    def write(path) -> None:
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)

    return write


def test_judges_of_vcc_2018_are_numbered_and_the_numbers_are_kept(judged):
    make, numbers = judged
    for _ in range(2):  # The first numbers them, the second takes the file's numbers.
        dataset = make()
        *_, opinions, judges = dataset.collate_fn([dataset[i] for i in range(len(dataset))])
        assert opinions.tolist() == [1, 2, 3, 4]
        assert judges.tolist() == [0, 1, 0, 2]
        assert torch.load(numbers) == {"QMRO": 0, "EPUX": 1, "ASQH": 2}


def test_recordings_of_sws_2013_are_drawn_from_sets_as_a_seed_says():
    from s3prl.downstream.sws2013 import sws2013_dataset

    names = [f"sws2013_{i:05d}" for i in range(50)]
    random.seed(1)
    drawn = [sws2013_dataset.random.sample(set(names), 1)[0] for _ in range(20)]
    random.seed(1)
    assert drawn == [random.sample(names, 1)[0] for _ in range(20)]
    assert len(set(drawn)) > 10
    assert sws2013_dataset.random.sample is not random.sample  # Everybody else's is Python's own.


def test_frames_of_speakers_are_held_against_the_labels_of_their_files():
    from s3prl.downstream.voxceleb1_framelevel.expert import DownstreamExpert

    expert = SimpleNamespace(
        projector=torch.nn.Identity(),
        model=lambda features, lengths: (features, lengths),
        objective=torch.nn.CrossEntropyLoss(),
    )
    features = [torch.eye(3)[[0, 0, 1]], torch.eye(3)[[2, 2]]]  # What is predicted is 0, 0, 1 and 2, 2.
    records = defaultdict(list)
    loss = DownstreamExpert.forward(expert, "dev", features, [0, 2], ["one.wav", "two.wav"], records=records)
    assert records["acc"] == [1, 1, 0, 1, 1]
    assert records["loss"] == [pytest.approx(loss.item())]


def test_what_is_mended_once_is_left_alone():
    from s3prl.downstream.mos_prediction import dataset
    from s3prl.downstream.sws2013 import sws2013_dataset
    from s3prl.downstream.voxceleb1_framelevel import expert

    assert not corpora.let_sets_be_sampled(sws2013_dataset)
    assert not corpora.let_judges_be_numbered(dataset)
    assert not corpora.let_names_be_passed(expert)
