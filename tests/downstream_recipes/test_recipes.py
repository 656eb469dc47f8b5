"""The recipes through the command line: s3prl trains and tests for real, on corpora of seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.results import read_result

SMALL_ASR = "config.downstream_expert.modelrc.RNNs.dim=[8,8]"


@pytest.fixture
def upstream(tmp_path, reference) -> list[str]:
    """Arguments of a tiny MelHuBERT."""
    (tmp_path / "g.yaml").write_text("feature_stats: librispeech-360h\n")
    checkpoint = reference / "tiny-20ms.ckpt"
    return ["-u", "melhubert_local", "-k", str(checkpoint), "-g", str(tmp_path / "g.yaml")]


@pytest.fixture
def corpus(librispeech, lexicon_file, voxceleb) -> dict[str, list[str]]:
    """The arguments that name each task's corpus."""
    return {
        "pr": ["--librispeech", str(librispeech), "--lexicon", str(lexicon_file)],
        "sid": ["--voxceleb", str(voxceleb[0])],
        "asr": ["--librispeech", str(librispeech)],
    }


def short(steps: int = 2) -> list[str]:
    return ["--device", "cpu", "--workers", "0", "--steps", str(steps)]


@pytest.mark.parametrize(
    ("task", "predictions", "first"),
    [
        ("pr", "test-hyp.ark", "30-7-0000"),
        ("sid", "test_predict.txt", "id10001-video1-00005"),
        ("asr", "test-clean-noLM-hyp.ark", "30-7-0000"),
    ],
)
def test_recipe_checks_trains_tests_and_says_what_is_not_superbs(
    task, predictions, first, corpus, upstream, tmp_path, capsys
):
    experiment = tmp_path / "EXP"
    command = ["superb", task, *corpus[task], *upstream, "-p", str(experiment), *short()]
    if task == "asr":
        command += ["-o", SMALL_ASR]
    assert main(command) == 0
    printed = capsys.readouterr().out
    result = read_result(experiment)

    assert "not SUPERB's settings: runner.total_steps 2" in printed
    assert f"{result.metric} {result.value:.2f} %" in printed
    assert not result.comparable
    assert {"runner.total_steps", "runner.eval_step"} < {each.setting for each in result.differences}
    assert any("utterances of" in each.setting for each in result.differences)
    assert sum(result.layer_weights) == pytest.approx(1, abs=1e-4)
    assert result.checkpoint_sha256 is not None
    assert result.hours["train"] > 0
    # The figure is what s3prl printed, and the file has each test utterance once.
    log = (experiment / "log.txt").read_text()
    value = {"pr": "per", "sid": "acc", "asr": "wer"}[task]
    figure = [line for line in log.splitlines() if line.startswith("test") and f" {value}: " in line][-1]
    assert float(figure.split()[-1]) * (1 if task == "asr" else 100) == pytest.approx(result.value)
    names = [line.split()[0] for line in (experiment / predictions).read_text().splitlines()]
    assert sorted(names) == sorted((experiment / "test_utterances.txt").read_text().split())
    assert first in names
    assert result.predictions == predictions

    # Again: nothing is left to do, and nothing is done.
    before = {path: path.stat().st_mtime_ns for path in experiment.rglob("*")}
    assert main(command) == 0
    assert "this experiment has ended" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in experiment.rglob("*")} == before


@pytest.mark.parametrize("task", ["pr", "sid", "asr"])
def test_paths_may_be_relative(task, corpus, upstream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["superb", task, *corpus[task], *upstream, "-p", str(tmp_path / "EXP"), *short()]
    command = [os.path.relpath(word) if word.startswith("/") else word for word in command]
    if task == "asr":
        command += ["-o", SMALL_ASR]
    assert main(command) == 0
    assert read_result(Path("EXP")).steps == 2


def test_stages_can_be_run_one_by_one(corpus, tmp_path, capsys):
    experiment = tmp_path / "EXP"
    command = ["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(experiment), *short()]
    assert main([*command, "--stage", "check"]) == 0
    assert not list(experiment.glob("*.ckpt"))
    assert main([*command, "--stage", "test"]) == 2
    assert "has not ended" in capsys.readouterr().err
    assert main([*command, "--stage", "train"]) == 0
    assert (experiment / "dev-best.ckpt").is_file()
    assert not (experiment / "results.json").exists()
    assert main([*command, "--stage", "test"]) == 0
    assert read_result(experiment).upstream == "fbank"


def test_search_tests_the_learning_rate_that_is_best_on_dev_and_reports_all(corpus, tmp_path):
    experiment = tmp_path / "EXP"
    rates = ["--lr", "1e-1,1e-9"]
    command = ["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(experiment), *short(8), *rates]
    assert main(command) == 0
    result = read_result(experiment)
    assert [trial.learning_rate for trial in result.search] == [1e-1, 1e-9]
    devs = [trial.dev for trial in result.search]
    assert len(set(devs)) > 1
    assert result.dev == min(devs)
    assert result.learning_rate == result.search[devs.index(min(devs))].learning_rate
    assert result.predictions == f"lr-{result.learning_rate:g}/test-hyp.ark"
    assert "optimizer.lr" not in {each.setting for each in result.differences}


def test_two_corpora_in_a_row_give_two_right_results(corpus, voxceleb, tmp_path, installed_s3prl):
    """s3prl's own list of files stays that of the first corpus that it ever saw."""
    cache = installed_s3prl / "downstream/voxceleb1/.cache"
    before = cache.exists()
    root, split_file = voxceleb
    other = tmp_path / "other"
    shutil.copytree(root, other)
    lines = split_file.read_text().replace("video0", "film0").replace("video1", "film1")
    (other / "iden_split.txt").write_text(lines)
    for folder in [*other.glob("*/wav/*/video?")]:
        folder.rename(folder.with_name(folder.name.replace("video", "film")))
    for place, word in ((root, "video"), (other, "film")):
        experiment = tmp_path / word
        command = ["superb", "sid", "--voxceleb", str(place), "-u", "fbank", "-p", str(experiment), *short()]
        assert main(command) == 0
        assert all(f"-{word}" in line for line in (experiment / "test_predict.txt").read_text().splitlines())
    assert cache.exists() == before


def test_number_of_workers_holds_for_every_split(corpus, tmp_path):
    """s3prl's ctc takes it out of its settings with the first split, and starts 12 for the others."""
    experiment = tmp_path / "EXP"
    assert main(["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(experiment), *short()]) == 0
    settings = torch.load(experiment / "dev-best.ckpt", weights_only=True)["Config"]
    assert settings["downstream_expert"]["corpus"]["num_workers"] == 0


# Bad input ---------------------------------------------------------------------


def a_missing_file(root: Path, voxceleb: Path) -> str:
    path = next(voxceleb.glob("dev/wav/*/*/*.wav"))
    path.unlink()
    return "/".join(path.parts[-3:])


def an_unreadable_flac(root: Path, voxceleb: Path) -> str:
    path = next(root.glob("dev-clean/*/*/*.flac"))
    path.write_bytes(path.read_bytes()[:200])
    return path.name


def a_word_without_pronunciation(root: Path, voxceleb: Path) -> str:
    path = next(root.glob("train-clean-100/*/*/*.trans.txt"))
    path.write_text(path.read_text().replace("BARKED", "ABRACADABRA"))
    return "ABRACADABRA"


def an_absent_split(root: Path, voxceleb: Path) -> str:
    shutil.rmtree(root / "test-clean")
    return "test-clean"


def another_rate(root: Path, voxceleb: Path) -> str:
    path = next(root.glob("train-clean-100/*/*/*.flac"))
    soundfile.write(path, soundfile.read(path)[0], 44_100)
    return path.name


@pytest.mark.parametrize(
    ("task", "spoil"),
    [
        ("sid", a_missing_file),
        ("asr", an_unreadable_flac),
        ("pr", a_word_without_pronunciation),
        ("pr", an_absent_split),
        ("asr", another_rate),
    ],
)
def test_fault_in_a_corpus_is_named_before_any_training(
    task, spoil, corpus, librispeech, voxceleb, tmp_path, capsys
):
    named = spoil(librispeech, voxceleb[0])
    command = ["superb", task, *corpus[task], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
    assert main(command) == 2
    assert named in capsys.readouterr().err
    assert not list((tmp_path / "EXP").glob("*.ckpt"))
    assert not (tmp_path / "EXP/experiment.json").exists()  # mended, the same folder serves


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["-u", "fbnak"], "did you mean fbank"),
        (["-u", "melhubert_local", "-k", "nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["-u", "fbank", "--steps", "0"], "--steps 0"),
        (["-u", "fbank", "-o", "lr=1"], "-o lr=1"),
        (["-u", "fbank", "-p", "a=b"], "a=b"),
    ],
)
def test_wrong_argument_is_named(changed, said, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["superb", "pr", *corpus["pr"], "-p", "EXP", *short(), *changed]) == 2
    assert said in capsys.readouterr().err


def test_folder_of_another_experiment_is_refused(corpus, tmp_path, capsys):
    command = ["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
    assert main(command) == 0
    assert main([*command, "--lr", "1e-3"]) == 2
    assert "holds an experiment with --lr [0.01], not [0.001]" in capsys.readouterr().err


def test_failure_of_s3prl_is_one_line_and_the_traceback_is_in_the_log(corpus, tmp_path, capsys):
    command = ["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
    assert main([*command, "-o", "config.downstream_expert.model.select=NoSuchModel"]) == 2
    assert "NameError: name 'NoSuchModel'" in capsys.readouterr().err.splitlines()[-1]
    assert "Traceback" in (tmp_path / "EXP/log.txt").read_text()


# Killed ---------------------------------------------------------------------


@pytest.mark.slow
def test_killed_in_training_the_same_command_ends_with_the_same_files(corpus, tmp_path):
    def command(name: str) -> list[str]:
        program = [sys.executable, "-m", "s3prl_melhubert", "superb", "pr", *corpus["pr"], "-u", "fbank"]
        return [*program, "-p", str(tmp_path / name), *short(300), "-o", "config.runner.save_step=10"]

    def files(name: str) -> set[str]:
        stamped = ("args_", "config_", "events")  # s3prl's own, one of each for every start
        return {p.name for p in (tmp_path / name).iterdir() if not p.name.startswith(stamped)}

    subprocess.run(command("whole"), check=True, capture_output=True, timeout=240)
    seen = -1
    for _ in range(3):
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:  # until it has saved something that was not there before
            saved = [int(p.stem.split("-")[1]) for p in (tmp_path / "killed").glob("states-*.ckpt")]
            if saved and max(saved) > seen:
                seen = max(saved)
                break
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert seen > 0
    last = subprocess.run(command("killed"), check=True, capture_output=True, text=True, timeout=240)
    assert "continuing from states-" in last.stdout
    assert files("killed") == files("whole")
    times = json.loads((tmp_path / "killed/training.json").read_text())
    assert times["ended"]


# s3prl's own command ---------------------------------------------------------------------


def run_from_a_checkout(run_python, capsys, checkout, arguments, task, downstream, split, override, tmp_path):
    """Train and test with `run_downstream.py -c $(melhubert superb config TASK ...)`."""
    assert main(["superb", "config", task, *arguments, "--workers", "0", "--out", str(tmp_path / "c")]) == 0
    config = capsys.readouterr().out.strip()
    shortened = ",,".join(f"config.runner.{name}=2" for name in ("total_steps", "eval_step", "save_step"))
    experiment = tmp_path / "EXP"
    common = {"cwd": checkout, "PYTHONPATH": str(checkout.parent)}
    start = ["-u", "fbank", "-d", downstream, "-c", config, "-p", experiment]
    trained = run_python(
        *("run_downstream.py", "-m", "train", *start, "--device", "cpu", "-o", shortened + override), **common
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    tested = run_python(
        *("run_downstream.py", "-m", "evaluate", "-t", split, "-e", experiment, "--device", "cpu"), **common
    )
    assert tested.returncode == 0, tested.stderr[-3000:]
    return experiment


def test_phone_recognition_runs_in_s3prls_own_program(run_python, capsys, s3prl_checkout, corpus, tmp_path):
    """pip's s3prl has no ctc/corpus, which a checkout has: ours stands in."""
    assert not (s3prl_checkout / "downstream/ctc/corpus").exists()
    place = (run_python, capsys, s3prl_checkout)
    experiment = run_from_a_checkout(*place, corpus["pr"], "pr", "ctc", "test", "", tmp_path)
    assert len((experiment / "test-hyp.ark").read_text().splitlines()) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "downstream", "split", "override", "predictions"),
    [
        ("sid", "voxceleb1", "test", "", "test_predict.txt"),
        ("asr", "asr", "test-clean", f",,{SMALL_ASR}", "test-clean-noLM-hyp.ark"),
    ],
)
def test_other_recipes_run_in_s3prls_own_program(
    task, downstream, split, override, predictions, run_python, capsys, s3prl_checkout, corpus, tmp_path
):
    place = (run_python, capsys, s3prl_checkout)
    experiment = run_from_a_checkout(*place, corpus[task], task, downstream, split, override, tmp_path)
    assert (experiment / predictions).read_text()


def test_corpus_module_of_a_checkout_goes_before_ours(run_python, s3prl_checkout):
    folder = s3prl_checkout / "downstream/ctc/corpus"
    folder.mkdir()
    (folder / "libriphone.py").write_text("LibriPhoneDataset = 'theirs'\n")
    code = "from s3prl.downstream.ctc.corpus.libriphone import LibriPhoneDataset as it; print(it)"
    result = run_python("-c", code, PYTHONPATH=str(s3prl_checkout.parent))
    assert result.stdout.strip() == "theirs", result.stderr


def test_settings_without_a_corpus_say_what_is_left_to_be_set(tmp_path, lexicon_file, capsys):
    command = ["superb", "config", "pr", "--lexicon", str(lexicon_file), "--out", str(tmp_path)]
    assert main(command) == 0
    printed = capsys.readouterr()
    settings = yaml.safe_load(Path(printed.out.strip()).read_text())
    assert settings["downstream_expert"]["corpus"]["lexicon"] == [str(lexicon_file)]
    assert settings["runner"]["total_steps"] == 100_000
    assert "downstream_expert.corpus.path" in printed.err


def test_stale_lists_of_s3prls_own_program_are_pointed_out(run_python, s3prl_checkout, voxceleb, tmp_path):
    arguments = ["config", "sid", "--voxceleb", voxceleb[0], "--out", tmp_path / "out"]

    def warned() -> bool:
        path = str(s3prl_checkout.parent)
        result = run_python("-m", "s3prl_melhubert", "superb", *arguments, PYTHONPATH=path)
        assert result.returncode == 0, result.stderr
        return "voxceleb1/.cache" in result.stderr

    assert not warned()
    (s3prl_checkout / "downstream/voxceleb1/.cache").mkdir()
    assert warned()


# A language model ---------------------------------------------------------------------------


@pytest.fixture
def language_model(tmp_path) -> dict[str, Path]:
    """A bigram model of the corpus' words and their spellings."""
    words = ("A", "DOG", "BARKED", "THE", "BOY'S")
    lexicon = tmp_path / "words.lst"
    lexicon.write_text("".join(f"{word}\t{' '.join(word)} |\n" for word in words))
    unigrams = ["-1\t<unk>", "0\t<s>\t-0.3", "-1\t</s>", *(f"-1\t{word}\t-0.3" for word in words)]
    counts = [f"ngram 1={len(unigrams)}", "ngram 2=1"]
    lines = [
        "\\data\\",
        *counts,
        "",
        "\\1-grams:",
        *unigrams,
        "",
        "\\2-grams:",
        "-0.2\tA DOG",
        "",
        "\\end\\",
        "",
    ]
    arpa = tmp_path / "lm.arpa"
    arpa.write_text("\n".join(lines))
    return {"--kenlm": arpa, "--kenlm-lexicon": lexicon}


def asr_with(files: dict[str, Path], corpus, tmp_path) -> list[str]:
    arguments = [str(part) for pair in files.items() for part in pair]
    command = ["superb", "asr", *corpus["asr"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
    return [*command, *arguments, "-o", SMALL_ASR]


def test_language_model_gives_a_second_score_and_predictions(corpus, language_model, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    assert main(asr_with(language_model, corpus, tmp_path)) == 0
    decoded = read_result(tmp_path / "EXP").with_language_model
    assert decoded is not None
    assert decoded["value"] > 0
    assert len((tmp_path / "EXP" / decoded["predictions"]).read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda files: files.pop("--kenlm"), "one needs the other"),
        (lambda files: files["--kenlm"].unlink(), "no such file"),
        (lambda files: files["--kenlm"].write_text("hello"), "expected an ARPA file"),
        (lambda files: files["--kenlm-lexicon"].write_text("DOG\n"), "line 1"),
        (lambda files: files["--kenlm-lexicon"].write_text("dog\tD O G |\n"), "knows none of the words"),
    ],
)
def test_language_model_that_would_decide_nothing_is_refused(
    spoil, said, corpus, language_model, tmp_path, capsys
):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    spoil(language_model)
    assert main(asr_with(language_model, corpus, tmp_path)) == 2
    assert said in capsys.readouterr().err
