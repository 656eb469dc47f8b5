"""The `melhubert` command: its table of subcommands, their help, and what it says to wrong ones."""

from __future__ import annotations

import re

import pytest

from s3prl_melhubert import __version__, cli


def help_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_overview_has_a_summary_of_every_subcommand(capsys):
    printed = help_of(capsys)
    for name in cli.COMMANDS:
        assert re.search(rf"^  {name} +[A-Z]\w+ .+[^.]$", printed, re.MULTILINE), name


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if not name.startswith("run-")])
def test_help_of_a_subcommand_ends_with_an_example_of_it(capsys, name):
    *_, title, example = help_of(capsys, name).splitlines()
    assert title == "example:"
    assert example.startswith(f"  melhubert {name}")


def test_no_subcommand_or_an_unknown_one_lists_those_there_are(capsys):
    assert cli.main([]) == 2
    assert "label-quality" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["extrakt"])
    assert stop.value.code == 2
    assert "'extrakt' (choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["pretrain", "-n", ""], "-n/--expdir"),
        (["pretrain", "-n", "exp", "--data", ""], "--data"),
        (["pretrain", "-n", "exp", "--initial-weight="], "-i/--initial_weight/--initial-weight"),
        (["prepare", "--audio", "speech", "", "--out", "set"], "--audio"),
        (["prepare", "--audio", "speech", "--out="], "--out"),
        (["compress", "", "--out", "small.ckpt"], "CKPT"),
        (["superb", "report", ""], "EXP"),
        (["superb", "sid", "-u", "fbank", "-p", ""], "-p/--expdir"),
    ],
)
def test_an_empty_value_is_refused_and_not_taken_for_the_current_folder(
    arguments, option, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert f"argument {option}: '' found, expected a value" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"s3prl-melhubert {__version__}\n"


def test_overview_and_version_load_no_heavy_library(run_python):
    for argument in ("--help", "--version"):
        done = run_python("-X", "importtime", "-m", "s3prl_melhubert", argument)
        assert done.returncode == 0
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "s3prl_melhubert.cli" in imported
        assert not imported & {"torch", "numpy", "yaml", "tqdm", "soundfile", "sklearn", "s3prl"}


LEAVE = """
import atexit, gc
from s3prl_melhubert import cli

class Circle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("collected")

atexit.register(lambda: print("frozen" if gc.get_freeze_count() > 1000 else "not frozen"))
cli.main(["manifest", "nowhere"])
gc.disable()  # so that the garbage lives until the end
Circle()
"""


def test_the_end_searches_once_for_garbage(run_python):
    """What a library does when an object of its own is collected is still done."""
    assert run_python("-c", LEAVE).stdout.splitlines() == ["collected", "frozen"]
