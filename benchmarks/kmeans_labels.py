"""K-means labels of frames, beside the bare matrix product: `python -m benchmarks.kmeans_labels`.

512 clusters; 40 dimensions (log-Mel) and 768 (hidden states). The product is frames times centroids, in the
blocks in which `NearestCentroid` works: no other can find the distances.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.common.figures import THREADS, Figure, in_turn, parser, ratio, save
from s3prl_melhubert.units.nearest import ASSIGN_FRAMES, NearestCentroid

CLUSTERS = 512
FRAMES = {40: 200_000, 768: 60_000}


def measure(dim: int, rounds: int) -> Figure:
    random = np.random.default_rng(0)
    frames = random.standard_normal((FRAMES[dim], dim), dtype=np.float32)
    centroids = random.standard_normal((CLUSTERS, dim), dtype=np.float32)
    assign = NearestCentroid(centroids)
    blocks = torch.from_numpy(frames).split(ASSIGN_FRAMES["cpu"])
    weight = torch.from_numpy(centroids).T.contiguous()
    out = torch.empty(ASSIGN_FRAMES["cpu"], CLUSTERS)

    def product() -> None:
        for block in blocks:
            torch.mm(block, weight, out=out[: len(block)])

    times = in_turn({"labels": lambda: assign(frames), "product": product}, rounds)
    rate = len(frames) / min(times["labels"])
    return Figure(
        f"K-means labels, {CLUSTERS} clusters, {dim} dimensions, to the bare matrix product",
        ratio(times, "labels", "product"),
        "",
        1.5,
        at_least=False,
        note=f"{rate / 1e6:.2f} million frames/s",
    )


def main() -> None:
    args = parser(__doc__, rounds=7).parse_args()
    torch.set_num_threads(THREADS)
    save("kmeans_labels", [measure(dim, args.rounds) for dim in FRAMES])


if __name__ == "__main__":
    main()
