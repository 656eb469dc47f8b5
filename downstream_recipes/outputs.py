"""What the outputs of a task's trained model mean, so that it can be used without its corpus.

A task whose model labels an utterance has `Classes`, one whose model transcribes it a `Transcript`, one that
marks when each speaker talks `Turns`, one that makes other signals of it `Signals`, and one that tells voices
apart `Embeddings`.

What the outputs stand for is known to some corpora alone, such as the order of the intents. So it is written
into the experiment's folder, as `labels.json`, when its corpus is there; and s3prl's expert, which reads a
corpus when it is made, gets a stand-in without a single utterance when it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import read_json, write_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

LABELS = "labels.json"
DAMAGED = "remove it, and its labels are found in the corpus again"  # what to do then

Labels = Mapping[str, Sequence[str]]
Turn = tuple[str, float, float]  # a speaker, from, to (seconds)


def as_it_is(waveform: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Most of s3prl's tasks take the samples of a file as they are."""
    return waveform


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the outputs of a task's trained model stand for.

    Attributes:
        kinds: what the labels are, in the order of the outputs: `speaker`; `action`, `object` and `location`;
            `signal`.
        labels: finds the labels of each kind, in the order of the outputs; it reads the files that s3prl's
            settings name, which the corpus may be among.
        stand_in: takes s3prl's settings, the labels and an empty folder; writes into the folder what s3prl's
            expert reads when it is made, and puts the paths into the settings.
        hear: what s3prl does to the waveform of a file, (n,) at 16 kHz, before the upstream gets it; it takes
            the settings of a checkpoint, too.
    """

    kinds: tuple[str, ...]
    labels: Callable[[Mapping[str, Any]], Labels]
    stand_in: Callable[[dict[str, Any], Labels, Path], None]
    hear: Callable[[Tensor, Mapping[str, Any]], Tensor] = as_it_is


def logits_of_a_projected_utterance(expert: Any, features: Tensor) -> Tensor:
    """The outputs of those experts of s3prl that have a `projector`, and a `model` that takes lengths."""
    import torch

    length = torch.tensor([len(features)], dtype=torch.int32, device=features.device)
    return expert.model(expert.projector(features[None]), length)[0][0]


@dataclass(frozen=True, kw_only=True)
class Classes(Outputs):
    """An utterance is of one class of each kind of labels; the outputs are the logits, kind after kind.

    Attributes:
        logits: takes s3prl's expert and the features of an utterance, (T, C); returns the outputs, (N,).
    """

    logits: Callable[[Any, Tensor], Tensor] = logits_of_a_projected_utterance


@dataclass(frozen=True, kw_only=True)
class Transcript(Outputs):
    """An utterance is transcribed.

    Attributes:
        record: the name under which s3prl's expert records what it has transcribed.
        parts: takes a transcript apart, into what is said of an utterance, by name. A value is a text, or
            for slots a list of pairs: slot and what fills it.
    """

    record: str
    parts: Callable[[str], dict[str, str | list[tuple[str, str]]]]


@dataclass(frozen=True, kw_only=True)
class Turns(Outputs):
    """It is marked when each speaker of an utterance talks; the labels are what the speakers are called.

    Attributes:
        choice: takes the folder in which the test wrote its predictions; says how turns are made of outputs,
            such as by which threshold, as that was the best there.
        turns: takes s3prl's expert, an utterance's features (T, C) and waveform (n,), and the choice.
    """

    choice: Callable[[Path], str]
    turns: Callable[[Any, Tensor, Tensor, str], list[Turn]]


@dataclass(frozen=True, kw_only=True)
class Signals(Outputs):
    """Other signals are made of an utterance, such as one without its noise; the labels are their names.

    Attributes:
        signals: takes s3prl's expert, the features (T, C) and the waveform (n,) of an utterance; returns the
            signals, (signals, n) float32 at 16 kHz.
    """

    signals: Callable[[Any, Tensor, Tensor], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Embeddings(Outputs):
    """An utterance is a point, near those of the same voice; the labels are the speakers of the training.

    Attributes:
        embedding: takes s3prl's expert and the features (T, C) of an utterance; returns (D,), of length 1.
    """

    embedding: Callable[[Any, Tensor], Tensor]


def write_labels(folder: Path, outputs: Outputs, settings: Mapping[str, Any]) -> None:
    """Write the labels into an experiment's folder.

    Args:
        folder: of the experiment.
        outputs: of its task.
        settings: what s3prl gets, with the paths of the corpus.
    """
    write_text(folder / LABELS, json.dumps(outputs.labels(settings), indent=1, ensure_ascii=False) + "\n")


def read_labels(folder: Path, outputs: Outputs, settings: Mapping[str, Any]) -> Labels:
    """Read the labels in an experiment's folder; without that file, find them in its corpus.

    Args:
        folder: of the experiment.
        outputs: of its task.
        settings: what s3prl got, with the paths of the corpus.

    Raises:
        MelHuBERTError: the file is damaged, or there is neither it nor the corpus.
    """
    path = folder / LABELS
    try:
        found = read_json(path, DAMAGED)
    except FileNotFoundError:
        try:
            return outputs.labels(settings)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise MelHuBERTError(
                f"{path}: not found, and what it would hold cannot be read from the corpus ({error}); put "
                "that back to where it was trained on"
            ) from None
    whole = isinstance(found, dict) and all(
        isinstance(found.get(kind), list) and all(isinstance(label, str) for label in found[kind])
        for kind in outputs.kinds
    )
    if not whole:
        raise MelHuBERTError(
            f"{path}: is damaged; expected a list of labels for each of {', '.join(outputs.kinds)}; {DAMAGED}"
        )
    return {kind: found[kind] for kind in outputs.kinds}
