"""SUPERB's speech enhancement: s3prl's `enhancement_stft` on VoiceBank-DEMAND."""

from __future__ import annotations

from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.parallel import (
    BEST,
    DISK,
    EMPTY,
    ParallelCorpus,
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

VOICEBANK = Argument(
    "voicebank",
    "DIR",
    "VoiceBank-DEMAND at 16 kHz: holds clean_trainset_28spk_wav_16k, noisy_testset_wav_16k, ...",
    example="noisy-vctk-16k",
    required=True,
)
SIGNALS = ("noisy", "clean")
SETS = {"train": "trainset_28spk_wav_16k", "test": "testset_wav_16k"}
DEV_SPEAKERS = ("p226", "p287")  # of the training set, held out as in s3prl's preparation
SIZES = {"train": 10802, "dev": 770, "test": 824}
PESQ, STOI, SI_SDRI = metrics(r"Average {printed} of \d+ utts is ")


def check(options: TaskOptions) -> ParallelCorpus:
    """Check every file of VoiceBank-DEMAND, and the package that s3prl's expert needs.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    check_packages("speech enhancement")
    root = Path(options.needed(VOICEBANK.name)).expanduser()
    if not root.is_dir():
        raise MelHuBERTError(f"{root}: no such folder, expected VoiceBank-DEMAND's")
    problems = Problems()
    found = {
        split: check_recordings(
            split, files_of({signal: root / f"{signal}_{folder}" for signal in SIGNALS}), problems
        )
        for split, folder in SETS.items()
    }
    splits = {
        "train": [each for each in found["train"] if not each.name.startswith(DEV_SPEAKERS)],
        "dev": [each for each in found["train"] if each.name.startswith(DEV_SPEAKERS)],
        "test": found["test"],
    }
    for split in ("train", "dev") if found["train"] else ():
        if not splits[split]:
            problems.add(EMPTY, f"{split} (of dev are the speakers {' and '.join(DEV_SPEAKERS)})")
    problems.raise_if_any(f"VoiceBank-DEMAND in {root}")
    return checked_corpus(root, splits, SIZES)


TASK = Task(
    key="se",
    name="speech enhancement",
    column=11,
    downstream="enhancement_stft",
    folder=Path(__file__).parent,
    arguments=(VOICEBANK,),
    check=check,
    fill_in=fill_in,
    metric=PESQ,
    further_metrics=(STOI, SI_SDRI),
    test_split="test",
    test_name="test",
    best_checkpoint=BEST,
    predictions=(figures_file("se"),),
    sizes=SIZES,
    disk=DISK,
    outputs=signals_of("speech enhancement"),
)
