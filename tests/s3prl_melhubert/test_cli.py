"""The `melhubert` command: its table of subcommands, their help, and what it says to wrong ones."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from s3prl_melhubert import __version__, cli
from s3prl_melhubert.commands.checkpoints import info
from s3prl_melhubert.errors import MelHuBERTWarning


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


def test_a_warning_of_a_library_is_not_printed_as_one_of_ours(monkeypatch, capsys, recwarn):
    def run(args):
        warnings.warn("of ours", MelHuBERTWarning, stacklevel=1)
        warnings.warn("of a library", UserWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(info, "run", run)
    assert cli.main(["info", "a.ckpt"]) == 0
    assert capsys.readouterr().err == "melhubert: of ours\n"
    assert [str(each.message) for each in recwarn] == ["of a library"]


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


@pytest.fixture
def in_shell(tmp_path):
    """`in_shell(REDIRECTION, *ARGUMENTS)`: run `melhubert ARGUMENTS REDIRECTION`, buffered as mostly."""

    def run(redirection: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
        command = ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-m", "s3prl_melhubert"]
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        given = [*command, *map(str, arguments)]
        return subprocess.run(given, cwd=tmp_path, env={**kept, **environment}, capture_output=True)

    return run


@pytest.fixture
def listed(tmp_path) -> Path:
    """A set of one utterance, whose name is not ASCII."""
    text = "file_path,label_path,length\n{0}.npy,{0}-labels.npy,5\n".format("\u00fc\u65e5")
    (tmp_path / "set.csv").write_text(text, encoding="utf-8")
    return tmp_path / "set.csv"


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_streams_that_the_shell_has_closed_stop_nothing(in_shell, listed, closed):
    done = in_shell(closed, "manifest", listed, "--csv", "chosen.csv")
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert len((listed.parent / "chosen.csv").read_bytes().splitlines()) == 2
    assert in_shell(closed, "manifest", listed).returncode == 0


def test_a_list_is_printed_with_the_same_bytes_in_every_locale(in_shell, listed):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    printed = [in_shell("", "manifest", listed, **names).stdout for names in ({"PYTHONUTF8": "1"}, plain)]
    assert printed[0] == printed[1]
    assert "\u00fc\u65e5.npy".encode() in printed[0]


@pytest.mark.parametrize(("fault", "done"), [(errno.EROFS, "written"), (errno.EIO, "read or written")])
def test_a_fault_of_the_disk_is_one_clear_line(fault, done, monkeypatch, capsys):
    def fail(arguments):
        raise OSError(fault, os.strerror(fault), "OUT/labels")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["relabel"]) == 2
    assert capsys.readouterr().err == f"melhubert: OUT/labels: cannot be {done} ({os.strerror(fault)})\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "PLACE"],
        ["prepare", "--audio", ".", "--out", "PLACE"],
        ["pretrain", "-n", "PLACE", "--data", "."],
        ["quickstart", "--out", "PLACE"],
    ],
)
def test_a_place_that_cannot_be_looked_at_is_one_clear_line(arguments, capsys):
    place = 256 * "x"  # a file system's names have 255 bytes
    assert cli.main([place if each == "PLACE" else each for each in arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"melhubert: {place}.*: cannot be read or written \(File name too long\)\n", error)


def test_a_fault_that_is_no_places_is_not_hidden(monkeypatch):
    def fail(arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(PermissionError):
        cli.main(["relabel"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full here")
def test_a_full_standard_output_is_one_clear_line(in_shell, listed):
    for arguments in (["--version"], ["manifest", listed]):
        done = in_shell(">/dev/full", *arguments)
        line = b"melhubert: standard output: cannot be written (No space left on device)\n"
        assert (done.returncode, done.stderr[-len(line) :]) == (2, line)
        assert b"Exception ignored" not in done.stderr


def test_a_reader_that_has_gone_stops_the_command_without_a_word(in_shell):
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "s3prl_melhubert", "--version"]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, env=kept, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_of_errors_that_has_gone_is_told_by_the_status():
    """`melhubert prepare ... 2>&1 | head -1`, whether it ends by what it cannot print or by another error."""
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "s3prl_melhubert", "check", "nowhere"]
    done = subprocess.run(command, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert done.returncode == 141


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


# Ctrl-C, and once more while Python waits for a thread before it ends.
TWICE = """
import os, signal, sys, threading, time
from s3prl_melhubert.commands import manifest
from s3prl_melhubert.cli import main

def again():
    threading.main_thread().join()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

def run(args):
    threading.Thread(target=again).start()
    raise KeyboardInterrupt

manifest.run = run
sys.exit(main())
"""


def test_a_second_ctrl_c_ends_the_process_without_a_traceback(run_python):
    ran = run_python("-c", TWICE, "manifest", "set")
    assert (ran.returncode, ran.stderr) == (-signal.SIGINT, "melhubert: interrupted\n")


# Ctrl-C while a library is imported, by one that tries several imports.
IMPORTING = """
import sys, time
from s3prl_melhubert.commands import manifest
from s3prl_melhubert.cli import main

def run(args):
    try:
        import library
    except BaseException:
        print("cut short")
    time.sleep(5)
    print("not interrupted")

manifest.run = run
sys.exit(main())
"""
LIBRARY = """
import os, signal, time
for _ in range({times}):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
print("imported", flush=True)
"""


@pytest.mark.parametrize(("times", "printed"), [(1, "imported\n"), (2, "")])
def test_ctrl_c_waits_for_the_end_of_an_import_and_is_not_lost(times, printed, run_python, tmp_path):
    """Torch that is imported by half ends the process in a segmentation fault."""
    (tmp_path / "library.py").write_text(LIBRARY.format(times=times))
    ran = run_python("-c", IMPORTING, "manifest", "set")
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, printed, "melhubert: interrupted\n")


# A user whose number alone is known, as in a container that was begun with it.
UNKNOWN = """
import os, pwd, sys
def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = unknown
for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "TORCHINDUCTOR_CACHE_DIR", *sys.argv[1].split()):
    os.environ.pop(name, None)
from s3prl_melhubert.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_a_user_without_a_name_can_compute(run_python):
    """torch wants one, to call a folder after the user."""
    ran = run_python("-c", UNKNOWN, "", "info")
    assert ran.returncode == 0, ran.stderr
    assert "4.54 G" in ran.stdout


def test_a_home_folder_that_nobody_knows_is_one_clear_line(run_python):
    ran = run_python("-c", UNKNOWN, "HOME", "info", "org/name")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "melhubert: no home folder is known, as HOME is not set; export HOME=FOLDER\n"


def test_a_home_folder_of_nobody_is_one_clear_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["info", "~nobody-of-this-name/a.ckpt"]) == 2
    assert "~ and a name that no user has; give the whole path" in capsys.readouterr().err


def test_what_is_written_below_the_home_folder_lies_there(capsys, monkeypatch, tmp_path, reference):
    """Bash leaves the `~` of `--out=~/DIR`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    given = [str(reference / "tiny-20ms.ckpt"), "--stats", "librispeech-360h"]
    assert cli.main(["convert", *given, "~/new.ckpt"]) == 0, capsys.readouterr().err
    assert cli.main(["hub", *given, "--out=~/hub"]) == 0, capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["hub", "new.ckpt"]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["hub", "CKPT", "--out=~/hub", "--license-file=~/absent"],
        ["superb", "submit", "--pr=~/absent", "--out=~/archive"],
        ["superb", "make-sd", "--librispeech=.", "--mixtures=~/absent", "--out=~/sd"],
    ],
)
def test_what_is_read_below_the_home_folder_is_looked_for_there(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert str(tmp_path / "absent") in capsys.readouterr().err


def test_a_removed_current_folder_is_one_clear_line(tmp_path):
    """Of it, MKL says that a library of torch's cannot be loaded, and ends the process."""
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" -m s3prl_melhubert "$@"'
    given = ["sh", "-c", script, sys.executable, "info"]
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"melhubert: the current folder has been removed; .*`cd ~`.*\n", done.stderr)


# A machine on which no folder for temporary files can be written, as in a container that is read-only.
NO_TEMPORARY = """
import sys, tempfile
tempfile._candidate_tempdir_list = lambda: ["/nowhere/tmp"]
from s3prl_melhubert.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_no_folder_for_temporary_files_is_one_clear_line(run_python, listed):
    ran = run_python("-c", NO_TEMPORARY, "info")
    assert (ran.returncode, ran.stdout) == (2, "")
    told = r"melhubert: No usable temporary directory found in \['/nowhere/tmp'\]; .*export TMPDIR=FOLDER\n"
    assert re.fullmatch(told, ran.stderr)
    assert run_python("-c", NO_TEMPORARY, "manifest", str(listed)).returncode == 0  # It needs none.
