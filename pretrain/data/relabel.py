"""A prepared set gets new labels, from a hidden layer of a trained model (stage 2).

K-means runs on a sample of the layer's frames; then every frame gets the nearest centroid as its label, at
the model's own frame period. The features (or the audio, where the set keeps none) stay where they are: the
new folder's manifest points at them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from s3prl_melhubert.pretrain.data.clusters import check_centroids_of
from s3prl_melhubert.pretrain.data.description import (
    DatasetInfo,
    PreparedSet,
    load_stats,
    program_versions,
    read_prepared,
)
from s3prl_melhubert.pretrain.data.kmeans import SAMPLE_FRAMES, Clustering, check_arguments
from s3prl_melhubert.pretrain.data.manifest import LABELS, Utterance, label_count
from s3prl_melhubert.pretrain.data.shards import shard_name
from s3prl_melhubert.pretrain.data.teacher import Teacher
from s3prl_melhubert.pretrain.data.unfinished import (
    Inputs,
    Unfinished,
    array_digest,
    stats_digest,
    unfinished_work,
)
from s3prl_melhubert.support.files import real_path, sha256_of
from s3prl_melhubert.support.progress import progress
from s3prl_melhubert.units.nearest import NearestCentroid

# The sample is drawn from utterances with so many frames for each frame of the sample. Neighbouring frames of
# an utterance are alike, so a sample of whole utterances would be worth less than its size.
FRAMES_FOR_SAMPLE = 4
# So many utterances share a label file, and are a step that an interrupted command need not repeat.
SHARD_UTTERANCES = 2048


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
    """Make a prepared set with new labels over the features of another, or continue one that was interrupted.

    Args:
        data: the other set: a prepared folder, or a published CSV.
        checkpoint: the model whose hidden states are clustered.
        layer: 0 for the projected input, 1 to N for the layers; negative ones count from the end.
        out: the folder to fill.
        clusters: how many clusters K-means makes; 512 if not given.
        seed: of the sample and of K-means.
        kmeans: a folder that was made by this function, or a .npy file, whose centroids are to be used.
        stats: what the model was trained with, where its file does not say: a folder, a file or a name.
        sample_frames: how many frames K-means sees at the most.
        device: `cpu`, `cuda`, `cuda:N`; the best there is if not given.
        precision: `fp32` or `bf16`.
        max_frames: of a batch, in the model's frames, padding included.

    Raises:
        MelHuBERTError: something cannot be used, or does not fit together.
    """
    # Before the model is loaded, which takes a while.
    check_arguments(clusters=clusters if kmeans is None else 1, sample_frames=sample_frames, seed=seed)
    source = read_prepared(data)
    given_stats = None if stats is None else load_stats(stats)
    teacher = Teacher(
        checkpoint,
        layer,
        stats=given_stats,
        data_stats=source.info.stats if source.info else None,
        device=device,
        precision=precision,
        max_frames=max_frames,
    )
    if kmeans is not None:
        check_centroids_of(kmeans, teacher.file, teacher.weights, teacher.layer)
    clustering = Clustering.from_arguments(
        clusters=clusters, kmeans=kmeans, seed=seed, sample_frames=sample_frames, dim=teacher.dim
    )
    recipe = {
        "command": "relabel",
        "data": str(data),
        "manifest": sha256_of(source.manifest)[:16],
        "checkpoint": f"{checkpoint} ({sha256_of(teacher.file)[:16]})",
        "layer": teacher.layer,
        "clusters": clustering.clusters,
        "seed": seed,
        "kmeans": None if clustering.given is None else array_digest(clustering.given),
        "stats": None if given_stats is None else f"{stats} ({stats_digest(given_stats)})",
        "sample_frames": sample_frames,
        "precision": precision,
    }
    # A set that was made anew with other statistics, or of other audio, may have the same manifest.
    inputs = Inputs()
    if source.info is not None:
        state = f"{source.info.proofs.sums_sha256} {stats_digest(source.info.stats)}"
        inputs = Inputs(content={"features or statistics of --data": state})
    with unfinished_work(out, recipe, inputs) as work:
        if work is not None:
            centroids = clustering.centroids(
                work, lambda: _sample(source.utterances, teacher, clustering), exact=False
            )
            _label(work, source.utterances, teacher, centroids)
            info = DatasetInfo(
                teacher.data_stats,
                clustering.clusters,
                teacher.frame_period,
                made_by=recipe,
                made_from=inputs.noted,
                versions=program_versions("scikit-learn"),
                teacher_weights=teacher.weights,
            )
            work.complete(_rows(source.utterances, work.out, teacher.frame_period), info)
    return read_prepared(out)


def _sample(utterances: Sequence[Utterance], teacher: Teacher, clustering: Clustering) -> np.ndarray:
    """(n, C) hidden states: random frames of random utterances."""
    random = np.random.default_rng(clustering.seed)
    chosen, frames = [], 0
    for index in random.permutation(len(utterances)):
        if frames >= clustering.sample_frames * FRAMES_FOR_SAMPLE:
            break
        chosen.append(utterances[index])
        frames += teacher.frames(utterances[index])
    size = min(clustering.sample_frames, frames)
    # The frames of the chosen utterances are numbered through; these of them are wanted.
    wanted = np.sort(random.choice(frames, size, replace=False))
    starts = np.cumsum([0, *(teacher.frames(utterance) for utterance in chosen)])
    cuts = np.searchsorted(wanted, starts)
    sample = np.empty((size, teacher.dim), np.float32)
    with progress(len(chosen), "sample", "utterances") as bar:
        for index, states in teacher.states(chosen):
            rows = torch.from_numpy(wanted[cuts[index] : cuts[index + 1]] - starts[index])
            # A published CSV may claim a frame more than the file has.
            rows = rows.clamp(max=len(states) - 1).to(states.device)
            sample[cuts[index] : cuts[index + 1]] = states[rows].cpu().numpy()
            bar.update()
    return sample


def _label(
    work: Unfinished, utterances: Sequence[Utterance], teacher: Teacher, centroids: np.ndarray
) -> None:
    """Write a file of labels for every few utterances, in the manifest's order."""
    work.make_folders(LABELS)
    nearest = NearestCentroid(centroids, teacher.device)
    with progress(len(utterances), "labels", "utterances") as bar:
        for index, start in enumerate(range(0, len(utterances), SHARD_UTTERANCES)):
            shard = utterances[start : start + SHARD_UTTERANCES]
            name = f"{LABELS}/{shard_name(index)}"
            if (work.out / name).is_file():
                bar.update(len(shard))
                continue
            counts = [teacher.frames(utterance) for utterance in shard]
            starts = np.cumsum([0, *counts])
            labels = np.empty(starts[-1], nearest.dtype)
            for i, states in teacher.states(shard):
                found = nearest(states)
                # A published CSV may claim a frame more than the file has; it gets the last one's label.
                labels[starts[i] : starts[i + 1]] = np.pad(found, (0, counts[i] - len(found)), "edge")
                bar.update()
            work.publish_array(name, labels)


def _rows(utterances: Sequence[Utterance], out: Path, frame_period: int) -> Iterator[Utterance]:
    """Yields the manifest: the old features, by their paths from the new folder, and the new labels."""
    here = out.resolve()
    label_start = 0
    known: dict[Path, Path] = {}
    for index, utterance in enumerate(utterances):
        if index % SHARD_UTTERANCES == 0:
            label_start = 0
        if utterance.features not in known:
            features = real_path(utterance.features)
            known[utterance.features] = (
                features if utterance.is_audio else Path(os.path.relpath(features, here))
            )
        yield replace(
            utterance,
            features=known[utterance.features],
            labels=Path(LABELS) / shard_name(index // SHARD_UTTERANCES),
            start=None if utterance.is_audio else utterance.start or 0,
            label_start=label_start,
        )
        label_start += label_count(utterance.length, frame_period)
