"""A Hub folder: what is in it, that its code is the package's, and what is refused."""

from __future__ import annotations

import ast
import json
import os
import pkgutil
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from s3prl_melhubert import (
    MelHuBERTConfig,
    MelHuBERTError,
    cli,
    kernels,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from s3prl_melhubert.compression.stored import ORIGIN
from s3prl_melhubert.hub.card import Score
from s3prl_melhubert.hub.export import License, code_files, export_folder
from s3prl_melhubert.hub.source_bundle import read_module


def definitions(text: str) -> dict[str, str]:
    return {
        node.name: ast.dump(node)
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }


@pytest.mark.parametrize(
    ("file", "module", "names"),
    [
        ("modeling_melhubert.py", "model", ["MelHuBERT", "MelHuBERTOutput"]),
        ("modeling_melhubert.py", "encoder", ["Encoder", "EncoderLayer", "SelfAttention", "PositionalConv"]),
        ("modeling_melhubert.py", "loss", ["prediction_loss", "PredictionLoss"]),
        ("modeling_melhubert.py", "masking", ["span_mask"]),
        ("modeling_melhubert.py", "packing", ["Frames", "PackedFrames", "frames_of"]),
        ("feature_extraction_melhubert.py", "frontend", ["Frontend", "log_mel", "stack_frames"]),
        ("expert.py", "frontend", ["Frontend", "log_mel", "lengthen_for_s3prl"]),
        ("expert.py", "encoder", ["Encoder"]),
    ],
)
def test_code_of_the_folder_is_the_packages(exported, file, module, names):
    path = __import__("importlib.util").util.find_spec(f"s3prl_melhubert.{module}").origin
    with open(path) as source:
        package = definitions(source.read())
    travelling = definitions((exported.folder / file).read_text())
    for name in names:
        assert travelling[name] == package[name]


def test_code_of_the_folder_imports_nothing_of_the_package():
    allowed = {"torch", "numpy", "transformers", "__future__", "math", "dataclasses", "collections", "typing"}
    allowed |= {"functools", "contextlib", "numbers", "reprlib", "pathlib", "types", "zipfile"}
    for name, text in code_files().items():
        compile(text, name, "exec")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert str(node.module).partition(".")[0] in allowed, (name, node.module)
            elif isinstance(node, ast.Import):
                assert {each.name.partition(".")[0] for each in node.names} <= allowed, name


def test_stand_ins_have_the_arguments_of_what_they_stand_in_for():
    modules = [f"s3prl_melhubert.kernels.{each.name}" for each in pkgutil.iter_modules(kernels.__path__)]
    fast = {name: text for module in modules for name, text in read_module(module).definitions.items()}
    plain = read_module("s3prl_melhubert.hub.plain_kernels").definitions
    for name in plain.keys() - {"Linear"}:
        arguments = [
            [each.arg for each in ast.parse(module[name].text).body[0].args.args] for module in (fast, plain)
        ]
        assert arguments[0] == arguments[1], name


def test_weights_of_the_folder_are_a_checkpoint_of_ours(exported):
    published = load_checkpoint(exported.checkpoint)
    for path in (exported.folder, exported.folder / "model.safetensors", exported.folder / "model.pt"):
        again = load_checkpoint(path)
        assert again.config == published.config
        assert again.step == published.step
        assert again.stats is not None
        assert all(torch.equal(again.state[name], published.state[name]) for name in published.state)
        assert (again.quantizer is None) == (exported.period == 10)
        assert again.quantizer is None or again.quantizer.clusters == 16


def test_what_a_model_was_made_of_goes_along_and_an_unknown_step_stays_unknown(reference, tmp_path):
    dense = {"encoder_attention_heads": 8, "encoder_ffn_embed_dim": 192, "encoder_layers": 2}
    origin = {"how": "heads and rows removed", "dense": dense}
    checkpoint = replace(load_checkpoint(reference / "tiny-20ms.ckpt"), step=None, rest={ORIGIN: origin})
    export_folder(checkpoint, tmp_path / "folder", stats="librispeech-360h")
    for path in (tmp_path / "folder", tmp_path / "folder" / "model.pt"):
        again = load_checkpoint(path)
        assert again.rest[ORIGIN] == origin
        assert again.step is None


def test_model_pt_is_plain_data(exported):
    with torch.serialization.safe_globals([]):
        content = torch.load(exported.folder / "model.pt", weights_only=True)
    assert content["Args"] == {}


def test_card_shows_results_and_training_without_paths(tmp_path, tiny_settings, tiny_model):
    path = tmp_path / "trained.ckpt"
    rest = {"Args": {"seed": 7, "data": "/home/somebody/data"}, "Runner": {"runner": {"total_steps": 30}}}
    model = tiny_model()
    save_checkpoint(path, MelHuBERTConfig(**tiny_settings), model.state_dict(), None, 30, rest)
    scores = [
        Score("pr", "phone recognition", "PER", 12.5, "test-clean"),
        Score("sid", "speaker identification", "accuracy", 60.0, "test", ("10 steps, SUPERB has 200000",)),
        Score("se", "speech enhancement", "PESQ", 2.5, "test", unit=""),
        Score("ss", "source separation", "SI-SDRi", -1.0, "test", unit="dB"),
    ]
    folder = tmp_path / "folder"
    export_folder(load_checkpoint(path), folder, stats="librispeech-100h", name="someone/tiny", scores=scores)
    text = (folder / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["license"] == "mit"
    (entry,) = metadata["model-index"]
    assert entry["name"] == "tiny"
    first, second, third, _ = entry["results"]
    assert first["task"]["name"] == "SUPERB phone recognition"
    assert first["metrics"] == [{"type": "per", "value": 12.5, "name": "PER"}]
    assert second["metrics"][0]["name"] == "accuracy (not with SUPERB's settings)"
    assert third["task"]["type"] == "audio-to-audio"
    for figure in ("| PER | 12.50 % |", "| PESQ | 2.50 |", "| SI-SDRi | -1.00 dB |"):
        assert figure in text
    assert "statistics (those of `librispeech-100h`) are in" in text
    assert "10 steps, SUPERB has 200000" in text
    assert "30 optimizer steps" in text
    assert "total_steps: 30" in text
    assert "seed: 7" in text
    assert "somebody" not in text


def test_snippet_of_the_card_runs(exported, monkeypatch):
    text = (exported.folder / "README.md").read_text()
    (snippet,) = [
        code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "load_model" in code
    ]
    monkeypatch.chdir(exported.folder.parent)
    found: dict = {}
    exec(snippet, found)
    layers = json.loads((exported.folder / "config.json").read_text())["encoder_layers"]
    assert len(found["hidden_states"]) == layers + 1


def test_command_writes_the_folder(tmp_path, reference, capsys):
    out = tmp_path / "out"
    ckpt = str(reference / "tiny-20ms.ckpt")
    license = tmp_path / "license.txt"
    license.write_text("Do as you like.\n")
    arguments = ["hub", ckpt, "--out", str(out), "--stats", "librispeech-360h"]
    assert cli.main([*arguments, "--license", "unlicense", "--license-file", str(license)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: LICENSE, README.md, config.json")
    assert (out / "LICENSE").read_text() == "Do as you like.\n"
    card = (out / "README.md").read_text()
    assert "license: unlicense" in card
    assert not re.search("model-index|## SUPERB", card)  # No scores were given.
    model, _ = load_model(out)
    assert model.config.frame_period == 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "{filled}", "--stats", "librispeech-360h"], "filled: holds something already"),
        (["--out", "{new}"], "statistics are unknown"),
        (["--out", "{new}", "--stats", "librispeech-360h", "--license", "gpl-3.0"], "without its text"),
        (["--stats", "librispeech-360h"], "neither --out nor --push"),
        (["--out", "{new}", "--private"], "--private: is of the repository that --push makes"),
        (["--out", "{new}", "--push", "nobody"], "no repository of the Hugging Face Hub"),
        (["--out", "{new}", "--stats", "librispeech-360h", "--results", "{filled}"], "results.json"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, reference, capsys, arguments, says):
    filled, new = tmp_path / "filled", tmp_path / "new"
    filled.mkdir()
    (filled / "file").touch()
    given = [argument.format(filled=filled, new=new) for argument in arguments]
    assert cli.main(["hub", str(reference / "tiny-20ms.ckpt"), *given]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["filled"]


def test_folder_that_cannot_be_written_is_one_line(exported, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MelHuBERTError, match="cannot be written"):
        export_folder(load_checkpoint(exported.folder), tmp_path / "file" / "folder")


def test_an_empty_folder_may_be_a_link_or_where_one_stands(tmp_path, reference, capsys, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("disk")
    monkeypatch.chdir(tmp_path / "here")
    given = ["hub", str(reference / "tiny-20ms.ckpt"), "--stats", "librispeech-360h", "--out"]
    for out, title in ((".", "# here"), ("../link", "# link")):
        assert cli.main([*given, out]) == 0, capsys.readouterr().err
        assert title in (Path(out) / "README.md").read_text()
        assert load_model(out)[0].config.frame_period == 20
    assert (tmp_path / "link").is_symlink()
    assert not [path for path in tmp_path.rglob(".*") if path.name.startswith(".")]


def test_link_that_leads_nowhere_is_called_so(exported, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(
        MelHuBERTError, match=r"link: cannot be written \(a link to nowhere, which is not there"
    ):
        export_folder(load_checkpoint(exported.folder), tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_folder_may_have_a_name_in_another_encoding(exported, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfc\xdfe"))
    export_folder(load_checkpoint(exported.folder), folder)
    assert "# gr??e" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_license_is_known_however_its_name_is_written():
    assert License.of("MIT", None) == License.of(None, None) == License()


ABSENT = "import sys; sys.modules['transformers'] = None"
# transformers asks for the version, and has no models if that is before what it needs.
TOO_NEW = """
from importlib import metadata
version = metadata.version
metadata.version = lambda name: "2.4.1" if name == "torch" else version(name)
"""


@pytest.mark.parametrize("begin", [ABSENT, TOO_NEW], ids=["none", "one for a newer torch"])
def test_folder_is_written_without_a_transformers_that_works(begin, run_python, reference, tmp_path):
    program = f"{begin}\nfrom s3prl_melhubert.cli import main\nmain()"
    ckpt = reference / "tiny-20ms.ckpt"
    done = run_python("-c", program, "hub", ckpt, "--stats", "librispeech-360h", "--out", "folder")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "folder" / "modeling_melhubert.py").is_file()
