"""A folder tree with all tasks: what is found in it, and where the leaderboard has it.

The places are those that the submission script of s3prl's repository gives the same files; pip's copy of
s3prl lacks it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.choice import choose_experiments
from s3prl_melhubert.downstream_recipes.report.results import PartResult, read_result, write_result
from s3prl_melhubert.downstream_recipes.tasks import all_tasks

# Each task's files in s3prl's folder of the experiment, and in the archive.
PLACES = {
    "pr": {"test-hyp.ark": "pr_public/predict.ark"},
    "ks": {"test_predict.txt": "ks_public/predict.txt"},
    "ic": {"test_predict.csv": "ic_public/predict.csv"},
    "sid": {"test_predict.txt": "sid_public/predict.txt"},
    "er": {f"fold{n}/test_fold{n}_predict.txt": f"er_fold{n}_public/predict.txt" for n in range(1, 6)},
    "asr": {
        "test-clean-noLM-hyp.ark": "asr_public/predict.ark",
        "test-clean-LM-hyp.ark": "asr_lm_public/predict.ark",
    },
    "qbe": {"benchmark.stdlist.xml": "qbe_public/benchmark.stdlist.xml"},
    "sf": {"test-hyp.ark": "sf_public/predict.ark"},
    "asv": {"test_predict.txt": "sv_public/predict.txt"},
    "sd": {
        "frame_shift": "sd_public/frame_shift",
        "scoring/predictions/a-1.h5": "sd_public/scoring/predictions/a-1.h5",
    },
    "se": {"test_metrics.txt": "se_public/metrics.txt"},
    "ss": {"test_metrics.txt": "ss_public/metrics.txt"},
}
DETECTIONS = (
    '<stdlist><detected_termlist termid="a-1"><term file="d" dur="1" score="0.5" decision="YES"/>'
    "</detected_termlist></stdlist>"
)
CONTENTS = {
    "pr": "a-1 HH IY1\n",
    "ks": "a-1 yes\n",
    "ic": "a-1,activate,lights,kitchen\n",
    "sid": "a-1 id10001\n",
    "er": "a-1 neu\n",
    "asr": "a-1 HELLO\n",
    "qbe": DETECTIONS,
    "sf": "a-1 PLAY B-artist\n",
    "asv": "a-1 0.5\n",
    "sd": "320\n",
    "se": "si_sdr 8.5\nstoi 0.9\npesq 2.5\n",
    "ss": "si_sdr 9.5\nstoi 0.9\npesq 1.5\n",
}


@pytest.fixture
def experiment(result, tmp_path) -> Callable[..., Path]:
    """Make the folder of an experiment that has ended; `exp/TASK` unless another is named."""

    def make(task: str, folder: Path | None = None, upstream: str = "fbank") -> Path:
        folder = folder or tmp_path / "exp" / task
        for name in PLACES[task]:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".h5":
                with pytest.importorskip("h5py").File(path, "w") as file:
                    file["T_hat"] = np.zeros((10, 2), np.float32)
            else:
                path.write_bytes(CONTENTS[task].encode())
            if task == "er":
                (path.parent / "test_utterances.txt").write_text("a-1\n")
                part = result(task, 50.0, upstream, predictions=path.name)
                write_result(path.parent, part)
        (folder / "test_utterances.txt").write_text("a-1\n")
        (folder / "experiment.json").write_text(json.dumps({"task": task, "-u": upstream}))
        first, *others = PLACES[task]
        ours = {"predictions": first, "test_utterances": all_tasks()[task].test_size}
        if task == "asr":
            ours["with_language_model"] = {"value": 9.5, "predictions": others[0]}
        if task == "er":
            ours["parts"] = [PartResult(Path(n).parent.name, 50.0, 50.0, 1e-4, n) for n in PLACES["er"]]
        write_result(folder, result(task, 50.0, upstream, **ours))
        return folder

    return make


def members(out: Path) -> list[str]:
    with zipfile.ZipFile(out / "predict.zip") as archive:
        return sorted(archive.namelist())


def test_all_tasks_of_a_tree_are_where_the_leaderboard_looks(experiment, tmp_path, capsys):
    absent = [key for key in all_tasks() if key not in PLACES]
    assert not absent, f"say in PLACES and CONTENTS what {', '.join(absent)} writes, and where it goes"
    assert list(PLACES) == list(all_tasks())
    for task in PLACES:
        experiment(task)
    assert main(["superb", "submit", str(tmp_path / "exp"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == ""
    places = {place: (task, file) for task, files in PLACES.items() for file, place in files.items()}
    assert members(tmp_path / "out") == sorted(f"predict/{place}" for place in places)
    for place, (task, file) in places.items():
        written = (tmp_path / "exp" / task / file).read_bytes()
        assert (tmp_path / "out/predict" / place).read_bytes() == written


def test_files_of_single_utterances_do_not_stay_in_a_later_submission(experiment, tmp_path):
    out = tmp_path / "out"
    for task in ("sd", "ks"):
        command = ["superb", "submit", f"--{task}", str(experiment(task)), "--out", str(out)]
        assert main(command) == 0
    assert [path.name for path in (out / "predict").iterdir()] == ["ks_public"]


def test_several_experiments_of_a_task_are_named_and_one_is_chosen(experiment, tmp_path, capsys):
    for upstream in ("fbank", "melhubert"):
        for task in ("pr", "sid"):
            experiment(task, tmp_path / "exp" / upstream / task, upstream)
    tree, out = str(tmp_path / "exp"), tmp_path / "out"
    command = ["superb", "submit", tree, "--out", str(out)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"2 experiments in phone recognition: {tree}/fbank/pr (fbank), {tree}/melhubert/pr (mel" in said
    assert "choose one with --sid EXP or --upstream NAME" in said
    assert not out.exists()
    assert main([*command, "--upstream", "melhubret"]) == 2
    assert "did you mean melhubert?" in capsys.readouterr().err
    assert main([*command, "--upstream", "melhubert"]) == 0
    assert members(out) == ["predict/pr_public/predict.ark", "predict/sid_public/predict.txt"]
    assert main([*command, "--pr", f"{tree}/fbank/pr", "--sid", f"{tree}/fbank/sid"]) == 0


@pytest.fixture
def unfinished(experiment, tmp_path) -> Iterator[tuple[str, str]]:
    """A tree in which ER has three of its folds and PR none of its result; what is said of each."""
    for task in ("er", "pr", "sid"):
        (experiment(task) / "results.json").unlink()
        if task == "er":
            for fold in ("fold4", "fold5"):
                (tmp_path / "exp/er" / fold / "results.json").unlink()
    return "of its parts, only fold1, fold2, fold3 ended", "exp/pr: no results.json"


def test_partial_folds_and_unfinished_experiments_are_refused(unfinished, experiment, tmp_path):
    experiment("sid")
    with pytest.raises(MelHuBERTError) as refused:
        choose_experiments(tmp_path / "exp")
    assert all(said in str(refused.value) for said in unfinished)
    # Those of another upstream, and those of tasks that are named, are not asked for.
    for folder in ("er", "pr"):
        place = tmp_path / "exp" / folder / "experiment.json"
        place.write_text(place.read_text().replace("fbank", "other"))
    assert list(choose_experiments(tmp_path / "exp", "fbank")) == ["sid"]
    with pytest.raises(MelHuBERTError, match="exp/er: of its parts"):
        choose_experiments(tmp_path / "exp", given=["pr"])


def test_a_fold_alone_and_a_result_without_all_folds_are_refused(experiment, tmp_path, capsys):
    folder = experiment("er")
    command = ["superb", "submit", "--er", str(folder / "fold1"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "no result of fold1, fold2, fold3, fold4, fold5" in capsys.readouterr().err
    result = read_result(folder)
    write_result(folder, replace(result, parts=result.parts[:4]))
    assert main(["superb", "submit", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "no result of fold5" in capsys.readouterr().err


def test_order_counts_where_s3prl_writes_the_corpus_order(experiment, tmp_path, capsys):
    """KS' file is in its loader's order, and the leaderboard matches its names."""
    for task, lines in (("ks", "b-1 no\na-1 yes\n"), ("asv", "b-1 0.1\na-1 0.5\n")):
        folder = experiment(task)
        (folder / "test_predict.txt").write_text(lines)
        (folder / "test_utterances.txt").write_text("a-1\nb-1\n")
        command = ["superb", "submit", f"--{task}", str(folder), "--out", str(tmp_path / "out")]
        assert main(command) == (0 if task == "ks" else 2)
    said = capsys.readouterr().err
    assert "lines in another order than the corpus' test list: 1 (line 1: b-1, expected a-1)" in said


@pytest.mark.parametrize(
    ("task", "right", "wrong", "said"),
    [
        ("ks", "yes", "maybe", "line 1: 'maybe'"),
        ("ic", "kitchen", "attic", "line 1: 'activate,lights,attic'"),
        ("er", "neu", "xxx", "line 1: 'xxx'"),
        ("sf", "PLAY", "PL\u00c1Y", "line 1: 'PL\u00c1Y'"),
        ("asv", "0.5", "nan", "line 1: nan"),
        ("asv", "0.5", "high", "line 1: 'high'"),
        ("asv", "0.5", "0.5 0.5", "line 1: '0.5 0.5'"),
        ("qbe", "0.5", "inf", "line 1: inf"),
        (
            "qbe",
            DETECTIONS[DETECTIONS.index("<term ") : DETECTIONS.index("</det")],
            "",
            "line 1: no documents",
        ),
        ("qbe", 'termid="a-1"', 'termid="b-1"', "names that are no test utterance's: 1 (b-1)"),
    ],
)
def test_predictions_that_the_leaderboard_could_not_score_are_refused(
    task, right, wrong, said, experiment, tmp_path, capsys
):
    folder = experiment(task)
    path = folder / next(iter(PLACES[task]))
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong), encoding="utf-8")
    assert main(["superb", "submit", f"--{task}", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert said in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["320\n160\n", "20 ms\n"])
def test_a_frame_shift_that_is_none_is_refused(text, experiment, tmp_path, capsys):
    """The leaderboard would score every mixture of diarization by it."""
    folder = experiment("sd")
    (folder / "frame_shift").write_text(text)
    assert main(["superb", "submit", "--sd", str(folder), "--out", str(tmp_path / "out")]) == 2
    said = f"{folder}/frame_shift: is not a line with the samples of a frame: 1 ('{' '.join(text.split())}')"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tree_without_an_experiment_is_refused(tmp_path):
    with pytest.raises(MelHuBERTError, match=r"no results\.json here or below"):
        choose_experiments(tmp_path)
