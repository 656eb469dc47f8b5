"""Batches from a prepared set, read by one process: `python -m benchmarks.data_loader`.

32 crops of 750 frames of 20 ms, as a GPU would eat them. What it eats: the bfloat16 peak of an H100, of
which 45 % is the goal, over the arithmetic of a frame. Beside features in float32: in float16, and none, so
that the process decodes FLAC and makes the frames (synthesized noise that is as hard to decode as speech).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.audio import write_noise
from benchmarks.common.figures import THREADS, Figure, parser, save
from s3prl_melhubert.audio import audio_info, find_audio
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.fbank import frame_count
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
FILES = 128  # of FLAC
H100_PEAK, MFU = 989e12, 0.45  # of bfloat16 products, as its data sheet has it
FRAMES_AN_HOUR = 50 * 3600  # of 20 ms


def prepared(folder: Path, dtype: str) -> Path:
    """A prepared set of noise with random labels: 2.8 hours."""
    random = np.random.default_rng(0)
    (folder / "features").mkdir(parents=True)
    (folder / "labels").mkdir()
    utterances = []
    for shard in range(UTTERANCES // PER_SHARD):
        features, labels = Path(f"features/{shard}.npy"), Path(f"labels/{shard}.npy")
        frames = random.standard_normal((PER_SHARD * LENGTH, 40), dtype=np.float32)
        np.save(folder / features, frames.astype(dtype))
        np.save(folder / labels, random.integers(512, size=PER_SHARD * LENGTH, dtype=np.int16))
        for i in range(PER_SHARD):
            start = i * LENGTH
            utterances.append(Utterance(f"{shard}-{i}", features, labels, LENGTH, start, start))
    return describe(folder, utterances)


def of_audio(folder: Path) -> Path:
    """A set without features: half an hour of FLAC files of 4 to 17 s, with random labels."""
    audio = folder / "audio"
    audio.mkdir(parents=True)
    write_noise(audio, FILES)
    paths = find_audio([audio])
    lengths = [frame_count(audio_info(path).samples) for path in paths]
    starts = np.cumsum([0, *lengths])
    np.save(folder / "0.npy", np.random.default_rng(0).integers(512, size=starts[-1], dtype=np.int16))
    utterances = [
        Utterance(path.stem, path, Path("0.npy"), length, None, int(start))
        for path, length, start in zip(paths, lengths, starts, strict=False)
    ]
    return describe(folder, utterances)


def describe(folder: Path, utterances: list[Utterance]) -> Path:
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
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sets = {
            "float32": (prepared(folder / "float32", "float32"), 100),
            "float16": (prepared(folder / "float16", "float16"), 100),
            "no": (of_audio(folder / "audio"), 20),
        }
        rates = {
            kind: max(frames_per_second(path, batches) for _ in range(args.rounds))
            for kind, (path, batches) in sets.items()
        }
    flops = training_flops(MelHuBERTConfig(), (FRAMES,) * BATCH, round(0.53 * BATCH * FRAMES))
    eaten = MFU * H100_PEAK / (flops / (BATCH * FRAMES))
    save(
        "data_loader",
        [
            Figure(
                "data loader, one worker, times the frames that an H100 eats at an MFU of 45 %",
                rates["float32"] / eaten,
                "x",
                2,
                note=f"{rates['float32']:,.0f} frames/s read, {eaten:,.0f} eaten",
            ),
            *(
                Figure(
                    f"the same with {kind} features, hours of audio a second and core",
                    rate / FRAMES_AN_HOUR,
                    "h",
                    note="FLAC is decoded and its frames made" if kind == "no" else "",
                )
                for kind, rate in rates.items()
            ),
        ],
    )


if __name__ == "__main__":
    main()
