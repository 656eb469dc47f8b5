"""Speech enhancement: the check of VoiceBank-DEMAND, and s3prl's own training and test on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.prediction import Predictor
from s3prl_melhubert.downstream_recipes.report.results import read_result

SMALL = "config.downstream_expert.modelrc.hidden_size=8,,config.downstream_expert.loaderrc.train_batchsize=2"
NOISY = "noisy_{}_wav_16k"
TRAIN, TEST = "trainset_28spk", "testset"


@pytest.fixture
def voicebank(tmp_path, write_audio) -> Path:
    """Two recordings a split, hummed, and with noise."""
    root = tmp_path / "voicebank"
    names = {TRAIN: ("p225_001", "p227_001", "p226_001", "p287_002"), TEST: ("p232_001", "p257_002")}
    for part, recordings in names.items():
        for seed, name in enumerate(recordings):
            clean = write_audio(root / f"clean_{part}_wav_16k/{name}.wav", samples=16_000, seed=seed)
            noise = np.random.default_rng(seed).normal(0, 0.1, 16_000)
            noisy = root / NOISY.format(part) / f"{name}.wav"
            noisy.parent.mkdir(exist_ok=True)
            soundfile.write(noisy, soundfile.read(clean)[0] + noise, 16_000)
    return root


def pesq_of(enhanced: Path, clean: Path, noisy: Path) -> float:
    """The mean PESQ of the files in a folder."""
    from asteroid.metrics import get_metrics

    scores = []
    for path in sorted(enhanced.iterdir()):
        signals = [soundfile.read(folder / path.name)[0][None] for folder in (noisy, clean, enhanced)]
        scores.append(get_metrics(*signals, sample_rate=16_000, metrics_list=["pesq"])["pesq"])
    return float(np.mean(scores))


@pytest.mark.slow
def test_it_trains_tests_is_reported_and_submitted(voicebank, run_task, report_and_submit, tmp_path, capsys):
    pytest.importorskip("asteroid")
    experiment, printed = run_task("se", ["--voicebank", str(voicebank)], SMALL)
    assert "utterances of train 2 (SUPERB: 10802)" in printed
    result = read_result(experiment)
    metrics = experiment / "test_metrics.txt"
    figures = {name: float(value) for name, value in map(str.split, metrics.read_text().splitlines())}
    assert 1 <= result.value <= 4.65  # the range of PESQ
    assert result.value == pytest.approx(figures["pesq"], abs=1e-4)
    assert result.further["STOI"] == pytest.approx(100 * figures["stoi"], abs=0.01)
    assert result.further["SI-SDRi"] == pytest.approx(figures["si_sdr"], abs=1e-4)
    stoi, improvement = result.further["STOI"], result.further["SI-SDRi"]
    assert f"se PESQ {result.value:.2f}, STOI {stoi:.2f} %, SI-SDRi {improvement:.2f} dB on test" in printed
    table, predict = report_and_submit("se", experiment)
    assert "| SE: PESQ ↑ | SE: STOI % ↑ | SE: SI-SDRi dB ↑ |" in " ".join(table.splitlines()[0].split())
    assert (predict / "se_public/metrics.txt").read_bytes() == metrics.read_bytes()
    out = tmp_path / "enhanced"
    noisy = voicebank / NOISY.format(TEST)
    assert main(["superb", "predict", str(experiment), str(noisy), "--out", str(out), "--device", "cpu"]) == 0
    assert pesq_of(out, voicebank / f"clean_{TEST}_wav_16k", noisy) == pytest.approx(result.value, abs=1e-4)
    capsys.readouterr()
    for wrong in ("pesq 4.5", "si_sdr 1\nstoi nan\npesq 2"):
        metrics.write_text(wrong + "\n")
        assert main(["superb", "submit", "--se", str(experiment), "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err
        assert "test_metrics.txt: is not a line with the value of each of si_sdr, stoi, pesq: 1" in told


def test_new_audio_is_enhanced_as_in_the_test(
    voicebank, upstream, stand_in_for_asteroid, short, tmp_path, capsys
):
    experiment, out = tmp_path / "EXP", tmp_path / "out"
    command = ["superb", "se", "--voicebank", str(voicebank), *upstream, "-p", str(experiment), *short()]
    assert main([*command, "-o", SMALL]) == 0
    tested = stand_in_for_asteroid[-2:]
    moved = voicebank.rename(tmp_path / "moved") / NOISY.format(TEST)
    predict = ["superb", "predict", str(experiment), str(moved), "--device", "cpu"]
    capsys.readouterr()
    assert main([*predict, "--out", str(out)]) == 0
    names = ("p232_001", "p257_002")
    lines = [f"{moved / name}.wav\t{out / name}.wav" for name in names]
    assert capsys.readouterr().out.splitlines() == lines
    for name, expected in zip(names, tested, strict=True):
        found, rate = soundfile.read(out / f"{name}.wav", dtype="float32", always_2d=True)
        assert rate == 16_000
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found.T, expected, rtol=0, atol=1e-6)
    # Nothing takes the place of what was given, and without a folder nothing is done.
    before = (moved / "p232_001.wav").read_bytes()
    assert main([*predict, "--out", str(moved)]) == 2
    assert "p232_001.wav would take the place of" in capsys.readouterr().err
    assert (moved / "p232_001.wav").read_bytes() == before
    for wrong, told in (
        ([], "speech enhancement (se) makes sound of a file; give a folder for it with --out"),
        (["--top", "2"], "--top 2: speech enhancement (se) has no classes"),
        (["--rttm"], "--rttm: speech enhancement (se) marks no turns of speakers"),
    ):
        assert main([*predict, *wrong]) == 2
        assert told in capsys.readouterr().err
    # Silence is silent, and a single sample is one.
    predictor = Predictor(experiment, device="cpu")
    silent = predictor(np.zeros(4000, np.float32)).signals["enhanced"]
    assert silent.shape == (4000,)
    assert not silent.any()
    assert predictor(np.ones(1, np.float32)).signals["enhanced"].shape == (1,)


@pytest.mark.usefixtures("stand_in_for_asteroid")
def test_lists_of_the_splits_are_s3prls(voicebank, tmp_path):
    out = tmp_path / "out"
    assert main(["superb", "config", "se", "--voicebank", str(voicebank), "--out", str(out)]) == 0
    [settings] = out.glob("*.yaml")
    section = yaml.safe_load(settings.read_text())["downstream_expert"]["loaderrc"]
    for split, names in {
        "train": ("p225_001", "p227_001"),
        "dev": ("p226_001", "p287_002"),
        "test": ("p232_001", "p257_002"),
    }.items():
        for signal in ("noisy", "clean"):
            lines = (Path(section[f"{split}_dir"]) / signal / "wav.scp").read_text().splitlines()
            folder = voicebank / f"{signal}_{TEST if split == 'test' else TRAIN}_wav_16k"
            assert lines == [f"{name} {folder / name}.wav" for name in names]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda root: (root / "clean_testset_wav_16k/p232_001.wav").unlink(),
            "a signal is not there: 1 (test: p232_001 (clean))",
        ),
        (
            lambda root: soundfile.write(root / "clean_testset_wav_16k/p232_001.wav", np.ones(9000), 16_000),
            "different lengths: 1 (test: p232_001)",
        ),
        (
            lambda root: [
                soundfile.write(root / f"{signal}_testset_wav_16k/p232_001.wav", np.ones(3999), 16_000)
                for signal in ("clean", "noisy")
            ],
            "less than 0.25 s, which PESQ cannot score: 1 (test: p232_001)",
        ),
        (
            lambda root: soundfile.write(root / "clean_testset_wav_16k/p232_001.wav", np.ones(9000), 48_000),
            "not at 16000 Hz: 1 (test: p232_001.wav at 48000)",
        ),
        (
            lambda root: [path.unlink() for path in root.glob("*_trainset_28spk_wav_16k/*")],
            "sets without a recording: 1 (train)",
        ),
        (
            lambda root: [path.unlink() for path in root.glob("*_trainset_28spk_wav_16k/p2?[67]_*")],
            "sets without a recording: 1 (dev (of dev are the speakers p226 and p287))",
        ),
        (lambda root: root.joinpath("noisy_testset_wav_16k").rename(root / "x"), "No such file or directory"),
        (
            lambda root: root.rename(root.with_name("elsewhere")),
            "no such folder, expected VoiceBank-DEMAND's",
        ),
    ],
)
@pytest.mark.usefixtures("stand_in_for_asteroid")
def test_each_fault_is_named(voicebank, tmp_path, capsys, short, spoil, told):
    spoil(voicebank)
    command = ["superb", "se", "--voicebank", str(voicebank), "-u", "fbank", *short()]
    assert main([*command, "-p", str(tmp_path / "EXP")]) == 2
    assert told in capsys.readouterr().err
