"""The plan of an epoch: what it was before it was arrays, and steps of so many frames."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from s3prl_melhubert import MelHuBERTConfig, MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.training import sampler, seeds
from s3prl_melhubert.pretrain.training.beginning.identity import run_identity
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.loading import next_step, read_batches
from s3prl_melhubert.pretrain.training.sampler import BatchPlan, PlanSampler, in_order
from s3prl_melhubert.pretrain.training.settings import Settings

CONFIG = MelHuBERTConfig(num_cluster=16)
LENGTHS = {
    "even": np.random.default_rng(0).integers(20, 300, 1501),
    "cropped": np.minimum(np.random.default_rng(1).integers(100, 1700, 700), 750),
}
PLANS = {
    "published": {"utterances_per_batch": 4, "accumulate": 8, "processes": 1},
    "three processes": {"utterances_per_batch": 2, "accumulate": 2, "processes": 3},
    "max_frames": {"utterances_per_batch": 4, "accumulate": 2, "processes": 2, "max_frames": 900},
    "single utterances": {"utterances_per_batch": 1, "accumulate": 1, "processes": 1},
    "one step": {"utterances_per_batch": 512, "accumulate": 4, "processes": 1},
}
# Steps of an epoch, and a hash of the micro-batches of two epochs and of a validation. A run that began with
# version 0.1.0 continues exactly as long as these stay.
OF_VERSION_0_1_0 = {
    ("even", "published"): (47, "e3098d8cab35dc5c"),
    ("even", "three processes"): (126, "88802cae80a967f6"),
    ("even", "max_frames"): (81, "f3e3b1c67d98cb9a"),
    ("even", "single utterances"): (1501, "446f3cb38b15dd7c"),
    ("even", "one step"): (1, "fc44907c52217f99"),
    ("cropped", "published"): (22, "503a735241737637"),
    ("cropped", "three processes"): (59, "5250a2d721c234a7"),
    ("cropped", "max_frames"): (157, "ff8edffa7f3fbc17"),
    ("cropped", "single utterances"): (700, "5db61a40bd25898f"),
    ("cropped", "one step"): (1, "f74b7a45fd2109ab"),
}


@pytest.mark.parametrize("case", OF_VERSION_0_1_0, ids=" ".join)
def test_batches_are_those_of_version_0_1_0(case):
    lengths, settings = LENGTHS[case[0]], PLANS[case[1]]
    plan = BatchPlan(lengths, seed=7, **settings)
    steps = plan.steps_per_epoch
    digest = hashlib.sha256()
    for epoch in (0, 3):
        for step in plan.epoch(epoch):
            digest.update(repr([(b.epoch, b.places, b.utterances) for b in step]).encode())
    sampler = PlanSampler(plan, settings["processes"] - 1, steps - 1, 2 * steps + 1)
    for batch in [*sampler, *in_order(lengths, plan.utterances_per_batch, plan.max_frames)]:
        digest.update(repr((batch.epoch, batch.places, batch.utterances)).encode())
    assert (steps, digest.hexdigest()[:16]) == OF_VERSION_0_1_0[case]


def test_seeds_are_those_that_a_run_was_begun_with():
    """Of crops, masks and dropout; otherwise a run that goes on with another version would draw others."""
    assert seeds.numpy_generator(seeds.CROP, 1337, 2, 5).integers(0, 1000, 4).tolist() == [945, 483, 83, 162]
    assert seeds.torch_generator(seeds.MASK, 1337, 2, 5).initial_seed() == 2950329691721823123
    assert seeds.seed_of(seeds.DROPOUT, 1337, 4, 0) == 1965676637074670066


def test_identity_of_a_run_is_that_of_version_0_1_0(prepared):
    dataset = PretrainingDataset([read_prepared(prepared)] * 2, CONFIG, max_timestep=-60)
    settings = Settings.from_mapping({}, "test")
    identity = run_identity(dataset.config, settings, dataset, 3, 2)
    rows = [(f"u{i}", 30 + (37 * i) % 171) for i in range(20)] * 2
    lines = [f"{name} {length}\n" for name, length in rows if length > 60]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert identity["training data"] == f"{len(lines)} utterances, {digest[:12]}"
    assert identity["batch of a step"] == "64 utterances"


def test_the_plan_of_an_epoch_takes_under_16_bytes_an_utterance():
    lengths = np.random.default_rng(0).integers(100, 751, 100_000)
    plan = BatchPlan(lengths, utterances_per_batch=4, accumulate=8, processes=1, seed=0)
    assert plan.nbytes + plan.epoch(0).nbytes < 16 * len(lengths)


@pytest.mark.parametrize("max_frames", [None, 900])
@pytest.mark.parametrize("processes", [1, 3])
def test_steps_of_so_many_frames_take_each_utterance_once(max_frames, processes):
    lengths = np.random.default_rng(0).integers(20, 300, 5000)
    plan = BatchPlan(
        lengths,
        utterances_per_batch=4,
        accumulate=1,
        processes=processes,
        seed=1,
        max_frames=max_frames,
        frames_per_batch=8000,
    )
    steps = list(plan.epoch(0))
    assert len(steps) == plan.steps_per_epoch == lengths.sum() // 8000
    batches = [batch for step in steps for batch in step]
    assert sorted(u for batch in batches for u in batch.utterances) == list(range(5000))
    assert sorted(p for batch in batches for p in batch.places) == list(range(5000))
    for step in steps:
        frames = [int(lengths[u]) for batch in step for u in batch.utterances]
        assert abs(sum(frames) - 8000) < 300 + 8000 / len(steps)
        assert len(step) % processes == 0
        assert [batch.ends_step for batch in step] == [False] * (len(step) - processes) + [True] * processes
    if max_frames:
        assert all(len(b.utterances) * max(lengths[u] for u in b.utterances) <= max_frames for b in batches)
    else:
        assert all(len(batch.utterances) <= 4 for batch in batches)


def test_steps_of_so_many_frames_are_the_same_for_any_size_of_what_is_added_up_at_a_time(monkeypatch):
    """Of more than a million utterances, a part is added up after the other."""
    lengths = np.random.default_rng(0).integers(20, 300, 900)
    size = {"utterances_per_batch": 4, "accumulate": 1, "processes": 1, "seed": 0, "frames_per_batch": 3000}
    plan = BatchPlan(lengths, **size).epoch(2)
    whole, sums = list(plan), np.cumsum(lengths[plan.order])
    for step, end in enumerate(
        plan.bounds[1:], 1
    ):  # with the utterance in which its share of all frames ends
        assert sums[end - 2] < sums[-1] * step // len(plan) <= sums[end - 1]
    for block in (1, 7, 899):
        monkeypatch.setattr(sampler, "BLOCK", block)
        assert list(BatchPlan(lengths, **size).epoch(2)) == whole


@pytest.mark.parametrize("frames_per_batch", [None, 8000])
def test_with_max_frames_the_number_of_utterances_of_a_micro_batch_counts_for_nothing(frames_per_batch):
    lengths = np.random.default_rng(0).integers(20, 300, 900)
    more = {
        "accumulate": 2,
        "processes": 1,
        "seed": 0,
        "max_frames": 900,
        "frames_per_batch": frames_per_batch,
    }
    one, many = (list(BatchPlan(lengths, utterances_per_batch=n, **more).epoch(0)) for n in (1, 64))
    assert one == many


def test_steps_of_so_many_frames_do_not_depend_on_processes_or_micro_batches():
    lengths = np.random.default_rng(0).integers(20, 300, 900)
    one, three = (
        BatchPlan(
            lengths, utterances_per_batch=size, accumulate=1, processes=count, seed=0, frames_per_batch=3000
        )
        for size, count in ((16, 1), (2, 3))
    )
    for steps in zip(one.epoch(2), three.epoch(2), strict=True):
        pairs = [[p for b in step for p in zip(b.places, b.utterances, strict=True)] for step in steps]
        assert pairs[0] == pairs[1]


@pytest.mark.parametrize(
    ("frames", "processes", "words"),
    [(150, 1, "at least 200"), (300, 2, "each of 2 processes reads at least one; expected at least 400")],
)
def test_too_few_frames_for_a_step_are_refused(frames, processes, words):
    with pytest.raises(MelHuBERTError, match=words):
        BatchPlan(
            [200, 100],
            utterances_per_batch=4,
            accumulate=1,
            processes=processes,
            seed=0,
            frames_per_batch=frames,
        )


def test_fewer_utterances_than_processes():
    plan = BatchPlan(
        [100, 90], utterances_per_batch=4, accumulate=1, processes=3, seed=0, frames_per_batch=300
    )
    [step] = plan.epoch(0)
    assert [len(batch.utterances) for batch in step] == [1, 1, 1]
    assert {u for batch in step for u in batch.utterances} == {0, 1}


def test_a_step_of_so_many_frames_is_read_whole(prepared):
    dataset = PretrainingDataset([read_prepared(prepared)], CONFIG, sequence_length=40)
    plan = BatchPlan(
        dataset.lengths, utterances_per_batch=2, accumulate=1, processes=2, seed=0, frames_per_batch=200
    )
    total = 0
    for process in range(2):
        sampler = PlanSampler(plan, process, 0, plan.steps_per_epoch)
        with read_batches(dataset, sampler, 0, torch.device("cpu")) as batches:
            for step in range(plan.steps_per_epoch):
                found = next_step(batches)
                expected = plan.epoch(0)[step][process::2]
                assert [len(batch.lengths) for batch in found] == [len(b.utterances) for b in expected]
                total += sum(batch.frames for batch in found)
            assert next(batches, None) is None
    assert total == dataset.lengths.sum()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_training_by_frames_loses_the_same_however_it_is_cut(
    processes, prepared, yamls, tmp_path, start, finish, log
):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    runs = []
    for number, max_frames in enumerate((90, 180)):
        settings = yamls(
            model={"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0},
            runner={"total_steps": 4, "log_step": 1, "gradient_accumulate_steps": 1},
            datarc={"frames_per_batch": 300, "max_frames": max_frames},
        )
        folder = tmp_path / str(number)
        arguments = ["pretrain", *settings, "--data", prepared, "-n", folder, "--device", "cpu"]
        if processes == 2 and number:
            finish(start(*arguments, launcher=launcher))
        else:
            assert main([str(argument) for argument in arguments]) == 0
        runs.append([float(row["loss"]) for row in log(folder)])
    assert len(runs[0]) == 4
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)


@pytest.mark.parametrize(("accumulate", "repeating"), [(1, 0), (7, 0), (10, 0), (11, 22)])
def test_a_step_repeats_utterances_only_where_it_has_more_than_there_are(accumulate, repeating):
    """Where an epoch has several steps, the last one is filled up, which is no news."""
    plan = BatchPlan([50] * 20, utterances_per_batch=2, accumulate=accumulate, processes=1, seed=0)
    assert plan.repeating_step == repeating


def test_a_step_of_more_utterances_than_there_are_is_told(prepared, yamls, tmp_path, capsys):
    settings = yamls(runner={"total_steps": 1, "gradient_accumulate_steps": 11})  # 20, two at a time
    assert main(["pretrain", *settings, "--data", str(prepared), "-n", str(tmp_path / "exp")]) == 0
    assert "a step has 22 utterances, and the data 20: they come again" in capsys.readouterr().out


def test_utterances_of_more_frames_than_16_bits_count_are_as_long_as_they_are():
    """Eleven minutes in a file, which nothing crops."""
    lengths = [65_540] * 3 + [10] * 3
    plan = BatchPlan(lengths, utterances_per_batch=4, accumulate=1, processes=1, seed=0, max_frames=65_540)
    batches = [batch for step in plan.epoch(0) for batch in step]
    assert sorted(u for batch in batches for u in batch.utterances) == list(range(6))
    assert all(len(b.utterances) * max(lengths[u] for u in b.utterances) <= 65_540 for b in batches)


def test_a_plan_of_nothing_is_refused():
    with pytest.raises(MelHuBERTError, match="no utterances to make batches of"):
        BatchPlan([], utterances_per_batch=4, accumulate=1, processes=1, seed=0)
