"""Progress as people see it: a bar on a terminal, whole lines in a file."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest

from s3prl_melhubert.support import progress

# The time of the programs below goes by the work that they do, and so is the same on every machine.
CLOCK = """
from types import SimpleNamespace
import tqdm.std
from s3prl_melhubert.support import progress

now = 1000.0

def work(seconds):
    global now
    now += seconds

progress.time = SimpleNamespace(monotonic=lambda: now)
tqdm.std.time = lambda: now
"""

# A work of a minute, in twenty parts, while a part of it has a display of its own. tqdm and the thread of the
# display want to show it at more occasions than its updates.
WORK = (
    CLOCK
    + """
progress.SECONDS_BETWEEN_LINES = {between}
with progress.progress(20, "log-Mel", "files") as bar:
    for part in range(20):
        work(3)
        bar.update()
        for _ in range({occasions}):
            bar.refresh()
        if part == 15:
            progress.say("half way and more")
            with progress.progress(None, "alignments", "utterances") as inner:
                for _ in range(8):
                    work(3)
                    inner.update()
print("done")
"""
)


# A library's work, as s3prl's loop has it: steps, an epoch's batches, and within them a test.
LIBRARY = (
    CLOCK
    + """
import sys

progress.SECONDS_BETWEEN_LINES = {between}
with progress.bars_like_ours():
    from tqdm import tqdm, trange
    overall = tqdm(total=8, dynamic_ncols=True, desc="overall", file=sys.stderr)
    for epoch in range(2):
        for batch in tqdm(range(4), dynamic_ncols=True, desc="train", file=sys.stderr):
            work(3)
            if batch == 2:
                for _ in trange(6, desc="dev" + 200 * "e"):
                    work(3)
                tqdm.write("saved")
            overall.update()
    overall.close()
print("done")
"""
)


def in_terminal(code: str, columns: int) -> str:
    """What a program writes on a pseudo-terminal of that width; one of 0 columns does not know its size."""
    ours, theirs = pty.openpty()
    rows = 24 if columns else 0
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            part = b""
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, written.decode()
    return written.decode()


def test_redirected_output_has_whole_lines_at_intervals_and_no_control_characters(run_python):
    ran = run_python("-c", WORK.format(between=12, occasions=2))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "half way and more\ndone\n"
    assert not re.search(r"[\r\x1b]", ran.stderr)
    assert ran.stderr.endswith("\n")
    lines = ran.stderr.splitlines()
    outer = [
        line for line in lines if re.fullmatch(r"log-Mel: \d+/20 files in 0\d:\d\d, \d\d:\d\d left", line)
    ]
    inner = [line for line in lines if re.fullmatch(r"alignments: \d utterances in 00:\d\d", line)]
    assert len(outer) >= 4
    assert len(inner) >= 1
    assert len(outer) + len(inner) == len(lines) <= 84 / 12


# A single part takes as long as two lines do. Then the display is closed, or nobody has it any more.
ONE_PART = """
import sys, threading, time
from s3prl_melhubert.support import progress

class Screen:
    lines, two = 0, threading.Event()

    def write(self, text):
        print(text, end="", file=sys.__stderr__)
        self.lines += text.count(chr(10))
        if self.lines == 2:
            self.two.set()

    def flush(self):
        sys.__stderr__.flush()

    def isatty(self):
        return False

sys.stderr = Screen()
progress.SECONDS_BETWEEN_LINES = 0.2
begin = time.monotonic()
bar = progress.progress(1, "units", "files")
[thread] = [each for each in threading.enumerate() if each.name == "progress"]
assert Screen.two.wait(200)
{end}
thread.join(200)
print(thread.is_alive(), time.monotonic() - begin)
"""


@pytest.mark.parametrize("end", ["bar.close(); sys.stderr.write('end\\n')", "del bar"])
def test_a_part_of_many_minutes_has_lines_until_the_display_is_closed(run_python, end):
    ran = run_python("-c", ONE_PART.format(end=end))
    assert ran.returncode == 0, ran.stderr
    alive, seconds = ran.stdout.split()
    assert alive == "False"
    lines = ran.stderr.splitlines()
    if "close" in end:
        assert lines.pop() == "end"
    assert 2 <= len(lines) <= float(seconds) / 0.18
    assert all(re.fullmatch(r"units: 0/1 files in \d\d:\d\d, \? left", line) for line in lines)


def test_redirected_work_shorter_than_the_interval_says_nothing(run_python):
    ran = run_python("-c", WORK.format(between=100, occasions=2))
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(("columns", "widest"), [(200, 80), (50, 50), (0, 80)])
def test_a_bar_on_a_terminal_is_at_most_80_columns_wide(columns, widest):
    written = in_terminal(WORK.format(between=30, occasions=0), columns)
    shown = [re.sub(r"\x1b\[\w*", "", part) for part in re.split(r"[\r\n]+", written)]
    bars = [part for part in shown if part.startswith("log-Mel:")]
    assert len(bars) >= 3
    assert max(map(len, shown)) <= widest
    assert "half way and more" in shown


def test_bars_of_a_library_are_lines_where_output_is_redirected(run_python):
    ran = run_python("-c", LIBRARY.format(between=9))
    assert (ran.returncode, ran.stdout) == (0, "saved\nsaved\ndone\n"), ran.stderr
    assert not re.search(r"[\r\x1b]", ran.stderr)
    lines = ran.stderr.splitlines()
    assert {line[:3] for line in lines} == {"ove", "dev"}, "those of an epoch would say the same again"
    assert 2 <= len(lines) <= 12
    assert max(map(len, lines)) <= 80


def test_bars_of_a_library_take_each_others_place_on_a_terminal():
    written = in_terminal(LIBRARY.format(between=30), 80)
    assert "\x1b[A" not in written, "the cursor never moves to a second bar"
    shown = re.split(r"[\r\n]+", written)
    assert max(map(len, shown)) <= 80
    bars = [line[:3] for line in shown if "%|" in line]
    # The last of the steps is the last bar, for it comes back when the test within it has ended.
    assert set(bars) == {"ove", "dev"}
    assert bars[-1] == "ove"
    assert shown.count("saved") == 2
    last_line = written.rstrip().split("\n")[-1]
    assert last_line.strip().endswith("done")


def test_a_line_is_broken_between_words_and_nothing_is_lost():
    line = "not SUPERB's settings: " + "; ".join(f"runner.setting_{n} {n} (SUPERB: 1)" for n in range(9))
    broken = progress.wrapped(f"{line}\nshort", 60).split("\n")
    assert max(map(len, broken)) <= 60
    assert broken[-1] == "short"
    assert " ".join(part.strip() for part in broken[:-1]) == line


def test_a_line_on_a_terminal_of_unknown_width_has_80_columns(monkeypatch):
    """As Python 3.10 tells of one, and later versions do not."""
    # For this module alone: pytest asks for the width, too, before it takes this back.
    unknown = SimpleNamespace(get_terminal_size=lambda: os.terminal_size((0, 0)))
    monkeypatch.setattr(progress, "shutil", unknown)
    lines = progress.wrapped("word " * 40).split("\n")
    assert 70 < max(map(len, lines)) <= 80


def test_path_is_shown_from_the_current_folder_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert progress.from_here(tmp_path / "exp/log.txt") == "exp/log.txt"
    assert progress.from_here(Path("/elsewhere/log.txt")) == "/elsewhere/log.txt"
    assert progress.from_here(Path("exp/log.txt")) == "exp/log.txt"
