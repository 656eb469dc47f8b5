"""SUPERB's slot filling: s3prl's `ctc` on Audio SNIPS' characters and slots."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.problems import NAMED
from s3prl_melhubert.downstream_recipes.corpora.untranscribed import (
    SKIP,
    left_out,
    problems_of,
    transcribed_only,
)
from s3prl_melhubert.downstream_recipes.outputs import Labels, Transcript
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.slot_filling.audio_snips import (
    CHARACTERS,
    LABELS,
    NO_SLOT,
    SLOTS,
    UNLABELLED,
    SlotUtterance,
    check_audio_snips,
    read_slots,
)
from s3prl_melhubert.downstream_recipes.task import (
    SUPERB_YAML,
    Argument,
    CheckedCorpus,
    Metric,
    Preparation,
    Task,
    TaskOptions,
)
from s3prl_melhubert.support.files import full_path, write_text
from s3prl_melhubert.support.settings import read_yaml_mapping

AUDIO_SNIPS = Argument(
    "audio-snips",
    "DIR",
    "holds train/, valid/, test/ and all.iob.snips.txt",
    example="SNIPS",
    required=True,
)
# 13 084, 700 and 700 sentences by eight, four and four speakers.
SIZES = {"train": 104672, "valid": 2800, "test": 2800}
SPLITS = tuple(SIZES)
CHARACTERS_FILE = "characters.txt"


@dataclass(frozen=True, kw_only=True)
class SlotCorpus(CheckedCorpus):
    """Audio SNIPS, checked."""

    slots: tuple[str, ...]  # of its labels
    slots_file: str | None  # its own list of them, where it has one
    kept: tuple[Path, ...]  # its files, where some were left out that have no labels; otherwise none


def check(options: TaskOptions) -> SlotCorpus:
    """Check every utterance of SUPERB's speakers in Audio SNIPS.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    problems = problems_of(options, [UNLABELLED])
    root = Path(options.needed(AUDIO_SNIPS.name)).expanduser()
    section = read_yaml_mapping(Path(__file__).with_name(SUPERB_YAML))["downstream_expert"]["corpus"]
    speakers = {split: section[f"{split}_speakers"] for split in SPLITS}
    splits = check_audio_snips(root, speakers, problems)
    problems.raise_if_any(f"Audio SNIPS in {root}")
    slots = {slot for utterances in splits.values() for each in utterances for slot in each.slots}
    own = root / SLOTS
    return SlotCorpus(
        path=full_path(root),
        summary=[*summary(splits), f"slots: {len(slots)}", *_unknown_letters(splits)],
        test_utterances=[each.name for each in splits["test"]],
        differences=[*size_differences(splits, SIZES), *left_out(problems)],
        content=content_of(root, splits, own.read_text(encoding="utf-8") if own.is_file() else None),
        slots=tuple(sorted(slots)),
        slots_file=full_path(own) if own.is_file() else None,
        kept=tuple(each.path for split in splits.values() for each in split) if problems.left_out else (),
    )


def _unknown_letters(splits: Mapping[str, Sequence[SlotUtterance]]) -> list[str]:
    """Say what s3prl's encoder does not know of the labels; nothing where it knows all."""
    utterances = [each for split in splits.values() for each in split]
    unknown = Counter(letter for each in utterances for letter in each.unknown)
    if not unknown:
        return []
    letters = sum(len(each.spelled) for each in utterances)
    shown = " ".join(letter for letter, _ in unknown.most_common(NAMED))
    return [f"letters that are one unknown character to s3prl: {unknown.total()} of {letters} ({shown})"]


def fill_in(settings: dict[str, Any], preparation: Preparation[SlotCorpus]) -> None:
    """Write the characters, and the slots where the corpus has no list of them; set the paths."""
    text = settings["downstream_expert"]["text"]
    section = settings["downstream_expert"]["corpus"]
    section["num_workers"] = preparation.workers
    text["vocab_file"] = _write_lines(preparation.folder / CHARACTERS_FILE, CHARACTERS)
    corpus = preparation.corpus
    if corpus is None:
        return
    section["path"] = corpus.path
    if corpus.kept:
        root = Path(full_path(corpus.path))
        files = [Path(full_path(path)) for path in (*corpus.kept, root / LABELS)]
        section["path"] = str(transcribed_only(preparation.folder, root, files))
    text["slots_file"] = corpus.slots_file or _write_lines(
        preparation.folder / SLOTS,
        [NO_SLOT, *corpus.slots],  # s3prl passes over the first
    )


def _write_lines(path: Path, lines: Sequence[str]) -> str:
    # s3prl takes what follows the last line's end for a further, empty slot.
    write_text(path, "\n".join(lines))
    return str(path)


def fault_in_slots(words: Sequence[str]) -> str | None:
    return next((repr(word) for word in words if not re.fullmatch(r"[\w'.<>-]+", word, re.ASCII)), None)


def labels(settings: Mapping[str, Any]) -> Labels:
    """The characters and the slots, in the order of s3prl's outputs, which has two marks for each slot."""
    text = settings["downstream_expert"]["text"]
    return {
        "characters": Path(text["vocab_file"]).read_text(encoding="utf-8").splitlines(),
        "slots": read_slots(Path(text["slots_file"])),
    }


def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
    """Write the characters and the slots, which is all that s3prl reads."""
    text = settings["downstream_expert"]["text"]
    text["vocab_file"] = _write_lines(folder / CHARACTERS_FILE, labels["characters"])
    text["slots_file"] = _write_lines(folder / SLOTS, [NO_SLOT, *labels["slots"]])


def words_and_slots(said: str) -> dict[str, str | list[tuple[str, str]]]:
    """Take a transcript with the marks of slots apart, as s3prl does to score it.

    Returns:
        `marked`, the transcript with one space between words; `words` of it alone; and `slots`, each with the
        words between its two marks. A mark without its other one marks nothing.
    """
    marked = re.sub(" +", " ", said).strip()
    slots = [(slot, without_marks(value)) for slot, value in MARKED.findall(marked)]
    return {"marked": marked, "words": without_marks(marked), "slots": slots}


def without_marks(marked: str) -> str:
    """The words of a text without the marks of slots, which may stand within a word, too."""
    return " ".join(re.sub(r"B-\S+ ?| ?E-\S+", "", marked).split())


MARKED = re.compile(r"B-(\S+) (.+?) E-\1")
MARKED_WORDS = LineFormat("`UTTERANCE WORD B-SLOT WORD E-SLOT ...`", fault_in_slots)

TASK = Task(
    key="sf",
    name="slot filling",
    column=8,
    downstream="ctc",
    folder=Path(__file__).parent,
    arguments=(AUDIO_SNIPS, SKIP),
    check=check,
    fill_in=fill_in,
    metric=Metric("F1", higher_is_better=True, printed="slot_type_f1", scale=100.0),
    further_metrics=(Metric("CER", higher_is_better=False, printed="slot_value_cer", scale=100.0),),
    test_split="test",
    test_name="test",
    best_checkpoint="dev-best.ckpt",
    predictions=(PredictionFile("test-hyp.ark", "sf_public/predict.ark", MARKED_WORDS),),
    sizes=SIZES,
    disk=2 * 1024**3,  # four checkpoints of 43 M parameters with Adam's two moments
    outputs=Transcript(
        kinds=("characters", "slots"),
        labels=labels,
        stand_in=stand_in,
        record="hypothesis",
        parts=words_and_slots,
    ),
)
