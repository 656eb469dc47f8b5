"""The leaderboard's archive: what is in it, and that no faulty prediction gets there."""

import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.report.results import read_result, write_result
from s3prl_melhubert.downstream_recipes.report.submission import submit
from s3prl_melhubert.downstream_recipes.running.experiments.parts import mean_of_parts
from s3prl_melhubert.support.files import sha256_of
from s3prl_melhubert.support.locks import only_writer

NAMES = {
    "pr": ["1089-134686-0000", "1089-134686-0001", "121-121726-0002"],
    "sid": ["id10003-na8-QEFmj44-00003", "id11251-s4R4hvqrhFw-00009"],
    "asr": ["1089-134686-0000", "1089-134686-0001", "121-121726-0002"],
}
PREDICTIONS = {
    "pr": "1089-134686-0000 HH IY1 SIL\n1089-134686-0001 SPN AA0 ZH\n121-121726-0002 \n",
    "sid": "id10003-na8-QEFmj44-00003 id10003\nid11251-s4R4hvqrhFw-00009 id10001\n",
    "asr": "1089-134686-0000 HE HOPED\n1089-134686-0001 DON'T\n121-121726-0002 \n",
}
FILES = {"pr": "test-hyp.ark", "sid": "test_predict.txt", "asr": "test-clean-noLM-hyp.ark"}
WITH_LM, LM_PREDICTIONS = "test-clean-LM-hyp.ark", PREDICTIONS["asr"].replace("DON'T", "DO NOT")
PLACES = {
    "asr_lm": "predict/asr_lm_public/predict.ark",
    "asr": "predict/asr_public/predict.ark",
    "pr": "predict/pr_public/predict.ark",
    "sid": "predict/sid_public/predict.txt",
}


@pytest.fixture
def experiment(result, tmp_path) -> Callable[..., Path]:
    """Make the folder of an experiment that ended, with some of its result and its predictions changed."""

    def make(task: str, predictions: str | None = None, **changes) -> Path:
        folder = tmp_path / "exp" / task
        folder.mkdir(parents=True)
        ours = {"dev": 11.0, "checkpoint_sha256": "a" * 64, "layer_weights": [0.5, 0.5]}
        ours |= {"predictions": FILES[task], "test_utterances": len(NAMES[task]), **changes}
        write_result(folder, result(task, 12.345, "melhubert_local", "model/last.ckpt", **ours))
        (folder / FILES[task]).write_text(PREDICTIONS[task] if predictions is None else predictions)
        (folder / "test_utterances.txt").write_text("".join(f"{name}\n" for name in NAMES[task]))
        return folder

    return make


@pytest.fixture
def with_lm(experiment) -> Path:
    """An experiment in speech recognition that was also decoded with a language model."""
    folder = experiment("asr", with_language_model={"value": 9.5, "predictions": WITH_LM})
    (folder / WITH_LM).write_text(LM_PREDICTIONS)
    return folder


@pytest.mark.filterwarnings("ignore:.*test utterances")
def test_a_folder_that_another_process_is_writing_is_refused(experiment, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with only_writer(out), pytest.raises(MelHuBERTError, match="out: this process is at work"):
        submit({"pr": experiment("pr")}, out)
    assert list(out.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*test utterances")
def test_archive_holds_the_predictions_where_the_leaderboard_looks(experiment, with_lm, tmp_path):
    out = tmp_path / "out"
    written = submit({"pr": experiment("pr"), "sid": experiment("sid"), "asr": with_lm}, out)
    expected = {PLACES[task]: text for task, text in {**PREDICTIONS, "asr_lm": LM_PREDICTIONS}.items()}
    with zipfile.ZipFile(out / "predict.zip") as archive:
        assert archive.namelist() == sorted(expected)
        assert {name: archive.read(name).decode() for name in archive.namelist()} == expected
        assert {entry.external_attr >> 16 & 0o777 for entry in archive.infolist()} == {0o644}
    for place, text in expected.items():
        assert (out / place).read_text() == text
    assert {each.place: (each.metric, each.score, each.written, each.empty) for each in written} == {
        PLACES["asr_lm"]: ("WER", 9.5, "9.50 %", 1),
        PLACES["asr"]: ("WER", 12.345, "12.35 %", 1),
        PLACES["pr"]: ("PER", 12.345, "12.35 %", 1),
        PLACES["sid"]: ("ACC", 12.345, "12.35 %", 0),
    }


@pytest.mark.filterwarnings("ignore:.*(test utterances|upstream)")
@pytest.mark.parametrize("task", ["sid", "er", "asr"])
def test_predictions_of_another_test_are_refused(task, result, experiment, with_lm, tmp_path):
    """s3prl's own program tests any checkpoint of the folder, and writes to the same file."""
    if task == "asr":
        folder = with_lm
        path = folder / WITH_LM
        second = {**read_result(folder).with_language_model, "predictions_sha256": sha256_of(path)}
        write_result(folder, replace(read_result(folder), with_language_model=second))
    elif task == "er":
        folder = tmp_path / "exp/er"
        path = folder / "fold3/lr-0.01/test_fold3_predict.txt"
        folds = {}
        for name in (f"fold{n}" for n in range(1, 6)):
            predictions = folder / name / f"lr-0.01/test_{name}_predict.txt"
            predictions.parent.mkdir(parents=True)
            predictions.write_text("Ses01F_impro01_F000 neu\n")
            (folder / name / "test_utterances.txt").write_text("Ses01F_impro01_F000\n")
            place = predictions.relative_to(folder / name).as_posix()
            folds[name] = result("er", 50, predictions=place, predictions_sha256=sha256_of(predictions))
        write_result(folder, mean_of_parts(folds))
    else:
        folder = experiment(task)
        path = folder / FILES[task]
        write_result(folder, replace(read_result(folder), predictions_sha256=sha256_of(path)))
    submit({task: folder}, tmp_path / "before")
    words = path.read_text().split()
    path.write_text(path.read_text().replace(words[-1], {"sid": "id10002", "er": "ang", "asr": "NO"}[task]))
    says = f"predictions that are not those of the score.*{re.escape(str(path))}"
    with pytest.raises(MelHuBERTError, match=says) as raised:
        submit({task: folder}, tmp_path / "out")
    assert "melhubert superb TASK ... --stage test" in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*test utterances")
def test_same_predictions_give_the_same_bytes(experiment, tmp_path):
    folder = experiment("pr")
    for out in ("one", "two"):
        submit({"pr": folder}, tmp_path / out)
        (folder / FILES["pr"]).touch()
    assert (tmp_path / "one" / "predict.zip").read_bytes() == (tmp_path / "two" / "predict.zip").read_bytes()


@pytest.mark.filterwarnings("ignore:.*test utterances")
def test_predictions_of_an_earlier_submission_do_not_stay(experiment, with_lm, tmp_path):
    out = tmp_path / "out"
    submit({"asr": with_lm}, out)
    submit({"sid": experiment("sid")}, out)
    assert [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()] == [
        "predict.zip",
        PLACES["sid"],
    ]


def test_command_tells_what_it_wrote_and_what_comes_next(experiment, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["superb", "submit", "--pr", str(experiment("pr")), "--out", str(out)]) == 0
    shown, warned = capsys.readouterr()
    assert f"{PLACES['pr']}  3 utterances (empty hypotheses: 1), PER 12.3" in shown
    assert f"upload {out / 'predict.zip'}" in shown
    assert warned == "melhubert: pr: 3 test utterances, where the leaderboard expects SUPERB's 2620\n"


def test_command_ends_with_status_2_and_writes_nothing_at_a_fault(experiment, tmp_path, capsys):
    good, faulty = experiment("sid"), experiment("pr", "1089-134686-0000 HH\n")
    arguments = ["superb", "submit", "--sid", str(good), "--pr", str(faulty), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "test-hyp.ark: test utterances that are missing: 2 (" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "right", "wrong", "message"),
    [
        ("asr", "1089-134686-0001 DON'T\n", "", "test utterances that are missing: 1 (1089-134686-0001)"),
        ("sid", "id11251-s4", "id11251-S4", "names that are no test utterance's: 1 (id11251-S4"),
        ("asr", "1089-134686-0001", "1089-134686-0000", "there more than once: 1 (1089-134686-0000)"),
        ("asr", "HOPED\n", "HOPED\n\n", "WORD WORD ...` (A-Z and the apostrophe): 1 (line 2: no name)"),
        ("asr", "HOPED", "hoped", "line 1: 'hoped'"),
        ("asr", "HOPED", "H0PED", "line 1: 'H0PED'"),
        ("pr", "IY1", "IY3", "PHONE PHONE ...` (the 71 phones of phoneme.txt): 1 (line 1: 'IY3')"),
        ("pr", "ZH", "QQ", "line 2: 'QQ'"),
        ("sid", " id10001", " id11252", "SPEAKER` (one of id10001 to id11251): 1 (line 2: 'id11252')"),
        ("sid", " id10001", " 10001", "line 2: '10001'"),
        ("sid", " id10001", " id10001 id10002", "line 2: 'id10001 id10002'"),
        ("sid", " id10001", "", "line 2: ''"),
        ("sid", PREDICTIONS["sid"], "", "is empty"),
        (
            "sid",
            PREDICTIONS["sid"],
            "".join(reversed(PREDICTIONS["sid"].splitlines(keepends=True))),
            "another order than the corpus' test list: 1 (line 1: id11251-s4R4hvqrhFw-00009, expected id1",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_named(experiment, tmp_path, task, right, wrong, message):
    assert right in PREDICTIONS[task]
    folder = experiment(task, PREDICTIONS[task].replace(right, wrong))
    with pytest.raises(MelHuBERTError, match=re.escape(message)) as raised:
        submit({task: folder}, tmp_path / "out")
    assert str(folder / FILES[task]) in str(raised.value)
    assert "melhubert superb TASK ... --stage test" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_ten_of_many_faults_are_named_and_all_are_counted(experiment, tmp_path):
    folder = experiment("sid", "".join(f"x{number} id10001\n" for number in range(12)))
    with pytest.raises(MelHuBERTError) as raised:
        submit({"sid": folder}, tmp_path / "out")
    message = str(raised.value)
    assert "no test utterance's: 12 (x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, and 2 more)" in message
    assert "are missing: 2 (" in message


def test_predictions_with_a_language_model_are_checked_too(with_lm, tmp_path):
    (with_lm / WITH_LM).write_text("")
    with pytest.raises(MelHuBERTError, match=f"{WITH_LM}: is empty"):
        submit({"asr": with_lm}, tmp_path / "out")


def test_absent_files_are_named(experiment, tmp_path):
    folder = experiment("pr")
    for name in ("test_utterances.txt", FILES["pr"], "results.json"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(MelHuBERTError, match=re.escape(str(folder / name))):
            submit({"pr": folder}, tmp_path / "out")
        (folder / name).write_bytes(content)


def test_experiment_of_another_task_is_refused(experiment, tmp_path):
    with pytest.raises(
        MelHuBERTError, match="is an experiment in speaker identification, give it with --sid"
    ):
        submit({"pr": experiment("sid")}, tmp_path / "out")
    with pytest.raises(MelHuBERTError, match=r"one or more of --pr, --.*--sid, --"):
        submit({}, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:.*test utterances")
def test_experiments_of_different_models_are_submitted_with_a_warning(experiment, tmp_path):
    folders = {"pr": experiment("pr"), "sid": experiment("sid", checkpoint_sha256="b" * 64)}
    with pytest.warns(
        UserWarning, match=r"one model, these differ: pr .*SHA-256 aaaaaaaaaaaa; sid .* bbbbbbbbbbbb"
    ):
        submit(folders, tmp_path / "out")
    assert (tmp_path / "out" / "predict.zip").is_file()


@pytest.mark.filterwarnings("ignore:.*test utterances")
def test_a_result_that_says_less_hides_no_difference_of_the_others(experiment, tmp_path):
    """The hash of a folder as checkpoint is not in older results."""
    hashes = {"pr": None, "asr": "a" * 64, "sid": "b" * 64}
    folders = {task: experiment(task, checkpoint_sha256=known) for task, known in hashes.items()}
    with pytest.warns(UserWarning, match="one model, these differ"):
        submit(folders, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:.*test utterances")
@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({"statistics_sha256": "1" * 64}, {"statistics_sha256": "2" * 64}, "statistics 11.*statistics 22"),
        ({"precision": "fp32"}, {"precision": "bf16"}, "fp32; sid .*bf16"),
    ],
)
def test_models_that_differ_by_their_settings_are_submitted_with_a_warning(
    experiment, tmp_path, first, second, says
):
    same = {"upstream_config": "g.yaml"}
    folders = {"pr": experiment("pr", **same, **first), "sid": experiment("sid", **same, **second)}
    with pytest.warns(UserWarning, match=f"of one model, these differ: pr .*g.yaml, {says}"):
        submit(folders, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:.*test utterances")
def test_settings_that_are_not_superbs_are_submitted_with_a_warning(experiment, tmp_path):
    folder = experiment("pr", differences=[Difference("runner.total_steps", 100000, 100)])
    with pytest.warns(
        UserWarning, match=r"pr: not SUPERB's .*:\n  runner.total_steps 100 \(SUPERB: 100000\)"
    ):
        submit({"pr": folder}, tmp_path / "out")
    assert not read_result(folder).comparable
