"""An experiment that is killed goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.slow
def test_killed_in_training_the_same_command_ends_with_the_same_files(corpus, tmp_path, short):
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
