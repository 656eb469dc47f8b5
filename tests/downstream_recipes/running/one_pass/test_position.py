"""Where a training stands, as a file says it to those rates that go on from there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import _weights_only_unpickler

from s3prl_melhubert.downstream_recipes.running.one_pass.generators import Generators
from s3prl_melhubert.downstream_recipes.running.one_pass.position import Position
from s3prl_melhubert.errors import MelHuBERTError

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path) -> Path:
    """The file of a position of three rates, some of which have recorded numpy's numbers."""
    start = Generators.now(CPU)
    torch.rand(())
    Position(
        step=4,
        epoch=1,
        batches=3,
        backwards=9,
        epoch_start=start,
        now=Generators.now(CPU),
        rates=[1e-1, 1e-2, 1e-3],
        own=[{"records": each} for each in ([1], [np.float32(0.5)], [np.arange(3.0)])],
    ).write(tmp_path / "position.pt")
    return tmp_path / "position.pt"


@pytest.mark.parametrize("oldest", [False, True], ids=["this torch", "torch 2.4"])
def test_some_of_the_rates_go_on_each_with_its_own(place, monkeypatch, oldest):
    if oldest:
        monkeypatch.delattr(torch.serialization, "safe_globals", raising=False)
        known = dict(_weights_only_unpickler._get_allowed_globals())
        known.pop("_codecs.encode", None)
        monkeypatch.setattr(_weights_only_unpickler, "_get_allowed_globals", lambda: known)
    now = Generators.now(CPU)
    found = Position.read(place, [1e-3, 1e-1])
    assert (found.step, found.epoch, found.batches, found.backwards) == (4, 1, 3, 9)
    assert found.now.equals(now)
    assert not found.epoch_start.equals(now)
    assert found.rates == [1e-3, 1e-1]
    assert [each["records"][0] for each in found.own[1:]] == [1]
    np.testing.assert_array_equal(found.own[0]["records"][0], [0.0, 1.0, 2.0])


def test_a_position_of_other_rates_and_a_damaged_one_are_refused(place):
    with pytest.raises(MelHuBERTError, match=r"is of the learning rates \[0.1, 0.01, 0.001\], not \[1e-05\]"):
        Position.read(place, [1e-5])
    content = bytearray(place.read_bytes())
    content[content.index(now := Generators.now(CPU).cpu.numpy().tobytes()) + len(now) // 2] ^= 1
    place.write_bytes(content)
    with pytest.raises(MelHuBERTError, match="cannot be read"):
        Position.read(place, [1e-1])
    place.unlink()
    assert Position.read(place, [1e-1]) is None


class Program:
    """What makes a folder when it is read as a pickle is."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_position_that_holds_a_program_is_refused_and_does_not_run_it(tmp_path):
    torch.save({"step": Program(tmp_path / "made")}, tmp_path / "position.pt")
    with pytest.raises(MelHuBERTError, match=r"position\.pt: cannot be read"):
        Position.read(tmp_path / "position.pt", [1e-1])
    assert not (tmp_path / "made").exists()
