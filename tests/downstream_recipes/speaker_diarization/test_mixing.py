"""`melhubert superb make-sd`: mixtures from LibriSpeech and LibriMix's lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.speaker_diarization.kaldi_data import check_kaldi_data
from s3prl_melhubert.downstream_recipes.speaker_diarization.mixing import differences_of_origin

SPLITS = {"train-clean-100": (10, 11), "dev-clean": (20, 21), "test-clean": (30, 31)}
HEADER = "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,noise_path,noise_gain"


@pytest.fixture
def lists(librispeech, tmp_path) -> Path:
    """LibriMix's lists of two mixtures for each split of `librispeech`."""
    folder = tmp_path / "metadata"
    folder.mkdir()
    for split, (first, second) in SPLITS.items():
        rows = [HEADER]
        for one, two in ((0, 1), (2, 3)):
            names = f"{first}-7-{one:04d}", f"{second}-7-{two:04d}"
            paths = [f"{split}/{name.partition('-')[0]}/7/{name}.flac" for name in names]
            rows.append(f"{names[0]}_{names[1]},{paths[0]},0.5,{paths[1]},0.25,tt/noise.wav,1.0")
        (folder / f"libri2mix_{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def command(librispeech, lists, tmp_path) -> list[str]:
    return [
        *("superb", "make-sd", "--librispeech", str(librispeech), "--mixtures", str(lists)),
        *("--out", str(tmp_path / "libri2mix")),
    ]


def test_a_mixture_is_the_sum_of_its_sources_times_their_gains(command, librispeech, tmp_path, capsys):
    assert main(command) == 0
    assert "test: 2 mixtures" in capsys.readouterr().out
    root = tmp_path / "libri2mix"
    problems = Problems()
    [first, _] = check_kaldi_data(root / "test", problems)
    problems.raise_if_any("mixtures")
    assert first.name == "30-7-0000_31-7-0001"
    sources = [soundfile.read(path)[0] for path in sorted(librispeech.glob("test-clean/*/7/*-000[01].flac"))]
    expected = np.zeros(max(map(len, sources)))
    for source, gain in zip(sources, (0.5, 0.25), strict=True):
        expected[: len(source)] += gain * source
    np.testing.assert_allclose(soundfile.read(first.path)[0], expected, atol=1e-4)
    assert first.turns == (("30", 0.0, 4000 / 16000), ("31", 0.0, 6000 / 16000))
    assert [str(each) for each in differences_of_origin(root)] == [
        "noise of the mixtures none (SUPERB: WHAM!)",
        "turns of the mixtures whole utterances (SUPERB: forced alignment)",
    ]


def test_turns_are_those_of_the_rttm_files(command, tmp_path):
    turns = tmp_path / "turns"
    turns.mkdir()
    for split, speakers in SPLITS.items():
        lines = [
            f"SPEAKER {name} 1 {start} 0.05 <NA> <NA> {speaker} <NA> <NA>\n"
            for speaker in speakers
            for i in range(4)
            for name in [f"{speaker}-7-{i:04d}" if split == "dev-clean" else f"7-{i:04d}"]
            for start in (0.02, 0.12)
        ]
        (turns / f"{split.replace('-', '_')}.rttm").write_text("".join(lines))
    assert main([*command, "--turns", str(turns)]) == 0
    root = tmp_path / "libri2mix"
    for split in ("dev", "test"):
        [first, _] = check_kaldi_data(root / split, Problems())
        one, two = map(str, SPLITS[f"{split}-clean"])
        assert first.turns == ((one, 0.02, 0.07), (one, 0.12, 0.17), (two, 0.02, 0.07), (two, 0.12, 0.17))
    assert [each.setting for each in differences_of_origin(root)] == ["noise of the mixtures"]
    (turns / "dev_clean.rttm").write_text("")
    assert main([*command, "--turns", str(turns)]) == 2


def test_what_was_mixed_before_is_kept(command, tmp_path):
    assert main(command) == 0
    wavs = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "libri2mix").rglob("*.wav"))}
    damaged = next(iter(wavs))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert main(command) == 0
    again = {path: path.stat().st_mtime_ns for path in wavs}
    assert [path for path in wavs if again[path] != wavs[path]] == [damaged]


def test_mixtures_of_other_lists_take_the_place_of_those_that_are_there(command, lists, tmp_path):
    assert main(command) == 0
    quiet, kept = (tmp_path / f"libri2mix/{split}/wav" for split in ("dev", "test"))
    before = {path: path.read_bytes() for folder in (quiet, kept) for path in folder.iterdir()}
    dev = lists / "libri2mix_dev-clean.csv"
    dev.write_text(dev.read_text().replace(",0.5,", ",0.05,"))
    assert main(command) == 0
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    assert changed == set(quiet.iterdir())


def test_clipped_mixtures_are_counted(command, lists, capsys):
    dev = lists / "libri2mix_dev-clean.csv"
    dev.write_text(dev.read_text().replace(",0.5,", ",50,", 1))
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "dev: 1 of 2 mixtures are over full scale and were clipped" in printed
    assert "test: " not in printed.partition("clipped")[0]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text.replace(",0.5,", ",nan,", 1), "libri2mix_dev-clean.csv line 2: nan"),
        (lambda text: text.replace(",0.25,", ",-1e9,"), "above 0: 2 (libri2mix_dev-clean.csv line 2: -1"),
        (lambda text: text.replace(",0.25,", ",inf,"), "line 3: inf); take LibriMix's own lists"),
        (
            lambda text: text + text.splitlines()[-1] + "\n",
            "listed more than once: 1 (20-7-0002_21-7-0003 in",
        ),
        (lambda text: HEADER + "\n", "lists without a mixture: 1 (libri2mix_dev-clean.csv)"),
    ],
)
def test_lists_that_make_no_mixtures_of_librimix_are_refused(edit, said, command, lists, tmp_path, capsys):
    dev = lists / "libri2mix_dev-clean.csv"
    dev.write_text(edit(dev.read_text()))
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "libri2mix/train").exists()


def test_workers_below_zero_are_refused(command, capsys):
    assert main([*command, "--workers", "-3"]) == 2
    assert "--workers -3: expected 0" in capsys.readouterr().err


def test_faults_are_named(command, librispeech, lists, tmp_path, capsys):
    (librispeech / "dev-clean/20/7/20-7-0002.flac").unlink()
    assert main(command) == 2
    assert "sources that are not there: 1 (" in capsys.readouterr().err
    assert not (tmp_path / "libri2mix/train").exists()
    (lists / "libri2mix_dev-clean.csv").write_text("mixture,path\na,b\n")
    assert main(command) == 2
    assert "libri2mix_dev-clean.csv: cannot be read as LibriMix's list" in capsys.readouterr().err
    (lists / "libri2mix_dev-clean.csv").unlink()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "libri2mix_dev-clean.csv: not there" in said
    assert "github.com/JorisCos/LibriMix" in said


@pytest.mark.usefixtures("librispeech")
def test_mixtures_are_what_the_task_takes(command, tmp_path, short, capsys):
    pytest.importorskip("h5py")
    pytest.importorskip("pyannote.metrics")
    assert main(command) == 0
    run = [
        "superb",
        "sd",
        "--libri2mix",
        str(tmp_path / "libri2mix"),
        "-u",
        "fbank",
        "-p",
        str(tmp_path / "EXP"),
    ]
    assert main([*run, *short(), "-o", "config.downstream_expert.modelrc.hidden_size=8"]) == 0
    assert "\n  noise of the mixtures none (SUPERB: WHAM!)" in capsys.readouterr().out
