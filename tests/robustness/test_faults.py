"""The run of kills and full disks (`benchmarks/faults.py`), in small: every output is that of a whole run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_commands_and_full_disks_end_with_the_same_bytes(tmp_path):
    command = [sys.executable, "-m", "benchmarks.faults", "relabel", "extract", "convert", "--quick"]
    arguments = ["--kills", "2", "--sizes", "1", "--markdown", str(tmp_path / "faults.md")]
    done = subprocess.run([*command, *arguments], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = (tmp_path / "faults.md").read_text().splitlines()
    assert [row.split(" | ")[0] for row in rows if row.startswith("| `")] == [
        f"| `{name}`" for name in ("relabel", "extract", "relabel", "extract", "convert")
    ]
