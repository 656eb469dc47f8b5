"""Results in the card of a Hub folder: those of its weights and statistics alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from s3prl_melhubert import cli
from s3prl_melhubert.conversion import convert_checkpoint
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.experiment_files import STATISTICS
from s3prl_melhubert.downstream_recipes.report.results import PartResult, Result, write_result
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import sha256_of


@pytest.fixture
def add_result(tmp_path):
    """Returns a function that writes the result of a made-up experiment into a folder."""

    def add(
        place: str, value: float, upstream: str, checkpoint: Path | str | None, sha256: str | None, **changes
    ) -> None:
        (tmp_path / place).mkdir(parents=True)
        task = all_tasks()[Path(place).name]
        result = Result(
            task=task.key,
            metric=task.metric.name,
            value=value,
            dev=None,
            test_split="test",
            upstream=upstream,
            checkpoint=None if checkpoint is None else str(checkpoint),
            checkpoint_sha256=sha256,
            upstream_config=None,
            learning_rate=1e-4,
            differences=[],
            search=[],
            layer_weights=[],
            tested_checkpoint="dev-best.ckpt",
            predictions="predict.txt",
            test_utterances=1,
            corpus="corpus",
            lexicon=None,
            hours={},
            steps=1,
            device="cpu",
            versions={},
            created="2026-01-01T00:00:00+00:00",
        )
        write_result(tmp_path / place, replace(result, **changes))

    return add


def test_results_of_experiments_are_in_the_card(tmp_path, reference, capsys, add_result):
    ckpt = tmp_path / "melhubert_20ms_960h_stage2.ckpt"
    shutil.copy(reference / "tiny-20ms.ckpt", ckpt)
    convert_checkpoint(ckpt, tmp_path / "same.safetensors")
    add_result("exp/pr", 31.25, "melhubert_local", ckpt, sha256_of(ckpt))
    same = tmp_path / "same.safetensors"
    add_result("exp/sid", 50.5, "melhubert_local", Path(same.name), sha256_of(same))
    (tmp_path / "exp/sid/experiment.json").write_text(json.dumps({"-k": str(same)}))
    add_result("exp/ks", 80.0, "melhubert", None, None)
    assert (
        cli.main(["hub", str(ckpt), "--out", str(tmp_path / "out"), "--results", str(tmp_path / "exp")]) == 0
    )
    text = (tmp_path / "out" / "README.md").read_text()
    metrics = [
        result["metrics"][0]["value"]
        for result in yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    ]
    assert sorted(metrics) == [31.25, 50.5, 80.0]
    assert "| 31.25 % | test |" in text


@pytest.mark.parametrize(
    ("upstream", "file", "says"),
    [
        ("melhubert_local", "other.ckpt", "its result is of another model (melhubert_local, "),
        ("melhubert_local", "gone.ckpt", "which is not there as it was"),
        ("melhubert_local", "changed.ckpt", "which is not there as it was"),
        ("melhubert", None, "its result is of another model (melhubert)"),
        ("fbank", None, "its result is of another model (fbank)"),
        ("melhubert_local", "tiny.ckpt", "a second result of pr, besides "),
    ],
)
def test_results_of_another_model_are_not_put_into_the_card(
    tmp_path, reference, capsys, add_result, upstream, file, says
):
    ckpt = tmp_path / "tiny.ckpt"
    shutil.copy(reference / "tiny-20ms.ckpt", ckpt)
    shutil.copy(reference / "tiny-10ms.ckpt", tmp_path / "other.ckpt")
    # A training went on since, and its checkpoint is another one of the same name.
    shutil.copy(ckpt, tmp_path / "changed.ckpt")
    add_result("exp/1/pr", 31.25, "melhubert_local", ckpt, sha256_of(ckpt))
    checkpoint = None if file is None else tmp_path / file
    sha256 = None if file is None else "0" * 64
    if file in ("other.ckpt", "tiny.ckpt"):
        sha256 = sha256_of(checkpoint)
    add_result("exp/2/pr", 50.5, upstream, checkpoint, sha256)
    given = ["hub", str(ckpt), "--stats", "librispeech-360h", "--out", str(tmp_path / "out")]
    assert cli.main([*given, "--results", str(tmp_path / "exp")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


URL, ID = "https://example.org/tiny.ckpt", "1" * 33
OF_URL = f"{hashlib.sha256(URL.encode()).hexdigest()}.tiny.ckpt"  # its name in the cache


@pytest.mark.parametrize(
    ("upstream", "given", "cached"),
    [
        ("melhubert_url", URL, OF_URL),
        ("melhubert_custom", URL, OF_URL),
        ("melhubert_gdriveid", ID, f"{ID}.ckpt"),
    ],
)
def test_results_with_a_checkpoint_from_the_web_are_told_by_its_weights(
    tmp_path, reference, capsys, add_result, monkeypatch, upstream, given, cached
):
    cache = tmp_path / "cache" / cached
    cache.parent.mkdir()
    monkeypatch.setattr("s3prl.util.download._download_dir", cache.parent)
    ckpt = reference / "tiny-20ms.ckpt"
    command = ["hub", str(ckpt), "--stats", "librispeech-360h", "--out", str(tmp_path / "out")]
    command += ["--results", str(tmp_path / "exp")]
    add_result("exp/pr", 31.25, upstream, given, None)
    shutil.copy(reference / "tiny-10ms.ckpt", cache)
    assert cli.main(command) == 2
    assert f"its result is of another model ({upstream}, {given})" in capsys.readouterr().err
    cache.write_bytes(b"<html>")
    assert cli.main(command) == 2
    assert "exp/pr: nobody can tell whether its result is of the weights of" in capsys.readouterr().err
    shutil.copy(ckpt, cache)
    assert cli.main(command) == 0


def test_nothing_is_fetched_to_compare_another_model(tmp_path, reference, capsys, add_result, monkeypatch):
    monkeypatch.setattr("s3prl.util.download._download_dir", tmp_path / "cache")
    add_result("exp/pr", 31.25, "hubert_url", URL, None)
    command = ["hub", str(reference / "tiny-20ms.ckpt"), "--stats", "librispeech-360h"]
    assert cli.main([*command, "--out", str(tmp_path / "out"), "--results", str(tmp_path / "exp")]) == 2
    assert f"its result is of another model (hubert_url, {URL})" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_the_score_of_an_upstream_that_was_trained_is_not_put_into_the_card(
    tmp_path, reference, capsys, add_result
):
    ckpt = reference / "tiny-20ms.ckpt"
    trained = [Difference("upstream_trainable", superb=False, here=True)]
    add_result("exp/pr", 31.25, "melhubert_local", ckpt, sha256_of(ckpt), differences=trained)
    given = ["hub", str(ckpt), "--stats", "librispeech-360h", "--out", str(tmp_path / "out")]
    assert cli.main([*given, "--results", str(tmp_path / "exp")]) == 2
    error = capsys.readouterr().err
    assert "pr: its upstream was trained with the task" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_score_of_a_fold_is_not_put_into_the_card_and_notes_are(tmp_path, reference, capsys, add_result):
    ckpt = reference / "tiny-20ms.ckpt"
    upstream = ("melhubert_local", ckpt, sha256_of(ckpt))
    folds = [PartResult(f"fold{n}", 50.0, None, 1e-4, "predictions") for n in range(1, 6)]
    add_result("whole/er", 50.0, *upstream, parts=folds, notes=["fold3: s3prl found\nno checkpoint better"])
    add_result("fold/er", 40.0, *upstream, notes=["fold2 alone, one of 5"])
    given = ["hub", str(ckpt), "--stats", "librispeech-360h", "--out", str(tmp_path / "out"), "--results"]
    assert cli.main([*given, str(tmp_path / "fold")]) == 2
    error = capsys.readouterr().err
    assert "er: its result is that of a single part of emotion recognition" in error
    assert error.count("\n") == 1
    assert cli.main([*given, str(tmp_path / "whole")]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "Of emotion recognition: fold3: s3prl found no checkpoint better." in text


def make_older(experiment: Path, named: str) -> None:
    """Make of an experiment one of an older version, which keeps beside its result what its -g named."""
    content = json.loads((experiment / "results.json").read_text())
    del content["statistics_sha256"]
    (experiment / "results.json").write_text(json.dumps(content))
    (experiment / "experiment.json").write_text(json.dumps({STATISTICS: named}))


@pytest.mark.parametrize("made", ["by this version", "by an older one", "of the same weights"])
def test_the_score_with_other_statistics_is_not_put_into_the_card(
    tmp_path, reference, capsys, add_result, made
):
    """The weights are the same, and so is the file; what they hear is not."""
    ckpt = reference / "tiny-20ms.ckpt"
    digest = FeatureStats.load("librispeech-360h").digest()
    known = {} if made == "by an older one" else {"statistics_sha256": digest}
    add_result("exp/pr", 31.25, "melhubert_local", ckpt, sha256_of(ckpt), **known)
    if made == "by an older one":
        make_older(tmp_path / "exp/pr", digest)
    given, error = ["hub", str(ckpt), "--stats", "librispeech-100h"], ""
    if made == "of the same weights":
        other = tmp_path / "other.ckpt"
        convert_checkpoint(str(ckpt), other, "librispeech-100h")
        given = ["hub", str(other)]
    assert cli.main([*given, "--out", str(tmp_path / "out"), "--results", str(tmp_path / "exp")]) == 2
    error = capsys.readouterr().err
    assert "pr: its result was made with other log-Mel statistics than" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    given = ["hub", str(ckpt), "--stats", "librispeech-360h", "--out", str(tmp_path / "out")]
    assert cli.main([*given, "--results", str(tmp_path / "exp")]) == 0


def test_statistics_that_an_older_experiment_passed_over_are_none_of_its_score(
    tmp_path, reference, add_result
):
    """Its -g named some, and those of the checkpoint counted."""
    ckpt = tmp_path / "own.ckpt"
    convert_checkpoint(str(reference / "tiny-20ms.ckpt"), ckpt, "librispeech-360h")
    add_result("exp/pr", 31.25, "melhubert_local", ckpt, sha256_of(ckpt))
    named = FeatureStats.load("librispeech-100h").digest()
    make_older(tmp_path / "exp/pr", named)
    given = ["hub", str(ckpt), "--out", str(tmp_path / "out"), "--results", str(tmp_path / "exp")]
    assert cli.main(given) == 0
