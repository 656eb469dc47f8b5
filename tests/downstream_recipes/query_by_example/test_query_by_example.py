"""Query by example: the measure, worked by hand; the check; and runs of it by s3prl's own expert."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.query_by_example.mtwv import (
    BETA,
    maximum_term_weighted_value,
    read_detections,
)
from s3prl_melhubert.downstream_recipes.query_by_example.quesst import check_quesst
from s3prl_melhubert.downstream_recipes.query_by_example.truth import GroundTruth, read_ground_truth
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.errors import MelHuBERTError

DOCUMENTS = ("a", "b", "c", "d", "e")


# -- the measure, by hand --------------------------------------------------------------------------------


def truth(**targets: str) -> GroundTruth:
    """`truth(q="ab")`: of five documents, a and b hold the query q."""
    return GroundTruth(
        frozenset(targets), frozenset(DOCUMENTS), {q: frozenset(held) for q, held in targets.items() if held}
    )


def scores(**of_queries: Sequence[float]) -> dict[str, dict[str, float]]:
    """`scores(q=[3, 2, 1, 0, 0])`: the scores of the documents a to e."""
    return {query: dict(zip(DOCUMENTS, values, strict=True)) for query, values in of_queries.items()}


def test_weight_of_a_false_alarm_is_that_of_the_evaluation():
    assert pytest.approx(12.49, abs=1e-9) == BETA  # 1 / 100 * (1 / 0.0008 - 1)


@pytest.mark.parametrize(
    ("detections", "targets", "expected"),
    [
        # Every document that holds the query is above every one that does not.
        (scores(q=[3, 2, 1, 0, 0]), {"q": "ab"}, 1.0),
        # a is found; b lies below c, and to take c costs 12.49 / 3.
        (scores(q=[3, 1, 2, 0, 0]), {"q": "ab"}, 0.5),
        # The first is a false alarm, so that the best is to detect nothing.
        (scores(q=[2, 1, 3, 0, 0]), {"q": "ab"}, 0.0),
        # a and c have one score: a threshold takes both or none.
        (scores(q=[3, 1, 3, 0, 0]), {"q": "ab"}, 0.0),
        # The same of b and c, below a, which is found alone, whichever of the two comes first.
        (scores(q=[3, 2, 2, 0, 0]), {"q": "ab"}, 0.5),
        (scores(q=[3, 2, 2, 0, 0]), {"q": "ac"}, 0.5),
        # All documents hold the query, and a threshold below all of them is the best.
        (scores(q=[3, 2, 1, 0, -1]), {"q": "abcde"}, 1.0),
        # One threshold for both queries: at 5 p's a is found, and p's b comes before q's a.
        (scores(p=[5, 4, 0, 0, 0], q=[1, 0, 0, 0, 0]), {"p": "a", "q": "a"}, 0.5),
        # The mean is over queries, not over documents: p has one, q has two.
        (scores(p=[5, 0, 0, 0, 0], q=[5, -1, 0, 0, 0]), {"p": "a", "q": "ab"}, 0.75),
        # A query without scores is missed; one that no document holds does not count.
        (scores(p=[5, 0, 0, 0, 0], r=[0, 0, 0, 0, 0]), {"p": "a", "q": "a", "r": ""}, 0.5),
        # Scores of what the truth does not have do not count.
        ({**scores(p=[5, 0, 0, 0, 0]), "x": {"a": 9.0}}, {"p": "a"}, 1.0),
        # Documents without a score have -10: below those that have one.
        ({"p": {"a": -9.5}}, {"p": "a"}, 1.0),
        ({"p": {"a": -10.5}}, {"p": "a"}, 0.0),
    ],
)
def test_mtwv_is_that_worked_by_hand(detections, targets, expected):
    assert maximum_term_weighted_value(detections, truth(**targets)) == pytest.approx(expected)


def test_a_false_alarm_among_many_documents_may_be_worth_a_hit():
    """With 101 documents, one that does not hold the query costs 12.49 / 100."""
    documents = [f"d{i}" for i in range(101)]
    all_of_them = GroundTruth(frozenset("q"), frozenset(documents), {"q": frozenset(["d0"])})
    detections = {"q": {name: 100.0 - i for i, name in enumerate(["d1", "d0", *documents[2:]])}}
    assert maximum_term_weighted_value(detections, all_of_them) == pytest.approx(1 - 0.1249)


# -- runs ------------------------------------------------------------------------------------------------


def test_layers_are_tested_on_dev_and_the_best_on_eval(run, quesst, tmp_path, capsys):
    experiment = tmp_path / "EXP"
    assert run() == 0
    printed = capsys.readouterr().out
    result = read_result(experiment)

    devs = [trial.dev for trial in result.search]
    assert [trial.layer for trial in result.search] == [0, 1, 2]
    assert result.dev == max(devs)
    assert result.layer == devs.index(max(devs))
    assert f", layer {result.layer} (dev {result.dev:.2f} %)" in printed
    assert (result.learning_rate, result.steps) == (None, 0)
    # The score is that of the file that is submitted, and words are found by their sound.
    folder = experiment / f"layer-{result.layer}"
    assert result.predictions == f"layer-{result.layer}/benchmark.stdlist.xml"
    detections = read_detections(folder / "benchmark.stdlist.xml")
    assert {len(found) for found in detections.values()} == {8}
    eval_truth = read_ground_truth(quesst / "scoring/groundtruth_quesst14_eval")
    assert result.value == pytest.approx(100 * maximum_term_weighted_value(detections, eval_truth))
    assert result.value > 30
    assert {"English files of utterances", "queries in the truth of eval"} <= {
        each.setting for each in result.differences
    }
    assert not {"downstream_expert.max_workers", "downstream_expert.datarc.dataset_root"} & {
        each.setting for each in result.differences
    }

    # What was tested before a kill is not tested again.
    (experiment / "results.json").unlink()
    (experiment / "layer-2/training.json").unlink()
    kept = experiment / "layer-0/dev/benchmark.stdlist.xml"
    time = kept.stat().st_mtime_ns
    assert run() == 0
    assert kept.stat().st_mtime_ns == time
    assert read_result(experiment).value == result.value

    # The report has its column, and the submission its file, whole or not at all.
    capsys.readouterr()
    assert main(["superb", "report", str(experiment)]) == 0
    assert "QBE: MTWV % ↑" in capsys.readouterr().out
    submit = ["superb", "submit", "--qbe", str(experiment), "--out", str(tmp_path / "out")]
    assert main(submit) == 0
    found = folder / "benchmark.stdlist.xml"
    placed = tmp_path / "out/predict/qbe_public/benchmark.stdlist.xml"
    assert placed.read_bytes() == found.read_bytes()
    whole = found.read_text()
    capsys.readouterr()
    found.write_text(whole.replace("quesst14_eval_0003", "quesst14_eval_0009"))
    assert main(submit) == 2
    assert "test utterances that are missing: 1 (quesst14_eval_0003)" in capsys.readouterr().err
    found.write_text(re.sub(r'score="[-0-9.]+"', 'score="nan"', whole, count=1))
    assert main(submit) == 2
    assert "line 1: nan" in capsys.readouterr().err
    found.write_text(whole[:500])
    assert main(submit) == 2
    assert "no list of detections" in capsys.readouterr().err


def test_spoken_digits_are_found_better_than_by_chance(tmp_path, write_quesst, spoken_librispeech, capsys):
    """The first words of some utterances are looked for in others of one speaker."""
    pytest.importorskip("dtw")
    pytest.importorskip("lxml")
    spoken = {}
    for transcripts in sorted(spoken_librispeech.glob("*/9001/*/*.trans.txt")):
        for line in transcripts.read_text().splitlines():
            name, *words = line.split()
            spoken[name] = (words, soundfile.read(transcripts.with_name(f"{name}.flac"), dtype="float32")[0])
    short = [name for name, (words, _) in spoken.items() if len(words) == 3]
    documents = {f"quesst14_{i:05d}": spoken[name] for i, name in enumerate(short[:10])}
    queries: dict[str, dict[str, np.ndarray]] = {"dev": {}, "eval": {}}
    held = {}
    for i, name in enumerate(short[10:16]):
        words, wave = spoken[name]
        split = ("dev", "eval")[i % 2]
        query = f"quesst14_{split}_{i:04d}"
        queries[split][query] = wave[: len(wave) // len(words)]
        held[query] = [document for document, (others, _) in documents.items() if words[0] in others]
    waves = {document: wave for document, (_, wave) in documents.items()}
    corpus = write_quesst(tmp_path / "quesst14Database", waves, queries, held, 16_000)
    command = ["superb", "qbe", "--quesst", str(corpus), "-u", "fbank", "-p", str(tmp_path / "EXP")]
    assert main([*command, "--device", "cpu", "--workers", "1"]) == 0
    result = read_result(tmp_path / "EXP")
    assert (result.layer, result.search) == (0, [])
    assert max(result.value, result.dev) > 10


def test_steps_and_learning_rates_are_refused(run, capsys):
    for arguments in (["--steps", "3"], ["--lr", "1e-3"]):
        assert run(*arguments) == 2
        assert "qbe: nothing is trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    "choice", ["upstream_feature_selection=last_hidden_state", "upstream_layer_selection=1"]
)
def test_a_choice_of_layers_is_refused(choice, run, capsys):
    assert run("-o", f"args.{choice}", "--stage", "check") == 2
    assert "qbe tests every layer by itself" in capsys.readouterr().err


def test_stages(run, tmp_path, capsys):
    assert run("--stage", "check") == 0
    assert not (tmp_path / "EXP/layer-0/dev/score.json").exists()
    assert run("--stage", "test") == 2
    assert "has not ended" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_in_s3prls_own_program(quesst, run_python, s3prl_checkout, tmp_path, capsys):
    pytest.importorskip("dtw")
    pytest.importorskip("lxml")
    assert (
        main(["superb", "config", "qbe", "--quesst", str(quesst), "--workers", "0", "--out", str(tmp_path)])
        == 0
    )
    printed = capsys.readouterr()
    assert "left to be set" not in printed.err
    arguments = ["-m", "evaluate", "-t", "dev", "-u", "fbank", "-l", "0", "-d", "quesst14_dtw"]
    arguments += ["-c", printed.out.strip(), "-p", tmp_path / "EXP", "--device", "cpu"]
    done = run_python(
        "run_downstream.py", *arguments, cwd=s3prl_checkout, PYTHONPATH=str(s3prl_checkout.parent)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(read_detections(tmp_path / "EXP/benchmark.stdlist.xml")) == 3


@pytest.mark.parametrize("package", ["dtw", "lxml"])
def test_absent_package_is_named_with_what_to_install(package, run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "lxml.etree", raising=False)
    assert run() == 2
    assert "pip install 's3prl-melhubert[qbe]'" in capsys.readouterr().err


# -- the corpus ------------------------------------------------------------------------------------------


def test_files_are_those_that_s3prl_finds(quesst):
    from s3prl_melhubert.compat import finder

    finder.install()
    from s3prl.downstream.quesst14_dtw.dataset import QUESST14Dataset

    problems = Problems()
    checked = check_quesst(quesst, problems)
    problems.raise_if_any("QUESST")
    for name in ("dev", "eval"):
        theirs = QUESST14Dataset(name, dataset_root=str(quesst))
        assert theirs.data == checked.files[name] + checked.files["utterances"]
    assert checked.truth["eval"].targets == {
        "quesst14_eval_0002": {f"quesst14_{i:05d}" for i in (0, 1, 2, 5, 7)},
        "quesst14_eval_0003": {f"quesst14_{i:05d}" for i in (1, 2, 3, 6)},
        "quesst14_eval_0004": {f"quesst14_{i:05d}" for i in (2, 3, 4, 5, 7)},
    }  # the one of another language is held by none
    assert checked.truth["eval"].queries == {*checked.truth["eval"].targets, "elsewhere"}
    assert checked.truth["eval"].documents == {f"quesst14_{i:05d}" for i in range(8)}


def test_truth_may_be_in_any_encoding_that_its_xml_declares(quesst):
    """The queries are of six languages, most of which have letters beyond ASCII."""
    folder = quesst / TRUTH
    before = read_ground_truth(folder)
    terms = folder / "quesst14_dev.tlist.xml"
    text = terms.read_text().replace("<termtext>", "<termtext>\u0161\u0165")
    terms.write_text(f'<?xml version="1.0" encoding="ISO-8859-2"?>{text}', encoding="iso-8859-2")
    assert read_ground_truth(folder) == before
    terms.write_text(text, encoding="utf-8-sig")
    assert read_ground_truth(folder) == before


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new))

    return change


TRUTH = "scoring/groundtruth_quesst14_dev"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "Audio/quesst14_00003.wav").unlink(),
            "not there: 1 (Audio/quesst14_00003.wav)",
        ),
        (
            lambda root: (root / "dev_queries/quesst14_dev_0001.wav").write_bytes(b"RIFF"),
            "read to their end: 1 (dev_queries/quesst14_dev_0001.wav",
        ),
        (
            edit("scoring/language_key_eval.lst", "nnenglish", "basque"),
            "of the language nnenglish: 1 (language_key_eval",
        ),
        (
            edit("scoring/language_key_dev.lst", ".wav nnenglish", ".wav"),
            "`FOLDER/FILE LANGUAGE`: 3 (language_key_dev",
        ),
        (
            edit(f"{TRUTH}/quesst14_dev.tlist.xml", "dev_0001", "dev_0007"),
            "does not have: 1 (quesst14_dev_0001)",
        ),
        (edit(f"{TRUTH}/quesst14.ecf.xml", "00003", "00033"), "does not have: 1 (quesst14_00003 (dev))"),
        (
            edit("scoring/language_key_dev.lst", "quesst14_dev_0001.wav", "quesst14_dev_0000.wav"),
            "more than once: 1 (quesst14_dev_0000 in language_key_dev.lst)",
        ),
        (
            edit("scoring/language_key_dev.lst", "quesst14Database/dev_queries/quesst14_dev_0001", "one"),
            "`FOLDER/FILE LANGUAGE`: 1 (language_key_dev.lst line 2: 'one.wav nnenglish')",
        ),
        (edit(f"{TRUTH}/quesst14.ecf.xml", "</ecf>", ""), "cannot be read as XML"),
        (
            edit(f"{TRUTH}/quesst14.ecf.xml", "audio_filename", "file"),
            'no element <excerpt audio_filename="',
        ),
        (
            lambda root: shutil.copy(root / TRUTH / "quesst14.ecf.xml", root / TRUTH / "copy.ecf.xml"),
            "expected one file *.ecf.xml, found 2",
        ),
        (edit(f"{TRUTH}/quesst14_dev.rttm", "LEXEME", "SPEECH"), "no line `LEXEME"),
        (lambda root: (root / TRUTH / "quesst14_dev.rttm").unlink(), "expected one file *.rttm, found 0"),
        (lambda root: (root / "scoring/language_key_dev.lst").unlink(), "cannot be read (No such file"),
        (lambda root: shutil.rmtree(root / "scoring"), "expected QUESST 2014 here"),
    ],
)
def test_faults_are_named(damage, message, quesst):
    damage(quesst)
    problems = Problems()
    with pytest.raises(MelHuBERTError, match=re.escape(message)):  # noqa: PT012
        check_quesst(quesst, problems)
        problems.raise_if_any("QUESST")


def test_identity_holds_the_corpus(run, quesst, tmp_path):
    assert run("--stage", "train") == 0
    identity = json.loads((tmp_path / "EXP/experiment.json").read_text())
    assert identity["--quesst"] == str(quesst)
    assert (tmp_path / "EXP/layer-2/dev/score.json").is_file()
    assert not (tmp_path / "EXP/results.json").exists()
