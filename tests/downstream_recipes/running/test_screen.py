"""What `melhubert superb TASK` shows: its own lines and one bar; what s3prl says is in the log alone."""

from __future__ import annotations

import io
import re
import sys

import pytest

from s3prl_melhubert.cli import main
from s3prl_melhubert.support import progress

# One pass of our loop, and s3prl's own program.
WAYS = {"one pass": "config.runner.eval_step=1", "s3prl": "args.upstream_trainable=True"}
CHATTER = re.compile(r"\[(Override|Featurizer|Runner)\]|ESPnet|Warning|train:.*it/s|overall:.*it")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def command(tmp_path, voxceleb, upstream, short, small):
    given = ["--voxceleb", str(voxceleb[0]), *upstream, "-p", str(tmp_path / "EXP")]
    return ["superb", "sid", *given, *short(3), "-o", small["sid"]]


@pytest.mark.parametrize("way", WAYS)
def test_terminal_has_one_bar_at_a_time_and_lines_that_fit(command, way, tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    command[-1] += f",,{WAYS[way]}"
    assert main(command) == 0
    written = screen.getvalue()
    assert "\x1b[A" not in written, "a second bar stands in a line of its own, to which the cursor moves"
    shown = re.split(r"[\r\n]+", written)
    assert not [line for line in shown if CHATTER.search(line)]
    assert not [line for line in shown if len(line) > 80 and str(tmp_path) not in line]
    bars = {line.partition(":")[0] for line in shown if "%|" in line}
    assert {"dev", "test"} <= bars
    assert bars & {"sid", "overall"}
    assert "[Featurizer]" in (tmp_path / "EXP/log.txt").read_text()


@pytest.mark.parametrize("way", WAYS)
def test_redirected_output_has_lines_alone(command, way, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.001)
    command[-1] += f",,{WAYS[way]}"
    assert main(command) == 0
    printed = capsys.readouterr()
    assert not re.search(r"[\r\x1b]", printed.out + printed.err)
    assert not CHATTER.search(printed.out + printed.err)
    lines = printed.err.splitlines()
    assert lines, "progress is said"
    assert all(re.match(r"[\w .:/-]+ in \d\d:\d\d(, (\d\d:\d\d|\?) left)?", line) for line in lines), lines
