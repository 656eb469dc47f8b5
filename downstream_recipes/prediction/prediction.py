"""What a trained model says of an utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One of the classes that a model chooses from."""

    label: str
    probability: float  # the softmax over the classes of its kind

    def __str__(self) -> str:
        return f"{self.label} {self.probability:.4f}"


@dataclass(frozen=True)
class Prediction:
    """What a trained model says of one utterance. It has `classes` or a `transcript`, by its task.

    Attributes:
        seconds: the duration of the utterance.
        classes: the most probable classes first, by what they are: `speaker`; or `action`, `object` and
            `location`.
        transcript: what was transcribed, by what it is: `phones`; `words`; in slot filling `marked` (the
            words with the marks of slots), `words` and `slots` (pairs: slot and what fills it).
    """

    seconds: float
    classes: Mapping[str, Sequence[Choice]] = field(default_factory=dict)
    transcript: Mapping[str, str | list[tuple[str, str]]] = field(default_factory=dict)

    def line(self) -> str:
        """All in a line, with a tab between what is different: `bring 0.9876<tab>shoes 0.9998<tab>...`.

        Several choices have commas between them, slots semicolons.
        """
        columns = [", ".join(map(str, choices)) for choices in self.classes.values()]
        for said in self.transcript.values():
            columns.append(
                said if isinstance(said, str) else "; ".join(f"{slot}={value}" for slot, value in said)
            )
        return "\t".join(columns)

    def as_json(self) -> dict[str, Any]:
        """All as plain lists and mappings, probabilities with six digits."""
        classes = {
            kind: [{"label": each.label, "probability": round(each.probability, 6)} for each in choices]
            for kind, choices in self.classes.items()
        }
        transcript = {
            name: said if isinstance(said, str) else [{"slot": slot, "value": value} for slot, value in said]
            for name, said in self.transcript.items()
        }
        return {"seconds": round(self.seconds, 4), **classes, **transcript}
