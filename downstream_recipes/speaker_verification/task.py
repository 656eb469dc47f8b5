"""SUPERB's automatic speaker verification: s3prl's `sv_voxceleb1`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import summary
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.downstream_recipes.difference import differences_of
from s3prl_melhubert.downstream_recipes.outputs import Embeddings, Labels
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.s3prl_files import s3prl_folder
from s3prl_melhubert.downstream_recipes.speaker_verification.sounding import sounding_lengths, write_lengths
from s3prl_melhubert.downstream_recipes.speaker_verification.trials import (
    VerificationSets,
    check_verification,
    find_trial_list,
)
from s3prl_melhubert.downstream_recipes.task import (
    Argument,
    CheckedCorpus,
    Metric,
    Preparation,
    Replacement,
    Task,
    TaskOptions,
)
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import atomic_path, full_path

if TYPE_CHECKING:
    from torch import Tensor

VOXCELEB = Argument("voxceleb", "DIR", "holds dev/wav and test/wav", example="VoxCeleb1", required=True)
TRIALS = Argument("trials", "FILE", "default: voxceleb1_test_v2.txt or veri_test.txt in DIR or beside it")
SIZES = {"train": 148642, "test": 37720}  # files of VoxCeleb1's dev part, and trials of VoxCeleb1-O
LEAST_TESTED = 8000  # samples; an x-vector sees 15 frames at a time, of up to 20 ms
TOO_SHORT = Kind(
    "files of trials of which under half a second is left without pauses",
    "take their trials out; s3prl stops at them",
)
# s3prl keeps lengths in `.wav_lengths` beside its module, under a name that is the same for every corpus.
MODULE = "sv_voxceleb1/dataset.py"
TRAINING = "dev/wav"  # where it looks for a folder of each speaker
LENGTHS = "sv_voxceleb1/.wav_lengths/Voxceleb1_length.pt"


@dataclass(frozen=True, kw_only=True)
class VerificationCorpus(CheckedCorpus):
    """VoxCeleb1 with a list of trials, checked."""

    trial_list: str
    sets: VerificationSets


def find_rest(options: TaskOptions) -> TaskOptions:
    """Find the list of trials, where it was not given.

    Raises:
        MelHuBERTError: there is none.
    """
    found = find_trial_list(options.needed(VOXCELEB.name), options.one(TRIALS.name))
    return options.with_value(TRIALS.name, str(found))


def check(options: TaskOptions) -> VerificationCorpus:
    """Check every file of VoxCeleb1's dev part, the trials, and every file of theirs.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    problems = Problems()
    root = options.needed(VOXCELEB.name)
    trial_list = find_rest(options).needed(TRIALS.name)
    sets = check_verification(root, trial_list, problems)
    problems.raise_if_any(f"VoxCeleb1 in {root}")
    same = sum(trial.same for trial in sets.trials)
    counts = {
        "utterances of train": (SIZES["train"], len(sets.training)),
        "trials": (SIZES["test"], len(sets.trials)),
    }
    return VerificationCorpus(
        path=full_path(root),
        summary=[
            f"{summary({'train': sets.training})[0]}, {sets.speakers} speakers",
            f"{summary({'test': sets.testing})[0]}, in {len(sets.trials)} trials, {same} of one speaker",
        ],
        test_utterances=[trial.prediction_name for trial in sets.trials],
        differences=differences_of(counts),
        content=content_of(root, sets),
        trial_list=full_path(trial_list),
        sets=sets,
    )


def fill_in(settings: dict[str, Any], preparation: Preparation[VerificationCorpus]) -> None:
    """Write the training files' lengths without their pauses; set the paths of the corpus and the trials.

    Raises:
        MelHuBERTError: the pauses leave nothing to train on, or too little of a file of the trials.
    """
    section = settings["downstream_expert"]["datarc"]
    section["num_workers"] = preparation.workers
    unused = preparation.folder / "no_trials.txt"
    section["train_meta_data"] = section["dev_meta_data"] = str(unused)
    with atomic_path(unused) as temporary:
        temporary.touch()
    corpus = preparation.corpus
    if corpus is None:
        return
    section["file_path"], section["test_meta_data"] = corpus.path, corpus.trial_list
    lengths = sounding_lengths(corpus.sets.training, preparation.workers)
    least = section["vad_config"]["min_sec"]
    if not any(length > least for length in lengths):
        raise MelHuBERTError(
            f"{corpus.path}: no training file has over {least} samples without its pauses; give longer ones, "
            "or lower config.downstream_expert.datarc.vad_config.min_sec with -o"
        )
    tested = zip(corpus.sets.testing, sounding_lengths(corpus.sets.testing, preparation.workers), strict=True)
    problems = Problems()
    for file, length in tested:
        if length < LEAST_TESTED:
            problems.add(TOO_SHORT, "/".join(file.path.parts[-3:]))
    problems.raise_if_any(f"VoxCeleb1 in {corpus.path}")
    write_lengths(preparation.folder / LENGTHS, corpus.sets.training, lengths)


def replacements(folder: Path) -> list[Replacement]:
    """Let s3prl look for its lengths in the experiment's folder.

    It looks for them beside its own module, whatever the corpus.
    """
    return [Replacement("s3prl.downstream.sv_voxceleb1.dataset", "__file__", str(folder / MODULE))]


def trap() -> str | None:
    """Say that s3prl's own program would use the lengths that it once cached, if there are any."""
    cache = s3prl_folder() / "downstream/sv_voxceleb1/.wav_lengths"
    if not cache.is_dir():
        return None
    return f"{cache}: s3prl takes its training files from here, of whatever corpus they are; remove it"


def fault_in_score(fields: Sequence[str]) -> str | None:
    """Return what is wrong with the prediction of a trial, a cosine."""
    try:
        [score] = map(float, fields)
    except ValueError:
        return repr(" ".join(fields))
    return None if math.isfinite(score) else f"{score}"


def labels(settings: Mapping[str, Any]) -> Labels:
    """The speakers of the training, in s3prl's order."""
    folder = Path(settings["downstream_expert"]["datarc"]["file_path"]) / TRAINING
    return {"speaker": sorted(path.stem for path in folder.iterdir() if path.is_dir())}


def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
    """Make a folder for each speaker, without a file, and no lengths and no trials."""
    section = settings["downstream_expert"]["datarc"]
    for number in range(len(labels["speaker"])):
        (folder / TRAINING / str(number)).mkdir(parents=True)
    write_lengths(folder / LENGTHS, (), ())
    trials = folder / "no_trials.txt"
    trials.touch()
    section["file_path"] = str(folder)
    section.update({f"{split}_meta_data": str(trials) for split in ("train", "dev", "test")})


def hear(waveform: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Take the pauses out of a waveform (n,), as s3prl does with every file.

    Raises:
        MelHuBERTError: too little is left.
    """
    from s3prl.downstream.sv_voxceleb1.dataset import EFFECTS
    from torchaudio.sox_effects import apply_effects_tensor

    heard = apply_effects_tensor(waveform[None], SAMPLE_RATE, EFFECTS)[0][0]
    if len(heard) < LEAST_TESTED:
        raise MelHuBERTError(
            f"{len(heard) / SAMPLE_RATE:.2f} s are left without pauses, expected at least "
            f"{LEAST_TESTED / SAMPLE_RATE:g} s"
        )
    return heard


def embedding(expert: Any, features: Tensor) -> Tensor:
    """The x-vector of an utterance, as s3prl's test compares it."""
    name = "utterance"
    records: defaultdict[str, Any] = defaultdict(list)
    expert("test", [features], [name], records=records)
    return records[name]


SCORE = LineFormat("`FILE_FILE SCORE`", fault_in_score)

TASK = Task(
    key="asv",
    name="speaker verification",
    column=9,
    downstream="sv_voxceleb1",
    folder=Path(__file__).parent,
    arguments=(VOXCELEB, TRIALS),
    check=check,
    fill_in=fill_in,
    metric=Metric(
        "EER", higher_is_better=False, printed="EER", scale=100.0, line="sv-voxceleb1/{split}-{printed}: "
    ),
    test_split="test",
    test_name="test",
    best_checkpoint=None,
    predictions=(PredictionFile("test_predict.txt", "sv_public/predict.txt", SCORE, in_order=True),),
    sizes=SIZES,
    disk=2 * 1024**3,  # 20 checkpoints of 6.7 M parameters with Adam's two moments
    find_rest=find_rest,
    replacements=replacements,
    trap=trap,
    outputs=Embeddings(kinds=("speaker",), labels=labels, stand_in=stand_in, hear=hear, embedding=embedding),
)
