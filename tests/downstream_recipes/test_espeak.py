"""eSpeak NG, as the quickstart and the lexicon use it."""

from __future__ import annotations

import numpy as np
import pytest

from s3prl_melhubert.downstream_recipes.espeak import Espeak, Voice
from s3prl_melhubert.errors import MelHuBERTError

loader = pytest.importorskip("espeakng_loader")


def test_voice_that_espeak_does_not_have_is_named():
    with Espeak() as espeak, pytest.raises(MelHuBERTError, match="xx-nowhere"):
        espeak.speak("hello", Voice("xx-nowhere"))


def test_starts_from_a_folder_with_a_long_name(tmp_path, monkeypatch):
    """eSpeak itself gives up where the path of its data is longer than 160 characters."""
    deep = tmp_path / ("x" * 150) / "espeak-ng-data"
    deep.parent.mkdir()
    deep.symlink_to(loader.get_data_path())
    monkeypatch.setattr(loader, "get_data_path", lambda: str(deep))
    with Espeak() as espeak:
        assert len(espeak.speak("the quiet boy laughed", Voice("en-us+m3"))) > 8000


def test_longer_vocal_tract_lowers_the_resonances_and_keeps_the_duration():
    frequencies = np.arange(401) * 20  # Hz, of a spectrum of 800 samples
    spectra, durations = [], []
    for tract in (1.0, 1.2):
        with Espeak() as espeak:
            speech = espeak.speak("father father father father", Voice("en-us+m3", tract=tract))
        durations.append(len(speech))
        frames = np.lib.stride_tricks.sliding_window_view(speech, 800)[::160] * np.hanning(800)
        spectra.append(np.square(np.abs(np.fft.rfft(frames))).sum(0))
    assert durations[1] == pytest.approx(durations[0], rel=0.1)
    centers = [(frequencies * spectrum).sum() / spectrum.sum() for spectrum in spectra]
    assert centers[0] / centers[1] == pytest.approx(1.2, rel=0.08)


def test_ipa_marks_stress():
    with Espeak() as espeak:
        assert espeak.ipa("laughed", "en-us") == "lˈæft"
