"""An experiment is what it is of, not where that lies: its folder, its corpus, its upstream may be moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.conversion import convert_checkpoint
from s3prl_melhubert.downstream_recipes.experiment_files import FILES, STATISTICS
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.statistics import FeatureStats


@pytest.fixture
def command(
    tmp_path, librispeech, voxceleb, lexicon_file, reference, short, small
) -> Callable[..., list[str]]:
    """`command(task)`: the arguments of a short run, all of its files in the folder `there`."""
    there = tmp_path / "there"
    there.mkdir()
    for path in (librispeech, voxceleb[0], lexicon_file):
        path.rename(there / path.name)
    shutil.copy(reference / "tiny-20ms.ckpt", there)
    (there / "g.yaml").write_text("feature_stats: librispeech-360h\n")

    def make(task: str, place: Path = there) -> list[str]:
        corpus = {
            "pr": ["--librispeech", f"{place}/LibriSpeech", "--lexicon", f"{place}/lexicon.txt"],
            "sid": ["--voxceleb", f"{place}/VoxCeleb1"],
        }
        upstream = ["-u", "melhubert_local", "-k", f"{place}/tiny-20ms.ckpt", "-g", f"{place}/g.yaml"]
        settings = [*short(2), "-o", small[task]]
        return ["superb", task, *corpus[task], *upstream, "-p", f"{place}/exp/{task}", *settings]

    return make


@pytest.mark.usefixtures("recwarn")
def test_moved_with_all_it_is_of_it_is_still_the_same_experiment(command, tmp_path, capsys, run_python):
    assert main(command("pr")) == 0
    there, here = tmp_path / "there", tmp_path / "here/again"
    here.parent.mkdir()
    there.rename(here)
    experiment = here / "exp/pr"
    predictions = (experiment / "test-hyp.ark").read_bytes()

    # The report and the submission want nothing of the old places.
    assert main(["superb", "report", str(here)]) == 0
    assert main(["superb", "submit", str(here), "--out", str(tmp_path / "out")]) == 0

    # The same command with the new places: it has ended. s3prl's own program finds all there, too.
    capsys.readouterr()
    assert main(command("pr", here)) == 0
    said = capsys.readouterr().out
    assert "this experiment has ended" in said
    assert "its checkpoints have the new paths" in said
    audio = next((here / "LibriSpeech/test-clean").glob("*/*/*.flac"))
    assert main(["superb", "predict", str(experiment), str(audio), "--device", "cpu"]) == 0
    heard = dict(line.partition(b" ")[::2] for line in predictions.splitlines())[audio.stem.encode()]
    assert " ".join(heard.decode().split()) in " ".join(capsys.readouterr().out.split())
    (experiment / "test-hyp.ark").unlink()
    evaluate = ["-m", "s3prl_melhubert", "run-downstream", "-m", "evaluate"]
    best = str(experiment / "dev-best.ckpt")
    done = run_python(*evaluate, "-e", best, "--device", "cpu", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (experiment / "test-hyp.ark").read_bytes() == predictions
    assert not there.exists()

    # A second time, there is nothing to do, and nothing is done.
    before = {path: path.stat().st_mtime_ns for path in experiment.rglob("*")}
    assert main(command("pr", here)) == 0
    assert "new paths" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in experiment.rglob("*")} == before


def test_moved_after_training_it_is_tested_in_its_new_place(command, reference, tmp_path):
    assert main([*command("sid"), "--stage", "train"]) == 0
    # What the user keeps there is no checkpoint of s3prl's.
    shutil.copy(reference / "tiny-20ms.ckpt", tmp_path / "there/exp/sid/upstream.ckpt")
    (tmp_path / "there/exp/sid/._dev-best.ckpt").write_text("of another system\n")
    here = (tmp_path / "there").rename(tmp_path / "here")
    assert main(command("sid", here)) == 0
    assert read_result(here / "exp/sid").corpus == str(here / "VoxCeleb1")
    states = torch.load(here / "exp/sid/states-2.ckpt", weights_only=True)
    assert str(tmp_path / "there") not in repr((states["Args"], states["Config"]))


def test_another_corpus_in_the_same_place_is_refused(command, write_audio, tmp_path, capsys):
    assert main([*command("pr"), "--stage", "train"]) == 0
    said = next((tmp_path / "there/LibriSpeech/test-clean").glob("*/*/*.trans.txt"))
    before = said.read_text()
    said.write_text(before.replace("DOG", "BOY"))
    capsys.readouterr()
    assert main(command("pr")) == 2
    assert "holds an experiment on another corpus than that of --librispeech" in capsys.readouterr().err
    said.write_text(before)
    audio = next((tmp_path / "there/LibriSpeech/train-clean-100").glob("*/*/*.flac"))
    write_audio(audio, samples=9000)
    assert main(command("pr")) == 2
    assert "their lengths or what is said in them differ" in capsys.readouterr().err


def test_folder_of_an_older_version_goes_on_where_it_was(command, tmp_path, capsys):
    assert main([*command("sid"), "--stage", "train"]) == 0
    path = tmp_path / "there/exp/sid/experiment.json"
    new = ("-p", "corpus, its content (SHA-256)")
    content = {name: value for name, value in json.loads(path.read_text()).items() if name not in new}
    path.write_text(json.dumps(content))
    (tmp_path / "elsewhere").symlink_to(tmp_path / "there/VoxCeleb1")
    other = [word.replace("there/VoxCeleb1", "elsewhere") for word in command("sid")]
    assert main(other) == 2
    assert "--voxceleb" in capsys.readouterr().err
    assert main(command("sid")) == 0
    assert set(new) <= set(json.loads(path.read_text()))
    assert main(command("sid")) == 0
    assert "this experiment has ended" in capsys.readouterr().out


def test_another_model_in_the_upstreams_folder_is_refused(command, reference, write_audio, tmp_path, capsys):
    """A folder in transformers' layout is known by its weights and settings, as a file is by its content."""
    folder, there = tmp_path / "hub", tmp_path / "there/exp/sid"
    folder.mkdir()
    convert_checkpoint(reference / "tiny-20ms.ckpt", folder / "model.safetensors", "librispeech-360h")
    sid = [word.replace(f"{tmp_path}/there/tiny-20ms.ckpt", str(folder)) for word in command("sid")]
    assert main([*sid, "--stage", "train"]) == 0
    # Older versions knew a folder by its place.
    content = json.loads((there / "experiment.json").read_text())
    (there / "experiment.json").write_text(json.dumps({**content, FILES["-k"]: None}))
    (folder / "README.md").write_text("A card.\n")
    assert main(sid) == 0
    predict = ["superb", "predict", str(there), str(write_audio(tmp_path / "new.wav")), "--device", "cpu"]
    assert main(predict) == 0
    convert_checkpoint(reference / "tiny-20ms.ckpt", folder / "model.safetensors", "librispeech-100h")
    for again, told in (
        (sid, "holds an experiment with -k, its content"),
        (predict, "is not the upstream's"),
    ):
        capsys.readouterr()
        assert main(again) == 2
        assert told in capsys.readouterr().err


def test_other_statistics_in_the_file_that_the_settings_name_are_refused(
    command, write_audio, tmp_path, capsys
):
    """The settings' own bytes stay what they were; the statistics lie in a file beside them."""
    there = tmp_path / "there"
    (there / "g.yaml").write_text("feature_stats: stats.yaml\n")
    save_stats = partial(_write_stats, there / "stats.yaml")
    save_stats("librispeech-360h")
    assert main(command("sid")) == 0
    predict = ["superb", "predict", str(there / "exp/sid"), str(write_audio(tmp_path / "new.wav"))]
    predict += ["--device", "cpu"]
    save_stats("librispeech-100h")
    for again, told in ((command("sid"), "with other statistics than"), (predict, "names other statistics")):
        capsys.readouterr()
        assert main(again) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1

    # In an experiment of an older version nobody knows which statistics they were.
    path = there / "exp/sid/experiment.json"
    content = json.loads(path.read_text())
    del content[STATISTICS]
    path.write_text(json.dumps(content))
    assert main(command("sid")) == 0
    assert main(predict) == 0

    # The same numbers in another form are the same statistics.
    content[STATISTICS] = FeatureStats.load("librispeech-360h").digest()
    path.write_text(json.dumps(content))
    save_stats("librispeech-360h", indent=4)
    assert main(command("sid")) == 0
    assert main(predict) == 0


def _write_stats(path: Path, name: str, indent: int | None = None) -> None:
    path.write_text(json.dumps(FeatureStats.load(name).to_mapping(), indent=indent))


def test_files_of_this_package_may_lie_in_another_environment(command, tmp_path, capsys):
    """The vocabulary of `pr` is a file of the package, whose path s3prl's checkpoints hold."""
    assert main([*command("pr"), "--stage", "train"]) == 0
    states = tmp_path / "there/exp/pr/states-2.ckpt"
    content = torch.load(states, weights_only=True)
    text = content["Config"]["downstream_expert"]["text"]
    here, text["vocab_file"] = text["vocab_file"], "/another/environment/phoneme.txt"
    torch.save(content, states)
    assert main(command("pr")) == 0
    assert torch.load(states, weights_only=True)["Config"]["downstream_expert"]["text"]["vocab_file"] == here


def test_copy_with_statistics_in_a_file_and_a_precision_goes_on(command, tmp_path, capsys):
    """The settings that are written for the precision name the statistics from the root on."""
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "g.yaml").write_text("feature_stats: stats.yaml\n")
    _write_stats(there / "stats.yaml", "librispeech-360h")
    assert main([*command("sid"), "--precision", "bf16", "--stage", "train"]) == 0
    shutil.copytree(there, here)
    sid = [*command("sid", here), "--precision", "bf16"]
    assert main(sid) == 0
    # Of an experiment without its description, the checkpoints tell which statistics it is of.
    for file in ("experiment.json", "results.json"):
        (here / "exp/sid" / file).unlink()
    shutil.copy(there / "exp/sid/states-2.ckpt", here / "exp/sid")
    _write_stats(here / "stats.yaml", "librispeech-100h")
    capsys.readouterr()
    assert main(sid) == 2
    assert "sid/states-2.ckpt: is of another training" in capsys.readouterr().err


@pytest.mark.parametrize("left", [True, False], ids=["copied", "moved"])
def test_without_its_own_description_it_is_known_by_its_checkpoints(command, tmp_path, left):
    """A damaged description is to be removed, as its error says."""
    assert main([*command("sid"), "--stage", "train"]) == 0
    there, here = tmp_path / "there", tmp_path / "here"
    (shutil.copytree if left else shutil.move)(there, here)
    (here / "exp/sid/experiment.json").unlink()
    assert main(command("sid", here)) == 0
    assert read_result(here / "exp/sid").checkpoint == str(here / "tiny-20ms.ckpt")
    other = torch.load(here / "tiny-20ms.ckpt", weights_only=False)
    next(iter(other["model"].values())).add_(1)
    (tmp_path / "other").mkdir()
    torch.save(other, tmp_path / "other/tiny-20ms.ckpt")
    (here / "exp/sid/experiment.json").unlink()
    (here / "exp/sid/results.json").unlink()
    arguments = [word.replace(f"{here}/tiny", f"{tmp_path}/other/tiny") for word in command("sid", here)]
    assert main(arguments) == 2
