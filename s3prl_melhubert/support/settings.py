"""One reader for all settings: a YAML file, its sections, and the typed values of their keys.

A section of a file is a frozen dataclass, whose annotations say what a value may be and whose
`__post_init__` says which values are possible (`require`). Every error is one line that names the file, the
section and the key.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from s3prl_melhubert.errors import MelHuBERTError, said, shown

Section = TypeVar("Section")

# No file of settings is larger; dataset.yaml and the statistics are a few thousand bytes.
MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
MAX_DEPTH = 50
MERGE = "tag:yaml.org,2002:merge"  # the tag of the key `<<`
LARGEST = 2**31 - 1  # of the integers that a setting may be: no size or count of a training comes near it
LARGEST_SEED = 2**64 - 1  # that torch takes
LARGEST_SMALL_SEED = 2**32 - 1  # that numpy's older generator takes, which s3prl seeds, too

_TYPES: dict[str, Any] = {
    "int": int,
    "int | None": (int, type(None)),
    "bool": bool,
    "bool | str": (bool, str),
    "str": str,
    "str | None": (str, type(None)),
}


def read_yaml_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose content is a mapping.

    Raises:
        MelHuBERTError: the file does not exist, is no YAML, or holds something else than a mapping.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise MelHuBERTError(f"{path}: {size} bytes found, which is too long for a file of settings")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MelHuBERTError(f"{path}: cannot be read as a YAML file ({reason})") from None
    try:
        content = _load(text)
    # Beside YAMLError: what the reader makes of an impossible date (ValueError) or of a wrong tag.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise MelHuBERTError(f"{path}: not valid YAML ({said(error)})") from None
    if not isinstance(content, dict):
        raise MelHuBERTError(
            f"{path}: {'nothing' if content is None else type(content).__name__} found, "
            "expected a YAML mapping (lines of `key: value`)"
        )
    return content


class _ShallowLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which gives up on deep nesting before its time grows with the square of it."""

    def fetch_more_tokens(self) -> Any:
        if self.flow_level + len(self.indents) > MAX_DEPTH:
            raise yaml.YAMLError(f"nested over {MAX_DEPTH} levels deep")
        return super().fetch_more_tokens()


def _load(text: str) -> Any:
    """The content of a YAML document, unless its anchors make more of it than a file of settings has.

    A few lines of aliases of aliases stand for a billion values: harmless until somebody looks at them all.
    """
    loader = _ShallowLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a node stands for, with its aliases written out."""
    if id(node) in known:
        if known[id(node)] == 0:  # not counted to its end yet: it holds itself
            raise yaml.YAMLError("an alias inside its own anchor")
        return known[id(node)]
    known[id(node)] = 0
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _refuse_duplicates(node)
        below = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    total = 1 + sum(_count(child, known) for child in below)
    if total > MAX_VALUES:
        raise yaml.YAMLError(f"over {MAX_VALUES} values, which is too much for a file of settings")
    known[id(node)] = total
    return total


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    """Raise a YAMLError for a key that a mapping has twice, of which PyYAML would take the later one."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        # `<<` may be there more than once: it merges another mapping into this one.
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            raise yaml.YAMLError(
                f"key {shown(key.value)} in line {line} is there already, in line {lines[name]}; remove one"
            )
        lines[name] = line


def read_section(cls: type[Section], content: Mapping[str, Any], where: str) -> Section:
    """A dataclass of settings from a section of a YAML file.

    Args:
        cls: a dataclass whose annotations `typed` knows.
        content: the section, key by key; a key that is left out takes the dataclass's default.
        where: what an error calls the section, usually its file and its name.

    Raises:
        MelHuBERTError: no section, an unknown key (with the nearest known one), or a value that cannot be.
    """
    if not isinstance(content, Mapping):
        raise MelHuBERTError(f"{where}: {shown(content)} found, expected a mapping")
    types = {field.name: str(field.type) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    refuse_unknown(content, types, where)
    with errors_of(where):
        return cls(**{key: typed(key, value, types[key]) for key, value in content.items()})


def refusing_unknown_names(cls: type[Section]) -> type[Section]:
    """Have a dataclass of settings raise a MelHuBERTError for an argument that it does not know.

    So a typing error in a Python program is told like one in a YAML file, with the nearest known name, where
    Python would raise a TypeError.
    """
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    plain = cls.__init__

    @functools.wraps(plain)
    def init(self: Any, *values: Any, **settings: Any) -> None:
        refuse_unknown(settings, known, cls.__name__)
        plain(self, *values, **settings)

    cls.__init__ = init  # type: ignore[assignment]
    return cls


@contextmanager
def errors_of(where: str) -> Iterator[None]:
    """Put `where` before the message of every MelHuBERTError that the block raises."""
    try:
        yield
    except MelHuBERTError as error:
        raise MelHuBERTError(f"{where}: {error}") from None


def refuse_unknown(keys: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Raise a MelHuBERTError that names the first key that is not known, and the nearest one that is."""
    known = sorted(known)
    for key in keys:
        if key not in known:
            raise MelHuBERTError(f"{where}: unknown key {key} ({nearest(str(key), known)})")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: `did you mean X?`, or a list of what is known."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def typed(name: str, value: Any, expected: str) -> Any:
    """`value` as the annotation `expected` has it.

    Args:
        name: of the setting, for an error.
        value: as YAML or a caller gives it.
        expected: `int`, `float`, `bool`, `str`, `int | None`, `str | None`, `tuple[str, ...]` or
            `int | tuple[int, ...]`.

    Raises:
        MelHuBERTError: the value is of another type.
    """
    if expected == "tuple[str, ...]":
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
            raise MelHuBERTError(f"{name}: {shown(value)} found, expected a list of paths")
        return tuple(values)
    if expected == "int | tuple[int, ...]":
        if isinstance(value, list | tuple):
            return tuple(typed(name, item, "int") for item in value)
        expected = "int"
    if expected == "float":
        return number(name, value)
    is_number = expected.startswith("int") and value is not None
    if is_number and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = int(value)  # It may be one of numpy's.
    if not isinstance(value, _TYPES[expected]) or (is_number and isinstance(value, bool)):
        raise MelHuBERTError(f"{name}: {shown(value)} found, expected {expected.removesuffix(' | None')}")
    if is_number and not -LARGEST <= value <= LARGEST:
        limit = f"at most {LARGEST}" if value > 0 else f"at least {-LARGEST}"
        raise MelHuBERTError(f"{name}: {shown(value)} found, expected {limit}")
    return value


def number(name: str, value: Any) -> float:
    """A float, also where YAML 1.1 reads a string: it wants 1.0e-4, and people write 1e-4.

    Raises:
        MelHuBERTError: the value is no number, or none that is finite.
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise MelHuBERTError(f"{name}: {shown(value)} found, expected a number") from None
    except OverflowError:
        result = math.inf
    if isinstance(value, bool):
        raise MelHuBERTError(f"{name}: {shown(value)} found, expected a number")
    if not math.isfinite(result):
        raise MelHuBERTError(f"{name}: {shown(value)} found, expected a finite number")
    return result


def put(settings: dict[str, Any], place: str, value: Any) -> None:
    """Set the setting at a place, such as `runner.total_steps`; the sections above it are there."""
    *above, name = place.split(".")
    for section in above:
        settings = settings[section]
    settings[name] = value


def check_seed(seed: int, largest: int = LARGEST_SEED) -> None:
    """Raise a MelHuBERTError if the value of `--seed` is below zero, or above what its generators take."""
    if not 0 <= seed <= largest:
        raise MelHuBERTError(f"--seed {shown(seed)}: expected 0 to {largest}")


def require(settings: Any, name: str, holds: bool, expected: str) -> None:
    """Raise a MelHuBERTError that names a setting, unless the condition on it holds."""
    if not holds:
        raise MelHuBERTError(f"{name}: {shown(getattr(settings, name))} found, expected {expected}")
