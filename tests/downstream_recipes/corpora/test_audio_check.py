"""The check of a corpus' audio files, whatever corpus it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3prl_melhubert.downstream_recipes.corpora import audio_check
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems


def test_an_interrupted_check_does_not_go_on_to_its_last_file(monkeypatch):
    """Of a corpus on a slow disk, that would be minutes after Ctrl-C."""
    opened = []
    monkeypatch.setattr(audio_check, "_probe", lambda path: opened.append(path) or "not there")

    def interrupted(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audio_check.check_audio([Path(f"{i}.flac") for i in range(5000)], interrupted, Problems(), "looking")
    assert 0 < len(opened) <= 1 + audio_check.FILES_AHEAD + audio_check.THREADS
