"""An experiment that is killed goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_in_training_the_same_command_ends_with_the_same_bytes(corpus, tmp_path, short):
    """A worker process reads the audio and cuts crops at random, which it must do again alike."""
    experiment = tmp_path / "EXP"
    settings = "config.runner.save_step=4,,config.runner.gradient_accumulate_steps=1"
    settings += ",,config.downstream_expert.datarc.max_timestep=3000"
    command = [sys.executable, "-m", "s3prl_melhubert", "superb", "sid", *corpus["sid"], "-u", "fbank"]
    command += ["-p", str(experiment), *short(40), "--workers", "1", "--lr", "1e-2,1e-3", "-o", settings]

    def files(folder: Path) -> dict[str, bytes]:
        # With times: s3prl's own, one of each for every start, and ours.
        stamped = ("args_", "config_", "events", "log.txt", "training.json", "results.json")
        found = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(stamped)]
        return {str(p.relative_to(folder)): p.read_bytes() for p in found}

    subprocess.run(command, check=True, capture_output=True, timeout=240)
    whole = files(experiment.rename(tmp_path / "whole"))
    assert "lr-0.01/states-40.ckpt" in whole
    seen = -1
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:  # until it has saved something that was not there before
            saved = [int(p.stem.split("-")[1]) for p in experiment.glob("lr-0.01/states-*.ckpt")]
            if saved and max(saved) > seen:
                seen = max(saved)
                break
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert seen > 0
    last = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    assert last.stdout.count("continuing from states-") == 2
    killed = files(experiment)
    assert set(killed) == set(whole)
    assert [name for name in whole if killed[name] != whole[name]] == []
    assert json.loads((experiment / "lr-0.01/training.json").read_text())["ended"]
