"""The examples in docs/examples: their settings are read, and the commands of a script are understood."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from s3prl_melhubert import MelHuBERTConfig
from s3prl_melhubert.cli import main
from s3prl_melhubert.commands import prepare, pretrain
from s3prl_melhubert.commands.superb import predict, report, task
from s3prl_melhubert.pretrain.training.settings import Settings


@pytest.fixture
def digits(checkout) -> Path:
    """The example that makes the figures of spoken digits."""
    return checkout / "docs/examples/digits"


def test_settings_of_the_digits_are_those_that_the_pages_tell(digits):
    config = MelHuBERTConfig.from_yaml(digits / "model.yaml")
    assert (config.encoder_layers, config.encoder_embed_dim, config.num_cluster) == (4, 192, 100)
    settings = Settings.from_yaml(digits / "runner.yaml")
    assert settings.runner.total_steps == 1500
    assert settings.datarc.train_batch_size == 16
    assert Settings.from_yaml(digits / "untrained.yaml").optimizer.arguments["lr"] == 0


def test_every_command_of_the_digits_is_understood(digits, tmp_path, monkeypatch):
    """A stand-in for `melhubert` notes what the script calls; then each is parsed as it would be."""
    noted = tmp_path / "noted"
    stand_in = tmp_path / "bin/melhubert"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >>{noted}\necho >>{noted}\n')
    stand_in.chmod(0o755)
    path = os.pathsep.join([str(stand_in.parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "SHORTER": "100"}
    script = [str(digits / "digits.sh"), "corpus", str(tmp_path / "exp")]
    shown = subprocess.run(
        script, env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    commands = [text.splitlines() for text in noted.read_text().split("\n\n")[:-1]]
    assert [shlex.split(line)[2] for line in shown.splitlines()] == [command[0] for command in commands]
    assert len(commands) == 17
    for module in (prepare, pretrain, predict, report, task):
        monkeypatch.setattr(module, "run", lambda args: understood.append(args) or 0)
    understood: list[object] = []
    assert [main(command) for command in commands] == [0] * 17
    assert len(understood) == 17
    settings = Settings.from_yaml(tmp_path / "exp/runner.yaml")
    assert (settings.runner.total_steps, settings.scheduler.warmup_steps) == (15, 1)
