"""Emotion recognition: the check of IEMOCAP, and s3prl's own training and test on it in five folds."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from statistics import fmean

import pytest

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.emotion_recognition.iemocap import ORDER, check_iemocap
from s3prl_melhubert.downstream_recipes.report.results import read_result

SMALL = "config.downstream_expert.modelrc.projector_dim=8,,config.runner.gradient_accumulate_steps=1"
LABELS = ("neu", "hap", "xxx", "exc", "ang", "fru", "sad")


@pytest.fixture
def iemocap(tmp_path, write_audio) -> Path:
    """Five sessions of two dialogs each, with seven labels in a dialog; five of them are SUPERB's."""
    root = tmp_path / "IEMOCAP"
    for session in range(1, 6):
        labels = root / f"Session{session}/dialog/EmoEvaluation"
        labels.mkdir(parents=True)
        (labels / "._Ses.txt").write_bytes(b"\x00\xff")
        for dialog in (f"Ses0{session}F_impro01", f"Ses0{session}M_script01_1"):
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for number, label in enumerate(LABELS):
                name = f"{dialog}_{'MF'[number % 2]}{number:03d}"
                path = root / f"Session{session}/sentences/wav/{dialog}/{name}.wav"
                write_audio(path, samples=5000 + 100 * number, seed=number)
                lines += [
                    f"[6.2901 - 8.2357]\t{name}\t{label}\t[2.5000, 2.5000, 2.5000]",
                    "C-E2:\tNeutral;\t()",
                ]
            (labels / f"{dialog}.txt").write_text("\n".join(lines) + "\n")
    return root


def relabel(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def probabilities(row: dict) -> dict[str, float]:
    return {each["label"]: each["probability"] for each in row["emotion"]}


def test_five_folds_are_run_reported_submitted_and_used_by_one_command_each(
    iemocap, run_task, report_and_submit, predicted, tmp_path, capsys
):
    experiment, printed = run_task("er", ["--iemocap", str(iemocap)], SMALL)
    assert "Session1: 10 utterances" in printed
    result = read_result(experiment)
    assert [part.name for part in result.parts] == [f"fold{fold}" for fold in range(1, 6)]
    for fold, part in enumerate(result.parts, 1):
        log = (experiment / part.name / "log.txt").read_text().splitlines()
        [figure] = [line.split()[-1] for line in log if line.startswith("test acc: ")]
        assert part.value == pytest.approx(100 * float(figure))
        lines = (experiment / part.predictions).read_text().splitlines()
        assert len(lines) == 10
        assert all(line.startswith(f"Ses0{fold}") for line in lines)
    assert result.value == pytest.approx(sum(part.value for part in result.parts) / 5)
    assert f"er ACC {result.value:.2f} % on test" in printed
    assert result.test_utterances == 50
    assert not any("test_fold" in each.setting for each in result.differences)

    # A fold is no result of the task, and says so.
    assert main(["superb", "report", str(experiment / "fold2")]) == 0
    assert "fold2 alone, one of 5" in capsys.readouterr().out
    assert main(["superb", "submit", "--er", str(experiment / "fold2"), "--out", str(tmp_path / "no")]) == 2
    assert "no result of fold1, fold2, fold3, fold4, fold5" in capsys.readouterr().err

    table, predict = report_and_submit("er", experiment)
    assert "ER: ACC % ↑" in table.splitlines()[0]
    assert f"{result.value:.2f}" in table.splitlines()[2]
    with zipfile.ZipFile(predict.parent / "predict.zip") as archive:
        assert archive.namelist() == [f"predict/er_fold{fold}_public/predict.txt" for fold in range(1, 6)]

    # A fold by itself says what s3prl's test of it says; the experiment, the mean of the folds.
    by_fold = []
    for part in result.parts:
        rows = predicted(experiment / part.name, iemocap, "Session*/sentences/wav/*/*.wav", "--top", "4")
        lines = (experiment / part.predictions).read_text().splitlines()
        assert all(rows[name]["emotion"][0]["label"] == said for name, said in map(str.split, lines))
        by_fold.append({name: probabilities(row) for name, row in rows.items()})
    for name, row in predicted(experiment, iemocap, "Session1/sentences/wav/*/*.wav", "--top", "4").items():
        for emotion, probability in probabilities(row).items():
            assert probability == pytest.approx(fmean(fold[name][emotion] for fold in by_fold), abs=2e-6)

    # A fold of which predictions are lost is not submitted without them; the command makes them again.
    lost = experiment / "fold3/test_fold3_predict.txt"
    lost.unlink()
    assert main(["superb", "submit", "--er", str(experiment), "--out", str(tmp_path / "again")]) == 2
    assert f"{lost}: cannot be read" in capsys.readouterr().err


def test_killed_between_folds_it_continues_with_the_next(iemocap, run_task, capsys, short):
    corpus = ["--iemocap", str(iemocap)]
    experiment, _ = run_task("er", corpus, SMALL, steps=1)
    before = {path: path.stat().st_mtime_ns for path in experiment.glob("fold[1-4]/*.ckpt")}
    for path in (experiment / "results.json", *(experiment / "fold5").iterdir()):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    _, printed = run_task("er", corpus, SMALL, steps=1)
    assert printed.count("this experiment has ended") == 4
    assert len(read_result(experiment).parts) == 5
    assert {path: path.stat().st_mtime_ns for path in experiment.glob("fold[1-4]/*.ckpt")} == before
    _, printed = run_task("er", corpus, SMALL, steps=1)
    assert printed.count("this experiment has ended") == 1
    assert "er fold5 ACC" in printed

    # A fold's folder does not become that of a whole experiment.
    fold = experiment / "fold3"
    (fold / "results.json").unlink()
    command = ["superb", "er", *corpus, "-u", "fbank", "-p", str(fold), *short(1), "-o", SMALL]
    assert main(command) == 2
    assert "fold3: holds an experiment of fold3 of er, not of the whole; give the" in capsys.readouterr().err
    assert not (fold / "fold1").exists()
    # Older versions did not note which part a folder is of.
    for path in experiment.rglob("experiment.json"):
        content = json.loads(path.read_text())
        del content["part"]
        path.write_text(json.dumps(content))
    (experiment / "results.json").unlink()
    assert main(command) == 2
    assert "fold3: holds an experiment of fold3 of er, not of the whole; give the" in capsys.readouterr().err
    _, printed = run_task("er", corpus, SMALL, steps=1)
    assert printed.count("this experiment has ended") == 4
    assert json.loads((fold / "experiment.json").read_text())["part"] == "fold3"


def test_stages_and_several_learning_rates_work_in_every_fold(iemocap, tmp_path, capsys, short):
    experiment = tmp_path / "EXP"
    command = ["superb", "er", "--iemocap", str(iemocap), "-u", "fbank", "-p", str(experiment), *short(1)]
    command += ["--lr", "1e-1,1e-5", "-o", SMALL]
    assert main([*command, "--stage", "check"]) == 0
    assert "er: nothing is missing" in capsys.readouterr().out
    assert main([*command, "--stage", "test"]) == 2
    assert "its training has not ended" in capsys.readouterr().err
    assert main([*command, "--stage", "train"]) == 0
    assert not (experiment / "results.json").exists()
    assert main([*command, "--stage", "test"]) == 0
    for part in read_result(experiment).parts:
        assert part.predictions == f"{part.name}/lr-{part.learning_rate:g}/test_{part.name}_predict.txt"
    assert main(["superb", "submit", "--er", str(experiment), "--out", str(tmp_path / "out")]) == 0


def test_fold_of_all_parts_cannot_be_overridden(iemocap, tmp_path, capsys, short):
    command = [
        "superb",
        "er",
        "--iemocap",
        str(iemocap),
        "-u",
        "fbank",
        "-p",
        str(tmp_path / "EXP"),
        *short(),
    ]
    assert main([*command, "-o", "config.downstream_expert.datarc.test_fold=fold1"]) == 2
    assert "test_fold: is set by er, for each of its parts" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_in_s3prls_own_program(iemocap, run_in_checkout):
    changed = f"{SMALL},,config.downstream_expert.datarc.test_fold=fold2"
    experiment = run_in_checkout("er", "emotion", "test", ["--iemocap", str(iemocap)], changed)
    lines = (experiment / "test_fold2_predict.txt").read_text().splitlines()
    assert all(line.startswith("Ses02") for line in lines)


def test_lists_of_the_folds_are_those_of_s3prl(iemocap, tmp_path, capsys):
    from s3prl.downstream.emotion.IEMOCAP_preprocess import main as preprocess

    for path in iemocap.rglob("._*"):
        path.unlink()  # s3prl's own stops at them
    preprocess(str(iemocap))
    assert main(["superb", "config", "er", "--iemocap", str(iemocap), "--out", str(tmp_path / "out")]) == 0
    for fold in range(1, 6):
        for split in ("train", "test"):
            name = f"meta_data/Session{fold}/{split}_meta_data.json"
            ours, theirs = (json.loads((place / name).read_text()) for place in (tmp_path / "out", iemocap))
            assert ours["labels"] == theirs["labels"]
            # s3prl's own come in the order in which the disk lists the dialogs.
            assert sorted(map(str, ours["meta_data"])) == sorted(map(str, theirs["meta_data"]))


def test_dialogs_come_in_superbs_order(iemocap):
    """s3prl draws its dev split by position."""
    order = ORDER.read_text().split()
    assert len(order) == len(set(order)) == 151
    found = [(each.path.parent.name, each.path.stem) for each in check_iemocap(iemocap, Problems())[1]]
    dialogs = list(dict.fromkeys(dialog for dialog, _ in found))
    assert dialogs == sorted(dialogs, key=order.index)
    assert dialogs != sorted(dialogs)
    assert found == sorted(found, key=lambda each: (order.index(each[0]), each[1]))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: shutil.rmtree(root / "Session4"), "no Session4 in this folder, found Session1"),
        (
            lambda root: shutil.rmtree(root / "Session2/dialog/EmoEvaluation"),
            "Session2/dialog/EmoEvaluation: no labels here",
        ),
        (
            lambda root: next(root.rglob("Ses03F_impro01_M000.wav")).unlink(),
            "without a file in sentences/wav: 1 (Ses03F_impro01_M000)",
        ),
        (
            lambda root: next(root.rglob("Ses03F_impro01_M000.wav")).write_bytes(b"RIFF"),
            "cannot be read to their end: 1 (Ses03F_impro01_M000.wav",
        ),
        (
            lambda root: [
                path.write_text("\n") for path in root.glob("Session5/dialog/EmoEvaluation/S*.txt")
            ],
            "sessions without an utterance of the four classes: 1 (Session5)",
        ),
        (
            lambda root: shutil.copy(
                root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt",
                root / "Session1/dialog/EmoEvaluation/Ses01F_impro01 copy.txt",
            ),
            "labelled more than once: 5 (Ses01F_impro01_",
        ),
        (
            lambda root: relabel(
                root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "\tneu\t", "\tNEU\t"
            ),
            "labels that IEMOCAP does not have: 1 (Ses01F_impro01_M000: NEU)",
        ),
        (lambda root: root.rename(root.with_name("elsewhere")), "no such folder"),
    ],
)
def test_each_fault_is_named(iemocap, tmp_path, capsys, short, spoil, told):
    spoil(iemocap)
    command = ["superb", "er", "--iemocap", str(iemocap), "-u", "fbank", *short()]
    assert main([*command, "-p", str(tmp_path / "EXP")]) == 2
    assert told in capsys.readouterr().err
