"""What a run tells of its speed, and the log that it goes on with."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event, SessionLog
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, MelHuBERTError, load_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.loss import LossWeights, PredictionLoss
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.training import metrics
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.sampler import MicroBatch


@pytest.mark.parametrize(
    "uneven",
    [{}, {"encoder_attention_heads": [6, 0], "encoder_ffn_embed_dim": [0, 900], "encoder_head_dim": 64}],
    ids=["dense", "uneven"],
)
def test_training_flops_agree_with_a_count(uneven):
    config = MelHuBERTConfig(encoder_layers=2, num_cluster=100, **uneven)
    with torch.device("meta"):
        model = MelHuBERT(config)
        features = torch.empty(2, 60, 80)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(features)
    counted = 3 * counter.get_total_flops()
    # An even kernel makes one frame too many, which the counter sees.
    assert metrics.training_flops(config, (60, 60), 0) == pytest.approx(counted, rel=0.015)
    head = metrics.training_flops(config, (60, 60), 10) - metrics.training_flops(config, (60, 60), 0)
    assert head == 3 * 2 * 768 * 100 * 10


@pytest.mark.parametrize("step", [0, 4])
def test_tensorboard_is_told_to_drop_the_steps_after_the_one_that_a_run_goes_on_from(step, tmp_path):
    metrics.Log(tmp_path, 8, step, enabled=True).close()
    [path] = tmp_path.glob("events.out.tfevents.*")
    content, starts = path.read_bytes(), []
    while content:  # records: 8 bytes with the length, 4 of a checksum, the event, and 4 of a checksum
        length = int.from_bytes(content[:8], "little")
        event, content = Event.FromString(content[12 : 12 + length]), content[16 + length :]
        if event.session_log.status == SessionLog.START:
            starts.append(event.step)
    assert starts == [step + 1]


def test_a_log_with_the_old_name_of_mfu_goes_on(prepared, yamls, tmp_path, log):
    arguments = ["pretrain", *yamls(runner={"total_steps": 6}), "--data", str(prepared)]
    exp = tmp_path / "exp"
    assert main([*arguments, "-n", str(exp)]) == 0
    text = (exp / "log.csv").read_text()
    assert "mfu" in text
    (exp / "log.csv").write_text(text.replace("mfu", "share_of_peak"))
    longer = [*yamls(runner={"total_steps": 8}), "--data", str(prepared)]
    assert main(["pretrain", *longer, "-n", str(exp), "--resume"]) == 0
    assert [row["step"] for row in log(exp)] == ["2", "4", "6", "8"]
    assert all(float(row["mfu"]) > 0 for row in log(exp))


@pytest.fixture
def write_log(tmp_path):
    """`write_log()`: a log of three lines, of which two are whole and one is damaged in the middle."""

    def write(folder=tmp_path):
        log = metrics.Log(folder, 6, 0, True)
        for step in (1, 2, 3):
            log.write(step, 1, {"loss": 2.5, "masked_accuracy": 0.25})
        log.close()
        path = folder / metrics.LOG
        path.write_text(path.read_text().replace("2,1,2.5", "2,1,x.y"))
        with path.open("ab") as file:
            file.write(b"\xff\xfe\0,1")
        return path

    return write


def test_damaged_lines_of_a_log_are_left_out_with_a_word(write_log, tmp_path, capsys):
    path = write_log()
    capsys.readouterr()
    metrics.Log(tmp_path, 6, 3, True).close()
    assert f"{path}: 2 damaged or unfinished lines are left out" in capsys.readouterr().out
    rows, damaged = metrics.read_log(path)
    assert [row["step"] for row in rows] == ["1", "3"]
    assert damaged == 0


def test_no_training_fails_by_its_picture(write_log, tmp_path, capsys, monkeypatch):
    write_log()
    metrics.draw_curves(tmp_path)
    assert (tmp_path / metrics.CURVES).is_file()

    def full(path):
        raise MelHuBERTError("the disk is full")

    monkeypatch.setattr(metrics, "atomic_path", full)
    metrics.draw_curves(tmp_path)
    assert f"{tmp_path / metrics.CURVES}: not drawn (the disk is full)" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["full disk", "removed folder"])
def test_a_line_that_cannot_be_written_says_what_is_left(fault, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "exp"
    folder.mkdir()
    log = metrics.Log(folder, 6, 0, True)
    words = "No space left on device.*the checkpoints are intact: make space"
    if fault == "removed folder":
        shutil.rmtree(folder)
        words = "No such file.*the folder has been removed, and the checkpoints with it: start the run anew"
    else:
        monkeypatch.setattr(log.tensorboard, "flush", full)
        monkeypatch.setattr(log.tensorboard, "close", full)
    with pytest.raises(MelHuBERTError, match=words), closing(log):
        log.write(1, 1, {"loss": 2.5})


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_full_disk_of_tensorboards_thread_is_told_in_the_trainings_own(tmp_path, monkeypatch):
    def write_until_told(log: metrics.Log) -> None:
        for step in range(1, 100):
            log.write(step, 1, {"loss": 2.5})
            time.sleep(0.01)

    monkeypatch.setattr(record_writer, "open_file", lambda path: Path("/dev/full").open("wb"))  # noqa: SIM115
    before = set(threading.enumerate())
    words = r"the line of step \d+ cannot be written \(No space left on device\); the checkpoints are intact"
    with closing(metrics.Log(tmp_path, 6, 0, True)) as log, pytest.raises(MelHuBERTError, match=words):
        write_until_told(log)
    left = set(threading.enumerate()) - before
    assert "_EventLoggerThread" not in {
        type(each).__name__ for each in left
    }  # whose traceback would come later


def test_the_peak_is_measured_past_a_moment_in_which_others_hold_the_cores(monkeypatch):
    """Where all of the first ten products were slow, a run's MFU was twice what it is."""
    calls, now = 0, 1000.0

    def held_up_at_first(a, b):
        nonlocal calls, now
        calls += 1
        now += 0.02 if calls <= 12 else 0.01

    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(metrics, "linear", held_up_at_first)
    assert metrics.measure_peak(torch.device("cpu"), "fp32") == pytest.approx(2 * 768**3 / 0.01)


def test_a_validation_is_without_dropout_and_changes_nothing_of_the_training(prepared, yamls, tmp_path, log):
    for name, more in (("plain", []), ("validated", ["--valid", str(prepared)])):
        settings = yamls(
            model={"dropout": 0.4, "attention_dropout": 0.4},
            runner={"total_steps": 3, "valid_step": 1},
            datarc={"max_timestep": -60},  # what is too short to train on is validated on all the same
        )
        exp = str(tmp_path / name)
        assert (
            main(["pretrain", *settings, "--data", str(prepared), "-n", exp, "--device", "cpu", *more]) == 0
        )
    plain, validated = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("plain", "validated"))
    assert plain.weights_digest() == validated.weights_digest()

    rows = log(tmp_path / "validated")
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    dataset = PretrainingDataset([read_prepared(prepared)], plain.config, sequence_length=40, seed=1337)
    total = PredictionLoss.zero(LossWeights.of(plain.config))
    with torch.no_grad():
        for number in range(len(dataset)):
            total += dataset[MicroBatch(0, (number,), (number,))].loss(plain.build_model().eval())
    means = total.means()
    assert float(rows[-1]["valid_loss"]) == pytest.approx(means["masked_loss"], rel=1e-5)
    assert float(rows[-1]["valid_masked_accuracy"]) == pytest.approx(means["masked_accuracy"])
