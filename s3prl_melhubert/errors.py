"""The exception and the warning that callers need to tell from others, and how an error shows its cause."""

from __future__ import annotations

import reprlib

SAID = 300  # characters of another library's message that are kept


class MelHuBERTError(ValueError):
    """Bad input: a file, a setting or a waveform that cannot be used.

    Its message is complete on one line (what was found, where, what to do), so that the command line
    prints it and exits with status 2, and nothing else.
    """


class MelHuBERTWarning(UserWarning):
    """Something that works, but perhaps not as the user thinks.

    By its class the command line tells it from the warnings of libraries, and prints its words alone.
    """


class _Short(reprlib.Repr):
    """Like `repr`, but short whatever the value: a file may hold a list of lists of lists without end."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 80, 80, 40

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4300 digits, at a length of 10**4 bits and more.
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > 4096 else super().repr_int(x, level)


_short = _Short()


def shown(value: object) -> str:
    """`repr(value)` for the message of an error, at most a line long, whatever a file brought."""
    try:
        return _short.repr(value)
    except Exception:  # a value whose own repr fails
        return f"a {type(value).__name__}"


def said(error: object) -> str:
    """Return what an error says, on one line, cut where it is too long, or its class if it says nothing."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= SAID else f"{words[:SAID]}..."


def named(error: BaseException) -> str:
    """Return the class of an error and what it says: `ValueError: not enough values to unpack`."""
    return said(f"{type(error).__name__}: {error}".removesuffix(": "))


def printable(text: str, keep: str = "") -> str:
    """Return a text with what cannot be printed as Python writes it, such as `\\r`.

    The names of files may hold control characters, and bytes in another encoding.

    Args:
        text: any text.
        keep: characters that stay as they are.
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
