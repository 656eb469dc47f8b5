"""The diarization error rate, worked by hand, and what s3prl's predictions are made into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from s3prl_melhubert.downstream_recipes.outputs import Turn
from s3prl_melhubert.downstream_recipes.speaker_diarization.error_rate import error_rates, turns_of
from s3prl_melhubert.downstream_recipes.speaker_diarization.task import fault_in_hdf5
from s3prl_melhubert.errors import MelHuBERTError


@pytest.fixture
def packages() -> None:
    """What the `sd` extra installs."""
    pytest.importorskip("h5py")
    pytest.importorskip("pyannote.metrics")


def frames(*rows: str) -> np.ndarray:
    """`frames("110", "011")`: (3, 2), who talks in frames of 100 ms."""
    return np.array([[float(mark) for mark in row] for row in rows], dtype=np.float32).T


@pytest.mark.parametrize(
    ("turns", "talks", "rate"),
    [
        # 1 s of a, then 1 s of b, both found: speakers have no names.
        ([("a", 0, 1), ("b", 1, 2)], frames("1" * 10 + "0" * 10, "0" * 10 + "1" * 10), 0.0),
        ([("a", 0, 1), ("b", 1, 2)], frames("0" * 10 + "1" * 10, "1" * 10 + "0" * 10), 0.0),
        # Half a second of b is missed, of 2 s of speech.
        ([("a", 0, 1), ("b", 1, 2)], frames("1" * 10 + "0" * 10, "0" * 10 + "1" * 5 + "0" * 5), 0.25),
        # One speaker is found for both: 1 s of 2 is the wrong one's.
        ([("a", 0, 1), ("b", 1, 2)], frames("1" * 20, "0" * 20), 0.5),
        # Where two talk, both count: 1 s of 3 is missed.
        ([("a", 0, 2), ("b", 1, 2)], frames("1" * 20, "0" * 20), 1 / 3),
        # Half a second of speech after the end is a false alarm.
        ([("a", 0, 1)], frames("1" * 15, "0" * 15), 0.5),
        # There is no collar: 100 ms at a turn count, of 2 s.
        ([("a", 0, 1), ("b", 1, 2)], frames("1" * 11 + "0" * 9, "0" * 11 + "1" * 9), 0.05),
    ],
)
@pytest.mark.usefixtures("packages")
def test_error_rate_is_that_worked_by_hand(turns: Sequence[Turn], talks, rate, tmp_path):
    import h5py

    with h5py.File(tmp_path / "mix.h5", "w") as file:
        file.create_dataset("T_hat", data=talks)
    rates = error_rates({"mix": turns}, tmp_path, frame_shift=1600)
    assert len(rates) == 10
    assert rates["median 1, threshold 0.5"] == pytest.approx(rate)


@pytest.mark.usefixtures("packages")
def test_error_rate_is_of_all_speech_not_the_mean_of_mixtures(tmp_path):
    import h5py

    for name, talks in (("long", frames("1" * 30, "0" * 30)), ("short", frames("0" * 10, "0" * 10))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("T_hat", data=talks)
    references = {"long": [("a", 0.0, 3.0)], "short": [("a", 0.0, 1.0)]}
    assert error_rates(references, tmp_path, 1600)["median 1, threshold 0.5"] == pytest.approx(1 / 4)


@pytest.mark.usefixtures("packages")
def test_ten_choices_of_a_threshold_and_a_median_are_scored(tmp_path):
    """A second of speech has probabilities of 0.45, and a frame of 100 ms long after it has 0.9."""
    import h5py

    talks = frames("1" * 10 + "0" * 20, "0" * 30) * 0.45
    talks[20, 1] = 0.9
    with h5py.File(tmp_path / "mix.h5", "w") as file:
        file.create_dataset("T_hat", data=talks)
    rates = error_rates({"mix": [("a", 0.0, 1.0)]}, tmp_path, 1600)
    found = {
        f"median {median}, threshold {threshold}": missed + false
        for median, false in ((1, 0.1), (11, 0.0))
        for threshold, missed in ((0.3, 0.0), (0.4, 0.0), (0.5, 1.0), (0.6, 1.0), (0.7, 1.0))
    }
    assert rates == pytest.approx(found)


@pytest.mark.usefixtures("packages")
def test_predictions_that_cannot_be_scored_are_not_submitted(tmp_path):
    import h5py

    def fault(talks: np.ndarray, name: str = "T_hat") -> str | None:
        with h5py.File(tmp_path / "mix.h5", "w") as file:
            file.create_dataset(name, data=talks)
        return fault_in_hdf5((tmp_path / "mix.h5").read_bytes())

    talks = np.full((400, 2), 0.5, np.float32)
    assert fault(talks) is None
    whole = (tmp_path / "mix.h5").read_bytes()
    for length in (8, 100, len(whole) // 2, len(whole) - 1):
        assert "no whole HDF5 file" in fault_in_hdf5(whole[:length])
    assert "with T_hat" in fault(talks, "other")
    for wrong in (talks[0], talks * np.nan, talks.astype(int)):
        assert "expected finite numbers, (frames, speakers)" in fault(wrong)
    with pytest.raises(MelHuBERTError, match=r"mix\.h5: cannot be read as s3prl's predictions"):
        error_rates({"mix": [("a", 0, 1)]}, tmp_path, 1600)


def test_median_filter_and_threshold():
    talks = frames("0" * 20 + "1" * 20 + "0" * 20, "0" * 30 + "1" + "0" * 29) * 0.6
    assert turns_of(talks, 0.5, 1, 1600) == [("speaker 0", 2.0, 4.0), ("speaker 1", 3.0, 3.1)]
    assert turns_of(talks, 0.5, 11, 1600) == [("speaker 0", 2.0, 4.0)]
    assert turns_of(talks, 0.7, 1, 1600) == []
    assert turns_of(np.full((5, 2), 0.5), 0.5, 1, 1600) == []  # it is not over the threshold


def test_turns_are_all_of_a_speakers_and_their_times_are_rounded_to_10_ms():
    talks = frames("011000110000001", "000000000000000")
    found = [("speaker 0", 0.1, 0.3), ("speaker 0", 0.6, 0.8), ("speaker 0", 1.4, 1.5)]
    assert [
        (who, round(start, 6), round(end, 6)) for who, start, end in turns_of(talks, 0.5, 1, 1600)
    ] == found
    # Of frames of 15.6 ms, the second and the third talk from 15.6 to 46.9 ms.
    [(_, start, end)] = turns_of(frames("0110", "0000"), 0.5, 1, 250)
    assert (start, round(end, 6)) == (0.02, 0.05)
