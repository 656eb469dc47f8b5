"""Damage done to valid input: bytes that are cut, flipped, spliced or doubled, and fields of a wrong kind.

Every test of this folder draws from here, so that what one kind of file is tried with, the others are, too.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from s3prl_melhubert import MelHuBERTError

MOST_SECONDS = 10.0  # of this process alone; what others do on the cores does not count
MOST_MEMORY = 2 * 1024**3  # bytes more than before

# What no field expects: other types, and numbers at the ends of what there is.
STRANGE = [
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    -(10**30),
    10**12,
    0.5,
    1e308,
    -1e308,
    float("inf"),
    float("nan"),
    "",
    "text",
    "1e400",
    "x" * 5000,
    "\r\n",
    "../../..",
    [],
    [[]],
    [1, 2, 3],
    {},
    {"a": {"b": 1}},
]


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content after one to three mutations of its bytes."""
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.sampled_from([_cut, _flip, _splice, _double, _overwrite]))(draw, content)
    return content


def _place(draw: st.DrawFn, content: bytes) -> int:
    return draw(st.integers(0, max(0, len(content) - 1)))


def _cut(draw: st.DrawFn, content: bytes) -> bytes:
    return content[: _place(draw, content)]


def _flip(draw: st.DrawFn, content: bytes) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    changed[_place(draw, content)] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def _splice(draw: st.DrawFn, content: bytes) -> bytes:
    """One part of the content goes to another place."""
    a, b, to = (_place(draw, content) for _ in range(3))
    part = content[min(a, b) : max(a, b)]
    rest = content[: min(a, b)] + content[max(a, b) :]
    to = min(to, len(rest))
    return rest[:to] + part + rest[to:]


def _double(draw: st.DrawFn, content: bytes) -> bytes:
    a = _place(draw, content)
    return content[:a] + content[a:] * 2


def _overwrite(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes become the largest or smallest number that they can hold."""
    a = _place(draw, content)
    size = draw(st.sampled_from([1, 2, 4, 8]))
    return (
        content[:a] + draw(st.sampled_from([b"\xff", b"\0", b"\x7f", b"\x80"])) * size + content[a + size :]
    )


def places(content: Any, above: tuple = ()) -> list[tuple]:
    """The keys that lead to each value inside nested mappings and lists."""
    if isinstance(content, Mapping):
        below = list(content.items())
    elif isinstance(content, list):
        below = list(enumerate(content))[:3]
    else:
        return []
    found = []
    for key, value in below:
        found += [(*above, key), *places(value, (*above, key))]
    return found


@st.composite
def damaged_fields(draw: st.DrawFn, content: Any, strange: list[Any] | None = None) -> Any:
    """A copy of nested mappings and lists in which some values are strange, missing, or have another name."""
    changed = deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        candidates = places(changed)
        if not candidates:
            return changed
        *way, last = draw(st.sampled_from(candidates))
        holder = changed
        for key in way:
            holder = holder[key]
        kind = draw(st.sampled_from(["strange", "strange", "strange", "missing", "renamed"]))
        if kind == "strange" or isinstance(holder, list):
            holder[last] = deepcopy(draw(st.sampled_from(STRANGE if strange is None else strange)))
        else:
            value = holder.pop(last)
            if kind == "renamed":
                holder[f"{last}x"] = value
    return changed


def same_or_refused(
    path: Path, read: Callable[[Path], Any], same: Callable[[Any], bool] | None = None
) -> bool:
    """Read a file within the limits of time and memory; assert that it is read, or refused in one line.

    Args:
        path: the file.
        read: what reads it.
        same: whether what was read is what the whole file holds; None where a change may be valid, too.

    Returns:
        Whether it was refused.
    """
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        result = read(path)
    except MelHuBERTError as error:
        message, refused = str(error), True
    else:
        message, refused = "", False
        assert same is None or same(result), "the file was damaged, and was read as something else"
    assert time.process_time() - start < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < MOST_MEMORY
    if refused:
        assert str(path) in message, message
        assert len(message.splitlines()) == 1, message
        assert len(message) < 3000, message[:3000]
    return refused
