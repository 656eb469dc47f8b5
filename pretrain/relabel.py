"""`melhubert relabel`: new labels for a prepared set, from a hidden layer of a trained model (stage 2).

    melhubert relabel --data data/train --checkpoint EXP/last.ckpt --layer 8 --out data/stage2

K-means on a sample of the layer's frames, then the nearest centroid of every frame, at the model's own frame
period. The features stay where they are: the new folder's manifest points at them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from s3prl_melhubert.checkpoint import load_checkpoint, resolve_stats
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.extraction import (
    PRECISIONS,
    hidden_states,
    pad_features,
    resolve_device,
    resolve_layers,
)
from s3prl_melhubert.files import atomic_path, sha256_of
from s3prl_melhubert.frontend import stack_frames
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.kmeans import (
    SAMPLE_FRAMES,
    NearestCentroid,
    fit_kmeans,
    load_centroids,
)
from s3prl_melhubert.pretrain.layout import (
    KMEANS,
    LABELS,
    DatasetInfo,
    PreparedSet,
    Utterance,
    label_count,
    load_stats,
    program_versions,
    read_prepared,
    utterance_features,
)
from s3prl_melhubert.pretrain.shards import shard_name
from s3prl_melhubert.pretrain.unfinished import Unfinished, unfinished_work
from s3prl_melhubert.statistics import FeatureStats

CLUSTERS = 512
# Frames of the utterances that the sample is drawn from, to each frame of the sample: an utterance's
# neighbouring frames are alike, so that a sample of whole utterances would be worth less than its size.
FRAMES_FOR_SAMPLE = 4
# Utterances to a label file, and to a step that an interrupted command need not repeat.
SHARD_UTTERANCES = 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="DIR", help="a prepared folder, or a published CSV")
    parser.add_argument("--checkpoint", required=True, metavar="CKPT", help="the model")
    parser.add_argument(
        "--layer",
        type=int,
        required=True,
        metavar="N",
        help="0 is the projected input, 1 the first layer, -1 the last",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder to fill; the same command continues it"
    )
    parser.add_argument("--clusters", type=int, metavar="K", help=f"how many (default: {CLUSTERS})")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the sample and of K-means (default: %(default)s)"
    )
    parser.add_argument(
        "--kmeans",
        metavar="SRC",
        help="use the clusters of this folder, as a validation set must, or .npy file",
    )
    parser.add_argument(
        "--stats", metavar="SRC", help="what the model was trained with, where its file does not say"
    )
    parser.add_argument(
        "--sample-frames",
        type=int,
        default=SAMPLE_FRAMES,
        metavar="N",
        help="frames that K-means sees (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of matrix products (default: %(default)s)"
    )
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="model frames of a batch, padding included"
    )


def run(args: argparse.Namespace) -> int:
    begin = time.monotonic()
    prepared = relabel(
        args.data,
        args.checkpoint,
        args.layer,
        args.out,
        clusters=args.clusters,
        seed=args.seed,
        kmeans=args.kmeans,
        stats=args.stats,
        sample_frames=args.sample_frames,
        device=args.device,
        precision=args.precision,
        max_frames=args.max_frames,
    )
    print(f"{prepared.folder}: {prepared.info}, in {time.monotonic() - begin:.0f} s")
    return 0


def relabel(
    data: str | Path,
    checkpoint: str | Path,
    layer: int,
    out: str | Path,
    *,
    clusters: int | None = None,
    seed: int = 0,
    kmeans: str | Path | None = None,
    stats: str | Path | None = None,
    sample_frames: int = SAMPLE_FRAMES,
    device: str | None = None,
    precision: str = "fp32",
    max_frames: int | None = None,
) -> PreparedSet:
    """Make a prepared set with new labels over the features of another; continues if interrupted.

    Args:
        data: the other set: a prepared folder, or a published CSV.
        checkpoint: the model whose hidden states are clustered.
        layer: 0 for the projected input, 1 to N for the layers; negative ones count from the end.
        out: folder to fill.
        clusters: of K-means; 512 if not given.
        seed: of the sample and of K-means.
        kmeans: a folder that was made by this function, or a .npy file, whose centroids to use.
        stats: what the model was trained with, where its file does not say: a folder, a file or a name.
        sample_frames: how many frames K-means sees at the most.
        device: `cpu`, `cuda`, `cuda:N`; the best there is if not given.
        precision: `fp32` or `bf16`.
        max_frames: of a batch, in the model's frames, padding included.

    Raises:
        MelHuBERTError: something that cannot be used, or does not fit together.
    """
    if sample_frames < 1 or (clusters is not None and clusters < 1):
        raise MelHuBERTError(f"--clusters {clusters}, --sample-frames {sample_frames}: expected at least 1")
    source = read_prepared(data)
    teacher = Teacher(
        checkpoint,
        layer,
        None if stats is None else load_stats(stats),
        source.info.stats if source.info else None,
        device,
        precision,
        max_frames,
    )
    given = None if kmeans is None else load_centroids(kmeans, teacher.dim)
    if given is not None and clusters not in (None, len(given)):
        raise MelHuBERTError(f"--clusters {clusters}: but --kmeans {kmeans} has {len(given)}; leave one out")
    clusters = clusters or CLUSTERS if given is None else len(given)
    recipe = {
        "command": "relabel",
        "data": str(data),
        "manifest": sha256_of(source.manifest)[:16],
        "checkpoint": f"{checkpoint} ({sha256_of(Path(checkpoint).expanduser())[:16]})",
        "layer": teacher.layer,
        "clusters": clusters,
        "seed": seed,
        "kmeans": None if given is None else hashlib.sha256(given.tobytes()).hexdigest()[:16],
        "stats": None if stats is None else str(stats),
        "sample_frames": sample_frames,
        "precision": precision,
    }
    with unfinished_work(out, recipe) as work:
        if work is not None:
            try:
                centroids = _centroids(work, source.utterances, teacher, given, clusters, seed, sample_frames)
                _label(work, source.utterances, teacher, centroids)
                info = DatasetInfo(
                    teacher.data_stats,
                    clusters,
                    teacher.frame_period,
                    made_by=recipe,
                    versions=program_versions("scikit-learn"),
                )
                work.complete(_rows(source.utterances, work.out, teacher.frame_period), info)
            except OSError as error:
                raise MelHuBERTError(f"{error.filename or out}: {error.strerror or error}") from None
    return read_prepared(out)


class Teacher:
    """The model, and how frames of the prepared set get to it.

    Args:
        checkpoint: the model's file.
        layer: whose output is taken.
        stats: what the model was trained with, where its file does not say.
        data_stats: what the set's features were normalized with; None if unknown.
        device: where it runs.
        precision: `fp32` or `bf16`.
        max_frames: of a batch.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        layer: int,
        stats: FeatureStats | None,
        data_stats: FeatureStats | None,
        device: str | None,
        precision: str,
        max_frames: int | None,
    ):
        loaded = load_checkpoint(checkpoint)
        self.device = resolve_device(device)
        self.frame_period = loaded.frame_period
        [self.layer] = resolve_layers([layer], loaded.config)
        self.dim = loaded.config.encoder_embed_dim
        own_stats = resolve_stats(loaded, stats)
        if data_stats is None:
            warnings.warn(
                "the set does not say what its features were normalized with; taken to be what the model was "
                "trained with",
                stacklevel=3,
            )
        self.data_stats = data_stats or own_stats
        # What takes a frame normalized with the set's statistics to one normalized with the model's.
        self._scale = torch.from_numpy(self.data_stats.std / own_stats.std)
        self._shift = torch.from_numpy((self.data_stats.mean - own_stats.mean) / own_stats.std)
        self._same = self.data_stats == own_stats
        self._model: MelHuBERT = loaded.build_model().to(self.device)
        self._precision, self._max_frames = precision, max_frames

    def frames(self, utterance: Utterance) -> int:
        """Frames that the model reads of an utterance, and labels that it gets."""
        return label_count(utterance.length, self.frame_period)

    def _load(self, utterance: Utterance) -> Tensor:
        frames = torch.from_numpy(np.array(utterance_features(utterance), dtype=np.float32))
        if not self._same:
            frames = frames * self._scale + self._shift
        return stack_frames(frames) if self.frame_period == 20 else frames

    def states(self, utterances: Sequence[Utterance]):
        """Yields index and (T, C) float32 hidden states of each utterance, on the device, in any order."""
        for index, layers in hidden_states(
            self._model,
            [self.frames(utterance) for utterance in utterances],
            load=lambda i: self._load(utterances[i]),
            collate=lambda items: pad_features([item.to(self.device) for item in items]),
            layers=[self.layer],
            max_frames=self._max_frames,
            precision=self._precision,
        ):
            yield index, layers[0]


def _centroids(
    work: Unfinished,
    utterances: Sequence[Utterance],
    teacher: Teacher,
    given: np.ndarray | None,
    clusters: int,
    seed: int,
    sample_frames: int,
) -> np.ndarray:
    """The given centroids, or those of a sample; put in their place at once."""
    path = work.out / KMEANS
    if path.is_file():
        return load_centroids(path, teacher.dim)
    if given is None:
        sample = _sample(utterances, teacher, seed, sample_frames)
        print(f"K-means: {clusters} clusters of {len(sample)} frames ...", file=sys.stderr)
        given = fit_kmeans(sample, clusters, seed, threads=None)
    with atomic_path(work.folder / KMEANS) as temporary:
        np.save(temporary, given)
    work.publish(KMEANS)
    return given


def _sample(utterances: Sequence[Utterance], teacher: Teacher, seed: int, sample_frames: int) -> np.ndarray:
    """(n, C) hidden states: random frames of random utterances."""
    random = np.random.default_rng(seed)
    chosen, frames = [], 0
    for index in random.permutation(len(utterances)):
        if frames >= sample_frames * FRAMES_FOR_SAMPLE:
            break
        chosen.append(utterances[index])
        frames += teacher.frames(utterances[index])
    size = min(sample_frames, frames)
    # Which of the chosen utterances' frames, numbered through.
    wanted = np.sort(random.choice(frames, size, replace=False))
    starts = np.cumsum([0, *(teacher.frames(utterance) for utterance in chosen)])
    cuts = np.searchsorted(wanted, starts)
    sample = np.empty((size, teacher.dim), np.float32)
    with _progress(len(chosen), "sample") as progress:
        for index, states in teacher.states(chosen):
            rows = torch.from_numpy(wanted[cuts[index] : cuts[index + 1]] - starts[index])
            rows = rows.clamp(max=len(states) - 1).to(states.device)  # a length may be one too many
            sample[cuts[index] : cuts[index + 1]] = states[rows].cpu().numpy()
            progress.update()
    return sample


def _label(
    work: Unfinished, utterances: Sequence[Utterance], teacher: Teacher, centroids: np.ndarray
) -> None:
    """A file of labels for every few utterances, in the manifest's order."""
    (work.out / LABELS).mkdir(exist_ok=True)
    work.subfolder(LABELS)
    nearest = NearestCentroid(centroids, teacher.device)
    with _progress(len(utterances), "labels") as progress:
        for index, start in enumerate(range(0, len(utterances), SHARD_UTTERANCES)):
            shard = utterances[start : start + SHARD_UTTERANCES]
            name = f"{LABELS}/{shard_name(index)}"
            if not (work.out / name).is_file():
                counts = [teacher.frames(utterance) for utterance in shard]
                starts = np.cumsum([0, *counts])
                labels = np.empty(starts[-1], nearest.dtype)
                for i, states in teacher.states(shard):
                    found = nearest(states)
                    # A published CSV may claim a frame more than the file has; it gets the last one's label.
                    labels[starts[i] : starts[i + 1]] = np.pad(found, (0, counts[i] - len(found)), "edge")
                    progress.update()
                with atomic_path(work.folder / name) as temporary:
                    np.save(temporary, labels)
                work.publish(name)
            else:
                progress.update(len(shard))


def _rows(utterances: Sequence[Utterance], out: Path, frame_period: int) -> list[Utterance]:
    """The manifest: the old features by their paths from the new folder, and the new labels."""
    here = out.resolve()
    rows = []
    label_start = 0
    known: dict[Path, Path] = {}
    for index, utterance in enumerate(utterances):
        if index % SHARD_UTTERANCES == 0:
            label_start = 0
        if utterance.features not in known:
            known[utterance.features] = Path(os.path.relpath(utterance.features.resolve(), here))
        rows.append(
            replace(
                utterance,
                features=known[utterance.features],
                labels=Path(LABELS) / shard_name(index // SHARD_UTTERANCES),
                start=utterance.start or 0,
                label_start=label_start,
            )
        )
        label_start += label_count(utterance.length, frame_period)
    return rows


def _progress(total: int, title: str) -> tqdm:
    return tqdm(total=total, desc=title, unit=" utterances", disable=None)
