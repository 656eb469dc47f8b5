"""`melhubert link` and `unlink`: thin files in a checkout of s3prl, and none left behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from s3prl_melhubert import MelHuBERTConfig
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.link import LIST
from s3prl_melhubert.pretrain.training.settings import DataSettings
from s3prl_melhubert.support.locks import only_writer
from s3prl_melhubert.support.settings import read_section

# Runs the commands, one of them in a forked child, which dies of SIGKILL right before its Nth step on the
# disk: a folder made, a file brought to the disk, either renamed or removed. Then `link` and `unlink`, in
# turns, have to do their whole work.
KILLER = """
    import os, pathlib, shutil, signal, sys
    from s3prl_melhubert.pretrain.link import link, unlink

    checkout, commands = sys.argv[1], {"link": link, "unlink": unlink}

    def killed(command, kill_at):
        child = os.fork()
        if child == 0:
            steps = 0
            def step():
                nonlocal steps
                steps += 1
                if steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            def event(name, details):
                if name in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                    step()
            sys.addaudithook(event)
            os.fsync = lambda handle: step()
            commands[command](checkout)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        return status != 0

    def content():
        return {str(path): path.is_file() and path.read_bytes() for path in pathlib.Path(checkout).rglob("*")}

    states = {"unlink": content()}
    link(checkout)
    states["link"] = content()
    for before, command in (("unlink", "link"), ("link", "link"), ("link", "unlink")):
        kill_at = 1
        commands[before](checkout)
        while killed(command, kill_at):
            after = ("link", "unlink")[kill_at % 2]
            commands[after](checkout)
            assert content() == states[after], (before, command, after, kill_at)
            commands[before](checkout)
            kill_at += 1
        assert kill_at > 10, kill_at
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What `link` looks for in a checkout, and files that it must leave alone."""
    inner = tmp_path / "s3prl" / "s3prl"
    for name in ("run_pretrain.py", "pretrain/__init__.py", "pretrain/apc/x.py", "upstream/apc/y.py"):
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).write_text(f"# {name}\n")
    return inner


@pytest.mark.parametrize("level", ["root", "inner"])
def test_link_and_unlink_leave_every_byte_as_it_was(level, s3prl_checkout, folder_bytes, capsys):
    given = str(s3prl_checkout if level == "inner" else s3prl_checkout.parent)
    before = folder_bytes(s3prl_checkout.parent)
    assert main(["link", given]) == 0
    linked = folder_bytes(s3prl_checkout.parent)
    added = set(linked) - set(before)
    assert {name: linked[name] for name in before} == before
    assert {Path(name).parent.as_posix() for name in added} == {
        "s3prl/pretrain/melhubert",
        "s3prl/upstream/melhubert",
    }
    assert main(["link", given]) == 0  # again, as after an update
    # Python leaves caches of what it imports.
    command = [sys.executable, "-c", "import upstream.melhubert.hubconf, pretrain.melhubert.pretrain_expert"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, cwd=s3prl_checkout, env=environment, check=True)
    assert list((s3prl_checkout / "pretrain" / "melhubert").glob("__pycache__/*"))
    # Those of s3prl's own modules are not ours to remove.
    for path in s3prl_checkout.rglob("*.pyc"):
        name = path.relative_to(s3prl_checkout.parent).as_posix()
        if name not in before and "melhubert" not in path.parts:
            path.unlink()
    assert main(["unlink", given]) == 0
    assert folder_bytes(s3prl_checkout.parent) == before
    assert not (s3prl_checkout / "pretrain" / "melhubert").exists()
    assert main(["unlink", given]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_linked_settings_are_what_both_sides_read(checkout):
    assert main(["link", str(checkout)]) == 0
    for suffix, period in (("", 20), ("_10ms", 10)):
        folder = checkout / "pretrain" / "melhubert"
        assert MelHuBERTConfig.from_yaml(folder / f"config_model{suffix}.yaml").frame_period == period
        content = yaml.safe_load((folder / f"config_runner{suffix}.yaml").read_text())
        datarc = read_section(DataSettings, content["pretrain_expert"]["datarc"], "datarc")
        assert datarc.sequence_length * period == 15_000  # ms


@pytest.mark.parametrize("command", ["link", "unlink"])
def test_files_of_others_are_not_touched(command, checkout, folder_bytes, capsys):
    theirs = checkout / "upstream" / "melhubert"
    theirs.mkdir()
    (theirs / "expert.py").write_text("mine\n")
    before = folder_bytes(checkout)
    assert main([command, str(checkout)]) == 2
    assert "upstream/melhubert: not written by" in capsys.readouterr().err
    assert folder_bytes(checkout) == before


@pytest.mark.parametrize("command", ["link", "unlink"])
@pytest.mark.parametrize("change", ["edited", "added"])
def test_changes_made_since_are_not_lost(command, change, checkout, folder_bytes, capsys):
    assert main(["link", str(checkout)]) == 0
    name = "config_runner.yaml" if change == "edited" else "notes.txt"
    (checkout / "pretrain" / "melhubert" / name).write_text("mine\n")
    before = folder_bytes(checkout)
    assert main([command, str(checkout)]) == 2
    assert name in capsys.readouterr().err
    assert folder_bytes(checkout) == before


@pytest.mark.parametrize("command", ["link", "unlink"])
def test_what_another_version_wrote_is_ours_by_its_list(command, checkout, folder_bytes):
    before = folder_bytes(checkout)
    assert main(["link", str(checkout)]) == 0
    linked = folder_bytes(checkout)
    folder = checkout / "pretrain" / "melhubert"
    hashes = json.loads((folder / LIST).read_text())
    for name in ("config_runner.yaml", "gone_since.yaml"):
        (folder / name).write_text("# of another version\n")
        hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / LIST).write_text(json.dumps(hashes))
    assert main([command, str(checkout)]) == 0
    assert folder_bytes(checkout) == (linked if command == "link" else before)


def test_a_killed_link_or_unlink_can_be_given_again(checkout):
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(checkout)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["link", "unlink"])
@pytest.mark.parametrize("left", ["an empty folder", "a part of a list", "files without their list"])
def test_what_a_killed_link_of_earlier_versions_left_is_ours(command, left, checkout, folder_bytes):
    before = folder_bytes(checkout)
    assert main(["link", str(checkout)]) == 0
    linked = folder_bytes(checkout)
    folder = checkout / "pretrain" / "melhubert"
    (folder / LIST).unlink()
    if left != "files without their list":
        for path in folder.iterdir():
            path.unlink()
    if left == "a part of a list":
        (folder / f".{LIST}.k3_xab0z.json").write_text("{")
    assert main([command, str(checkout)]) == 0
    assert folder_bytes(checkout) == (linked if command == "link" else before)
    assert folder.exists() == (command == "link")


def test_a_full_disk_leaves_the_link_that_was_there(checkout, folder_bytes, capsys, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert main(["link", str(checkout)]) == 0
    before = folder_bytes(checkout)
    capsys.readouterr()
    monkeypatch.setattr(os, "fsync", full)
    assert main(["link", str(checkout)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert folder_bytes(checkout) == before


@pytest.mark.parametrize("command", ["link", "unlink"])
def test_a_checkout_that_cannot_be_written_is_one_clear_line(command, checkout, capsys, monkeypatch):
    def refused(self, *arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    assert main(["link", str(checkout)]) == 0
    capsys.readouterr()
    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(Path, "rename", refused)
    assert main([command, str(checkout)]) == 2
    error = capsys.readouterr().err
    assert "Read-only file system" in error
    assert error.count("\n") == 1


def test_no_checkout_is_one_clear_line(tmp_path, capsys):
    assert main(["link", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "not a checkout of s3prl" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["link", "unlink"])
def test_two_at_a_time_are_refused(command, checkout, folder_bytes, capsys):
    before = folder_bytes(checkout)
    with only_writer(checkout):
        assert main([command, str(checkout)]) == 2
    assert "at work on this folder" in capsys.readouterr().err
    assert folder_bytes(checkout) == before
