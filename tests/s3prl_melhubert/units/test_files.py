"""`melhubert units` makes them of the hidden states that it is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from s3prl_melhubert.cli import main
from s3prl_melhubert.units import output


@pytest.fixture
def run(capsys):
    """`run(*arguments)`: status, stdout, stderr of a command on the CPU."""

    def run_command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([*map(str, arguments), "--device", "cpu"]), *capsys.readouterr()

    return run_command


def test_precision_and_statistics_are_those_asked_for_and_stay_what_they_were(
    run, reference, tmp_path, monkeypatch
):
    """The centroids are the hidden states of a file's n frames, in float32 and then in bfloat16."""
    audio, out = tmp_path / "audio", tmp_path / "u.npz"
    audio.mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).normal(scale=0.1, size=8000)
        soundfile.write(audio / f"{i}.wav", noise, 16_000)
    model, stats = ("-c", reference / "tiny-20ms.ckpt"), ("--stats", "librispeech-360h")
    states = []
    for precision in ("fp32", "bf16"):
        path = tmp_path / f"{precision}.npy"
        chosen = ("--layer", 1, "--precision", precision)
        assert run("extract", *model, *stats, audio / "0.wav", "--out", path, *chosen)[0] == 0
        states.append(np.load(path))
    np.save(tmp_path / "kmeans.npy", np.concatenate(states))
    units = ("units", *model, audio, "--out", out, "--kmeans", tmp_path / "kmeans.npy", "--layer", 1)

    add = output.Unfinished.add

    def add_one(self, *arguments):
        if self.done:
            raise KeyboardInterrupt
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(output.Unfinished, "add", add_one)
        assert run(*units, *stats)[0] == 130
    for others, words in (
        (("--stats", "librispeech-100h"), "begun with statistics"),
        ((*stats, "--precision", "bf16"), "begun with precision 'fp32', now 'bf16'"),
    ):
        status, _, error = run(*units, *others)
        assert (status, words in error) == (2, True), error
    assert "(1 of them done before)" in run(*units, *stats)[1]
    n = len(states[0])
    assert set(np.load(out)["0"] // n) == {0}
    out.unlink()
    assert run(*units, *stats, "--precision", "bf16")[0] == 0
    assert set(np.load(out)["0"] // n) == {1}


def test_seconds_are_those_of_the_audio_at_once_and_in_windows(run, reference, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(scale=0.1, size=18_400), 8_000)
    np.save(tmp_path / "kmeans.npy", np.random.default_rng(1).normal(size=(5, 48)))
    given = ("-c", reference / "tiny-20ms.ckpt", "--stats", "librispeech-360h", tmp_path / "a.wav")
    given += ("--kmeans", tmp_path / "kmeans.npy", "--layer", 1)
    for windows in ((), ("--window", 1)):
        out = tmp_path / f"{len(windows)}.jsonl"
        status, printed, _ = run("units", *given, "--out", out, *windows)
        assert (status, "2.3 s of audio" in printed) == (0, True), printed
        assert json.loads(out.read_text())["seconds"] == pytest.approx(2.3)
