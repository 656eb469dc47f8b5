"""Batches from a prepared set, read by one process: `python -m benchmarks.data_loader`.

32 crops of 750 frames of 20 ms, as a GPU would eat them. What it eats: the bfloat16 peak of an H100, of
which 45 % is the goal, over the arithmetic of a frame.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import THREADS, Figure, parser, save
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.pretrain.data.description import DatasetInfo, write_dataset_info
from s3prl_melhubert.pretrain.data.manifest import Utterance, write_manifest
from s3prl_melhubert.pretrain.training.loading import build_dataset, read_batches
from s3prl_melhubert.pretrain.training.metrics import training_flops
from s3prl_melhubert.pretrain.training.sampler import BatchPlan, PlanSampler
from s3prl_melhubert.pretrain.training.settings import DataSettings
from s3prl_melhubert.statistics import FeatureStats

BATCH, FRAMES = 32, 750
LENGTH = 1600  # 10 ms frames of each utterance
UTTERANCES, PER_SHARD = 640, 64
H100_PEAK, MFU = 989e12, 0.45  # of bfloat16 products, as its data sheet has it


def prepared(folder: Path) -> Path:
    """A prepared set of noise with random labels: 2.8 hours."""
    random = np.random.default_rng(0)
    (folder / "features").mkdir()
    (folder / "labels").mkdir()
    utterances = []
    for shard in range(UTTERANCES // PER_SHARD):
        features, labels = Path(f"features/{shard}.npy"), Path(f"labels/{shard}.npy")
        np.save(folder / features, random.standard_normal((PER_SHARD * LENGTH, 40), dtype=np.float32))
        np.save(folder / labels, random.integers(512, size=PER_SHARD * LENGTH, dtype=np.int16))
        for i in range(PER_SHARD):
            start = i * LENGTH
            utterances.append(Utterance(f"{shard}-{i}", features, labels, LENGTH, start, start))
    write_manifest(folder / "manifest.csv", utterances)
    stats = FeatureStats.from_arrays(np.zeros(40), np.ones(40), "of noise")
    write_dataset_info(folder / "dataset.yaml", DatasetInfo(stats, 512, 10))
    return folder


def frames_per_second(path: Path, batches: int) -> float:
    settings = DataSettings(sets=(str(path),), sequence_length=FRAMES)
    dataset = build_dataset(settings.sets, MelHuBERTConfig(), settings, seed=0)
    plan = BatchPlan(dataset.lengths, utterances_per_batch=BATCH, accumulate=1, processes=1, seed=0)
    warm = 8  # what was read ahead before the clock starts
    with read_batches(dataset, PlanSampler(plan, 0, 0, batches + warm), 1, torch.device("cpu")) as stream:
        for _ in range(warm):
            next(stream)
        begin = time.perf_counter()
        frames = sum(batch.frames for batch in stream)
        return frames / (time.perf_counter() - begin)


def main() -> None:
    args = parser(__doc__, rounds=3).parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        path = prepared(Path(folder))
        rates = [frames_per_second(path, 100) for _ in range(args.rounds)]
    flops = training_flops(MelHuBERTConfig(), (FRAMES,) * BATCH, round(0.53 * BATCH * FRAMES))
    eaten = MFU * H100_PEAK / (flops / (BATCH * FRAMES))
    save(
        "data_loader",
        [
            Figure(
                "data loader, one worker, times the frames that an H100 eats at an MFU of 45 %",
                max(rates) / eaten,
                "x",
                2,
                note=f"{max(rates):,.0f} frames/s read, {eaten:,.0f} eaten",
            )
        ],
    )


if __name__ == "__main__":
    main()
