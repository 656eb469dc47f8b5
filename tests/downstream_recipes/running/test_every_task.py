"""`melhubert superb all`: five corpora, one of them broken; then mended, killed, and run to its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import read_result, write_result
from s3prl_melhubert.downstream_recipes.running.corpora_file import EXAMPLE, read_corpora
from s3prl_melhubert.downstream_recipes.running.experiments.experiment import Experiment
from s3prl_melhubert.errors import MelHuBERTError

SMALL = "config.downstream_expert.modelrc.projector_dim=8"
TASKS = ["pr", "ks", "ic", "sid", "asr"]


@pytest.fixture
def corpora(tmp_path, librispeech, lexicon_file, voxceleb, fluent_commands, speech_commands, small) -> Path:
    """Five corpora, and the file that says where: two of them at the top, each task with a small model."""
    shutil.copytree(librispeech, tmp_path / "other")
    content = {
        "librispeech": "LibriSpeech",
        "voxceleb": str(voxceleb[0]),
        "pr": {"lexicon": [lexicon_file.name], "override": small["pr"]},
        "sid": {"lr": "1e-2,1e-3", "override": small["sid"]},
        "asr": {"librispeech": "other", "steps": 1, "override": small["asr"]},
        "ic": {"fluent-commands": fluent_commands.name, "override": SMALL},
        "ks": {
            "speech-commands": speech_commands.name,
            "override": f"{SMALL},,config.downstream_expert.datarc.batch_size=8",
        },
        "asv": False,
    }
    path = tmp_path / "corpora.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def command(corpora, tmp_path, short) -> list[str]:
    """The arguments of a run of all tasks, two steps each unless the file says another number."""
    arguments = ["superb", "all", "--corpora", str(corpora), "-u", "fbank", "-p", str(tmp_path / "exp")]
    return [*arguments, *short(2)]


@pytest.mark.usefixtures("recwarn")
def test_a_broken_corpus_is_named_before_anything_is_trained_and_all_run_when_it_is_mended(
    command, fluent_commands, tmp_path, capsys, monkeypatch
):
    broken = fluent_commands / "wavs/speakers/s1/test-3.wav"
    whole = broken.read_bytes()
    broken.unlink()
    (tmp_path / "other/dev-clean").rename(tmp_path / "dev-clean")
    exp = tmp_path / "exp"
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "melhubert: 2 of 5 tasks cannot be run; nothing was trained\nic: Fluent" in said
    assert "test-3.wav" in said
    assert "\nasr: LibriSpeech in " in said
    assert not list(exp.rglob("*.ckpt")) + list(exp.rglob("experiment.json"))

    broken.write_bytes(whole)
    (tmp_path / "dev-clean").rename(tmp_path / "other/dev-clean")
    # KS fails in training, which keeps none of the others from running; then it is mended, too.
    exp.mkdir(exist_ok=True)
    (exp / "ks").mkdir(exist_ok=True)
    (exp / "ks/config.yaml").mkdir()
    assert main(command) == 2
    printed = capsys.readouterr()
    assert "melhubert: ks: " in printed.err
    assert printed.err.splitlines()[-1].startswith("melhubert: 1 of 5 tasks failed: ks (why stands above)")
    results = {path.parent.name: path.stat().st_mtime_ns for path in exp.glob("*/results.json")}
    assert sorted(results) == ["asr", "ic", "pr", "sid"]
    assert "| fbank " in (exp / "report.md").read_text()
    assert [len(read_result(exp / key).search) for key in ("pr", "sid")] == [0, 2]
    assert read_result(exp / "asr").steps == 1

    (exp / "ks/config.yaml").rmdir()
    monkeypatch.chdir(tmp_path)
    assert main(command) == 0
    printed = capsys.readouterr()
    for key, written in results.items():
        assert (exp / key / "results.json").stat().st_mtime_ns == written
    assert "KS: ACC % ↑" in printed.out
    assert "written: exp/report.md, exp/report.png" in printed.out
    assert printed.out.count("this experiment has ended") == 4


@pytest.mark.slow
@pytest.mark.usefixtures("recwarn")
def test_killed_it_goes_on_with_what_has_not_ended(command, corpora, tmp_path, capsys):
    exp, content = tmp_path / "exp", yaml.safe_load(corpora.read_text())
    content["ks"]["steps"] = 60
    content["ks"]["override"] += ",,config.runner.save_step=2"
    corpora.write_text(yaml.safe_dump(content))
    process = subprocess.Popen([sys.executable, "-m", "s3prl_melhubert", *command], stdout=subprocess.PIPE)
    # The first checkpoint may be there before it is noted that training goes on from it; not the third.
    while not any(int(path.stem.split("-")[1]) >= 6 for path in exp.glob("ks/states-*.ckpt")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    ended = [key for key in TASKS if (exp / key / "results.json").is_file()]
    assert ended == ["pr"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.count("this experiment has ended") == 1
    assert "continuing from states-" in printed
    assert all((exp / key / "results.json").is_file() for key in TASKS)


def test_example_of_the_pages_is_that_of_the_help_and_can_be_read(tmp_path):
    pages = Path(__file__).parents[3] / "docs/examples/corpora.yaml"
    assert pages.read_text() == EXAMPLE
    found = {each.task.key: each for each in read_corpora(pages)}
    assert list(found) == ["pr", "ks", "ic", "sid", "asr"]
    assert found["sid"].rates == (1e-1, 1e-2)
    assert found["sid"].options.one("voxceleb") == "/data/VoxCeleb1"
    assert found["pr"].options.several("lexicon")[0] == str(pages.parent / "librispeech-lexicon-200k.txt")
    assert found["asr"].options.one("librispeech") == str(pages.parent / "LibriSpeech")


def test_values_of_the_file_are_as_the_command_line_has_them(tmp_path):
    (tmp_path / "corpora.yaml").write_text(
        "librispeech: L\n"
        "skip-untranscribed: yes\n"
        "pr: {lexicon: [a.txt, /b.txt], steps: ~}\n"
        "asr: {skip-untranscribed: no, lr: 1e-2, steps: 7, override: config.runner.log_step=1}\n"
    )
    pr, asr = read_corpora(tmp_path / "corpora.yaml")
    assert [each.options.one("librispeech") for each in (pr, asr)] == [f"{tmp_path}/L"] * 2
    assert [each.options.flag("skip-untranscribed") for each in (pr, asr)] == [True, False]
    assert pr.options.several("lexicon") == [f"{tmp_path}/a.txt", "/b.txt"]
    assert (pr.rates, pr.steps, pr.override) == (None, None, None)
    assert (asr.rates, asr.steps, asr.override) == ((1e-2,), 7, "config.runner.log_step=1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("librispeech: x\nskip-untranscribed: maybe", "skip-untranscribed: 'maybe' found, expected bool"),
        ("librispech: x", "corpora.yaml: unknown key librispech (did you mean librispeech?)"),
        ("pr: {librispeech: x, lexikon: y}", "corpora.yaml, pr: unknown key lexikon (did you mean lexicon?)"),
        ("librispeech: x\npr: {step: 3}", "unknown key step (did you mean steps?)"),
        ("librispeech: 3", "corpora.yaml: librispeech: 3 found, expected str"),
        ("pr: {librispeech: [a, b]}", "corpora.yaml, pr: librispeech: "),
        ("pr: {librispeech: x, lr: fast}", "corpora.yaml, pr: lr: 'fast': expected different numbers"),
        ("pr: {librispeech: x, lr: [1, 1]}", "lr: '1,1': expected different numbers"),
        ("pr: {librispeech: x, steps: many}", "steps: 'many' found, expected int"),
        ("pr: LibriSpeech", "corpora.yaml, pr: 'LibriSpeech' found, expected its arguments, or no"),
        ("pr: {lexicon: y}", "corpora.yaml, pr: no librispeech, which phone recognition needs"),
        ("lexicon: y", "no task has its corpus here; give audio-snips, "),
        ("pr: no", "no task has its corpus here"),
        ("- pr", "expected a YAML mapping"),
    ],
)
def test_faults_of_the_file_are_named(text, said, tmp_path):
    path = tmp_path / "corpora.yaml"
    path.write_text(text)
    with pytest.raises(MelHuBERTError) as raised:
        read_corpora(path)
    assert said in str(raised.value)


def test_an_argument_that_a_task_cannot_have_is_named_with_the_task(corpora, command, capsys):
    content = yaml.safe_load(corpora.read_text())
    corpora.write_text(yaml.safe_dump({"librispeech": content["librispeech"], "pr": {"steps": -1}}))
    assert main([*command, "--stage", "check"]) == 2
    assert "pr: --steps -1: expected at least 1" in capsys.readouterr().err


@pytest.mark.usefixtures("recwarn")
def test_an_unforeseen_fault_of_one_task_stops_no_other(
    command, corpora, voxceleb, result, tmp_path, monkeypatch, capsys
):
    content = {"librispeech": "LibriSpeech", "pr": False, "voxceleb": str(voxceleb[0]), "asv": False}
    corpora.write_text(yaml.safe_dump(content))
    exp = tmp_path / "exp"

    def run(self) -> None:
        if self.task.key == "sid":
            raise ZeroDivisionError("nobody\nforesaw it")
        write_result(self.folder, result(self.task.key, 50.0))

    monkeypatch.setattr(Experiment, "run", run)
    assert main(command) == 2
    printed = capsys.readouterr()
    said = f"melhubert: sid: ZeroDivisionError: nobody foresaw it; the traceback is in {exp}/sid/log.txt\n"
    assert said in printed.err
    assert "1 of 2 tasks failed: sid" in printed.err
    assert "| fbank " in printed.out
    assert "Traceback" in (exp / "sid/log.txt").read_text()

    def check(self) -> None:
        raise KeyError("a cache")

    monkeypatch.setattr(Experiment, "check", check)
    assert main(command) == 2
    said = capsys.readouterr().err
    for key in ("sid", "asr"):
        assert f"{key}: KeyError: 'a cache'; the traceback is in {exp}/{key}/log.txt" in said


def test_stage_check_trains_nothing(corpora, command, lexicon_file, tmp_path, capsys):
    corpora.write_text(f"librispeech: LibriSpeech\npr: {{lexicon: {lexicon_file}}}\nasr: no\n")
    assert main([*command, "--stage", "check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is missing: pr"
    assert not list((tmp_path / "exp").rglob("experiment.json"))


def test_each_task_is_asked_what_it_can_have(command, corpora, tmp_path, monkeypatch):
    """Nothing is trained in query by example: what all are asked of their training is not asked of it."""
    content = {
        "librispeech": "LibriSpeech",
        "pr": False,
        "asr": {"steps": 1, "lr": 0.5, "override": "config.runner.save_step=1"},
        "voxceleb": "VoxCeleb1",
        "asv": False,
        "quesst": "quesst14Database",
    }
    corpora.write_text(yaml.safe_dump(content))
    asked = {}
    monkeypatch.setattr(Experiment, "check", lambda self: asked.update({self.task.key: self.options}))
    common = "config.runner.log_step=1"
    assert main([*command, "--stage", "check", "--lr", "1e-2", "--keep-states", "-o", common]) == 0
    found = {key: (each.rates, each.steps, each.keep_states, each.override) for key, each in asked.items()}
    assert found == {
        "sid": ((1e-2,), 2, True, common),
        "asr": ((0.5,), 1, True, f"{common},,config.runner.save_step=1"),
        "qbe": ((), None, False, common),
    }
    assert {key: each.expdir for key, each in asked.items()} == {key: tmp_path / "exp" / key for key in asked}
    assert asked["sid"].task_options.one("voxceleb") == str(tmp_path / "VoxCeleb1")
