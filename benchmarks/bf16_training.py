"""Whether training in bfloat16 ends where float32 does: `python -m benchmarks.bf16_training`.

A small model, 200 steps on data with something to learn, twice with the same weights, batches, masks and
dropout: in float32 and in bfloat16. Compared is the loss over masked frames, a mean over 20 steps: the last
ones, and those where the two differ most, because the last are near the least that this data allows.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass

import torch

from benchmarks.common.figures import THREADS, Figure, save
from benchmarks.common.steps import adam, train_step
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.model import MelHuBERT

STEPS, LAST = 200, 20
BATCH, FRAMES = 4, 200
CLUSTERS = 64
SMALL = MelHuBERTConfig(
    encoder_layers=4,
    encoder_embed_dim=192,
    encoder_ffn_embed_dim=768,
    encoder_attention_heads=4,
    num_cluster=CLUSTERS,
)


def utterances(looks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T, 80) frames and (B, T) labels, which count up by 1 to 4 every 8 frames."""
    jumps = torch.randint(1, 5, (BATCH, FRAMES)) * (torch.arange(FRAMES) % 8 == 0)
    labels = jumps.cumsum(1) % CLUSTERS
    return looks[labels] + torch.randn(BATCH, FRAMES, looks.shape[1]), labels


def losses(name: str, bf16: bool = False, features: torch.dtype = torch.float32) -> list[float]:
    """The loss of each step.

    Args:
        name: of the run, for the lines that are printed.
        bf16: whether it computes in bfloat16.
        features: what the frames are rounded to before the model reads them.
    """
    torch.manual_seed(0)
    model = MelHuBERT(SMALL).train()
    optimizer = adam(model, 5e-4)
    looks = torch.randn(CLUSTERS, SMALL.feat_emb_dim)
    course = []
    for step in range(STEPS):
        torch.manual_seed(step)
        frames, labels = utterances(looks)
        frames = frames.to(features).float()
        mask = model.draw_mask([FRAMES] * BATCH, FRAMES)
        course.append(train_step(model, optimizer, frames, labels, mask, bf16).item())
        if (step + 1) % 50 == 0:
            print(f"  {name}, step {step + 1}: {course[-1]:.4f}", flush=True)
    return course


@dataclass(frozen=True)
class Apart:
    """Two runs over the same steps: the mean loss of each, in nats."""

    exact: float
    rough: float

    @property
    def percent(self) -> float:
        return 100 * abs(self.rough / self.exact - 1)


def apart(exact: list[float], rough: list[float]) -> list[Apart]:
    """The means of all stretches of `LAST` steps, from the first to the last."""
    ends = range(LAST, STEPS + 1)
    return [Apart(*(statistics.mean(course[end - LAST : end]) for course in (exact, rough))) for end in ends]


def figures(what: str, exact: list[float], rough: list[float]) -> list[Figure]:
    """How far apart two runs end, and how far they are at the furthest on the way.

    Args:
        what: the rough run is of, as the table calls it.
        exact, rough: the losses of their steps.
    """
    course = apart(exact, rough)
    furthest = max(range(len(course)), key=lambda i: course[i].percent)
    return [
        Figure(
            f"{what}, loss after {STEPS} steps of a small run, away from float32's",
            course[-1].percent,
            "%",
            1,
            at_least=False,
            note=f"from {exact[0]:.3f} to {course[-1].exact:.4f} and {course[-1].rough:.4f} nats",
        ),
        Figure(
            f"the same, at its furthest on the way ({LAST} steps)",
            course[furthest].percent,
            "%",
            note=f"steps {furthest + 1} to {furthest + LAST}: {course[furthest].exact:.4f} and "
            f"{course[furthest].rough:.4f} nats",
        ),
    ]


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(THREADS)
    exact, rough = losses("float32"), losses("bfloat16", bf16=True)
    save("bf16_training", figures("training in bfloat16", exact, rough))


if __name__ == "__main__":
    main()
