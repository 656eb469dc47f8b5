"""Stage 2: labels from a hidden layer, over the features of the first set."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s3prl_melhubert import MelHuBERTError, load_checkpoint, load_model, save_checkpoint
from s3prl_melhubert.audio import read_audio
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data.description import read_dataset_info, read_prepared, write_dataset_info
from s3prl_melhubert.pretrain.data.manifest import utterance_features, utterance_labels
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.relabel import relabel
from s3prl_melhubert.pretrain.data.workers import Workers
from s3prl_melhubert.support.files import sha256_of

HERE = Workers(jobs=1)
STATS = "librispeech-360h"


def test_labels_are_the_nearest_centroids_of_the_layer(published, prepared, corpus, tmp_path):
    period = load_checkpoint(published["ckpt"]).frame_period
    out = tmp_path / "stage2"
    arguments = ["--layer", "1", "--clusters", "5", "--stats", STATS, "--device", "cpu", "--out", str(out)]
    ckpt = str(published["ckpt"])
    assert main(["relabel", "--data", str(prepared.folder), "--checkpoint", ckpt, *arguments]) == 0
    data = read_prepared(out)
    assert (data.label_period_ms, data.info.clusters, data.info.utterances) == (period, 5, 12)
    assert data.info.stats == prepared.info.stats
    assert not (out / "features").exists()
    centroids = np.load(out / "kmeans.npy")

    # The same from the audio, by way of the upstream: the set was normalized with its own statistics, the
    # model wants others.
    model, frontend = load_model(published["ckpt"], feature_stats=STATS)
    paths = {path.stem: path for path in corpus.rglob("*.flac")}
    for utterance, before in zip(data.utterances, prepared.utterances, strict=True):
        np.testing.assert_array_equal(utterance_features(utterance), utterance_features(before))
        waveform = torch.from_numpy(read_audio(paths[utterance.id]).waveform)
        with torch.inference_mode():
            states = model(*frontend([waveform])).hidden_states[1][0].numpy()
        distances = np.square(states[:, None] - centroids).sum(2)
        labels = np.array(utterance_labels(utterance, period))
        assert len(labels) == len(states)
        # Where two centroids are equally near, rounding may choose.
        chosen = distances[np.arange(len(labels)), labels]
        assert (chosen <= distances.min(1) + 1e-3).all()


def test_an_interrupted_relabel_continues_and_repeats_exactly(
    prepared, tmp_path, reference, folder_bytes, monkeypatch
):
    from s3prl_melhubert.pretrain.data import relabel as module

    monkeypatch.setattr(module, "SHARD_UTTERANCES", 5)
    settings = {"clusters": 5, "stats": STATS, "device": "cpu"}
    arguments = (prepared.folder, reference / "tiny-20ms.ckpt", 2)
    whole = relabel(*arguments, tmp_path / "whole", **settings)
    assert len(list((tmp_path / "whole" / "labels").iterdir())) == 3
    assert [u.label_start for u in whole.utterances][5] == 0

    shards = 0
    publish = module.Unfinished.publish

    def stop_at_third(self, name):
        nonlocal shards
        shards += 1
        if shards == 3:  # K-means, one shard, and no further
            raise KeyboardInterrupt
        publish(self, name)

    monkeypatch.setattr(module.Unfinished, "publish", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        relabel(*arguments, tmp_path / "part", **settings)
    monkeypatch.setattr(module.Unfinished, "publish", publish)
    with pytest.raises(MelHuBERTError, match=r"other arguments.*layer 2, now 1"):
        relabel(*arguments[:2], 1, tmp_path / "part", **settings)
    # The same is meant, however it is written: by other paths, and by a layer that is counted from the end.
    shutil.copy(reference / "tiny-20ms.ckpt", tmp_path / "copy.ckpt")
    monkeypatch.chdir(prepared.folder.parent)
    relabel(prepared.folder.name, tmp_path / "copy.ckpt", -1, tmp_path / "part", **settings)
    part, whole_set = folder_bytes(tmp_path / "part"), folder_bytes(tmp_path / "whole")
    del part["dataset.yaml"], whole_set["dataset.yaml"]  # which hold the paths as they were written
    assert part == whole_set


def test_a_set_that_was_made_anew_is_not_mixed_with_what_it_was(corpus, tmp_path, reference, monkeypatch):
    """Its manifest is the same."""
    from s3prl_melhubert.pretrain.data import relabel as module

    data, small = tmp_path / "data", {"subsets": ["dev-clean"], "clusters": 4, "workers": HERE}
    prepare_audio([corpus], data, **small)
    manifest = (data / "manifest.csv").read_bytes()
    arguments = (data, reference / "tiny-20ms.ckpt", 2, tmp_path / "out")
    settings = {"clusters": 5, "stats": STATS, "device": "cpu"}
    with monkeypatch.context() as patch:
        patch.setattr(module, "_label", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            relabel(*arguments, **settings)
    shutil.move(data, tmp_path / "first")
    prepare_audio([corpus], data, stats=STATS, **small)
    assert (data / "manifest.csv").read_bytes() == manifest
    with pytest.raises(MelHuBERTError, match="since when the features or statistics of --data changed"):
        relabel(*arguments, **settings)
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "first", data)
    relabel(*arguments, **settings)

    # Nor are the labels of a complete set taken for those of other features.
    relabel(*arguments, **settings)
    shutil.rmtree(data)
    prepare_audio([corpus], data, stats=STATS, **small)
    with pytest.raises(MelHuBERTError, match="complete set, since when the features or statistics of --data"):
        relabel(*arguments, **settings)
    info = read_dataset_info(tmp_path / "out" / "dataset.yaml")
    write_dataset_info(tmp_path / "out" / "dataset.yaml", replace(info, made_from={}))
    relabel(*arguments, **settings)  # An earlier version did not note of which features the labels are.


def test_a_validation_set_gets_the_training_sets_clusters(prepared, corpus, tmp_path, reference):
    ckpt = reference / "tiny-20ms.ckpt"
    train = relabel(prepared.folder, ckpt, 2, tmp_path / "train2", clusters=5, stats=STATS, device="cpu")
    dev = prepare_audio(
        [corpus], tmp_path / "dev", subsets=["dev-clean"], kmeans=prepared.folder, workers=HERE
    )
    dev2 = relabel(dev.folder, ckpt, 2, tmp_path / "dev2", kmeans=train.folder, stats=STATS, device="cpu")
    assert dev2.info.clusters == 5
    assert (tmp_path / "dev2" / "kmeans.npy").read_bytes() == (
        tmp_path / "train2" / "kmeans.npy"
    ).read_bytes()
    more = {"stats": STATS, "device": "cpu"}
    for kmeans in (prepared.folder, prepared.folder / "kmeans.npy"):
        with pytest.raises(MelHuBERTError, match="its centroids are of log-Mel frames, not of layer 2"):
            relabel(dev.folder, ckpt, 2, tmp_path / "dev3", kmeans=kmeans, **more)
    with pytest.raises(MelHuBERTError, match="its centroids are of layer 2 of its teacher, not of layer 1"):
        relabel(dev.folder, ckpt, 1, tmp_path / "dev3", kmeans=train.folder, **more)
    with pytest.raises(MelHuBERTError, match=r"are of hidden states of .*tiny-20ms.* other weights"):
        relabel(dev.folder, reference / "tiny-10ms.ckpt", 2, tmp_path / "dev3", kmeans=train.folder, **more)
    shutil.copy(train.folder / "kmeans.npy", tmp_path / "alone.npy")  # which nothing is said of
    dev4 = relabel(dev.folder, ckpt, 2, tmp_path / "dev4", kmeans=tmp_path / "alone.npy", **more)
    assert dev4.info.clusters == 5


def test_a_set_in_hugging_faces_cache_is_relabelled_by_the_names_of_its_links(
    cached, prepared, tmp_path, reference
):
    data = relabel(
        cached, reference / "tiny-20ms.ckpt", 1, tmp_path / "out", clusters=4, stats=STATS, device="cpu"
    )
    for utterance, before in zip(data.utterances, prepared.utterances, strict=True):
        assert utterance.features.name == before.features.name
        np.testing.assert_array_equal(utterance_features(utterance), utterance_features(before))


def write_published(folder: Path, lengths: Mapping[int, int]) -> Path:
    """A CSV in the published layout: the frames that each file has, and those that it is said to have."""
    random = np.random.default_rng(0)
    rows = ["file_path,label_path,length"]
    for i, (frames, said) in enumerate(lengths.items()):
        np.save(folder / f"x{i}.npy", random.normal(size=(frames, 40)).astype(np.float32))
        rows.append(f"{folder}/x{i}.npy,{folder}/none.npy,{said}")
    csv = folder / "train.csv"
    csv.write_text("\n".join(rows))
    return csv


def test_a_published_csv_is_relabelled_at_lengths_that_are_off_by_one(tmp_path, reference):
    csv = write_published(tmp_path, {40: 41, 41: 41, 42: 41})
    with pytest.warns(UserWarning, match="does not say what its features were normalized with"):
        data = relabel(
            csv,
            reference / "tiny-10ms.ckpt",
            1,
            tmp_path / "out",
            clusters=4,
            stats=STATS,
            device="cpu",
        )
    assert [len(utterance_labels(utterance, 10)) for utterance in data.utterances] == [41, 41, 41]


def test_an_utterance_whose_hidden_states_are_no_numbers_is_named(tmp_path, reference):
    csv = write_published(tmp_path, {24: 24, 31: 31})
    frames = np.load(tmp_path / "x1.npy")
    frames[30, 7] = np.nan
    np.save(tmp_path / "x1.npy", frames)
    with pytest.raises(MelHuBERTError, match=r"utterance x1 .*x1\.npy\): hidden states with NaN .*damaged"):
        relabel(csv, reference / "tiny-20ms.ckpt", 1, tmp_path / "out", clusters=4, stats=STATS, device="cpu")


def test_kmeans_sees_frames_of_all_utterances_and_none_of_them_twice(tmp_path, reference):
    """With as many clusters as frames, each frame is a centroid; with fewer of them, some frames are."""
    csv = write_published(tmp_path, {24: 24, 31: 31, 40: 40})
    made = {"stats": STATS, "device": "cpu"}
    arguments = csv, reference / "tiny-20ms.ckpt", 1
    every = relabel(*arguments, tmp_path / "all", clusters=48, **made)
    labels = np.concatenate([utterance_labels(utterance, 20) for utterance in every.utterances])
    assert sorted(labels) == list(range(48))
    frames = np.load(every.folder / "kmeans.npy")[labels]  # in the order of the utterances
    some = relabel(*arguments, tmp_path / "some", clusters=20, sample_frames=20, **made)
    equal = np.abs(np.load(some.folder / "kmeans.npy")[:, None] - frames).max(2) < 1e-4  # (20, 48)
    assert (equal.sum(1) == 1).all()
    assert equal.sum(0).max() == 1
    assert all(part.any() for part in np.split(equal, [12, 28], axis=1))


def test_the_model_may_be_a_folder_in_transformers_layout(prepared, tmp_path, reference):
    made = {"clusters": 5, "stats": STATS, "device": "cpu"}
    checkpoint = load_checkpoint(reference / "tiny-20ms.ckpt")
    (tmp_path / "model").mkdir()
    save_checkpoint(tmp_path / "model" / "model.safetensors", checkpoint.config, checkpoint.state, None)
    data = relabel(prepared.folder, tmp_path / "model", 1, tmp_path / "stage2", **made)
    weights = sha256_of(tmp_path / "model" / "model.safetensors")[:16]
    assert data.info.made_by["checkpoint"] == f"{tmp_path / 'model'} ({weights})"
    # An earlier version noted of its model this hash of the file alone.
    write_dataset_info(data.folder / "dataset.yaml", replace(data.info, teacher_weights=""))
    made |= {"clusters": None, "kmeans": data.folder}
    relabel(prepared.folder, tmp_path / "model", 1, tmp_path / "again", **made)
    with pytest.raises(MelHuBERTError, match=r"are of hidden states of .*model .* other weights"):
        relabel(prepared.folder, reference / "tiny-10ms.ckpt", 1, tmp_path / "other", **made)


def test_bf16_gives_nearly_the_same_labels(prepared, tmp_path, reference):
    settings = {"clusters": 5, "stats": STATS, "device": "cpu"}
    arguments = (prepared.folder, reference / "tiny-20ms.ckpt", 2)
    full = relabel(*arguments, tmp_path / "full", **settings)
    half = relabel(*arguments, tmp_path / "half", **(settings | {"kmeans": full.folder}), precision="bf16")
    pairs = zip(full.utterances, half.utterances, strict=True)
    same = [np.mean(utterance_labels(a, 20) == utterance_labels(b, 20)) for a, b in pairs]
    assert np.mean(same) > 0.9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer": 9}, "layer 9: expected 0"),
        ({"stats": None}, "its log-Mel statistics are unknown"),
        ({"checkpoint": "gone.ckpt"}, "no such"),
        ({"data": "gone"}, "no such file or folder"),
        ({"clusters": 100_000}, "frames found for 100000 clusters"),
        ({"device": "abacus"}, "unknown to torch"),
    ],
)
def test_what_cannot_be_used_is_an_error(prepared, tmp_path, reference, changes, words):
    arguments = {
        "data": prepared.folder,
        "checkpoint": reference / "tiny-20ms.ckpt",
        "layer": 1,
        "out": tmp_path / "out",
        "stats": STATS,
    }
    with pytest.raises(MelHuBERTError, match=words):
        relabel(**(arguments | changes))
