"""`melhubert extract`: hidden states of many files are the same as one by one."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from s3prl_melhubert import cli, load_model
from s3prl_melhubert.audio import read_audio
from s3prl_melhubert.extraction.output import only_extraction

STATS = "librispeech-360h"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Nine utterances of 0.01 to 3 s in three folders, in many formats."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    files = {
        "ann/1/tiny.flac": (0.01, 16_000, 1),  # shorter than a frame
        "ann/1/a.flac": (1.0, 16_000, 1),
        "ann/1/b.flac": (2.9, 16_000, 1),
        "ann/2/c.wav": (1.7, 16_000, 1),
        "ann/2/d.v2.wav": (1.71, 16_000, 1),
        "ben/telephone.wav": (1.2, 8_000, 2),
        "ben/studio.wav": (0.8, 44_100, 1),
        "ben/e.ogg": (1.3, 16_000, 1),
        "ben/f.mp3": (1.4, 16_000, 1),
    }
    for name, (seconds, rate, channels) in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = generator.normal(0, 0.1, (int(seconds * rate), channels))
        soundfile.write(folder / name, noise, rate)
    return folder


@pytest.fixture(scope="module")
def one_by_one(reference, corpus) -> dict[str, np.ndarray]:
    """(3, T, 48) hidden states by utterance id, each run alone with the library's own calls."""
    model, frontend = load_model(reference / "tiny-20ms.ckpt", STATS)
    expected = {}
    for path in sorted(path for path in corpus.rglob("*.*") if path.is_file()):
        features, padding_mask = frontend([torch.from_numpy(read_audio(path).waveform)])
        with torch.no_grad():
            states = model(features, padding_mask).hidden_states
        expected[path.relative_to(corpus).with_suffix("").as_posix()] = torch.cat(states).numpy()
    return expected


@pytest.fixture
def extract(reference, capsys):
    """Run `melhubert extract` on the tiny 20 ms model: status, stdout, stderr."""

    def run(*arguments: object, stats: str | None = STATS) -> tuple[int, str, str]:
        statistics = ["--stats", stats] if stats else []
        checkpoint = ["-c", str(reference / "tiny-20ms.ckpt"), "--device", "cpu"]
        status = cli.main(["extract", *checkpoint, *statistics, *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-4):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("max_frames", ["1", "200", "100000"])
def test_batched_by_length_equals_one_by_one(extract, corpus, one_by_one, tmp_path, max_frames):
    status, printed, notes = extract(corpus, "--out", tmp_path / "out.npz", "--max-frames", max_frames)
    assert status == 0
    assert_same(dict(np.load(tmp_path / "out.npz")), one_by_one)
    assert "9 utterances" in printed
    assert "layers 0, 1, 2" in printed
    assert "resampled to 16000 Hz: 2 of 9 files" in notes
    assert "44100 Hz" in notes
    assert "mixed down to one channel: 1 of 9 files" in notes


def test_command_writes_a_folder_that_mirrors_the_input(run_python, reference, corpus, one_by_one, tmp_path):
    done = run_python(
        *("-m", "s3prl_melhubert", "extract", "-c", reference / "tiny-20ms.ckpt", "-f", "20"),
        *("--stats", STATS, corpus, "--out", "out/deep", "--layer", "2"),
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / "deep"
    found = {path.relative_to(out).as_posix()[:-4]: np.load(path) for path in out.rglob("*.npy")}
    assert_same(found, {name: states[2] for name, states in one_by_one.items()})
    assert "ann/2/d.v2" in found  # only the suffix is taken off
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [(["--layer", "0"], 0), (["--layer", "-1"], 2), (["--layer", "2,0"], [2, 0])],
)
def test_chosen_layers(extract, corpus, one_by_one, tmp_path, given, chosen):
    status, _, _ = extract(corpus, "--out", tmp_path / "out.npz", *given)
    assert status == 0
    assert_same(dict(np.load(tmp_path / "out.npz")), {k: v[chosen] for k, v in one_by_one.items()})


def test_layer_may_be_repeated(extract, corpus, one_by_one, tmp_path):
    path = corpus / "ann/1/a.flac"
    assert extract("--layer", 0, "--layer", 1, path, "--out", tmp_path / "a.npy")[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), one_by_one["ann/1/a"][[0, 1]], atol=1e-4)


def test_bf16_is_near_and_written_as_float32(extract, corpus, one_by_one, tmp_path):
    assert extract(corpus, "--out", tmp_path / "out.npz", "--precision", "bf16")[0] == 0
    found = dict(np.load(tmp_path / "out.npz"))
    assert_same(found, one_by_one, tolerance=0.15)
    name = "ann/1/b"
    assert np.abs(found[name] - one_by_one[name]).max() > 1e-4  # it was bf16


def test_10_ms_model_makes_a_frame_every_10_ms(reference, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).normal(size=16_000), 16_000)
    command = ["extract", "-c", str(reference / "tiny-10ms.ckpt"), "--stats", "librispeech-960h"]
    assert cli.main([*command, "-f", "10", str(tmp_path / "a.wav"), "--out", str(tmp_path / "a.npy")]) == 0
    assert np.load(tmp_path / "a.npy").shape == (3, 98, 48)
    assert cli.main([*command, "-f", "20", str(tmp_path / "a.wav"), "--out", str(tmp_path / "a.npy")]) == 2
    assert "every 10 ms" in capsys.readouterr().err


def test_unreadable_files_are_skipped_and_listed(extract, corpus, one_by_one, tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "good.flac").write_bytes((corpus / "ann/1/a.flac").read_bytes())
    (inputs / "empty.wav").touch()
    (inputs / "text.wav").write_text("words")
    soundfile.write(inputs / "zero.wav", np.zeros(0), 16_000)
    soundfile.write(inputs / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    content = (corpus / "ann/1/b.flac").read_bytes()
    (inputs / "half.flac").write_bytes(content[: len(content) // 2])

    for out in (tmp_path / "out.npz", tmp_path / "out"):
        status, printed, notes = extract(inputs, "--out", out)
        assert status == 1
        assert "1 utterance," in printed
        assert "skipped 5 of 6 files" in notes
        reasons = {
            "empty": "empty file",
            "text": "not an audio",
            "zero": "zero",
            "nan": "NaN",
            "half": "damaged",
        }
        for name, reason in reasons.items():
            assert any(f"{name}." in line and reason in line for line in notes.splitlines()), name
    assert_same(dict(np.load(tmp_path / "out.npz")), {"good": one_by_one["ann/1/a"]})
    np.testing.assert_allclose(np.load(tmp_path / "out/good.npy"), one_by_one["ann/1/a"], atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"RIFF"])
def test_nothing_readable_leaves_an_earlier_output_alone(extract, tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    soundfile.write(tmp_path / "b.wav", np.full(100, np.nan), 16_000, subtype="FLOAT")  # its header is good
    (tmp_path / "out.npz").write_text("earlier")
    status, printed, notes = extract(tmp_path, "--out", tmp_path / "out.npz")
    assert status == 1
    assert printed == ""
    assert "none of the inputs could be read" in notes
    assert (tmp_path / "out.npz").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav", "out.npz"]


def test_nothing_readable_leaves_no_new_folder(extract, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert extract(tmp_path / "a.wav", "--out", tmp_path / "in" / "out")[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(("name", "kind"), [("out", "folder"), ("out.npz", "file"), ("out.npy", "file")])
def test_an_output_that_another_command_is_writing_is_refused(extract, corpus, tmp_path, name, kind):
    out = tmp_path / name
    with only_extraction(out):
        status, printed, notes = extract(corpus / "ann/1/a.flac", "--out", out)
        assert (status, printed, notes.count("\n")) == (2, "", 1)
        assert f"{name}: this process is at work on this {kind}" in notes
    assert list(tmp_path.iterdir()) == []
    assert extract(corpus / "ann/1/a.flac", "--out", out)[0] == 0
    written = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert written == ["a.npy" if kind == "folder" else name]


def test_one_name_for_two_files_is_refused(extract, corpus, tmp_path):
    for name in ("x/1.wav", "y/1.wav"):
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / name, np.zeros(1600), 16_000)
    status, _, notes = extract(tmp_path / "x/1.wav", tmp_path / "y/1.wav", "--out", tmp_path / "o.npz")
    assert status == 2
    assert str(tmp_path / "x/1.wav") in notes
    assert str(tmp_path / "y/1.wav") in notes
    assert "give the folder above the two, or give each in a run of its own" in notes
    # The same file twice is no clash, and a folder keeps the two apart.
    assert extract(tmp_path / "x/1.wav", tmp_path / "x", "--out", tmp_path / "o.npz")[0] == 0
    assert extract(tmp_path, "--out", tmp_path / "o.npz")[0] == 0
    assert set(np.load(tmp_path / "o.npz")) == {"x/1", "y/1"}
    (tmp_path / "x/1.flac").symlink_to("gone.flac")
    status, _, notes = extract(tmp_path / "x", "--out", tmp_path / "o.npz")
    assert (status, notes.count("\n")) == (2, 1)
    assert "x/1.flac and " in notes
    assert "rename one, or give each in a run of its own" in notes  # a folder above them would not help


@pytest.fixture
def strange_names(corpus, tmp_path) -> Path:
    """A folder with one utterance under names that people do not choose but meet."""
    folder = tmp_path / "strange"
    folder.mkdir()
    content = (corpus / "ann/1/a.flac").read_bytes()
    try:
        for name in (b"caf\xe9.flac", b"carriage\rreturn.flac", b"new\nline.flac", b"x" * 250 + b".flac"):
            (folder / os.fsdecode(name)).write_bytes(content)
    except OSError:
        pytest.skip("this file system refuses such names")
    for name in ("loop.flac", "loop"):
        (folder / name).symlink_to(name)
    (folder / "bad\r.flac").write_text("words")
    return folder


@pytest.mark.parametrize("out", ["out.npz", "out"])
def test_strange_names_are_read_and_what_is_skipped_is_told(
    run_python, reference, strange_names, one_by_one, tmp_path, out
):
    done = run_python(
        *("-m", "s3prl_melhubert", "extract", "-c", reference / "tiny-20ms.ckpt", "--stats", STATS),
        *(strange_names, "--out", os.fsdecode(b"\xe9" + out.encode())),
        PYTHONIOENCODING="utf-8:strict",
    )
    assert done.returncode == 1, done.stderr
    path = tmp_path / os.fsdecode(b"\xe9" + out.encode())
    if out == "out.npz":
        found = dict(np.load(path))
    else:
        found = {file.name[:-4]: np.load(file) for file in path.iterdir()}
    names = ["caf\ufffd", "carriage\rreturn", "new\nline", "x" * 250]
    assert_same(found, dict.fromkeys(names, one_by_one["ann/1/a"]))
    [title, *lines] = done.stderr.splitlines()
    assert title == "melhubert: skipped 2 of 6 files:"
    assert [line.partition(": ")[0].rpartition("/")[2] for line in lines] == ["bad\\r.flac", "loop.flac"]
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("where", ["input", "out.npz", "out", "checkpoint"])
@pytest.mark.parametrize("kind", ["long", "loop", "nul"])
def test_names_that_cannot_be_are_one_clear_line(reference, corpus, tmp_path, capsys, where, kind):
    (tmp_path / "loop").symlink_to("loop")
    name = {"long": tmp_path / ("n" * 300), "loop": tmp_path / "loop" / "a", "nul": tmp_path / "a\0b"}[kind]
    given = {"input": corpus / "ann/1/a.flac", "checkpoint": reference / "tiny-20ms.ckpt"}
    given["out"] = tmp_path / "fine.npz"
    given[where.partition(".")[0]] = name.with_name(f"{name.name}.npz") if where == "out.npz" else name
    command = ["extract", "-c", str(given["checkpoint"]), "--stats", STATS, "--device", "cpu"]
    assert cli.main([*command, str(given["input"]), "--out", str(given["out"])]) == 2
    printed, notes = capsys.readouterr()
    assert printed == ""
    assert notes.count("\n") == 1
    assert "\0" not in notes


def test_bad_requests_are_refused_with_what_to_do(extract, corpus, tmp_path, monkeypatch):
    out = ["--out", tmp_path / "out.npz"]
    wav = corpus / "ann/1/a.flac"
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for arguments, words in (
        ([wav, *out, "--layer", "3"], ["layer 3", "0", "2"]),
        ([wav, *out, "-f", "10"], ["-f 10", "20 ms"]),
        ([wav, *out, "--device", "gpu"], ["gpu", "cpu", "cuda"]),
        ([tmp_path / "absent", *out], ["no such file"]),
        ([wav, "--out", tmp_path / "absent" / "o.npz"], ["no such folder"]),
        ([wav, "--out", tmp_path / "folder.npz"], ["is a folder"]),
        ([wav, "--out", tmp_path / "file"], ["a file found"]),
        ([corpus, "--out", tmp_path / "out.npy"], ["one array", "out.npz"]),
    ):
        status, printed, notes = extract(*arguments)
        assert status == 2, arguments
        assert printed == ""
        assert notes.count("\n") == 1
        for word in words:
            assert word in notes, arguments
    status, _, notes = extract(wav, *out, stats=None)
    assert status == 2
    assert "statistics are unknown" in notes
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    status, _, notes = extract(wav, *out)
    assert status == 2
    assert "--layer" in notes
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("name", "windows", "copies"),
    [("o.npz", [], 1), ("o.npz", ["--window", 2, "--overlap", 1], 2), ("o", ["--window", 2], 1)],
)
def test_what_the_disk_cannot_hold_is_not_begun(
    extract, corpus, tmp_path, monkeypatch, name, windows, copies
):
    """In a .npz, what comes in windows is there twice for a while: 144 frames of 48 float32 figures."""
    needed = copies * 3 * 144 * 48 * 4
    for free, status in ((needed - 1, 2), (needed, 0)):
        monkeypatch.setattr("shutil.disk_usage", lambda place, free=free: SimpleNamespace(free=free))
        assert extract(corpus / "ann/1/b.flac", "--out", tmp_path / name, *windows)[0] == status
        assert (tmp_path / name).exists() == (status == 0)


def test_cuda_where_there_is_none_is_one_clear_line(extract, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    status, _, notes = extract(corpus, "--out", tmp_path / "o.npz", "--device", "cuda")
    assert status == 2
    assert notes.count("\n") == 1
    assert "sees no CUDA device" in notes


def test_a_full_disk_is_one_clear_line(extract, corpus, tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    status, _, notes = extract(corpus, "--out", tmp_path / "o.npz")
    assert status == 2
    line = notes.splitlines()[-1]
    assert line.startswith(f"melhubert: {tmp_path / 'o.npz'}: cannot be written (No space left on device)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu(reference, corpus, one_by_one, tmp_path):
    command = ["extract", "-c", str(reference / "tiny-20ms.ckpt"), "--stats", STATS, "--device", "cuda"]
    assert cli.main([*command, str(corpus), "--out", str(tmp_path / "out.npz")]) == 0
    assert_same(dict(np.load(tmp_path / "out.npz")), one_by_one)


def test_real_speech(extract, speech, tmp_path):
    folders = sorted(path for path in speech.rglob("dev-clean") if path.is_dir())
    if not folders:
        pytest.skip(f"no LibriSpeech dev-clean below {speech}")
    files = sorted(folders[0].rglob("*.flac"))
    status, _, notes = extract(folders[0], "--out", tmp_path / "out.npz", "--layer", "-1")
    assert status == 0, notes
    found = np.load(tmp_path / "out.npz")
    assert set(found) == {path.relative_to(folders[0]).with_suffix("").as_posix() for path in files}
    some = found[files[0].relative_to(folders[0]).with_suffix("").as_posix()]
    assert some.shape == (-(-(1 + (soundfile.info(files[0]).frames - 400) // 160) // 2), 48)
    assert np.isfinite(some).all()
