"""The trained model of speaker verification on new audio: its scores are those of s3prl's test."""

from __future__ import annotations

import json

import numpy as np
import pytest

from s3prl_melhubert.cli import main


def test_new_audio_is_compared_as_in_the_test(hummed, upstream, tmp_path, short, capsys, write_audio, small):
    experiment = tmp_path / "EXP"
    command = ["superb", "asv", "--voxceleb", str(hummed), *upstream, "-p", str(experiment), *short(4)]
    assert main([*command, "-o", small["asv"]]) == 0
    predictions = (experiment / "test_predict.txt").read_text().splitlines()
    expected = {name: float(score) for name, score in map(str.split, predictions)}
    moved = hummed.rename(tmp_path / "moved")
    files = sorted(moved.glob("test/wav/*/*/*.wav"))
    predict = ["superb", "predict", str(experiment), "--device", "cpu"]
    capsys.readouterr()
    assert main([*predict, *map(str, files), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == list(map(str, files))
    assert rows[0]["cosine"] == pytest.approx(1, abs=1e-5)
    names = ["-".join(path.parts[-3:]).removesuffix(".wav") for path in files]
    embeddings = {name: np.array(row["embedding"]) for name, row in zip(names, rows, strict=True)}
    for name, score in expected.items():
        one, other = name.split("_")
        assert embeddings[one] @ embeddings[other] == pytest.approx(score, abs=1e-4)
    for name, row in zip(names[1:], rows[1:], strict=True):
        assert row["cosine"] == pytest.approx(expected[f"{names[0]}_{name}"], abs=1e-4)
    # What the others are compared with must be there; of the others, what is too short is left out.
    short_one = write_audio(tmp_path / "short.wav", samples=7000)
    assert main([*predict, str(files[0]), str(short_one), str(files[1])]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{files[0]}\t1.0000", f"{files[1]}\t{rows[1]['cosine']:.4f}"]
    assert "short.wav: 0.4" in said.err
    assert "are left without pauses, expected at least 0.5 s" in said.err
    assert main([*predict, str(short_one), str(files[0])]) == 2
    assert "short.wav: the others are compared with it, and it cannot be heard" in capsys.readouterr().err
