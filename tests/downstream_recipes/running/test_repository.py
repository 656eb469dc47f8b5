"""An upstream on the Hugging Face Hub is that one, also where a folder here has the repository's name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from s3prl_melhubert import load_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.hub.export import export_folder
from s3prl_melhubert.upstream_expert import download

NAME = "org/melhubert"


@pytest.fixture
def work(tmp_path, reference, monkeypatch) -> Path:
    """The working folder, with another model under the name of a repository that is in the Hub's cache."""
    monkeypatch.chdir(tmp_path)
    commit = "0123456789" * 4
    cached = tmp_path / "cache" / "models--org--melhubert"
    for period, folder in ((20, cached / "snapshots" / commit), (10, tmp_path / NAME)):
        checkpoint = load_checkpoint(reference / f"tiny-{period}ms.ckpt")
        folder.parent.mkdir(parents=True)
        export_folder(checkpoint, folder, stats="librispeech-360h")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_what_is_recorded_is_what_is_loaded(work, write_voxceleb, short, small, capsys):
    corpus = ["--voxceleb", str(write_voxceleb(work)[0])]
    command = ["superb", "sid", *corpus, "-u", "melhubert_hf", "-k", NAME, "-p", "EXP", *short(2)]
    command += ["-o", small["sid"]]
    assert main(command) == 0, capsys.readouterr().err
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith(NAME)]
    assert told == [
        f"{NAME}: is fetched from the Hugging Face Hub; what has this name here ({work / NAME}) is not read, "
        "for which there is -u melhubert_local"
    ]
    identity, result = json.loads(Path("EXP/experiment.json").read_text()), read_result(Path("EXP"))
    assert (identity["-k"], identity["-k, its content (SHA-256)"]) == (NAME, None)
    assert (result.checkpoint, result.checkpoint_sha256) == (NAME, None)
    # Without the folder it is the same experiment, and goes on elsewhere, too.
    shutil.rmtree(work / "org")
    assert main(command) == 0
    assert "this experiment has ended" in capsys.readouterr().out


def test_what_was_trained_predicts_beside_such_a_folder(work, write_voxceleb, short, small, capsys):
    root, _ = write_voxceleb(work)
    command = ["superb", "sid", "--voxceleb", str(root), "-u", "melhubert_hf", "-k", NAME, "-p", "EXP"]
    assert main([*command, *short(2), "-o", small["sid"]]) == 0
    audio = str(next(root.rglob("*.wav")))
    capsys.readouterr()
    assert main(["superb", "predict", "EXP", audio, "--device", "cpu"]) == 0
    beside = capsys.readouterr().out
    shutil.rmtree(work / "org")
    assert main(["superb", "predict", "EXP", audio, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == beside


def test_the_checkpoint_that_training_began_with_is_that_of_the_repository(work):
    """`convert` asks for it, where the upstream was trained with the task."""
    fetched = download.fetch_upstream("melhubert_hf", NAME)
    assert load_checkpoint(fetched).frame_period == 20
    assert load_checkpoint(work / NAME).frame_period == 10
