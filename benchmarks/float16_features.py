"""Whether training on features in float16 ends where float32 does: `python -m benchmarks.float16_features`.

The run of `bf16_training` (a small model, 200 steps), twice with the same weights, batches, masks and
dropout: on its features as they are, and on the same rounded as `prepare --features float16` rounds them.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.bf16_training import LAST, STEPS, apart, losses
from benchmarks.figures import THREADS, Figure, save


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(THREADS)
    exact, rounded = losses("float32"), losses("float16 features", features=torch.float16)
    course = apart(exact, rounded)
    save(
        "float16_features",
        [
            Figure(
                f"features in float16, loss after {STEPS} steps of a small run, away from float32's",
                course[-1].percent,
                "%",
                1,
                at_least=False,
                note=f"from {exact[0]:.3f} to {course[-1].exact:.4f} and {course[-1].rough:.4f} nats",
            ),
            Figure(
                f"the same, at its furthest on the way ({LAST} steps)",
                max(each.percent for each in course),
                "%",
            ),
        ],
    )


if __name__ == "__main__":
    main()
