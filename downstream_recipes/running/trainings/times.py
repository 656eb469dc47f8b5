"""The hours of a training so far, and whether it has ended, in its folder's `training.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.files import read_json, write_json

TIMES = "training.json"


@dataclass(frozen=True)
class Times:
    """How long a training took.

    Attributes:
        seconds: until the last interruption.
        started: when it last began or went on, in seconds since 1970; 0 before its start.
        ended: whether it was trained to the last step.
    """

    seconds: float = 0.0
    started: float = 0.0
    ended: bool = False

    @classmethod
    def read(cls, folder: Path) -> Times:
        """Read those of a training's folder; one that has none has not begun.

        Raises:
            MelHuBERTError: the file is damaged.
        """
        path = folder / TIMES
        if not path.is_file():
            return cls()
        remedy = "remove it, and give the same command again: the hours so far are lost, and nothing else"
        found = read_json(path, remedy)
        names = tuple(asdict(cls()))
        if not isinstance(found, dict) or not all(isinstance(found.get(name), int | float) for name in names):
            raise MelHuBERTError(f"{path}: {shown(found)} found, expected {', '.join(names)}; {remedy}")
        return cls(**{name: found[name] for name in names})

    def write(self, folder: Path) -> None:
        """Write them into a training's folder."""
        write_json(folder / TIMES, asdict(self))
