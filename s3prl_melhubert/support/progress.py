"""Progress of anything that takes over a few seconds: a bar on a terminal, a line every 30 s elsewhere.

    with progress(total=len(paths), title="log-Mel", unit="files") as bar:
        for path in paths:
            ...
            bar.update()

A bar is at most 80 columns wide. Where the output is no terminal (redirected into a file, run by a
scheduler), a bar would be thousands of lines of control characters; a line now and then says as much.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

COLUMNS = 80
SECONDS_BETWEEN_LINES = 30.0


class _Lines(tqdm):
    """The same counts as whole lines, for an output that is no terminal."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        def print_line(text: str) -> None:
            if text.strip():
                file.write(f"{text.strip()}\n")
                file.flush()

        return print_line

    def close(self) -> None:
        # tqdm would wipe out its bar with a carriage return; it does not where nothing was ever shown.
        self.last_print_t = self.start_t
        super().close()

    def moveto(self, n: int) -> None:
        """A second display is further lines, not a place below the first one."""


def progress(
    total: float | None, title: str, unit: str, *, initial: float = 0, enabled: bool = True, **options: Any
) -> tqdm:
    """A progress display on stderr, to be used as a context manager and told of each `update(n)`.

    Args:
        total: units of the whole work; None if nobody knows.
        title: what is being done, a word or two.
        unit: of the counts, in the plural.
        initial: units that were done before.
        enabled: False shows nothing, for all processes of several but one.
        options: further arguments of `tqdm`, such as `unit_scale=True`.
    """
    options = {"total": total, "desc": title, "unit": f" {unit}", "initial": initial, **options}
    if not enabled:
        return tqdm(**options, disable=True)
    if sys.stderr.isatty():
        columns = min(COLUMNS, shutil.get_terminal_size().columns)
        return tqdm(**{"ncols": columns, "file": sys.stderr, "leave": False, **options})
    amount = "{n_fmt}{unit}" if total is None else "{n_fmt}/{total_fmt}{unit}"
    left = "" if total is None else ", {remaining} left"
    options = {
        **options,
        "bar_format": f"{{desc}}: {amount} in {{elapsed}}{left}{{postfix}}",
        "mininterval": SECONDS_BETWEEN_LINES,
        "maxinterval": SECONDS_BETWEEN_LINES,
        "miniters": 1,
        "delay": SECONDS_BETWEEN_LINES,
        "leave": False,
    }
    return _Lines(**options, file=sys.stderr)


def say(line: str) -> None:
    """Print a line on stdout, above a bar if there is one."""
    if sys.stderr.isatty():
        tqdm.write(line)
    else:
        print(line)
    sys.stdout.flush()
