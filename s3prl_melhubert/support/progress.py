"""Progress of anything that takes over a few seconds: a bar on a terminal, a line every 30 s elsewhere.

    with progress(total=len(paths), title="log-Mel", unit="files") as bar:
        for path in paths:
            ...
            bar.update()

A bar is less than 80 columns wide, and there is one at a time: what begins within something else shows its
own bar in the other's place. Where the output is no terminal (redirected into a file, run by a scheduler), a
bar would be thousands of lines of control characters; a line now and then says as much.

    with bars_like_ours():
        runpy.run_module("s3prl.run_downstream", run_name="__main__")

shows the bars of a library in the same way. `screen_kept()` lets bars stay on the screen while all that is
printed goes elsewhere.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.utils import disp_trim

COLUMNS = 80
ROWS = 20  # A container's terminal may not know how many it has, and tqdm would show nothing there.
SECONDS_BETWEEN_LINES = 30.0

# s3prl shows the batches of an epoch in this bar, and in another one above it the steps of the whole run.
S3PRL_EPOCH = "train"

_open: list[weakref.ref[_Shown]] = []  # the newest last
_screen: TextIO | None = None  # where bars go while stderr is redirected


class _Shown(tqdm):
    """Either way of showing progress."""


class _Bar(_Shown):
    """A bar on a terminal. While a newer one is open, that one has its place."""

    def __init__(self, *args: Any, **options: Any):
        newest = _newest()
        if newest is not None:
            newest.clear()
        _open.append(weakref.ref(self))
        super().__init__(*args, **{**options, "position": 0, "leave": False})

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        if _newest() is not self:
            return False
        line = str(self) if msg is None else msg
        tqdms: Any = super()
        return tqdms.display(disp_trim(line, self.ncols) if self.ncols else line, 0)

    def close(self) -> None:
        if not getattr(self, "disable", True):
            if _newest() is self and self.last_print_t >= self.start_t + (self.delay or 0):
                self.clear()
            _forget(self)
            self.last_print_t = self.start_t - 1  # there is nothing left that tqdm would have to wipe out
        super().close()
        newest = _newest()
        if newest is not None:
            newest.refresh()


class _Lines(_Shown):
    """The same counts as whole lines, for an output that is no terminal."""

    def __init__(self, *args: Any, **options: Any):
        self.said = time.monotonic()
        self.closed = threading.Event()
        _open.append(weakref.ref(self))
        super().__init__(*args, **options)
        if not self.disable:
            # A part of the work may take minutes, in which nobody calls `update`.
            arguments = (weakref.ref(self), self.closed)
            threading.Thread(target=_tell_the_time, args=arguments, name="progress", daemon=True).start()

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        def print_line(text: str) -> None:
            if text.strip():
                file.write(f"{text.strip()}\n")
                file.flush()

        return print_line

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        # tqdm wants to show its bar at more occasions than these, such as after each printed line.
        if self.closed.is_set() or time.monotonic() < self.said + 0.9 * SECONDS_BETWEEN_LINES:
            return False
        self.said = time.monotonic()
        tqdms: Any = super()
        return tqdms.display(msg, 0)

    def clear(self, nolock: bool = False) -> None:
        """A line stays where it is."""

    def close(self) -> None:
        if not getattr(self, "disable", True):
            # tqdm would wipe out its bar with a carriage return; it does not where nothing was ever shown.
            self.last_print_t = self.start_t - 1
            with self.get_lock():  # which is held while a line is printed: none comes after this one
                self.closed.set()
            _forget(self)
        super().close()


def _tell_the_time(reference: weakref.ref[_Lines], closed: threading.Event) -> None:
    """Print a line whenever it is time for one, until the display is closed or nobody has it any more.

    What began within something else speaks for both.
    """
    while not closed.wait(SECONDS_BETWEEN_LINES):
        lines = reference()
        if lines is None:
            return
        if _newest() is lines:
            with suppress(OSError, ValueError):  # Nothing can be printed any more; who prints next says so.
                lines.refresh()
        del lines  # so that it may be collected while this waits


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
    return (_Bar if _on_terminal() else _Lines)(**_as_shown(options))


def _as_shown(options: dict[str, Any]) -> dict[str, Any]:
    """tqdm's arguments with those that make it a bar, or lines, on the screen."""
    screen = _screen or sys.stderr
    if _on_terminal():
        # A line that is as wide as the terminal makes some of them go on in the next one.
        columns = min(COLUMNS, _columns()) - 1
        return {**options, "ncols": columns, "nrows": ROWS, "file": screen}
    named = "{desc}: " if options.get("desc") else ""
    total = options.get("total")
    if total is None and hasattr(options.get("iterable"), "__len__"):
        total = len(options["iterable"])
    amount = "{n_fmt}{unit}" if total is None else "{n_fmt}/{total_fmt}{unit}"
    left = "" if total is None else ", {remaining} left"
    return {
        **options,
        "file": screen,
        "bar_format": f"{named}{amount} in {{elapsed}}{left}{{postfix}}",
        "mininterval": SECONDS_BETWEEN_LINES,
        "maxinterval": SECONDS_BETWEEN_LINES,
        "miniters": 1,
        "delay": SECONDS_BETWEEN_LINES,
        "leave": False,
    }


def from_here(path: Path) -> str:
    """A path for people to read: from the current folder on, where it lies below that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def say(line: str) -> None:
    """Print a line on stdout, above a bar if there is one; on a terminal, in lines that fit it."""
    if _on_terminal() and sys.stdout.isatty():
        tqdm.write(wrapped(line))
    else:
        print(line)
    sys.stdout.flush()


def wrapped(text: str, columns: int | None = None) -> str:
    """Break lines between words, so that they fit the terminal; what follows a first part is indented."""
    width = columns or _columns()
    fit = partial(textwrap.fill, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if len(line) <= width else fit(line, width) for line in text.split("\n"))


def _columns() -> int:
    """How wide the terminal is; Python 3.10 says 0 of one that does not know its size."""
    return shutil.get_terminal_size().columns or COLUMNS


def _on_terminal() -> bool:
    return bool((_screen or sys.stderr).isatty())


def _forget(shown: _Shown) -> None:
    # By identity, for tqdm calls two bars in one place equal.
    _open[:] = [each for each in _open if each() is not None and each() is not shown]


def _newest() -> _Shown | None:
    for reference in reversed(_open):
        bar = reference()
        if bar is not None and not getattr(bar, "disable", False):
            return bar
    return None


@contextmanager
def screen_kept() -> Iterator[None]:
    """Displays stay on what stderr is now, whatever it is redirected to while the block runs."""
    global _screen
    before, _screen = _screen, _screen or sys.stderr
    try:
        yield
    finally:
        _screen = before


# -- the bars of libraries -------------------------------------------------------------------------------

# tqdm's arguments that make the display, not what is counted.
_APPEARANCE = frozenset(
    (
        *("ascii", "bar_format", "colour", "delay", "dynamic_ncols", "file", "leave", "maxinterval"),
        *("miniters", "mininterval", "ncols", "nrows", "position"),
    )
)
# The first of tqdm's arguments, which some give by their place.
_PLACES = ("iterable", "desc", "total", "leave", "file")


@contextmanager
def bars_like_ours() -> Iterator[None]:
    """Show every bar of tqdm that begins while the block runs as `progress` would.

    A bar that goes to a file of its own, or is disabled, stays as it is.
    """
    library: Any = tqdm
    make = library.__new__

    def make_ours(cls: Any, *args: Any, **options: Any) -> Any:
        given = {**dict(zip(_PLACES, args, strict=False)), **options}
        ours = not issubclass(cls, _Shown) and not given.get("disable")
        ours = ours and given.get("file") in (None, sys.stderr, sys.stdout, _screen)
        # Python calls the class' own __init__ next, for it is a subclass.
        return make(_foreign(cls, _on_terminal()) if ours else cls, *args, **options)

    library.__new__ = staticmethod(make_ours)
    try:
        yield
    finally:
        library.__new__ = staticmethod(make)


@cache
def _foreign(cls: Any, on_terminal: bool) -> Any:
    """A library's class of bars in our way of showing them."""
    shown: type[_Shown] = _Bar if on_terminal else _Lines

    def begin(self: Any, *args: Any, **options: Any) -> None:
        given = {**dict(zip(_PLACES, args, strict=False)), **options}
        given = {name: value for name, value in given.items() if name not in _APPEARANCE}
        if given.get("unit", "it") == "it":
            given["unit"] = ""
        if given.get("desc"):
            given["desc"] = disp_trim(given["desc"], COLUMNS // 2)
        others = [each for each in self._instances if each is not self and not getattr(each, "disable", True)]
        if given.get("desc") == S3PRL_EPOCH and others:
            cls.__init__(self, **given, disable=True)
        else:
            shown.__init__(self, **_as_shown(given))

    return type(cls.__name__, (shown, cls), {"__init__": begin})
