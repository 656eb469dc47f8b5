"""What a run tells of its speed, and the log that it goes on with."""

from __future__ import annotations

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event, SessionLog
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.training import metrics


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
