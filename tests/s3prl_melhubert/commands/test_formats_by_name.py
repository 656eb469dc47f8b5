"""The name of a file says its format, in large or small letters; nothing else stands under it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from s3prl_melhubert import FeatureStats, load_checkpoint, save_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.huggingface import names_repository
from s3prl_melhubert.support.tensor_files import is_safetensors

STATS = "librispeech-360h"
# The beginning of a file that torch's exporter wrote, and of one by another program.
ONNX_BEGINNINGS = [b"\x08\x0a\x12\x07pytorch\x1a\x06" + bytes(64), b"\x08\x08\x3a\x40" + bytes(64)]


@pytest.fixture
def refused(capsys):
    """`refused(*arguments)`: the one line with which the command ends."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([*map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        return error

    return run


def test_safetensors_in_large_letters_is_safetensors(reference, tmp_path):
    out = tmp_path / "o.SAFETENSORS"
    assert main(["convert", str(reference / "tiny-20ms.ckpt"), str(out), "--stats", STATS]) == 0
    assert is_safetensors(out)
    assert load_checkpoint(out).stats == FeatureStats.load(STATS)


def test_onnx_in_large_letters_is_onnx(reference, tmp_path, refused):
    pytest.importorskip("onnxscript")
    out = tmp_path / "o.ONNX"
    assert main(["convert", str(reference / "tiny-20ms.ckpt"), str(out), "--stats", STATS]) == 0
    told = refused("info", out)
    assert "is an ONNX program" in told
    assert "give the checkpoint that it was made from" in told


@pytest.mark.parametrize("beginning", ONNX_BEGINNINGS)
def test_onnx_program_is_not_called_a_damaged_checkpoint(beginning, tmp_path, refused):
    (tmp_path / "o.ckpt").write_bytes(beginning)
    assert "is an ONNX program" in refused("info", tmp_path / "o.ckpt")


@pytest.mark.parametrize("name", ["x.onnx", "x.ONNX"])
def test_no_checkpoint_is_written_under_the_name_of_an_onnx_program(name, reference, tmp_path, refused):
    out = tmp_path / name
    source = reference / "tiny-20ms.ckpt"
    told = refused("compress", source, "--stats", STATS, "--heads", 1, "--ffn", 40, "--out", out)
    assert f"melhubert convert {tmp_path / 'x.ckpt'} {out}" in told
    checkpoint = load_checkpoint(source)
    with pytest.raises(MelHuBERTError, match="no ONNX program"):
        save_checkpoint(out, checkpoint.config, checkpoint.state, None)
    assert not list(tmp_path.iterdir())


def test_compress_of_an_onnx_name_is_refused_before_any_training(reference, tmp_path, refused):
    """What trains for hours must not find at its end that its result has no name."""
    source, data = reference / "tiny-20ms.ckpt", tmp_path / "no such data"
    out = tmp_path / "x.onnx"
    options = ["--heads", 1, "--out", out, "--data", data, "--steps", 8]
    assert "no ONNX program" in refused("compress", source, "--stats", STATS, *options)


def test_extracted_files_and_statistics_may_be_named_in_large_letters(reference, tmp_path):
    audio = tmp_path / "a.wav"
    soundfile.write(audio, np.random.default_rng(1).uniform(-0.5, 0.5, 8000), 16_000)
    stats = FeatureStats.load(STATS)
    np.save(tmp_path / "stats.npy", np.stack([stats.mean, stats.std]))
    shutil.move(tmp_path / "stats.npy", tmp_path / "stats.NPY")
    command = [
        "extract",
        "-c",
        str(reference / "tiny-20ms.ckpt"),
        str(audio),
        "--stats",
        str(tmp_path / "stats.NPY"),
    ]
    for name in ("states.NPY", "states.NPZ"):
        assert main([*command, "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).is_file()
    states = np.load(tmp_path / "states.NPY")
    with np.load(tmp_path / "states.NPZ") as archive:
        assert np.array_equal(archive["a"], states)


@pytest.mark.parametrize("name", ["exp/last.CKPT", "exp/model.onnx"])
def test_names_of_files_are_no_repositories_of_the_hub(name):
    assert not names_repository(name)


@pytest.mark.parametrize("name", ["melhubert", "melhubert_10ms_360h_stage1"])
def test_name_of_a_published_model_tells_how_to_get_its_file(name, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refused("info", name)
    entry = {"melhubert": "melhubert_20ms_960h_stage2"}.get(name, name)
    assert f"s3prl.hub.{name}()" in told
    assert f"~/.cache/s3prl/download/{entry}.ckpt" in told
    assert "s3prl.hub" not in refused("info", "model.ckpt")
