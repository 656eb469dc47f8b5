"""SUPERB's speaker identification: s3prl's `voxceleb1`."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.corpora.voxceleb import (
    FIRST_SPEAKER,
    SPEAKERS,
    SpeakerUtterance,
    check_voxceleb,
    find_split_file,
)
from s3prl_melhubert.downstream_recipes.outputs import Classes, Labels
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.s3prl_files import s3prl_folder
from s3prl_melhubert.downstream_recipes.task import (
    Argument,
    CheckedCorpus,
    Metric,
    Preparation,
    Replacement,
    Task,
    TaskOptions,
)
from s3prl_melhubert.support.files import atomic_path, full_path

VOXCELEB = Argument("voxceleb", "DIR", "holds dev/wav and test/wav", example="VoxCeleb1", required=True)
SPLIT_FILE = Argument("split-file", "FILE", "default: iden_split.txt in DIR or beside it")
SIZES = {"train": 138361, "dev": 6904, "test": 8251}  # utterances of VoxCeleb1's identification split
FILE_LISTS = "file_lists"


@dataclass(frozen=True, kw_only=True)
class SpeakerCorpus(CheckedCorpus):
    """VoxCeleb1 in the three parts of its identification split, checked."""

    split_file: str
    splits: Mapping[str, list[SpeakerUtterance]]


def find_rest(options: TaskOptions) -> TaskOptions:
    """Find the split file, where it was not given.

    Raises:
        MelHuBERTError: there is none.
    """
    found = find_split_file(options.needed(VOXCELEB.name), options.one(SPLIT_FILE.name))
    return options.with_value(SPLIT_FILE.name, str(found))


def check(options: TaskOptions) -> SpeakerCorpus:
    """Check every file of VoxCeleb1's identification split.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    problems = Problems()
    root = options.needed(VOXCELEB.name)
    split_file = find_rest(options).needed(SPLIT_FILE.name)
    splits = check_voxceleb(root, split_file, problems)
    problems.raise_if_any(f"VoxCeleb1 in {root}")
    return SpeakerCorpus(
        path=full_path(root),
        summary=summary(splits),
        test_utterances=[utterance.prediction_name for utterance in splits["test"]],
        differences=size_differences(splits, SIZES),
        content=content_of(root, splits),
        split_file=full_path(split_file),
        splits=splits,
    )


def fill_in(settings: dict[str, Any], preparation: Preparation[SpeakerCorpus]) -> None:
    """Write s3prl's lists of files; set the paths of the corpus and of its split file.

    The lists are s3prl's own cache of where the files are: it would look for each of 153 516 lines of the
    split file by a glob.
    """
    section = settings["downstream_expert"]["datarc"]
    section["num_workers"] = preparation.workers
    corpus = preparation.corpus
    if corpus is None:
        return
    section["file_path"], section["meta_data"] = corpus.path, corpus.split_file
    lists = {split: [str(each.path) for each in utterances] for split, utterances in corpus.splits.items()}
    _write_lists(preparation.folder, lists)


def replacements(folder: Path) -> list[Replacement]:
    """Let s3prl keep its lists of files in the experiment's folder.

    It keeps them in its own, whatever the corpus, and reads them there for the next corpus.
    """
    return [Replacement("s3prl.downstream.voxceleb1.dataset", "CACHE_PATH", str(folder / FILE_LISTS))]


def trap() -> str | None:
    """Say that s3prl's own program would read the lists of files that it once cached, if there are any."""
    cache = s3prl_folder() / "downstream/voxceleb1/.cache"
    if not cache.is_dir():
        return None
    return f"{cache}: s3prl takes its files from these lists, of whatever corpus they are; remove the folder"


def fault_in_speaker(fields: Sequence[str]) -> str | None:
    match = re.fullmatch("id([0-9]{5})", " ".join(fields))
    if match and 0 <= int(match[1]) - FIRST_SPEAKER < SPEAKERS:
        return None
    return repr(" ".join(fields))


def labels(settings: Mapping[str, Any]) -> Labels:
    """The speakers, in the order of s3prl's outputs."""
    return {"speaker": [f"id{FIRST_SPEAKER + number}" for number in range(SPEAKERS)]}


def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
    """Write lists without a file, and a split file without a line."""
    section = settings["downstream_expert"]["datarc"]
    split_file = folder / "iden_split.txt"
    split_file.touch()
    section["file_path"], section["meta_data"] = str(folder), str(split_file)
    _write_lists(folder, dict.fromkeys(SIZES, ()))


def _write_lists(folder: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Write s3prl's lists of files, where `replacements` lets it look for them."""
    (folder / FILE_LISTS).mkdir(exist_ok=True)
    for split, paths in splits.items():
        with atomic_path(folder / FILE_LISTS / f"{split}.pkl") as temporary:
            temporary.write_bytes(pickle.dumps(paths))


SPEAKER = LineFormat("`UTTERANCE SPEAKER` (one of id10001 to id11251)", fault_in_speaker)

TASK = Task(
    key="sid",
    name="speaker identification",
    column=4,
    downstream="voxceleb1",
    folder=Path(__file__).parent,
    arguments=(VOXCELEB, SPLIT_FILE),
    check=check,
    fill_in=fill_in,
    metric=Metric("ACC", higher_is_better=True, printed="acc", scale=100.0),
    test_split="test",
    test_name="test",
    best_checkpoint="dev-best.ckpt",
    predictions=(PredictionFile("test_predict.txt", "sid_public/predict.txt", SPEAKER, in_order=True),),
    sizes=SIZES,
    published={"FBANK": 8.5e-4, "wav2vec 2.0 Base": 75.18, "HuBERT Base": 81.42},
    find_rest=find_rest,
    replacements=replacements,
    trap=trap,
    outputs=Classes(kinds=("speaker",), labels=labels, stand_in=stand_in),
)
