"""SUPERB's speaker diarization: s3prl's `diarization` on Libri2Mix."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.outputs import Labels, Turn, Turns
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile, UtteranceFiles
from s3prl_melhubert.downstream_recipes.speaker_diarization.error_rate import (
    CHOICES,
    check_packages,
    error_rates,
    read_probabilities,
    speaker_name,
    turns_of,
)
from s3prl_melhubert.downstream_recipes.speaker_diarization.kaldi_data import Mixture, check_kaldi_data
from s3prl_melhubert.downstream_recipes.speaker_diarization.mixing import differences_of_origin
from s3prl_melhubert.downstream_recipes.task import (
    Argument,
    CheckedCorpus,
    Metric,
    Preparation,
    Task,
    TaskOptions,
    Tested,
)
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import full_path, read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

LIBRI2MIX = Argument(
    "libri2mix", "DIR", "holds train, dev and test in Kaldi's layout", example="libri2mix", required=True
)
SIZES = {"train": 13900, "dev": 3000, "test": 3000}  # mixtures of Libri2Mix from LibriSpeech's clean parts
PREDICTIONS, FRAME_SHIFT = "scoring/predictions", "frame_shift"
RATES = "scoring/der.json"
USUAL = "median 11, threshold 0.5"  # where no test says which choice is the best
HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class MixtureCorpus(CheckedCorpus):
    """Libri2Mix in Kaldi's layout, checked."""

    splits: Mapping[str, list[Mixture]]


def check(options: TaskOptions) -> MixtureCorpus:
    """Check every mixture, and the packages that s3prl and the scoring need.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    check_packages()
    problems = Problems()
    root = Path(options.needed(LIBRI2MIX.name)).expanduser()
    for split in SIZES:
        if not (root / split).is_dir():
            raise MelHuBERTError(f"{root}: expected train, dev and test in this folder, {split} is not there")
    splits = {split: check_kaldi_data(root / split, problems) for split in SIZES}
    problems.raise_if_any(f"Libri2Mix in {root}")
    return MixtureCorpus(
        path=full_path(root),
        summary=summary(splits),
        test_utterances=[mixture.name for mixture in splits["test"]],
        differences=[*size_differences(splits, SIZES), *differences_of_origin(root)],
        content=content_of(root, splits),
        splits=splits,
    )


def fill_in(settings: dict[str, Any], preparation: Preparation[MixtureCorpus]) -> None:
    """Set the paths of the three sets."""
    section = settings["downstream_expert"]["loaderrc"]
    section["num_workers"] = preparation.workers
    if preparation.corpus is not None:
        for split in SIZES:
            section[f"{split}_dir"] = str(Path(preparation.corpus.path) / split)


def score(tested: Tested) -> float:
    """Compute the DER of s3prl's predictions; write that of each choice to `RATES`.

    Raises:
        MelHuBERTError: predictions are not there or cannot be read.
    """
    root = Path(tested.options.needed(LIBRI2MIX.name)).expanduser()
    mixtures = check_kaldi_data(root / "test", Problems())
    frame_shift = int((tested.folder / FRAME_SHIFT).read_text(encoding="utf-8"))
    references = {mixture.name: mixture.turns for mixture in mixtures}
    rates = error_rates(references, tested.folder / PREDICTIONS, frame_shift)
    write_json(tested.folder / RATES, rates, indent=2)
    return min(rates.values())


def fault_in_frame_shift(lines: Sequence[str]) -> str | None:
    """Return what is wrong with the file of s3prl's frame shift."""
    return None if len(lines) == 1 and lines[0].strip().isdecimal() else repr(" ".join(lines)[:60])


def fault_in_hdf5(content: bytes) -> str | None:
    """Return what is wrong with a file of predictions; without h5py, only whether it is one at all."""
    if not content.startswith(HDF5):
        return "no HDF5 file"
    try:
        import h5py  # noqa: F401
    except Exception:
        return None  # predictions may be packed on a machine that has not what scores them
    try:
        read_probabilities(io.BytesIO(content))
    except ValueError as error:
        return str(error)
    return None


def labels(settings: Mapping[str, Any]) -> Labels:
    """What the speakers are called, in the order of s3prl's outputs."""
    number = settings["downstream_expert"]["datarc"]["num_speakers"]
    return {"speaker": [speaker_name(index) for index in range(number)]}


def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
    """Give s3prl a folder for each set, of which it reads none before it is asked for audio.

    Raises:
        MelHuBERTError: a package is not there that s3prl's expert imports.
    """
    check_packages()
    section = settings["downstream_expert"]["loaderrc"]
    section.update({f"{split}_dir": str(folder) for split in SIZES})


def hear(waveform: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Leave out what is less than a frame at the end of a waveform (n,), as s3prl does."""
    shift = settings["downstream_expert"]["datarc"][FRAME_SHIFT]
    return waveform[: max(1, len(waveform) // shift) * shift]


def turns(expert: Any, features: Tensor, waveform: Tensor, choice: str) -> list[Turn]:
    """Return who talks when, by one of `CHOICES`, in the order in which they begin."""
    import torch

    shift = expert.datarc[FRAME_SHIFT]
    frames = len(waveform) // shift
    if not frames:
        return []
    nobody = features.new_zeros(1, frames, expert.datarc["num_speakers"])
    matched, _ = expert._match_length(features[None], nobody)
    probabilities = torch.sigmoid(expert.model(matched))[0]
    median, threshold = CHOICES[choice]
    found = turns_of(probabilities.cpu().numpy(), threshold, median, shift)
    return sorted(found, key=lambda turn: turn[1:])


def best_choice(tested: Path) -> str:
    """The choice with the lowest DER of a test, in words.

    Raises:
        MelHuBERTError: the file of the rates is damaged.
    """
    path, remedy = tested / RATES, "remove it, and turns are of the usual threshold"
    try:
        rates = read_json(path, remedy)
    except FileNotFoundError:
        return USUAL
    if (
        not isinstance(rates, dict)
        or not rates.keys() <= CHOICES.keys()
        or not all(isinstance(rate, int | float) for rate in rates.values())
    ):
        raise MelHuBERTError(f"{path}: is damaged; expected the DER of each choice; {remedy}")
    return min(rates, key=lambda choice: rates[choice], default=USUAL)


TASK = Task(
    key="sd",
    name="speaker diarization",
    column=10,
    downstream="diarization",
    folder=Path(__file__).parent,
    arguments=(LIBRI2MIX,),
    check=check,
    fill_in=fill_in,
    metric=Metric("DER", higher_is_better=False, printed="der", scale=100.0),
    dev_metric=Metric("ACC", higher_is_better=True, printed="acc", scale=100.0),
    test_split="test",
    test_name="test",
    best_checkpoint="best-states-dev.ckpt",
    predictions=(
        PredictionFile(
            FRAME_SHIFT,
            f"sd_public/{FRAME_SHIFT}",
            LineFormat("a line with the samples of a frame", fault_in_frame_shift),
            of_utterances=False,
            utterances=UtteranceFiles(PREDICTIONS, f"sd_public/{PREDICTIONS}", ".h5", fault_in_hdf5),
        ),
    ),
    sizes=SIZES,
    disk=300 * 1024**2,
    score=score,
    outputs=Turns(
        kinds=("speaker",), labels=labels, stand_in=stand_in, hear=hear, choice=best_choice, turns=turns
    ),
)
