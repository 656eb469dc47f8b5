"""`melhubert link` and `unlink`: thin files in a checkout of s3prl, and none left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from s3prl_melhubert import MelHuBERTConfig
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.training.settings import DataSettings
from s3prl_melhubert.support.settings import read_section


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


def test_no_checkout_is_one_clear_line(tmp_path, capsys):
    assert main(["link", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "not a checkout of s3prl" in error
    assert error.count("\n") == 1
