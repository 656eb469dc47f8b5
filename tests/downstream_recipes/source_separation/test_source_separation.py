"""Source separation: the check of Libri2Mix, and s3prl's own training and test on it."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.corpora.parallel import Recording
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.downstream_recipes.source_separation.task import draw_dev

SMALL = "config.downstream_expert.modelrc.hidden_size=8,,config.downstream_expert.loaderrc.train_batchsize=2"


@pytest.fixture
def libri2mix(tmp_path, write_audio) -> Path:
    """Two mixtures a split of two hums each."""
    root = tmp_path / "min"
    for split in ("train-100", "dev", "test"):
        for number in range(2):
            name = f"{number}-{split}_1-1.wav"
            sources = [
                soundfile.read(write_audio(root / split / source / name, samples=12_000, seed=seed))[0]
                for source, seed in (("s1", number), ("s2", number + 5))
            ]
            (root / split / "mix_clean").mkdir(exist_ok=True)
            soundfile.write(root / split / "mix_clean" / name, sum(sources), 16_000)
    return root


@pytest.mark.slow
def test_it_trains_tests_is_reported_and_submitted(libri2mix, run_task, report_and_submit):
    pytest.importorskip("asteroid")
    experiment, printed = run_task("ss", ["--libri2mix-min", str(libri2mix)], SMALL)
    result = read_result(experiment)
    metrics = experiment / "test_metrics.txt"
    figures = {name: float(value) for name, value in map(str.split, metrics.read_text().splitlines())}
    assert result.value == pytest.approx(figures["si_sdr"], abs=1e-4)
    assert result.further["PESQ"] == pytest.approx(figures["pesq"], abs=1e-4)
    assert f"ss SI-SDRi {result.value:.2f} dB, STOI " in printed
    assert f"(dev {result.dev:.2f} dB)" in printed
    table, predict = report_and_submit("ss", experiment)
    assert "| SS: SI-SDRi dB ↑ | SS: STOI % ↑ | SS: PESQ ↑ |" in " ".join(table.splitlines()[0].split())
    assert (predict / "ss_public/metrics.txt").read_bytes() == metrics.read_bytes()


def test_new_audio_is_separated_as_in_the_test(libri2mix, run_task, stand_in_for_asteroid, tmp_path, capsys):
    experiment, _ = run_task("ss", ["--libri2mix-min", str(libri2mix)], SMALL)
    tested = stand_in_for_asteroid[-2:]
    moved, out = libri2mix.rename(tmp_path / "moved") / "test/mix_clean", tmp_path / "out"
    command = [
        "superb",
        "predict",
        str(experiment),
        str(moved),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--json",
    ]
    assert main(command) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for number, (row, expected) in enumerate(zip(rows, tested, strict=True)):
        name = f"{number}-test_1-1.wav"
        sources = {source: str(out / source / name) for source in ("s1", "s2")}
        assert row == {"file": str(moved / name), "seconds": 0.75, **sources}
        found = np.stack([soundfile.read(path, dtype="float32")[0] for path in sources.values()])
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_it_runs_in_s3prls_own_program(libri2mix, run_in_checkout):
    pytest.importorskip("asteroid")
    corpus = ["--libri2mix-min", str(libri2mix)]
    experiment = run_in_checkout("ss", "separation_stft", "test", corpus, SMALL)
    assert len((experiment / "test_metrics.txt").read_text().splitlines()) == 3


def test_the_dev_mixtures_are_those_that_superb_draws():
    """s3prl seeds Python's own generator, shuffles the sorted names, and sorts what it took."""
    names = sorted(f"{number}_x" for number in range(3000))
    theirs = list(names)
    random.seed(7)
    random.shuffle(theirs)
    found = draw_dev([Recording(name, {}, 1) for name in names])
    assert [each.name for each in found] == sorted(theirs[:1000])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda root: shutil.rmtree(root / "dev"),
            "expected train-100, dev and test here, without dev",
        ),
        (
            lambda root: shutil.rmtree(root / "test/s2"),
            "test/s2: No such file or directory, expected a folder of WAV files",
        ),
        (
            lambda root: (root / "test/s2/0-test_1-1.wav").rename(root / "test/s2/9-test_1-1.wav"),
            "a signal is not there: 2 (test: 0-test_1-1 (s2), test: 9-test_1-1 (mix_clean, s1))",
        ),
        (
            lambda root: [
                path.rename(path.with_name("a b.wav")) for path in root.glob("dev/*/0-dev_1-1.wav")
            ],
            "paths with a blank, at which s3prl cuts them: 3 (",
        ),
        (
            lambda root: [
                path.rename(path.with_name("\udce9.wav")) for path in root.glob("dev/*/0-dev_1-1.wav")
            ],
            "cannot be read to their end: 3 (",
        ),
    ],
)
@pytest.mark.usefixtures("stand_in_for_asteroid")
def test_each_fault_is_named(libri2mix, tmp_path, capsys, short, spoil, told):
    spoil(libri2mix)
    command = ["superb", "ss", "--libri2mix-min", str(libri2mix), "-u", "fbank", *short()]
    assert main([*command, "-p", str(tmp_path / "EXP")]) == 2
    assert told in capsys.readouterr().err


def test_without_asteroid_a_line_says_what_to_install(libri2mix, tmp_path, capsys, short, monkeypatch):
    monkeypatch.setitem(sys.modules, "asteroid", None)
    command = ["superb", "ss", "--libri2mix-min", str(libri2mix), "-u", "fbank", *short()]
    assert main([*command, "-p", str(tmp_path / "EXP")]) == 2
    assert "source separation needs asteroid, which cannot be imported" in capsys.readouterr().err
