"""SUPERB's speaker diarization: s3prl's `diarization` on Libri2Mix."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile, UtteranceFiles
from s3prl_melhubert.downstream_recipes.speaker_diarization.error_rate import (
    check_packages,
    error_rates,
    read_probabilities,
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
from s3prl_melhubert.support.files import full_path, write_json

LIBRI2MIX = Argument(
    "libri2mix", "DIR", "holds train, dev and test in Kaldi's layout", example="libri2mix", required=True
)
SIZES = {"train": 13900, "dev": 3000, "test": 3000}  # mixtures of Libri2Mix from LibriSpeech's clean parts
PREDICTIONS, FRAME_SHIFT = "scoring/predictions", "frame_shift"
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
    """Compute the DER of s3prl's predictions; write that of each choice to `scoring/der.json`.

    Raises:
        MelHuBERTError: predictions are not there or cannot be read.
    """
    root = Path(tested.options.needed(LIBRI2MIX.name)).expanduser()
    mixtures = check_kaldi_data(root / "test", Problems())
    frame_shift = int((tested.folder / FRAME_SHIFT).read_text(encoding="utf-8"))
    references = {mixture.name: mixture.turns for mixture in mixtures}
    rates = error_rates(references, tested.folder / PREDICTIONS, frame_shift)
    write_json(tested.folder / "scoring/der.json", rates, indent=2)
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
)
