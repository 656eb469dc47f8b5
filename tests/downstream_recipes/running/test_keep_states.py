"""`--keep-states`: the frozen upstream hears each utterance once, and all else is as without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.downstream_recipes.running.one_pass.frozen import KeptStates
from s3prl_melhubert.upstream_expert.expert import UpstreamExpert

WAVS = [torch.full((n,), float(n)) for n in (10, 20, 30)]
SIZE = 2 * 10 * 4  # bytes of what `Upstream` gives for the first


class Upstream:
    """Two hidden states of one feature, the waveform and its double; counts what it hears."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def __call__(self, wavs: list[Tensor]) -> dict[str, list[Tensor]]:
        self.heard += map(len, wavs)
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)[..., None]
        return {"hidden_states": [padded, 2 * padded]}


def assert_same(kept: KeptStates, wavs: list[Tensor]) -> None:
    found, expected = kept(wavs), Upstream()(wavs)
    for ours, theirs in zip(found["hidden_states"], expected["hidden_states"], strict=True):
        assert torch.equal(ours, theirs)


def test_an_utterance_is_heard_once_in_whatever_batch():
    kept = KeptStates(upstream := Upstream())
    for batch in (WAVS[:2], WAVS[1:], WAVS[::-1], WAVS[:1]):
        assert_same(kept, batch)
    assert upstream.heard == [10, 20, 30]


def test_what_a_model_does_to_its_input_does_not_reach_what_is_kept():
    kept = KeptStates(Upstream())
    for states in kept(WAVS[:1])["hidden_states"]:
        states.zero_()
    assert_same(kept, WAVS[:1])


def test_what_does_not_fit_is_computed_every_time_and_told_once(capsys):
    kept = KeptStates(upstream := Upstream(), room=SIZE + 10)
    for _ in range(3):
        assert_same(kept, WAVS)
    assert upstream.heard == [10, *3 * [20, 30]]
    assert capsys.readouterr().out.count("hidden states of 1 utterances are kept in 0 MB") == 1


def test_a_task_is_learned_from_an_utterances_states_alone(
    corpus, small, short, upstream, tmp_path, monkeypatch
):
    """Batches of 2, many epochs. Train and dev have the same five recordings; each is heard once."""
    command = ["superb", "pr", *corpus["pr"], *short(30), "--lr", "1e-1,1e-2", *upstream]
    batches = "config.downstream_expert.corpus.batch_size=2,,config.runner.eval_step=10"
    command += ["-o", f"{batches},,{small['pr']}"]
    forward, heard = UpstreamExpert.forward, []

    def counted(self: UpstreamExpert, wavs: list[Tensor]) -> dict:
        heard.append(len(wavs))
        return forward(self, wavs)

    monkeypatch.setattr(UpstreamExpert, "forward", counted)
    assert main([*command, "-p", str(tmp_path / "batches"), "--stage", "train"]) == 0
    in_batches = sum(heard)
    heard.clear()
    assert main([*command, "-p", str(tmp_path / "kept"), "--stage", "train", "--keep-states"]) == 0
    assert heard == [1] * len(heard)
    assert 5 <= len(heard) < 10, "with checks of the upstream itself"
    assert in_batches > 2 * 30
    losses = [_weights(tmp_path / name / "lr-0.01/states-30.ckpt") for name in ("batches", "kept")]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)
    assert main([*command, "-p", str(tmp_path / "kept"), "--keep-states"]) == 0
    told = {each.setting for each in read_result(tmp_path / "kept").differences}
    assert "hidden states in training" in told


def _weights(checkpoint: Path) -> Tensor:
    return torch.load(checkpoint, weights_only=True)["Featurizer"]["weights"]


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("pr", ["-o", "args.upstream_trainable=True"], "the upstream is trained"),
        ("pr", ["-o", "args.upstream_feature_selection=last_hidden_state"], "asks for last_hidden_state"),
        ("qbe", [], "nothing is trained, so that there is no --keep-states"),
    ],
)
def test_where_there_is_nothing_to_keep_it_is_refused_in_a_line(task, more, said, corpus, tmp_path, capsys):
    where = ["--quesst", str(tmp_path)] if task == "qbe" else corpus[task]
    command = ["superb", task, *where, "-u", "fbank", "-p", str(tmp_path / "EXP"), "--keep-states", *more]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_experiment_without_it_is_another_one(corpus, short, tmp_path, capsys):
    command = ["superb", "sid", *corpus["sid"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short(2)]
    assert main([*command, "--stage", "train"]) == 0
    assert main([*command, "--keep-states"]) == 2
    assert "with --keep-states absent, now True" in capsys.readouterr().err
