"""Sets that keep features in half precision, or none: the same labels, and the same batches."""

import csv
import re

import numpy as np
import pytest
import soundfile
import torch
import yaml

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.pretrain.data.description import check_set, read_prepared
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.relabel import relabel
from s3prl_melhubert.pretrain.data.workers import Workers
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.sampler import BatchPlan, PlanSampler

SMALL = {"clusters": 6, "shard_files": 4, "workers": Workers(jobs=1)}  # as `prepared` was made


@pytest.fixture(scope="module")
def without(corpus, tmp_path_factory):
    """The set of `prepared`, but for its features."""
    out = tmp_path_factory.mktemp("without") / "set"
    return prepare_audio([corpus], out, subsets=["train-clean-100"], features="none", **SMALL)


def labels_of(data) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((data.folder / "labels").iterdir())}


def batches(data, period: int):
    """An epoch of crops of 0.4 s."""
    config = MelHuBERTConfig(feat_emb_dim=40 if period == 10 else 80, num_cluster=6)
    dataset = PretrainingDataset([data], config, sequence_length=400 // period)
    plan = BatchPlan(dataset.lengths, utterances_per_batch=3, accumulate=1, processes=1, seed=0)
    return [dataset[batch] for batch in PlanSampler(plan, 0, 0, plan.steps_per_epoch)]


@pytest.mark.parametrize("period", [10, 20])
def test_batches_from_audio_are_those_from_features(prepared, without, period):
    assert not (without.folder / "features").exists()
    assert labels_of(without) == labels_of(prepared)
    assert without.info.stats == prepared.info.stats
    for ours, expected in zip(batches(without, period), batches(prepared, period), strict=True):
        torch.testing.assert_close(ours.features, expected.features, atol=1e-5, rtol=0)
        for name in ("labels", "mask", "lengths"):
            assert np.array_equal(getattr(ours, name), getattr(expected, name))


def test_with_centroids_given_no_frame_is_ever_on_the_disk(prepared, without, corpus, tmp_path, monkeypatch):
    from s3prl_melhubert.pretrain.data import shards

    monkeypatch.setattr(shards, "ArrayWriter", None)
    more = SMALL | {"clusters": None, "kmeans": prepared.folder, "features": "none"}
    data = prepare_audio([corpus], tmp_path / "out", subsets=["train-clean-100"], **more)
    assert labels_of(data) == labels_of(prepared)
    assert (data.folder / "manifest.csv").read_text() == (without.folder / "manifest.csv").read_text()


def test_features_in_half_precision_take_half_the_disk(prepared, corpus, tmp_path):
    arguments = ["--subset", "train-clean-100", "--clusters", "6", "--shard-files", "4", "--jobs", "1"]
    out = tmp_path / "out"
    assert (
        main(["prepare", "--audio", str(corpus), "--out", str(out), "--features", "float16", *arguments]) == 0
    )
    data = read_prepared(out)
    assert labels_of(data) == labels_of(prepared)
    for path in (prepared.folder / "features").iterdir():
        half, whole = np.load(out / "features" / path.name), np.load(path)
        assert half.dtype == np.float16
        assert np.array_equal(half, whole.astype(np.float16))
    for ours, expected in zip(batches(data, 20), batches(prepared, 20), strict=True):
        assert ours.features.dtype == torch.float32
        torch.testing.assert_close(ours.features, expected.features, atol=1e-3, rtol=1e-3)


def test_frames_that_half_precision_cannot_hold_are_refused(corpus, tmp_path, capsys, recwarn):
    std = [2.0] * 40
    std[7] = 1e-4
    (tmp_path / "stats.yaml").write_text(yaml.safe_dump({"mean": [8.0] * 40, "std": std}))
    command = ["prepare", "--audio", str(corpus), "--stats", str(tmp_path / "stats.yaml"), "--clusters", "4"]
    for jobs in ("1", "2"):
        out = str(tmp_path / f"half{jobs}")
        assert main([*command, "--features", "float16", "--jobs", jobs, "--out", out]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("melhubert:")]
        assert re.search(
            r"utterance 10\d-\d-\d{4}: a frame becomes -?\d\S* in bin 7 when it is normalized", line
        )
        assert "too large for float16; the std of this bin is 0.0001: give --stats that fit" in line
        assert not list((tmp_path / f"half{jobs}" / "features").iterdir())
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]
    assert main([*command, "--jobs", "1", "--out", str(tmp_path / "whole")]) == 0


def test_frames_that_float32_cannot_hold_are_refused_wherever_they_are_used_first(
    corpus, tmp_path, capsys, recwarn
):
    """That is in K-means, or, with centroids of others and no features, where labels are found."""
    (tmp_path / "stats.yaml").write_text(yaml.safe_dump({"mean": [8.0] * 40, "std": [1e-39] * 40}))
    np.save(tmp_path / "kmeans.npy", np.eye(4, 40, dtype=np.float32))
    command = ["prepare", "--audio", str(corpus), "--stats", str(tmp_path / "stats.yaml"), "--jobs", "1"]
    for more, words in (
        (["--clusters", "4"], "K-means: frames with NaN or infinite figures found"),
        (["--kmeans", str(tmp_path / "kmeans.npy"), "--features", "none"], ".flac: frames with NaN or inf"),
    ):
        assert main([*command, *more, "--out", str(tmp_path / more[0])]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_a_run_on_audio_trains_as_on_features(prepared, without, tmp_path, yamls):
    losses = []
    for data in (prepared, without):
        out = tmp_path / f"exp{len(losses)}"
        status = main(["pretrain", *yamls(), "--device", "cpu", "--data", str(data.folder), "-n", str(out)])
        assert status == 0
        with (out / "log.csv").open() as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_teacher_reads_audio_too(prepared, without, reference, tmp_path):
    found = []
    for data in (prepared, without):
        more = {"clusters": 5, "device": "cpu", "stats": "librispeech-360h"}
        again = relabel(data.folder, reference / "tiny-20ms.ckpt", 1, tmp_path / f"again{len(found)}", **more)
        assert [u.is_audio for u in again.utterances] == [data is without] * 12
        found.append(np.load(again.folder / "labels" / "00000.npy"))
    assert (found[0] == found[1]).mean() > 0.999


def test_audio_that_changed_is_not_trained_on(corpus, tmp_path, capsys):
    audio = tmp_path / "audio"
    audio.mkdir()
    for path in sorted((corpus / "train-clean-100").rglob("*.flac"))[:6]:
        (audio / path.name).write_bytes(path.read_bytes())
    data = prepare_audio([audio], tmp_path / "out", features="none", **SMALL)
    assert check_set(data.folder)[1].faults == []

    changed = sorted(audio.iterdir())[2]
    wave, rate = soundfile.read(changed)
    soundfile.write(changed, np.concatenate([wave, wave]), rate)
    gone = sorted(audio.iterdir())[4]
    gone.unlink()
    with pytest.raises(MelHuBERTError, match=rf"({changed.name}: \d+ frames of 10 ms found|{gone.name}: )"):
        batches(data, 20)
    assert main(["check", str(data.folder)]) == 2
    said = capsys.readouterr()
    for words in (f"{changed.name}: ", f"{gone.name}: is not there"):
        assert words in said.out + said.err


def test_check_says_that_audio_was_not_compared(without, capsys):
    assert main(["check", str(without.folder)]) == 0
    said = capsys.readouterr().out
    assert "every file" not in said
    assert "6 files are what was written" in said  # three of labels, and three that describe the set
    assert "12 audio files have no hash to be compared with" in said


def test_a_csv_of_audio_alone_is_refused(without, tmp_path):
    """Nothing would say which statistics its frames are to be normalized with."""
    rows = (without.folder / "manifest.csv").read_text().replace("labels/", f"{without.folder}/labels/")
    (tmp_path / "alone.csv").write_text(rows)
    with pytest.raises(MelHuBERTError, match=r"neither a \.npy file nor the audio of a prepared set"):
        batches(read_prepared(tmp_path / "alone.csv"), 20)


def test_features_of_an_archive_are_its_own(tmp_path, capsys):
    assert main(["prepare", "--kaldi", str(tmp_path), "--out", str(tmp_path / "o"), "--no-features"]) == 2
    assert "--features: goes with --audio" in capsys.readouterr().err
