"""SUPERB's source separation: s3prl's `separation_stft` on Libri2Mix."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.parallel import (
    BEST,
    DISK,
    ParallelCorpus,
    Recording,
    check_packages,
    check_recordings,
    checked_corpus,
    figures_file,
    files_of,
    fill_in,
    metrics,
)
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.signals import signals_of
from s3prl_melhubert.downstream_recipes.task import Argument, Task, TaskOptions
from s3prl_melhubert.errors import MelHuBERTError

LIBRI2MIX = Argument(
    "libri2mix-min",
    "DIR",
    "Libri2Mix as LibriMix makes it, wav16k/min: holds train-100, dev and test",
    example="Libri2Mix/wav16k/min",
    required=True,
)
SIGNALS = ("mix_clean", "s1", "s2")
SETS = {"train": "train-100", "dev": "dev", "test": "test"}
SIZES = {"train": 13900, "dev": 1000, "test": 3000}
DEV_SEED = 7  # with which SUPERB draws its dev mixtures out of Libri2Mix's 3000
PESQ, STOI, SI_SDRI = metrics(r"Average {printed} of \d+ utts: ")


def check(options: TaskOptions) -> ParallelCorpus:
    """Check every mixture of Libri2Mix with its sources, and the package that s3prl's expert needs.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    check_packages("source separation")
    root = Path(options.needed(LIBRI2MIX.name)).expanduser()
    absent = [folder for folder in SETS.values() if not (root / folder).is_dir()]
    if absent:
        raise MelHuBERTError(f"{root}: expected train-100, dev and test here, without {', '.join(absent)}")
    problems = Problems()
    splits = {
        split: check_recordings(
            split, files_of({signal: root / folder / signal for signal in SIGNALS}), problems
        )
        for split, folder in SETS.items()
    }
    problems.raise_if_any(f"Libri2Mix in {root}")
    splits["dev"] = draw_dev(splits["dev"])
    return checked_corpus(root, splits, SIZES)


def draw_dev(mixtures: Sequence[Recording]) -> list[Recording]:
    """The mixtures, sorted by name, that SUPERB validates on."""
    drawn = sorted(mixtures, key=lambda each: each.name)
    random.Random(DEV_SEED).shuffle(drawn)
    return sorted(drawn[: SIZES["dev"]], key=lambda each: each.name)


TASK = Task(
    key="ss",
    name="source separation",
    column=12,
    downstream="separation_stft",
    folder=Path(__file__).parent,
    arguments=(LIBRI2MIX,),
    check=check,
    fill_in=fill_in,
    metric=SI_SDRI,
    further_metrics=(STOI, PESQ),
    test_split="test",
    test_name="test",
    best_checkpoint=BEST,
    predictions=(figures_file("ss"),),
    sizes=SIZES,
    disk=DISK,
    outputs=signals_of("source separation"),
)
