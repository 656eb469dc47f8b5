"""Windows of long recordings: every frame once, at its time, near what the whole recording gives."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import soundfile
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s3prl_melhubert import MelHuBERTError, cli, load_model
from s3prl_melhubert.audio import audio_pieces, read_audio
from s3prl_melhubert.extraction import Windows, long_files, streamed_features, windowed_hidden_states
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.statistics import FeatureStats

STATS = "librispeech-360h"

# Runs a command line, then prints the largest memory of this process alone, in bytes.
MEASURED = """
import json, sys
from pathlib import Path
from s3prl_melhubert import cli
status = cli.main(sys.argv[1:])
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(json.dumps({"status": status, "peak": int(peak.split()[1]) * 1024}))
"""


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """(n,) float32 noise at 16 kHz, whose loudness changes every 100 ms, as that of speech does."""
    generator = np.random.default_rng(seed)
    samples = generator.normal(0, 0.1, math.ceil(seconds * 16_000)).astype(np.float32)
    loudness = np.exp(generator.normal(-1, 1, math.ceil(seconds * 10))).astype(np.float32)
    return (samples * np.repeat(loudness, 1600)[: len(samples)]).clip(-1, 1)


@pytest.fixture(params=["tiny-20ms", "tiny-10ms"])
def tiny(request, reference):
    return load_model(reference / f"{request.param}.ckpt", STATS)


def whole(model, features: torch.Tensor) -> torch.Tensor:
    """(L, T, C) hidden states of features (T, D) that are read at once."""
    with torch.inference_mode():
        return torch.cat(model(features[None]).hidden_states)


@pytest.mark.parametrize(("length", "overlap"), [(50, 0), (50, 1), (50, 7), (50, 25), (50, 40), (50, 49)])
def test_every_frame_is_kept_once_and_with_half_the_overlap_around_it(length, overlap):
    windows = Windows(length, overlap)
    for frames in [*range(1, 160), 1000, 1001]:
        spans = windows.spans(frames)
        kept = [frame for span in spans for frame in range(span.keep_start, span.keep_stop)]
        assert kept == list(range(frames))
        assert {span.stop - span.start for span in spans} == {min(length, frames)}
        assert spans[0].start == 0
        assert spans[-1].stop == frames
        for span in spans:
            if span.start > 0:
                assert span.keep_start - span.start >= overlap // 2
            if span.stop < frames:
                assert span.stop - span.keep_stop >= overlap // 2


def test_a_window_that_covers_the_recording_changes_nothing(tiny):
    model, frontend = tiny
    [features] = frontend([torch.from_numpy(noise(2.0))])[0]
    [states] = windowed_hidden_states(model, features, Windows(len(features), 10))
    assert torch.equal(states, whole(model, features))


def test_windows_are_the_model_on_each_and_near_the_whole_far_from_cuts(tiny):
    model, frontend = tiny
    [features] = frontend([torch.from_numpy(noise(12.0))])[0]
    expected = whole(model, features)
    period = model.config.frame_period
    windows = Windows.of_seconds(4, 2, period)
    for max_frames in (1, 10_000):  # one window at a time, and all in a batch
        found = torch.cat(
            list(windowed_hidden_states(model, features, windows, max_frames=max_frames)), dim=1
        )
        assert found.shape == expected.shape
        for span in windows.spans(len(features)):
            alone = whole(model, features[span.start : span.stop])
            kept = alone[:, span.keep_start - span.start : span.keep_stop - span.start]
            torch.testing.assert_close(found[:, span.keep_start : span.keep_stop], kept, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)  # the projected input has no context
    away = (found - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))
    assert away.max() < 0.1
    assert away[1:].min() > 0
    # A frame too early or too late would be further away.
    shifted = (found.roll(1, dims=1) - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))
    assert (shifted > 2 * away).all()


@pytest.mark.parametrize("frame_period", [10, 20])
@pytest.mark.parametrize("samples", [1, 399, 400, 559, 560, 719, 720, 16_000, 100_123])
def test_features_in_pieces_are_those_of_the_whole(frame_period, samples):
    frontend = Frontend(FeatureStats.load(STATS), frame_period)
    waveform = noise(samples / 16_000)[:samples]
    [expected] = frontend([torch.from_numpy(waveform)])[0]
    for size in (samples, 16_007, 401, 97) if samples < 2000 else (samples, 16_007, 4001):
        pieces = [waveform[i : i + size] for i in range(0, samples, size)]
        torch.testing.assert_close(streamed_features(pieces, frontend), expected, atol=1e-4, rtol=1e-5)


def test_log_mel_of_minutes_is_that_of_seconds():
    frontend = Frontend(FeatureStats.load(STATS), 20)
    waveform = torch.from_numpy(noise(70))
    [features] = frontend([waveform])[0]  # over the length from which on it works in blocks
    assert features.shape == (frontend.frame_count(len(waveform)), 80)
    [seconds] = frontend([waveform[320 * 3000 : 320 * 3000 + 40_000]])[0]
    torch.testing.assert_close(features[3000:3100], seconds[:100], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("rate", "channels", "suffix"), [(16_000, 1, "flac"), (44_100, 2, "wav"), (8_000, 1, "ogg")]
)
def test_pieces_of_a_file_are_its_samples(tmp_path, monkeypatch, rate, channels, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, (3 * rate, channels)), rate)
    expected = read_audio(path)
    monkeypatch.setattr("s3prl_melhubert.audio.STREAM_VALUES", 20_000)
    pieces = list(audio_pieces(path))
    assert len(pieces) > 1
    assert {(piece.original_rate, piece.original_channels) for piece in pieces} == {(rate, channels)}
    np.testing.assert_array_equal(np.concatenate([piece.waveform for piece in pieces]), expected.waveform)


@pytest.fixture
def folder(tmp_path):
    """A long file, one just above a window of 2 s, a short one, and one that is bad in its middle."""
    speech = tmp_path / "speech"
    speech.mkdir()
    for name, seconds in {"long": 11.3, "above": 2.04, "short": 1.5}.items():
        soundfile.write(speech / f"{name}.wav", noise(seconds), 16_000)
    bad = noise(10)
    bad[80_000] = np.nan
    soundfile.write(speech / "bad.wav", bad, 16_000, subtype="FLOAT")
    return speech


@pytest.mark.parametrize("layers", [[], ["--layer", "1"], ["--layer", "2,0"]])
@pytest.mark.parametrize("out", ["out.npz", "out"])
def test_command_writes_as_many_frames_as_without_windows(
    reference, folder, tmp_path, capsys, monkeypatch, out, layers
):
    monkeypatch.setattr("s3prl_melhubert.audio.STREAM_VALUES", 30_000)
    command = [
        "extract",
        "-c",
        str(reference / "tiny-20ms.ckpt"),
        "--stats",
        STATS,
        "--device",
        "cpu",
        *layers,
    ]
    found = []
    for options in ([], ["--window", "2", "--overlap", "1"]):
        to = tmp_path / f"{len(options)}" / out
        to.parent.mkdir()
        assert cli.main([*command, str(folder), "--out", str(to), *options]) == 1
        printed, notes = capsys.readouterr()
        assert "3 utterances" in printed
        assert "skipped 1 of 4 files" in notes
        assert "bad.wav: NaN or infinite samples found" in notes
        assert "at once" not in notes  # nothing is long
        if out == "out.npz":
            found.append(dict(np.load(to)))
            assert [path.name for path in to.parent.iterdir()] == [out]
        else:
            found.append({path.stem: np.load(path) for path in to.iterdir()})
    expected, windowed = found
    assert set(windowed) == {"long", "above", "short"}
    np.testing.assert_array_equal(windowed["short"], expected["short"])
    for name in ("long", "above"):
        assert windowed[name].dtype == np.float32
        assert windowed[name].shape == expected[name].shape
        away = np.linalg.norm(windowed[name] - expected[name]) / np.linalg.norm(expected[name])
        assert 0 < away < 0.15, name


def test_windows_are_read_in_the_precision_that_is_asked_for(reference, folder, tmp_path):
    command = ["extract", "-c", str(reference / "tiny-20ms.ckpt"), "--stats", STATS, "--device", "cpu"]
    found = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / f"{precision}.npy"
        options = ["--out", str(out), "--window", "2", "--precision", precision]
        assert cli.main([*command, str(folder / "long.wav"), *options]) == 0
        found.append(np.load(out))
    assert 1e-4 < np.abs(found[0] - found[1]).max() < 0.5


def test_a_window_longer_than_all_gives_the_same_file(reference, folder, tmp_path):
    (folder / "bad.wav").unlink()
    command = ["extract", "-c", str(reference / "tiny-20ms.ckpt"), "--stats", STATS, "--device", "cpu"]
    assert cli.main([*command, str(folder), "--out", str(tmp_path / "a.npz")]) == 0
    assert cli.main([*command, str(folder), "--out", str(tmp_path / "b.npz"), "--window", "12"]) == 0
    a, b = np.load(tmp_path / "a.npz"), np.load(tmp_path / "b.npz")
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--window", "0.5"], ["window: 0.5 s", "1 s or more"]),
        (["--window", "nan"], ["window: nan"]),
        (["--window", "inf"], ["window: inf"]),
        (["--window", "1e308"], ["window: 1e+308 s", "at most 1e+09 s"]),
        (["--window", "10", "--overlap", "1e308"], ["overlap: 1e+308 s", "less than the window"]),
        (["--window", "10", "--overlap", "10"], ["overlap: 10 s", "less than the window"]),
        (["--window", "10", "--overlap", "-1"], ["overlap: -1 s", "0 s or more"]),
        (["--window", "10", "--overlap", "nan"], ["overlap: nan"]),
        (["--overlap", "4"], ["overlap: 4 s", "--window"]),
    ],
)
def test_windows_that_cannot_be_are_one_clear_line(reference, folder, tmp_path, capsys, options, words):
    command = ["extract", "-c", str(reference / "tiny-20ms.ckpt"), "--stats", STATS, "--device", "cpu"]
    assert cli.main([*command, str(folder), "--out", str(tmp_path / "o.npz"), *options]) == 2
    printed, notes = capsys.readouterr()
    assert printed == ""
    assert notes.count("\n") == 1
    for word in words:
        assert word in notes
    assert not (tmp_path / "o.npz").exists()


def test_a_window_has_a_default_overlap():
    assert Windows.of_seconds(30, None, 20) == Windows(1500, 200)
    assert Windows.of_seconds(2, None, 10) == Windows(200, 50)


def test_the_shortest_window_may_share_nothing():
    assert Windows.asked_for(1, 0, 20) == Windows(50, 0)
    assert Windows.asked_for(None, None, 20) is None


def test_long_files_are_told_before_and_what_does_not_fit_is_refused(
    reference, folder, tmp_path, capsys, monkeypatch
):
    (folder / "bad.wav").unlink()
    monkeypatch.setattr(long_files, "LONG", 2)
    command = ["extract", "-c", str(reference / "tiny-20ms.ckpt"), "--stats", STATS, "--device", "cpu"]
    assert cli.main([*command, str(folder), "--out", str(tmp_path / "o.npz")]) == 0
    [line] = capsys.readouterr().err.splitlines()
    for word in ("long.wav: 0 min at once", "MB of memory", "1 more", "--window 30 --overlap 4"):
        assert word in line

    monkeypatch.setattr(long_files, "available_memory", lambda: 1_000_000)
    # In a folder it is one bad file among others.
    assert cli.main([*command, str(folder), "--out", str(tmp_path / "o.npz")]) == 1
    notes = capsys.readouterr().err
    assert "skipped 1 of 3 files" in notes
    assert "long.wav: 0 min at once need about" in notes
    assert set(np.load(tmp_path / "o.npz")) == {"above", "short"}
    # Alone it is an error, and windows are the way out.
    alone = [*command, str(folder / "long.wav"), "--out", str(tmp_path / "o.npy")]
    assert cli.main(alone) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--window 30 --overlap 4" in line
    assert not (tmp_path / "o.npy").exists()
    assert cli.main([*alone, "--window", "2"]) == 0
    assert capsys.readouterr().err == ""


def test_estimates_grow_as_the_work_does(tiny_model):
    config = tiny_model().config
    assert long_files.memory_at_once(config, 2000, [2]) == 2 * long_files.memory_at_once(config, 1000, [2])
    assert long_files.work_at_once(config, 1500) == 1
    hours = [long_files.work_at_once(config, hour * 180_000) for hour in (1, 2)]
    assert hours[1] / hours[0] == pytest.approx(
        2, rel=0.01
    )  # a frame's work; there are twice as many of them


def test_work_is_what_torch_counts_in_the_layers(tiny_model):
    def counted(frames: int) -> float:
        """Multiplications of a frame."""
        with torch.device("meta"):
            model, features = MelHuBERT(config).eval(), torch.empty(1, frames, config.feat_emb_dim)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(features)
        parts = {part: sum(counts.values()) for part, counts in counter.get_flop_counts().items()}
        return (parts["MelHuBERT.encoder"] - parts["MelHuBERT.encoder.pos_conv"]) / frames

    config = tiny_model().config
    assert long_files.work_at_once(config, 9000) == pytest.approx(counted(9000) / counted(1500), rel=1e-6)


def test_memory_holds_the_hidden_states_that_are_kept_and_those_that_are_written(tiny_model):
    config = tiny_model().config
    numbers = 4 * 1000  # bytes of one number in each of 1000 frames
    width, inner = numbers * config.encoder_embed_dim, numbers * config.encoder_ffn_embed_dim
    least = numbers * (config.feat_emb_dim + 2 * 320) + (config.encoder_layers + 1) * width
    assert long_files.memory_at_once(config, 1000, [2]) == least + 2 * inner + 2 * width
    many = [0, 1, 2] * 20
    assert long_files.memory_at_once(config, 1000, many) == least + len(many) * width


def test_audio_that_would_not_fit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        for _ in range(40):
            file.write(np.zeros(2**20, np.int16))
    assert path.stat().st_size < 1_000_000  # and 168 MB of samples, held twice
    monkeypatch.setattr("s3prl_melhubert.audio.available_memory", lambda: 300_000_000)
    monkeypatch.setattr("s3prl_melhubert.audio._decode", None)
    with pytest.raises(MelHuBERTError, match=r"silence\.flac: its 0\.7 h take 336 MB to read, and 300 MB"):
        read_audio(path)


@pytest.mark.slow
def test_an_hour_takes_little_more_memory_than_a_minute(run_python, reference, tmp_path):
    minute = noise(60)
    peaks = []
    for minutes in (1, 60):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", 16_000, 1) as file:
            for number in range(minutes):
                file.write(np.roll(minute, 1000 * number))
        done = run_python(
            *(
                "-c",
                MEASURED,
                "extract",
                "-c",
                reference / "tiny-20ms.ckpt",
                "--stats",
                STATS,
                "--device",
                "cpu",
            ),
            *(
                tmp_path / f"{minutes}.wav",
                "--out",
                tmp_path / f"{minutes}.npz",
                "--window",
                30,
                "--overlap",
                4,
            ),
            OMP_NUM_THREADS="1",
        )
        assert done.returncode == 0, done.stderr
        measured = json.loads(done.stdout.splitlines()[-1])
        assert measured["status"] == 0, done.stderr
        peaks.append(measured["peak"])
    assert np.load(tmp_path / "60.npz")["60"].shape == (3, 179_999, 48)
    # The rule: 32 kB a second of speech, and 64 MB for what memory allocators do.
    assert peaks[1] - peaks[0] < 3600 * 32_000 + 64_000_000


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([np.zeros(500, np.float32), np.zeros(500, np.int16)], "piece 1 of the waveform: torch.int16"),
        ([np.zeros((500, 2), np.float32)], r"piece 0 of the waveform: shape \(500, 2\)"),
        ([np.full(500, np.nan, np.float32)], "piece 0 of the waveform: NaN"),
        ([], "waveform: empty"),
    ],
    ids=["integers", "stereo", "NaN", "nothing"],
)
def test_pieces_that_the_frontend_would_refuse_are_refused(pieces, words):
    with pytest.raises(MelHuBERTError, match=words):
        streamed_features(pieces, Frontend(FeatureStats.load(STATS), 20))


def test_pieces_of_float64_give_features_of_float32():
    frontend = Frontend(FeatureStats.load(STATS), 20)
    waveform = noise(0.1)
    found = streamed_features([waveform.astype(np.float64)], frontend)
    assert found.dtype == torch.float32
    assert torch.equal(found, streamed_features([waveform], frontend))


@pytest.mark.parametrize(("length", "overlap"), [(10, 10), (10, 11), (10, -1), (0, 0)])
def test_windows_that_would_not_advance_are_refused(length, overlap):
    with pytest.raises(MelHuBERTError, match=f"windows of {length} frames that share {overlap}"):
        Windows(length, overlap)
