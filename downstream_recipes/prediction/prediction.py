"""What a trained model says of an utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from s3prl_melhubert.downstream_recipes.outputs import Turn


@dataclass(frozen=True)
class Choice:
    """One of the classes that a model chooses from."""

    label: str
    probability: float  # the softmax over the classes of its kind

    def __str__(self) -> str:
        return f"{self.label} {self.probability:.4f}"


@dataclass(frozen=True)
class Prediction:
    """What a trained model says of one utterance; which of the attributes that is depends on its task.

    Attributes:
        seconds: the duration of the utterance.
        classes: the most probable classes first, by what they are: `speaker`; or `action`, `object` and
            `location`.
        transcript: what was transcribed, by what it is: `phones`; `words`; in slot filling `marked` (the
            words with the marks of slots), `words` and `slots` (pairs: slot and what fills it).
        turns: who talks when: the speaker, from and to (seconds), in the order in which they begin; None
            where this was not asked.
        signals: what was made of it, by what it is: `enhanced`; or `s1` and `s2`. Each is (n,) float32
            samples at 16 kHz, as many as the utterance has, of any scale.
        embedding: (D,) float32 of length 1: the product of two is their cosine, the higher the more alike the
            voices are; None where this was not asked.
    """

    seconds: float
    classes: Mapping[str, Sequence[Choice]] = field(default_factory=dict)
    transcript: Mapping[str, str | list[tuple[str, str]]] = field(default_factory=dict)
    turns: Sequence[Turn] | None = None
    signals: Mapping[str, np.ndarray] = field(default_factory=dict)
    embedding: np.ndarray | None = None

    def line(self) -> str:
        """All but signals and an embedding in a line: `bring 0.9876<tab>shoes 0.9998`.

        A tab is between what is different, commas between several choices or turns, semicolons between slots.
        """
        columns = [", ".join(map(str, choices)) for choices in self.classes.values()]
        for said in self.transcript.values():
            columns.append(
                said if isinstance(said, str) else "; ".join(f"{slot}={value}" for slot, value in said)
            )
        if self.turns is not None:
            columns.append(", ".join(f"{who} {start:.2f}-{end:.2f}" for who, start, end in self.turns))
        return "\t".join(columns)

    def rttm(self, utterance: str) -> list[str]:
        """The turns as lines of RTTM, NIST's format.

        Args:
            utterance: its name, without blanks.
        """
        unknown = "<NA>"
        return [
            f"SPEAKER {utterance} 1 {start:.3f} {end - start:.3f} {unknown} {unknown} "
            f"{who.replace(' ', '_')} {unknown} {unknown}"
            for who, start, end in self.turns or ()
        ]

    def as_json(self) -> dict[str, Any]:
        """All but signals as plain lists and mappings, probabilities and embeddings with six digits."""
        classes = {
            kind: [{"label": each.label, "probability": round(each.probability, 6)} for each in choices]
            for kind, choices in self.classes.items()
        }
        transcript = {
            name: said if isinstance(said, str) else [{"slot": slot, "value": value} for slot, value in said]
            for name, said in self.transcript.items()
        }
        found = {"seconds": round(self.seconds, 4), **classes, **transcript}
        if self.turns is not None:
            found["turns"] = [
                {"speaker": who, "start": round(start, 2), "end": round(end, 2)}
                for who, start, end in self.turns
            ]
        if self.embedding is not None:
            found["embedding"] = [round(value, 6) for value in self.embedding.tolist()]
        return found
