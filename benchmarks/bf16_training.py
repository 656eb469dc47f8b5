"""Whether training in bfloat16 ends where float32 does: `python -m benchmarks.bf16_training`.

A small model, 200 steps on data with something to learn, twice with the same weights, batches, masks and
dropout: in float32 and in bfloat16. Compared is the loss over masked frames, a mean over 20 steps: the last
ones, and those where the two differ most, because the last are near the least that this data allows.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks.figures import THREADS, Figure, save
from benchmarks.steps import train_step
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


def losses(bf16: bool) -> list[float]:
    torch.manual_seed(0)
    model = MelHuBERT(SMALL).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    looks = torch.randn(CLUSTERS, SMALL.feat_emb_dim)
    course = []
    for step in range(STEPS):
        torch.manual_seed(step)
        features, labels = utterances(looks)
        mask = model.draw_mask([FRAMES] * BATCH, FRAMES)
        course.append(train_step(model, optimizer, features, labels, mask, bf16).item())
        if (step + 1) % 50 == 0:
            print(f"  {'bfloat16' if bf16 else 'float32'}, step {step + 1}: {course[-1]:.4f}", flush=True)
    return course


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(THREADS)
    exact, rough = (losses(bf16) for bf16 in (False, True))
    means = [
        [statistics.mean(course[i : i + LAST]) for i in range(STEPS - LAST + 1)] for course in (exact, rough)
    ]
    ends = [course[-1] for course in means]
    apart = [abs(b / a - 1) for a, b in zip(*means, strict=True)]
    furthest = apart.index(max(apart))
    save(
        "bf16_training",
        [
            Figure(
                f"training in bfloat16, loss after {STEPS} steps of a small run, away from float32's",
                100 * abs(ends[1] / ends[0] - 1),
                "%",
                1,
                at_least=False,
                note=f"from {exact[0]:.3f} to {ends[0]:.4f} and {ends[1]:.4f} nats",
            ),
            Figure(
                f"the same, at its furthest on the way ({LAST} steps)",
                100 * apart[furthest],
                "%",
                note=f"steps {furthest + 1} to {furthest + LAST}: {means[0][furthest]:.4f} and "
                f"{means[1][furthest]:.4f} nats",
            ),
        ],
    )


if __name__ == "__main__":
    main()
