"""eSpeak NG, as the quickstart and the lexicon use it."""

from __future__ import annotations

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


def test_ipa_marks_stress():
    with Espeak() as espeak:
        assert espeak.ipa("laughed", "en-us") == "lˈæft"
