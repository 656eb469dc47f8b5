"""The mean and standard deviation of each mel bin, which normalization subtracts and divides by.

They belong to a checkpoint. With the wrong statistics a model still runs, but all its results are wrong. So
statistics have a name, they are checked, and they are never guessed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.arrays import open_npy
from s3prl_melhubert.support.files import suffix_of
from s3prl_melhubert.support.settings import read_yaml_mapping

# The authors published these statistics with their models. They are those of LibriSpeech.
PUBLISHED_FILE = Path(__file__).with_name("librispeech_mel_stats.yaml")


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Mean and standard deviation of each of the 40 mel bins, of natural-log energies at 16-bit scale.

    The figures are copied and cannot be written to: the published ones are shared by a whole process.

    Raises:
        MelHuBERTError: a vector has the wrong length, a number is not finite, or a standard deviation is not
            above zero.
    """

    mean: np.ndarray  # (40,) float32, read-only
    std: np.ndarray  # (40,) float32, all above zero, read-only
    name: str = ""  # says in messages where the statistics come from

    def __post_init__(self) -> None:
        where = f"statistics {self.name}".rstrip()
        for what in ("mean", "std"):
            object.__setattr__(self, what, _figures(getattr(self, what), f"{where}: {what}"))
        if not (self.std > 0).all():
            bad = int(np.flatnonzero(~(self.std > 0))[0])
            raise MelHuBERTError(
                f"{where}: std of bin {bad} is {self.std[bad]:g}, expected above zero (was it computed over "
                "silence?)"
            )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FeatureStats)
            and np.array_equal(self.mean, other.mean)
            and np.array_equal(self.std, other.std)
        )

    def rescaling(self, other: FeatureStats) -> tuple[np.ndarray, np.ndarray]:
        """From these statistics to others, without the frames as they were before.

        Returns:
            Scale and shift, each (40,) float32: a frame that was normalized with these, times the scale and
            plus the shift, is the same frame normalized with the others.
        """
        return self.std / other.std, (self.mean - other.mean) / other.std

    def digest(self) -> str:
        """A SHA-256 of the numbers: the same wherever the statistics come from."""
        return hashlib.sha256(np.stack([self.mean, self.std]).astype("<f4").tobytes()).hexdigest()

    @classmethod
    def from_arrays(cls, mean: Any, std: Any, name: str) -> FeatureStats:
        """Make statistics of two vectors of 40 numbers.

        Raises:
            MelHuBERTError: the numbers cannot be statistics.
        """
        return cls(mean, std, name)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], name: str) -> FeatureStats:
        """Make statistics of a mapping `{mean: [...], std: [...]}`.

        Raises:
            MelHuBERTError: it is no mapping, a key is missing, or the numbers cannot be statistics.
        """
        if not isinstance(mapping, Mapping):
            raise MelHuBERTError(
                f"statistics {name}: {shown(mapping)} found, expected a mapping with `mean` and `std`"
            )
        missing = [key for key in ("mean", "std") if key not in mapping]
        if missing:
            raise MelHuBERTError(
                f"statistics {name}: no {' and no '.join(missing)} found, expected `mean` and `std`, "
                f"{N_MELS} figures each"
            )
        return cls.from_arrays(mapping["mean"], mapping["std"], name)

    def to_mapping(self) -> dict[str, list[float]]:
        """Return `{mean, std}` as plain lists, as a checkpoint or a YAML file keeps them."""
        return {"mean": [float(x) for x in self.mean], "std": [float(x) for x in self.std]}

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any] | FeatureStats) -> FeatureStats:
        """Find statistics by their name, read them from a file, or return them as they are.

        Args:
            source: a published name (`librispeech-100h`, `-360h`, `-960h`); a .yaml file with `mean` and
                `std`; a .npy file of shape (2, 40), mean first; such a mapping; or a `FeatureStats`.

        Raises:
            MelHuBERTError: the source is none of these, or its numbers cannot be statistics.
        """
        if isinstance(source, FeatureStats):
            return source
        if isinstance(source, Mapping):
            return cls.from_mapping(source, "given as a mapping")
        if not isinstance(source, str | Path):
            raise MelHuBERTError(
                f"feature_stats: {type(source).__name__} found, expected a name, a .yaml or .npy file, "
                "or a mapping with mean and std"
            )
        if str(source) in published_stats():
            return published_stats()[str(source)]
        path = Path(source).expanduser()
        if suffix_of(path) in (".yaml", ".yml"):
            content = read_yaml_mapping(path)
            if "mean" not in content and len(content) == 1 and isinstance(next(iter(content.values())), dict):
                content = next(iter(content.values()))  # one named set, as in our own file
            return cls.from_mapping(content, str(path))
        if suffix_of(path) == ".npy":
            return cls._from_npy(path)
        raise MelHuBERTError(
            f"feature_stats: {shown(str(source))} is no published name ({', '.join(published_stats())}) and "
            "no .yaml or .npy file"
        )

    @classmethod
    def _from_npy(cls, path: Path) -> FeatureStats:
        array = open_npy(path)
        if array.ndim != 2 or array.shape[0] != 2:
            raise MelHuBERTError(
                f"{path}: shape {array.shape} found, expected (2, {N_MELS}): the means, then the deviations"
            )
        return cls.from_arrays(array[0], array[1], str(path))


def stats_named_in(settings: str | Path, named: Any) -> Any:
    """What a file of settings gives as `feature_stats`, for `FeatureStats.load`.

    Args:
        settings: the file.
        named: its `feature_stats`. The path of a file is seen from the folder of the settings or, where there
            is no such file, from the working directory.
    """
    if not isinstance(named, str):
        return named
    beside = Path(settings).parent / named
    return str(beside) if beside.is_file() else named


def _figures(values: Any, where: str) -> np.ndarray:
    """A read-only (40,) float32 copy of the figures; a MelHuBERTError where they are none."""
    if not isinstance(values, np.ndarray) and not _is_flat_list_of_numbers(values):
        raise MelHuBERTError(f"{where} is not a list of numbers")
    try:
        with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused below
            figures = np.array(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise MelHuBERTError(f"{where} is not a list of numbers") from None
    if figures.shape != (N_MELS,):
        found = f"{figures.shape[0]} figures" if figures.ndim == 1 else f"shape {figures.shape}"
        raise MelHuBERTError(f"{where} has {found}, expected {N_MELS}, one per bin")
    if not np.isfinite(figures).all():
        bad = int(np.flatnonzero(~np.isfinite(figures))[0])
        raise MelHuBERTError(f"{where} of bin {bad} is {figures[bad]}")
    figures.setflags(write=False)
    return figures


def _is_flat_list_of_numbers(values: Any) -> bool:
    """Tell whether numpy will make a vector of it, and not an endless table of lists within lists."""
    return (
        isinstance(values, list | tuple)
        and len(values) < 10_000
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    )


@cache
def published_stats() -> dict[str, FeatureStats]:
    """Return the published statistics, by their names."""
    figures = read_yaml_mapping(PUBLISHED_FILE)
    return {name: FeatureStats.from_mapping(mapping, name) for name, mapping in figures.items()}
