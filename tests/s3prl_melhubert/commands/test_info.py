"""`melhubert info`: the figures of a model, and what a checkpoint file says of itself."""

from __future__ import annotations

import json

import pytest
import torch

from s3prl_melhubert import FeatureStats, MelHuBERTConfig, cli, load_checkpoint, save_checkpoint
from s3prl_melhubert.model import macs_per_second


def test_published_base_models(run_python):
    done = run_python("-m", "s3prl_melhubert", "info")
    assert done.returncode == 0, done.stderr
    twenty, ten = done.stdout.split("\n\n")
    for words in ("90.2 M", "4.54 G", "20 ms", "12 of width 768", "512"):
        assert words in twenty
    for words in ("90.2 M", "9.16 G", "10 ms"):
        assert words in ten


def test_macs_are_those_of_the_published_formula():
    """Counted by hand for 50 frames: projection, positional convolution, attention, MLP."""
    frames, width, mlp = 50, 768, 3072
    convolution = (frames + 1) * width * (width // 16) * 128  # an even kernel makes one frame more
    layer = frames * (4 * width * width + 2 * width * mlp) + 2 * frames * frames * width
    assert macs_per_second(MelHuBERTConfig()) == frames * 80 * width + convolution + 12 * layer


def test_a_third_fewer_macs_than_hubert_base():
    transformers = pytest.importorskip("transformers")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        hubert = transformers.HubertModel(transformers.HubertConfig()).eval()
        waveform = torch.empty(1, 16_000)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hubert(waveform)
    theirs = counter.get_total_flops() / 2
    assert theirs / 1e9 == pytest.approx(6.9, abs=0.05)
    assert macs_per_second(MelHuBERTConfig()) < (1 - 0.33) * theirs


def test_published_checkpoint(reference, capsys):
    assert cli.main(["info", str(reference / "tiny-20ms.ckpt")]) == 0
    printed = capsys.readouterr().out
    for words in (
        "52.8 k",
        "20 ms",
        "2 of width 48",
        "none in the file",
        "1234",
        "PyTorch pickle",
        "Optimizer",
    ):
        assert words in printed


@pytest.mark.parametrize(
    ("name", "published", "statistics"),
    [
        ("melhubert_20ms_360h_stage1.ckpt", "melhubert_20ms_360h_stage1", "librispeech-360h"),
        # s3prl's own cache has a name that ends so.
        ("0a1b.uc?id=18u2u-528uDh5T7R1bp1wvWJ2ygcrNlzx", "melhubert_10ms_960h_stage2", "librispeech-960h"),
        ("melhubert_20ms_360h_stage1-finetuned.ckpt", None, None),
    ],
)
def test_recognized_checkpoint_tells_its_statistics(reference, tmp_path, capsys, name, published, statistics):
    path = tmp_path / name
    path.write_bytes((reference / "tiny-20ms.ckpt").read_bytes())
    assert cli.main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["published"] == published
    assert facts["statistics"] == statistics
    assert "none in the file" in facts["statistics_source"]


@pytest.mark.parametrize(
    ("name", "file_format"), [("a.ckpt", "PyTorch pickle"), ("a.safetensors", "safetensors")]
)
def test_json_of_our_checkpoints(reference, tmp_path, capsys, name, file_format):
    loaded = load_checkpoint(reference / "tiny-10ms.ckpt")
    published = FeatureStats.load("librispeech-960h")
    own = FeatureStats.from_arrays(published.mean + 1, published.std, "ours")
    for stats, expected in ((published, "librispeech-960h"), (own, None)):
        save_checkpoint(tmp_path / name, loaded.config, loaded.state, stats, 7)
        assert cli.main(["info", str(tmp_path / name), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["statistics"] == expected
        assert facts["statistics_source"].startswith("in the file")
        assert facts["step"] == 7
        assert facts["format"] == file_format
        assert facts["frame_period_ms"] == 10
        assert facts["parameters"] == sum(tensor.numel() for tensor in loaded.state.values())
        assert facts["bytes"] == (tmp_path / name).stat().st_size


def test_weights_that_do_not_fit_are_refused(reference, tmp_path, capsys):
    content = torch.load(reference / "tiny-20ms.ckpt", weights_only=False)
    del content["model"]["final_proj.bias"]
    torch.save(content, tmp_path / "a.ckpt")
    assert cli.main(["info", str(tmp_path / "a.ckpt")]) == 2
    assert "final_proj.bias" in capsys.readouterr().err
    assert cli.main(["info", str(tmp_path / "absent.ckpt")]) == 2
    assert "absent.ckpt: no such" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "file"),
    [("melhubert", "melhubert_20ms_960h_stage2.ckpt"), ("melhubert_10ms_360h_stage1",) * 2],
)
def test_of_the_name_of_an_upstream_it_is_told_where_its_file_is(name, file, capsys):
    assert cli.main(["info", name]) == 2
    told = capsys.readouterr().err
    assert f"s3prl.hub.{name}()" in told
    assert f"/{file}" in told
    assert cli.main(["info", f"{name}.ckpt"]) == 2
    assert "s3prl.hub" not in capsys.readouterr().err
