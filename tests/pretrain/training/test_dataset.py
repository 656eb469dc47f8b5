"""Batches of prepared sets: what is read, how it is cut, and that it can be had again."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch

from s3prl_melhubert import MelHuBERTConfig, MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.frontend import stack_frames
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.loading import read_batches
from s3prl_melhubert.pretrain.training.sampler import BatchPlan, MicroBatch, PlanSampler, in_order
from s3prl_melhubert.statistics import FeatureStats

CONFIGS = {10: MelHuBERTConfig(feat_emb_dim=40, num_cluster=16), 20: MelHuBERTConfig(num_cluster=16)}
CPU = torch.device("cpu")


def whole(number: int) -> MicroBatch:
    return MicroBatch(0, (number,), (number,))


@pytest.mark.parametrize("layout", ["prepared", "published"])
def test_frames_and_labels_are_those_of_the_files(layout, prepared, make_published, make_utterance, tmp_path):
    path = prepared if layout == "prepared" else make_published([50, 51, 67])
    data = read_prepared(path)
    for period, config in CONFIGS.items():
        dataset = PretrainingDataset([data], config)
        for number in (0, 1, 2):
            frames, labels = make_utterance(number, data.utterances[number].length)
            batch = dataset[whole(number)]
            expected = torch.from_numpy(frames)
            expected = stack_frames(expected) if period == 20 else expected
            assert torch.equal(batch.features[0], expected)
            assert batch.labels[0].tolist() == labels[:: period // 10].tolist()
            assert batch.padding_mask is None


@pytest.mark.parametrize("layout", ["prepared", "published"])
def test_labels_of_20_ms_are_read_as_they_are(
    layout, make_prepared, make_published, make_utterance, tmp_path
):
    lengths = [31, 50, 67]
    if layout == "prepared":
        path = make_prepared(tmp_path / "set", lengths, label_period_ms=20)
    else:
        path = make_published(lengths, label_step=2)
    dataset = PretrainingDataset([read_prepared(path)], CONFIGS[20])
    for number, length in enumerate(lengths):
        labels = make_utterance(number, length)[1]
        assert dataset[whole(number)].labels[0].tolist() == labels[::2].tolist()
    with pytest.raises(MelHuBERTError, match="label every 20 ms"):
        PretrainingDataset([read_prepared(path)], CONFIGS[10])[whole(0)]


def test_crops_are_stretches_of_frames_with_their_own_labels(prepared, make_utterance):
    data = read_prepared(prepared)
    dataset = PretrainingDataset([data], CONFIGS[20], sequence_length=20)
    number = max(range(len(dataset)), key=lambda i: dataset.utterances[i].length)
    frames, labels = make_utterance(number, dataset.utterances[number].length)
    stacked = stack_frames(torch.from_numpy(frames))
    begins = set()
    for place in range(30):
        batch = dataset[MicroBatch(0, (place,), (number,))]
        begin = next(t for t in range(len(stacked)) if torch.equal(stacked[t], batch.features[0, 0]))
        begins.add(begin)
        assert torch.equal(batch.features[0], stacked[begin : begin + 20])
        assert batch.labels[0].tolist() == labels[::2][begin : begin + 20].tolist()
    assert len(begins) > 10


def test_an_item_depends_on_its_place_alone(prepared):
    dataset = PretrainingDataset([read_prepared(prepared)], CONFIGS[20], sequence_length=20, seed=3)
    alone = dataset[MicroBatch(1, (5,), (7,))]
    among = dataset[MicroBatch(1, (4, 5, 6), (3, 7, 0))]
    n = alone.lengths[0]
    assert torch.equal(alone.features[0], among.features[1, :n])
    assert torch.equal(alone.mask[0], among.mask[1, :n])
    for other in (MicroBatch(2, (5,), (7,)), MicroBatch(1, (6,), (7,))):
        assert not torch.equal(alone.mask, dataset[other].mask)


def test_padding_is_marked_and_never_masked(prepared):
    dataset = PretrainingDataset([read_prepared(prepared)], CONFIGS[20])
    batch = dataset[MicroBatch(0, (0, 1, 2), (0, 1, 2))]
    assert (~batch.padding_mask).sum(1).tolist() == list(batch.lengths)
    assert not (batch.mask & batch.padding_mask).any()
    assert batch.masked_frames == int(batch.mask.sum())
    assert not batch.features[batch.padding_mask].any()


def test_splitting_a_batch_keeps_every_frame(prepared):
    dataset = PretrainingDataset([read_prepared(prepared)], CONFIGS[20])
    batch = dataset[MicroBatch(0, tuple(range(5)), tuple(range(5)))]
    pieces = batch.split(2)
    assert [len(piece.lengths) for piece in pieces] == [3, 2]
    assert sum(piece.masked_frames for piece in pieces) == batch.masked_frames
    for kind in ("features", "labels", "mask"):
        rows = [row for piece in pieces for row in getattr(piece, kind)]
        for row, whole_row, length in zip(rows, getattr(batch, kind), batch.lengths, strict=True):
            assert torch.equal(row[:length], whole_row[:length])
    for piece in pieces:
        assert piece.features.shape[1] == max(piece.lengths)
        assert (~piece.padding_mask).sum(1).tolist() == list(piece.lengths)
    assert all(piece.padding_mask is None for piece in batch.split(5))


def test_readers_end_with_the_block_even_when_an_error_keeps_it_alive(prepared):
    """They ignore SIGTERM, by which Python ends its children at exit, and would be waited for for ever."""
    dataset = PretrainingDataset([read_prepared(prepared)], CONFIGS[20], sequence_length=20)
    plan = BatchPlan(dataset.lengths, utterances_per_batch=3, accumulate=1, processes=1, seed=0)

    def fail():
        with read_batches(dataset, PlanSampler(plan, 0, 0, 100), 1, CPU) as batches:
            next(batches)
            raise RuntimeError("while batches are left")

    before = set(multiprocessing.active_children())  # other tests' pools may be waiting for work
    with pytest.raises(RuntimeError) as error:
        fail()
    assert set(multiprocessing.active_children()) <= before
    assert error.traceback  # which holds the frame, and all that is in it


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_readers(prepared, workers):
    dataset = PretrainingDataset([read_prepared(prepared)], CONFIGS[20], sequence_length=20)
    plan = BatchPlan(dataset.lengths, utterances_per_batch=3, accumulate=2, processes=1, seed=0)
    sampler = PlanSampler(plan, 0, 0, 2 * plan.steps_per_epoch)
    with (
        read_batches(dataset, sampler, 0, CPU) as expected_batches,
        read_batches(dataset, sampler, workers, CPU) as found_batches,
    ):
        expected, found = list(expected_batches), list(found_batches)
    assert len(found) == len(expected) == 2 * plan.steps_per_epoch * plan.accumulate
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.features, b.features)
        assert torch.equal(a.mask, b.mask)


@pytest.mark.parametrize("max_frames", [None, 900])
def test_an_epoch_holds_every_utterance_and_epochs_differ(max_frames):
    lengths = np.random.default_rng(0).integers(20, 300, 5000).tolist()
    plan = BatchPlan(
        lengths, utterances_per_batch=4, accumulate=2, processes=2, seed=1, max_frames=max_frames
    )
    orders = []
    for epoch in range(2):
        steps = plan.epoch(epoch)
        assert len(steps) == plan.steps_per_epoch
        assert all(len(step) == 4 for step in steps)
        batches = [micro_batch for step in steps for micro_batch in step]
        utterances = [u for batch in batches for u in batch.utterances]
        places = [p for batch in batches for p in batch.places]
        assert set(utterances) == set(range(5000))
        assert len(places) == len(set(places)) == len(utterances) < 5200
        padded = sum(len(b.utterances) * max(lengths[u] for u in b.utterances) for b in batches)
        assert padded < 1.1 * sum(lengths[u] for u in utterances), "too much padding"
        if max_frames:
            for batch in batches:
                assert len(batch.utterances) * max(lengths[u] for u in batch.utterances) <= max_frames
        orders.append(utterances)
    assert orders[0] != orders[1]


def test_processes_and_accumulation_share_out_the_same_steps():
    lengths = np.random.default_rng(0).integers(20, 300, 200).tolist()
    plans = [
        BatchPlan(lengths, utterances_per_batch=16, accumulate=1, processes=1, seed=0),
        BatchPlan(lengths, utterances_per_batch=2, accumulate=4, processes=2, seed=0),
    ]
    for steps in zip(*(plan.epoch(3) for plan in plans), strict=True):
        pairs = [
            sorted(pair for batch in step for pair in zip(batch.places, batch.utterances, strict=True))
            for step in steps
        ]
        assert pairs[0] == pairs[1]


def test_sampler_begins_where_it_is_told():
    plan = BatchPlan([100] * 50, utterances_per_batch=4, accumulate=2, processes=2, seed=0)
    everything = list(PlanSampler(plan, 1, 0, 3 * plan.steps_per_epoch))
    first = plan.steps_per_epoch + 2
    assert list(PlanSampler(plan, 1, first, 3 * plan.steps_per_epoch)) == everything[2 * first :]
    others = list(PlanSampler(plan, 0, 0, 3 * plan.steps_per_epoch))
    assert not {(b.epoch, b.places) for b in everything} & {(b.epoch, b.places) for b in others}


def test_more_utterances_in_a_step_than_there_are():
    plan = BatchPlan([100, 90, 80], utterances_per_batch=8, accumulate=1, processes=1, seed=0)
    assert plan.steps_per_epoch == 1
    assert set(plan.epoch(0)[0][0].utterances) == {0, 1, 2}


def test_validation_takes_each_utterance_once():
    lengths = [50, 30, 80, 20, 60]
    for max_frames in (None, 100):
        batches = in_order(lengths, 2, max_frames)
        assert sorted(u for batch in batches for u in batch.utterances) == list(range(5))


@pytest.mark.parametrize(("max_timestep", "kept"), [(0, 5), (-320, 2), (320, 3), (-319, 3), (500, 5)])
def test_max_timestep_chooses_by_length(make_prepared, tmp_path, max_timestep, kept):
    path = make_prepared(tmp_path / "set", [100, 200, 320, 321, 500])
    assert len(PretrainingDataset([read_prepared(path)], CONFIGS[20], max_timestep=max_timestep)) == kept


def test_lengths_that_disagree_are_named(make_published, tmp_path):
    csv = make_published([100, 100])
    labels = tmp_path / "published" / "1.label.npy"
    np.save(labels, np.load(labels)[:99])
    assert PretrainingDataset([read_prepared(csv)], CONFIGS[10])[whole(1)].lengths == (99,)
    np.save(labels, np.load(labels)[:80])
    dataset = PretrainingDataset([read_prepared(csv)], CONFIGS[10])
    from s3prl_melhubert.pretrain.data.manifest import open_array

    open_array.cache_clear()
    with pytest.raises(MelHuBERTError, match=r"1\.label\.npy: 80 labels .*100"):
        dataset[whole(1)]


@pytest.mark.parametrize(("frames", "labels"), [(1, 0), (0, 1), (0, 0)])
def test_an_utterance_with_nothing_to_learn_is_named(make_published, tmp_path, frames, labels):
    """A label or frame more or fewer is put up with, and of a single one nothing is left."""
    path = make_published([1, 40])
    np.save(tmp_path / "published" / "0.npy", np.zeros((frames, 40), np.float32))
    np.save(tmp_path / "published" / "0.label.npy", np.zeros(labels, np.int64))
    dataset = PretrainingDataset([read_prepared(path)], CONFIGS[10])
    with pytest.raises(MelHuBERTError, match=r"0\.npy|0\.label\.npy"):
        dataset[whole(0)]
    assert len(dataset[whole(1)].features[0]) == 40


def test_a_cluster_id_that_the_model_lacks_is_named(make_published):
    csv = make_published([100])
    dataset = PretrainingDataset([read_prepared(csv)], MelHuBERTConfig(num_cluster=10))
    with pytest.raises(MelHuBERTError, match=r"0\.label\.npy: cluster id 1\d .*num_cluster 10"):
        dataset[whole(0)]


@pytest.mark.parametrize("label", [0, 9, 10, -1])
def test_an_utterance_may_have_a_single_cluster_if_the_model_has_it(label, make_published, tmp_path):
    csv = make_published([100])
    np.save(tmp_path / "published" / "0.label.npy", np.full(100, label))
    dataset = PretrainingDataset([read_prepared(csv)], MelHuBERTConfig(num_cluster=10))
    if label in range(10):
        assert (dataset[whole(0)].labels == label).all()
        return
    with pytest.raises(MelHuBERTError, match=rf"cluster id {label} found .* ids 0 to 9"):
        dataset[whole(0)]


def test_sets_must_go_with_the_model_and_with_each_other(make_prepared, prepared, tmp_path):
    with pytest.raises(MelHuBERTError, match=r"16 clusters.*num_cluster 10"):
        PretrainingDataset([read_prepared(prepared)], MelHuBERTConfig(num_cluster=10))
    stats = FeatureStats.from_arrays(np.zeros(40), np.ones(40), "others")
    other = make_prepared(tmp_path / "other", [50], stats=stats)
    with pytest.raises(MelHuBERTError, match="other statistics"):
        PretrainingDataset([read_prepared(prepared), read_prepared(other)], CONFIGS[20])
    same, others = (make_prepared(tmp_path / name, [50]) for name in ("same", "others"))
    clustered = make_prepared(tmp_path / "clustered", [50])
    for folder, scale in ((clustered, 1), (same, 1), (others, 2)):
        np.save(folder / "kmeans.npy", np.eye(16, 40, dtype=np.float32) * scale)
    PretrainingDataset([read_prepared(folder) for folder in (clustered, same, prepared)], CONFIGS[20])
    with pytest.raises(MelHuBERTError, match=r"others: its labels are of other clusters.*prepare --kmeans"):
        PretrainingDataset([read_prepared(folder) for folder in (clustered, same, others)], CONFIGS[20])
    with pytest.raises(MelHuBERTError, match="leaves none of 20 utterances"):
        PretrainingDataset([read_prepared(prepared)], CONFIGS[20], max_timestep=-1000)
    with pytest.raises(MelHuBERTError, match="max_frames: 10"):
        BatchPlan([50], utterances_per_batch=4, accumulate=1, processes=1, seed=0, max_frames=10)


@pytest.mark.parametrize("rows", [False, True])
def test_shared_memory_without_room_is_told_and_not_waited_for(
    rows, prepared, yamls, tmp_path, monkeypatch, capsys
):
    """A DataLoader waits for ever for a batch that a reader cannot send, as in a container of 64 MB."""

    def no_room(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: Success (0)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)  # The readers are forks of this process.
    settings = yamls(datarc={"num_workers": 1, "rows": rows})
    assert main(["pretrain", *settings, "-n", str(tmp_path / "exp"), "--data", str(prepared)]) == 2
    assert "datarc.num_workers: 1 processes read ahead, and shared memory" in capsys.readouterr().err


def test_readers_share_what_they_read(prepared, yamls, tmp_path, log):
    """A batch of a reader is that of this process."""
    for workers in (0, 1):
        settings = yamls(
            datarc={"num_workers": workers, "rows": True}, runner={"total_steps": 3, "log_step": 1}
        )
        exp = str(tmp_path / str(workers))
        assert main(["pretrain", *settings, "-n", exp, "--data", str(prepared)]) == 0
    losses = [[row["loss"] for row in log(tmp_path / name)] for name in "01"]
    assert losses[0] == losses[1]
