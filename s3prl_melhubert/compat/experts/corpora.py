"""What s3prl's code for some corpora lacks on today's Python and pandas, and one slip of its own.

    let_sets_be_sampled(module)     `sws2013`: its `random.sample` draws from sets, which Python 3.11 refuses
    let_judges_be_numbered(module)  `mos_prediction`: it numbers judges in a column that pandas 3 only copies
    let_names_be_passed(module)     `voxceleb1_framelevel`: its expert takes the names of files for the labels

Each acts on a module of s3prl's that has been loaded, once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import ModuleType
from typing import Any

JUDGE = "JUDGE"  # the column of a table of VCC 2018 with the listener's name


def let_sets_be_sampled(module: ModuleType) -> bool:
    """Give the module a `random` whose `sample` takes sets; true if it had none.

    The elements are sorted first, so that a seed draws the same ones in every process.
    """
    if module.random is not random:
        return False
    ours = ModuleType("random", random.__doc__)
    vars(ours).update(vars(random))

    def sample(population: Any, k: int, **kwargs: Any) -> list[Any]:
        is_set = isinstance(population, set | frozenset)
        return random.sample(sorted(population) if is_set else population, k, **kwargs)

    ours.sample = sample  # type: ignore[attr-defined]
    module.random = ours  # type: ignore[attr-defined]
    return True


def let_judges_be_numbered(module: ModuleType) -> bool:
    """Let the data set of VCC 2018 put numbers in the place of its judges' names; true if it could not.

    It does so with `table["JUDGE"][row] = number`, which since pandas 3 changes a copy. While it is made, it
    gets the column as a list, and afterwards the table with what has become of the list.
    """
    dataset = module.VCC18SegmentalDataset
    if hasattr(dataset.__init__, "__wrapped__"):
        return False
    dataset.__init__ = _given_a_list(dataset.__init__)
    return True


def _given_a_list(make: Callable[..., None]) -> Callable[..., None]:
    @wraps(make)
    def made(dataset: Any, dataframe: Any, *args: Any, **kwargs: Any) -> None:
        columns = {JUDGE: list(dataframe[JUDGE])}
        make(dataset, columns, *args, **kwargs)
        dataset.dataframe = dataframe.assign(**columns)

    return made


def let_names_be_passed(module: ModuleType) -> bool:
    """Let the expert take what the data set of `voxceleb1` gives today: labels, and then the files' names.

    Its `forward` still expects lengths, which it does not use, and the labels behind them. It records no
    predictions, which are one a frame, so the files of predictions that s3prl writes are empty.
    """
    forward = module.DownstreamExpert.forward
    if hasattr(forward, "__wrapped__"):
        return False

    @wraps(forward)
    def with_names(
        expert: Any,
        mode: str,
        features: Sequence[Any],
        labels: Sequence[int],
        names: Sequence[str],
        records: Mapping[str, list[Any]],
        **kwargs: Any,
    ) -> Any:
        return forward(expert, mode, features, None, labels, records, **kwargs)

    module.DownstreamExpert.forward = with_names
    return True
