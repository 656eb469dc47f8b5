"""Whether training on features in float16 ends where float32 does: `python -m benchmarks.float16_features`.

The run of `bf16_training` (a small model, 200 steps), twice with the same weights, batches, masks and
dropout: on its features as they are, and on the same rounded as `prepare --features float16` rounds them.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.bf16_training import figures, losses
from benchmarks.common.figures import THREADS, save


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(THREADS)
    exact, rounded = losses("float32"), losses("float16 features", features=torch.float16)
    save("float16_features", figures("features in float16", exact, rounded))


if __name__ == "__main__":
    main()
