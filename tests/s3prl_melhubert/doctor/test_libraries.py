"""What the doctor says of a library that one kind of work alone needs."""

from __future__ import annotations

import pytest

from s3prl_melhubert.doctor import libraries
from s3prl_melhubert.doctor.findings import Context
from s3prl_melhubert.doctor.probes import Probe
from s3prl_melhubert.doctor.requirements import KENLM


@pytest.mark.parametrize(
    ("python", "version", "error", "status", "words"),
    [
        ((3, 11, 7), "0.0.7", "", "ok", "flashlight-text 0.0.7 decodes"),
        ((3, 13, 0), None, "No module named 'flashlight'", "note", "no wheel for Python 3.13"),
        ((3, 12, 1), None, "No module named 'flashlight'", "note", "pip install flashlight-text"),
        ((3, 12, 1), "0.0.7", "ImportError: undefined symbol", "problem", "undefined symbol"),
    ],
)
def test_missing_language_model_is_a_note_and_a_broken_one_a_problem(
    monkeypatch, python, version, error, status, words
):
    monkeypatch.setattr(libraries.sys, "version_info", python)
    monkeypatch.setattr(libraries, "installed_version", lambda name: version)
    told = {"module": KENLM, "error": error}
    monkeypatch.setattr(libraries, "run_probe", lambda *arguments: Probe([told]))
    [finding] = libraries.check_language_model(Context())
    assert finding.status == status
    assert words in finding.text
    assert bool(finding.mend) == (status == "problem")
