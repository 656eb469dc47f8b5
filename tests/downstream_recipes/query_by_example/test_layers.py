"""All layers in one pass: each gives what s3prl's own program gives for it alone, killed or not."""

from __future__ import annotations

import builtins
import re
import runpy
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from s3prl_melhubert.downstream_recipes.query_by_example.alignments import (
    SUPERBS,
    Alignments,
    _Work,
    is_doubtful,
)
from s3prl_melhubert.downstream_recipes.query_by_example.kept_features import KeptFeatures
from s3prl_melhubert.downstream_recipes.query_by_example.subsequence import Queries
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.downstream_recipes.running.one_pass import layers
from s3prl_melhubert.downstream_recipes.running.trainings.layer_test import LayerTest

DETECTIONS = "benchmark.stdlist.xml"


class Killed(BaseException):
    """As if the process ended."""


def s3prl_alone(arguments: list[str], folder: Path, monkeypatch) -> bytes:
    """Run s3prl's program as it is; return the detections that it writes, in the order of the audio files."""
    folder.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "isinstance", isinstance)  # s3prl replaces it
        patch.setattr(sys, "argv", ["run_downstream.py", *arguments, "-p", str(folder), "--device", "cpu"])
        runpy.run_module("s3prl.run_downstream", run_name="__main__")
    return in_order((folder / DETECTIONS).read_bytes())


def in_order(detections: bytes) -> bytes:
    """Sort the documents of each query, and the queries: s3prl takes them as its processes have them done."""
    head, *lists = re.split(rb"(?=  <detected_termlist)", detections)
    *lists, last = lists
    last, end = last.split(b"</stdlist>")
    found = []
    for each in [*lists, last]:
        first, *terms, closing = each.splitlines(keepends=True)
        found.append(first + b"".join(sorted(terms)) + closing)
    return head + b"".join(sorted(found)) + b"</stdlist>" + end


def killed_at(number: int, method):
    """The method, which ends the process the nth time that it is called; and how often it was called."""
    calls: list[object] = []

    def counting(*arguments, **options):
        calls.append(None)
        if len(calls) == number:
            raise Killed
        return method(*arguments, **options)

    return counting, calls


def test_layers_of_one_pass_equal_s3prls_own_runs(run, tmp_path, upstream, monkeypatch):
    """It is killed among the layers of an audio file, and when a layer is scored, and goes on from there."""
    experiment = tmp_path / "EXP"
    append, in_document = KeptFeatures.append, _Work.in_document
    with monkeypatch.context() as patch:  # 11 audio files of 3 layers
        patch.setattr(KeptFeatures, "append", killed_at(17, append)[0])
        with pytest.raises(Killed):
            run()
    with monkeypatch.context() as patch:  # 8 documents of each layer
        left, appended = killed_at(0, append)
        patch.setattr(KeptFeatures, "append", left)
        patch.setattr(_Work, "in_document", killed_at(13, in_document)[0])
        with pytest.raises(Killed):
            run()
    assert len(appended) == 33 - 16
    assert (experiment / "layer-0/dev/score.json").is_file()
    assert not (experiment / "layer-0/dev/features.bin").exists()
    kept = experiment / "layer-1/dev/alignments.jsonl"
    kept.write_bytes(kept.read_bytes()[:-9])  # the fourth line: as if its writing had been cut short
    with monkeypatch.context() as patch:
        left, aligned = killed_at(0, in_document)
        patch.setattr(_Work, "in_document", left)
        patch.setattr(KeptFeatures, "append", killed_at(12, append)[0])  # of the best layer on the test split
        assert run() == 0
    assert len(aligned) == 5 + 8 + 8
    assert not [*experiment.rglob("features.*"), *experiment.rglob("alignments.jsonl")]
    best = read_result(experiment).layer
    for split, folders in (("dev", (0, 1, 2)), ("test", (best,))):
        for layer in folders:
            ours = experiment / f"layer-{layer}"
            config = ["-c", str(ours / "config.yaml"), "-d", "quesst14_dtw", *upstream]
            command = ["-m", "evaluate", "-t", split, "-l", str(layer), *config]
            theirs = s3prl_alone(command, tmp_path / f"alone/{split}-{layer}", monkeypatch)
            found = (ours / ("dev" if split == "dev" else "") / DETECTIONS).read_bytes()
            assert in_order(found) == theirs
            # Ours are in the order of the corpus, always.
            assert re.findall(rb'termid="(.*?)"', found) == sorted(re.findall(rb'termid="(.*?)"', found))
            assert found == in_order(found)


def test_a_kill_while_a_layer_ends_leaves_no_features(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(KeptFeatures, "remove", killed_at(1, KeptFeatures.remove)[0])
        with pytest.raises(Killed):
            run("--stage", "train")
    with monkeypatch.context() as patch:
        patch.setattr(LayerTest, "keep_dev_score", killed_at(2, LayerTest.keep_dev_score)[0])
        with pytest.raises(Killed):
            run("--stage", "train")
    assert run("--stage", "train") == 0
    assert not [*(tmp_path / "EXP").rglob("features.*"), *(tmp_path / "EXP").rglob("alignments.jsonl")]


def test_features_whose_writing_was_cut_short_are_not_used(tmp_path):
    names = ["one", "two", "three"]
    states = [torch.randn(5, 4), torch.randn(0, 4), torch.randn(3, 4, dtype=torch.float64)]

    def reopened(names: list[str], expected: int) -> KeptFeatures:
        kept = KeptFeatures(tmp_path, names)
        assert kept.names == names[:expected]
        assert len(kept) == len(kept.features()) == expected
        for found, state in zip(kept.features(), states, strict=False):
            assert found.dtype == state.dtype
            assert torch.equal(found, state)
        return kept

    def cut(file: str, number: int) -> None:
        path = tmp_path / file
        path.write_bytes(path.read_bytes()[:-number])

    kept = reopened(names, 0)
    for name, state in zip(names, states, strict=True):
        kept.append(name, state)
    reopened(names, 3)
    cut("features.bin", 1)  # of the last one's numbers
    reopened(names, 2).append(names[2], states[2])
    cut("features.jsonl", 1)  # the end of its line
    reopened(names, 2).append(names[2], states[2])
    cut("features.jsonl", 9)
    reopened(names, 2).append(names[2], states[2])
    reopened([*names, "four"], 3)
    reopened(names[:2], 2)
    reopened(["one", "three"], 1)
    reopened(["another", "two"], 0)
    assert (tmp_path / "features.bin").stat().st_size == 0


def test_other_settings_than_superbs_are_aligned_by_s3prls_function(run, tmp_path, upstream, monkeypatch):
    assert run("--stage", "train", "-o", "config.downstream_expert.dtwrc.dist_method=cosine") == 0
    ours = tmp_path / "EXP/layer-1"
    config = ["-c", str(ours / "config.yaml"), "-d", "quesst14_dtw", *upstream]
    command = ["-m", "evaluate", "-t", "dev", "-l", "1", *config]
    theirs = s3prl_alone(command, tmp_path / "alone", monkeypatch)
    assert in_order((ours / "dev" / DETECTIONS).read_bytes()) == theirs


def test_processes_and_a_small_disk_change_nothing(run, tmp_path, monkeypatch, capsys):
    assert run() == 0
    whole = (tmp_path / "EXP").rename(tmp_path / "whole")
    free = namedtuple("free", "free")
    monkeypatch.setattr(layers, "disk_usage", lambda place: free(120_000))
    assert run("--workers", "2") == 0
    assert "goes on with 1" in capsys.readouterr().out
    detections = sorted(path.relative_to(whole) for path in whole.rglob(DETECTIONS))
    assert len(detections) == 4
    for path in detections:
        assert (tmp_path / "EXP" / path).read_bytes() == (whole / path).read_bytes()

    (tmp_path / "EXP").rename(tmp_path / "small")
    monkeypatch.setattr(layers, "disk_usage", lambda place: free(10_000))
    assert run() == 2
    assert "are needed for the features of a layer; make room" in capsys.readouterr().err


def test_costs_are_those_of_s3prls_function():
    """Of queries that are longer than the document, too, and of a document of one or two frames."""
    from s3prl_melhubert.compat import finder

    finder.install()
    pytest.importorskip("dtw")
    from s3prl.downstream.quesst14_dtw.expert import cosine_exp, match

    random = np.random.default_rng(0)
    queries = [random.normal(1, 1, (frames, 24)).astype(np.float32) for frames in (9, 5, 40, 5, 23)]
    how = {"step_pattern": "asymmetric", "keep_internals": False, "distance_only": False}
    how |= {"open_begin": True, "open_end": True}
    for frames in (1, 2, 3, 60):
        document = random.normal(1, 1, (frames, 24)).astype(np.float32)
        expected = [-match(query, document, "", "", cosine_exp, True, how)[2] for query in queries]
        costs = Queries(queries).costs_in(document)
        told = ~np.isnan(costs)
        if frames != 2:
            assert told.all() == (frames > 1)  # a spread of nearly nothing is left to s3prl
        assert np.abs(costs - expected)[told].max(initial=0) < 1e-13
    silent = np.zeros((60, 24), np.float32)
    assert np.isnan(Queries(queries).costs_in(silent)).all()


@pytest.mark.parametrize(
    ("scores", "doubtful"),
    [
        ([-1.0, 1.0], False),
        ([-1.0, 0.0, 1.0 + 1e-11], False),
        ([-1.0, np.nan], True),
        ([0.5, 0.5, 0.5 + 1e-9], True),  # they hardly differ
        ([-1.0, 1.0, 0.00005, -0.00005], True),  # near the middle between 0.0000 and 0.0001
        ([*[0.0] * 4, 2.5], True),  # 2 standard deviations: YES or NO
    ],
)
def test_scores_whose_rounding_might_show_are_computed_exactly(scores, doubtful):
    values = np.array(scores)
    if scores[-1] == -0.00005:  # what they are after s3prl has normalized them
        values = values / values.std()
        values[2:] = 0.00005 * values.std(), -0.00005 * values.std()
    assert is_doubtful(values) == doubtful


def test_queries_whose_scores_are_in_doubt_and_no_others_are_left_to_s3prls_function(tmp_path):
    random = np.random.default_rng(0)
    queries = {name: random.normal(size=(6, 4)).astype(np.float32) for name in ("one", "silent", "other")}
    queries["silent"][2] = 0  # The cosine with such a frame is no number.
    documents = {name: random.normal(size=(20, 4)).astype(np.float32) for name in ("a", "b", "c")}
    asked = []

    def match(query, document, query_name, document_name, *how):
        asked.append((query_name, document_name))
        return query_name, document_name, float(len(asked))

    def cosine_exp(query, document):
        raise AssertionError("s3prl's function alone computes distances by it")

    for _ in range(2):  # Begun again, it takes from the file what was not in doubt.
        asked.clear()
        alignments = Alignments(tmp_path / "alignments.jsonl", "alignments")(max_workers=1)
        pairs = [
            alignments.submit(
                match, queries[query], documents[document], query, document, cosine_exp, True, SUPERBS
            )
            for query in queries
            for document in documents
        ]
        found = [score.result() for score in alignments.as_completed(pairs)]
        assert asked == [("silent", "a"), ("silent", "b"), ("silent", "c")]
        assert [(query, document) for query, document, _ in found] == pairs
        assert [score for _, _, score in found[3:6]] == [1.0, 2.0, 3.0]
        costs = [Queries([queries[q]]).costs_in(documents[d])[0] for q in ("one", "other") for d in documents]
        assert [-score for _, _, score in (*found[:3], *found[6:])] == pytest.approx(costs, abs=1e-12)
