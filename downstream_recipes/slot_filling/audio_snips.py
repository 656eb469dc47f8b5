"""Audio SNIPS for slot filling: its labels, and whether every utterance of SUPERB's speakers is usable.

The layout is ROOT/{train,valid,test}/SPEAKER-snips-SPLIT-N.wav, all.iob.snips.txt and slots.txt. A line of
the labels is an utterance with its words, a slot for each word (O for none), and an intent:

    Ivy-snips-train-0 BOS PLAY JAZZ EOS<tab>O O genre PlayMusic

Sixteen synthesized voices say each sentence; SUPERB trains on eight of them and tests on four others.
"""

from __future__ import annotations

import os
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.listing import named_in, read_lines, read_text
from s3prl_melhubert.downstream_recipes.corpora.problems import NAMED, Kind, Problems
from s3prl_melhubert.downstream_recipes.corpora.untranscribed import REMEDY
from s3prl_melhubert.errors import MelHuBERTError

LABELS, SLOTS = "all.iob.snips.txt", "slots.txt"
NO_SLOT = "O"

MALFORMED = Kind(
    f"lines of {LABELS} that are not `UTTERANCE BOS WORD ... EOS<tab>O SLOT ... INTENT`",
    "prepare the corpus again",
)
# The corpus has a few letters with accents and the like, which are no fault: SUPERB's models learn them as
# one unknown character.
OTHER_LETTERS = Kind(
    "utterances whose words are mostly of other characters than A-Z and the apostrophe",
    "write them in capitals, as s3prl's preparation does; to s3prl, all others are one unknown character",
)
WITHOUT_WORD = Kind("utterances without a word", "take their labels and their WAV files out")
MISSING = Kind(
    "utterances with labels but without a WAV file", "unpack the corpus again, or prepare its audio"
)
UNLABELLED = Kind(
    f"WAV files of SUPERB's speakers that {LABELS} does not have", "prepare the corpus again" + REMEDY
)
UNKNOWN_SLOT = Kind(
    f"slots that {SLOTS} does not have, or only in its first line, which s3prl passes over",
    "take the corpus' own file, or none: it is made from the labels then",
)
EMPTY = Kind("splits without an utterance of SUPERB's speakers", "the corpus has train/, valid/ and test/")
WITHOUT_SLOT = Kind("splits without a slot", "prepare the corpus again; s3prl has nothing to score there")


# In the order of a checkout's character.txt, on which a trained model depends.
CHARACTERS = [" ", *string.ascii_uppercase, "'"]


@dataclass(frozen=True)
class LabelledUtterance:
    """What a line of the labels says."""

    name: str  # SPEAKER-snips-SPLIT-N
    line: str  # words and slots, as s3prl's encoder takes them
    slots: frozenset[str]

    @property
    def spelled(self) -> str:
        """The letters of the words as s3prl's encoder has them: without punctuation, and AND for &."""
        words = self.line.partition("\t")[0].split(" ")[1:-1]
        return "".join("AND" if word == "&" else word for word in words if word not in "?!.,;-")

    @property
    def unknown(self) -> str:
        """Those of its letters that s3prl's encoder does not know."""
        return "".join(letter for letter in self.spelled if letter not in CHARACTERS)


@dataclass(frozen=True)
class SlotUtterance(LabelledUtterance):
    """An utterance that was found usable."""

    path: Path
    samples: int  # at 16 kHz


def read_labels(root: Path, problems: Problems) -> dict[str, LabelledUtterance]:
    """Read the labels of all utterances, by name; what is wrong with them goes to `problems`.

    Raises:
        MelHuBERTError: there is no such file, or it cannot be read.
    """
    expected = "expected the labels of Audio SNIPS as s3prl prepares it"
    found = {}
    for number, line in enumerate(read_lines(root / LABELS, remedy=expected), 1):
        name, _, rest = line.strip().partition(" ")
        words, tab, slots = rest.partition("\t")
        # The first and the last word are BOS and EOS, the last slot is the intent.
        of_words = slots.split(" ")[1:-1]
        if not tab or "\t" in slots or len(of_words) < len(words.split(" ")[1:-1]):
            problems.add(MALFORMED, f"line {number}: {line.strip()[:40]!r}")
            continue
        found[name] = LabelledUtterance(name, rest, frozenset(of_words) - {NO_SLOT})
    return found


def utterances_of(
    root: Path,
    split: str,
    speakers: Collection[str],
    labels: Mapping[str, LabelledUtterance],
    problems: Problems,
) -> list[tuple[LabelledUtterance, Path]]:
    """Match the labels of a split's speakers with its WAV files.

    Raises:
        MelHuBERTError: there is no folder of this split.
    """
    folder = root / split
    if not folder.is_dir():
        raise MelHuBERTError(f"{root}: no folder {split} here, found {named_in(root)}")
    files = {
        name.removesuffix(".wav"): Path(place) / name
        for place, _, names in os.walk(folder)
        for name in names
        if name.endswith(".wav") and name.partition("-")[0] in speakers
    }
    listed = {
        name: label
        for name, label in labels.items()
        if name.partition("-")[0] in speakers and f"-{split}-" in name
    }
    for name in listed:
        if name not in files:
            problems.add(MISSING, f"{split}/{name}")
    for name in sorted(files.keys() - labels.keys()):
        problems.add(UNLABELLED, f"{split}/{name}")
    return [(labels[name], files[name]) for name in sorted(files.keys() & labels.keys())]


def read_slots(path: Path) -> list[str]:
    """Read the slots of a file as s3prl does: all lines but the first.

    Raises:
        MelHuBERTError: it cannot be read.
    """
    return read_text(path, "a list of slots").split("\n")[1:]


def check_audio_snips(
    root: Path, speakers: Mapping[str, Sequence[str]], problems: Problems
) -> dict[str, list[SlotUtterance]]:
    """Check labels, slots and every file of the speakers.

    Args:
        speakers: of each split.
        problems: takes what is wrong; the caller raises it, with what it finds itself.

    Returns:
        The utterances without a problem of each split, by name.

    Raises:
        MelHuBERTError: labels or slots cannot be read, or `root` is not laid out as Audio SNIPS.
    """
    if not root.is_dir():
        raise MelHuBERTError(f"{root}: no such folder, expected Audio SNIPS, with {LABELS} and train/ in it")
    labels = read_labels(root, problems)
    splits = {split: utterances_of(root, split, names, labels, problems) for split, names in speakers.items()}
    for split, utterances in splits.items():
        if not utterances:
            problems.add(EMPTY, split)
        elif not any(label.slots for label, _ in utterances):
            problems.add(WITHOUT_SLOT, split)
        for label, _ in utterances:
            if not label.spelled:
                problems.add(WITHOUT_WORD, label.name)
            elif len(label.unknown) > len(label.spelled) / 2:
                problems.add(OTHER_LETTERS, f"{label.name}: {label.unknown[:NAMED]}")
    if (root / SLOTS).is_file():
        used = {slot for utterances in splits.values() for label, _ in utterances for slot in label.slots}
        for slot in sorted(used - set(read_slots(root / SLOTS))):
            problems.add(UNKNOWN_SLOT, slot)
    flat = [path for utterances in splits.values() for _, path in utterances]
    lengths = check_audio(flat, lambda path: "/".join(path.parts[-2:]), problems, "check Audio SNIPS")
    samples = dict(zip(flat, lengths, strict=True))
    return {
        split: [
            SlotUtterance(label.name, label.line, label.slots, path, length)
            for label, path in utterances
            if (length := samples[path]) is not None
        ]
        for split, utterances in splits.items()
    }
