"""Fluent Speech Commands for intent classification: its three tables, and whether every file is usable.

The layout is ROOT/data/{train,valid,test}_data.csv and ROOT/wavs/. A row of a table names a WAV file and what
is meant by what is said there, in three slots: an action, an object and a location.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.problems import NAMED, Kind, Problems
from s3prl_melhubert.errors import MelHuBERTError

TABLES = {"train": "train_data.csv", "valid": "valid_data.csv", "test": "test_data.csv"}
SLOTS: dict[str, frozenset[str]] = {  # with the values that Fluent Speech Commands has
    "action": frozenset({"activate", "bring", "change language", "deactivate", "decrease", "increase"}),
    "object": frozenset(
        {"Chinese", "English", "German", "Korean", "heat", "juice", "lamp", "lights", "music", "newspaper"}
        | {"none", "shoes", "socks", "volume"}
    ),
    "location": frozenset({"bedroom", "kitchen", "none", "washroom"}),
}
COLUMNS = ("path", *SLOTS)

MISSING = Kind(
    "files that a table lists but that are not there", "unpack the corpus again; wavs/ lies beside data/"
)
UNKNOWN_VALUE = Kind(
    "values that Fluent Speech Commands does not have",
    "take the corpus' own tables; the leaderboard knows no others",
)
UNTRAINED = Kind(
    "values of valid or test that are not in train", "s3prl stops at them; take the corpus' own tables"
)
LISTED_TWICE = Kind(
    "file names that are in the test table more than once",
    "keep one of each; predictions are told apart by name",
)
EMPTY = Kind("tables without a row", "take the corpus' own tables")


@dataclass(frozen=True)
class Command:
    """A command that was found usable."""

    path: Path
    slots: tuple[str, ...]  # action, object, location
    samples: int  # at 16 kHz

    @property
    def prediction_name(self) -> str:
        """The name that s3prl gives it in its predictions."""
        return self.path.stem


def check_fluent_commands(root: str | Path, problems: Problems) -> dict[str, list[Command]]:
    """Check the three tables and every file that they list.

    Args:
        problems: takes what is wrong; the caller raises it, with what it finds itself.

    Returns:
        The commands without a problem of `train`, `valid` and `test`, in the order of their tables.

    Raises:
        MelHuBERTError: a table cannot be read, or `root` is not laid out as Fluent Speech Commands.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise MelHuBERTError(
            f"{root}: no such folder, expected Fluent Speech Commands', with data/ and wavs/ in it"
        )
    tables = {split: _read_table(root / "data" / name) for split, name in TABLES.items()}
    _check_values(tables, problems)
    there: dict[str, Path] = {}
    for rows in tables.values():
        for row in rows:
            if (path := root / row["path"]).is_file():
                there[row["path"]] = path
            else:
                problems.add(MISSING, row["path"])
    names: set[str] = set()
    for row in tables["test"]:
        if (name := Path(row["path"]).stem) in names:
            problems.add(LISTED_TWICE, name)
        names.add(name)
    lengths = check_audio(
        list(there.values()),
        lambda path: "/".join(path.parts[-2:]),
        problems,
        "check Fluent Speech Commands",
    )
    samples = dict(zip(there, lengths, strict=True))
    return {
        split: [
            Command(there[row["path"]], tuple(row[slot] for slot in SLOTS), length)
            for row in rows
            if (length := samples.get(row["path"])) is not None
        ]
        for split, rows in tables.items()
    }


def _read_table(path: Path) -> list[dict[str, str]]:
    """Read a table's rows, by the names of its columns."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise MelHuBERTError(
            f"{path}: no such file; expected {', '.join(TABLES.values())} in data/ of Fluent Speech Commands"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MelHuBERTError(f"{path}: cannot be read as a table ({reason})") from None
    for number, row in enumerate(rows, 2):
        absent = [name for name in COLUMNS if not row.get(name)]
        if absent:
            found = ", ".join(name for name in list(row)[:NAMED] if name) or "nothing"
            raise MelHuBERTError(
                f"{path}: line {number} has nothing for {', '.join(absent)} (columns: {found}); "
                "take the corpus' own tables"
            )
    return rows


def _check_values(tables: Mapping[str, Sequence[Mapping[str, str]]], problems: Problems) -> None:
    for split, rows in tables.items():
        if not rows:
            problems.add(EMPTY, TABLES[split])
    for slot, known in SLOTS.items():
        values = {split: {row[slot] for row in rows} for split, rows in tables.items()}
        for value in sorted(set().union(*values.values()) - known):
            problems.add(UNKNOWN_VALUE, f"{slot} {value!r}")
        for value in sorted((values["valid"] | values["test"]) - values["train"]):
            problems.add(UNTRAINED, f"{slot} {value!r}")


def trained_values(root: str | Path) -> dict[str, list[str]]:
    """Return the values that each slot has in the training table, in the order in which they first appear.

    Raises:
        MelHuBERTError: there is no such table, or it cannot be read.
    """
    rows = _read_table(Path(root) / "data" / TABLES["train"])
    return {slot: list(dict.fromkeys(row[slot] for row in rows)) for slot in SLOTS}


def write_tables(root: Path, values: Mapping[str, Sequence[str]]) -> None:
    """Write the three tables with rows of files that are not there.

    Args:
        root: gets `data`, with a training table that has these values, and two tables without a row.
        values: of each slot, in the order in which the training table shall have them.
    """
    (root / "data").mkdir()
    longest = max(map(len, values.values()))
    for split, name in TABLES.items():
        with (root / "data" / name).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for row in range(longest if split == "train" else 0):
                table.writerow(
                    ["absent.wav", *(values[slot][min(row, len(values[slot]) - 1)] for slot in SLOTS)]
                )
