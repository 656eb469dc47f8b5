"""Which of s3prl's checkpoints are of a training, and what is said of those that are not."""

from __future__ import annotations

import math
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from s3prl_melhubert.compat import finder
from s3prl_melhubert.downstream_recipes.running.trainings.checkpoints import (
    layer_weights,
    read_checkpoint,
    refuse_changed,
    refuse_of_another,
    saved_steps,
    weights_digest,
)
from s3prl_melhubert.errors import MelHuBERTError

ARGUMENTS = {"upstream": "melhubert_local", "seed": 1337}
SETTINGS = {
    "runner.total_steps": 10,
    "optimizer.lr": 0.1,
    "downstream_expert.datarc.file_path": "corpus",
    "downstream_expert.datarc.num_workers": 4,
    "downstream_expert.modelrc.dim": 8,
}
PLACES = ["downstream_expert.datarc.file_path"]


@pytest.fixture(autouse=True)
def _s3prl(tmp_path, monkeypatch) -> None:
    """torch reads the arguments in s3prl's checkpoints."""
    finder.install()
    import s3prl.run_downstream  # noqa: F401

    monkeypatch.chdir(tmp_path)


def save(path: Path, args: dict[str, Any], config: dict[str, Any], **weights: Any) -> None:
    nested: dict[str, Any] = {}
    for place, value in config.items():
        section = nested
        *above, name = place.split(".")
        for each in above:
            section = section.setdefault(each, {})
        section[name] = value
    content = {"Featurizer": {"weights": torch.zeros(2)}, "Downstream": {"w": torch.ones(3)}, **weights}
    torch.save({"Args": Namespace(**args), "Config": nested, **content}, path)


@pytest.fixture
def look(tmp_path) -> Callable[..., bool]:
    """`look(args={}, config={}, **files)`: at a checkpoint that has these beside what is expected."""

    def at(
        args: dict | None = None, config: dict | None = None, **files: tuple[str | None, str | None]
    ) -> bool:
        before = {name: there for name, (there, _) in files.items()}
        path = tmp_path / "states-2.ckpt"
        save(path, {**ARGUMENTS, **before, **(args or {})}, {**SETTINGS, **(config or {})})
        expected = {name: here for name, (_, here) in files.items()}
        return refuse_of_another(path, ARGUMENTS, expected, SETTINGS, PLACES)

    return at


def test_a_checkpoint_of_the_training_is_taken(look):
    assert not look()
    assert not look({"verbose": True}, {"downstream_expert.datarc.num_workers": 0})
    # Some of s3prl's models take settings out, or put some in, while they read them.
    assert not look(config={"downstream_expert.more": 1})


@pytest.mark.parametrize(
    ("args", "config", "said"),
    [
        ({"seed": 1}, {}, "args.seed 1, now 1337"),
        ({"upstream": "fbank"}, {}, "args.upstream 'fbank', now 'melhubert_local'"),
        ({}, {"optimizer.lr": 0.2}, "config.optimizer.lr 0.2, now 0.1"),
        ({}, {"runner.fp16": True}, "config.runner.fp16 True, now absent"),
        ({}, {"downstream_expert.modelrc.dim": 9}, "config.downstream_expert.modelrc.dim 9, now 8"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(args, config, said, look):
    with pytest.raises(MelHuBERTError) as refused:
        look(args, config)
    assert f"states-2.ckpt: is of another training than this experiment's ({said}); give" in str(
        refused.value
    )


def test_paths_of_the_corpus_may_be_others_and_this_is_noted(look):
    assert look(config={"downstream_expert.datarc.file_path": "moved"})


def test_the_upstreams_files_are_known_by_their_content(look, tmp_path):
    for name, content in (("a", "one"), ("copy", "one"), ("b", "two")):
        (tmp_path / f"{name}.ckpt").write_text(content)
    assert not look(upstream_ckpt=("a.ckpt", "a.ckpt"))
    assert look(upstream_ckpt=("a.ckpt", "copy.ckpt"))
    assert look(upstream_ckpt=("gone.ckpt", "a.ckpt"))  # it may have been moved here
    for there, here in (("a.ckpt", "b.ckpt"), (None, "a.ckpt"), ("a.ckpt", None), ("a.ckpt", "gone.ckpt")):
        with pytest.raises(MelHuBERTError, match=r"than this experiment.s .args.upstream_ckpt"):
            look(upstream_ckpt=(there, here))


def test_settings_of_an_upstream_may_name_the_same_statistics_by_another_path(look, tmp_path):
    for name, stats in (("a", "librispeech-100h"), ("b", "librispeech-360h")):
        (tmp_path / f"{name}.yaml").write_text(f"feature_stats: {stats}\nprecision: bf16\n")
    from s3prl_melhubert.statistics import published_stats

    numbers = published_stats()["librispeech-100h"].to_mapping()
    (tmp_path / "numbers.yaml").write_text(f"feature_stats: {numbers}\nprecision: bf16\n")
    (tmp_path / "exact.yaml").write_text("feature_stats: librispeech-100h\nprecision: fp32\n")
    (tmp_path / "none.yaml").write_text("precision: bf16\n")
    assert look(upstream_model_config=("a.yaml", "numbers.yaml"))
    for other in ("b.yaml", "exact.yaml", "none.yaml"):
        with pytest.raises(MelHuBERTError, match="upstream_model_config"):
            look(upstream_model_config=("a.yaml", other))


def test_settings_of_other_upstreams_may_be_files_of_any_kind(look, tmp_path):
    for name, content in (("a", "- 1"), ("copy", "- 1"), ("b", "- 2")):
        (tmp_path / f"{name}.txt").write_text(content)
    assert look(upstream_model_config=("a.txt", "copy.txt"))
    for there, here in (("a.txt", "b.txt"), (None, "a.txt"), ("a.txt", None)):
        with pytest.raises(MelHuBERTError, match="upstream_model_config"):
            look(upstream_model_config=(there, here))


def test_what_cannot_be_read_is_named_when_it_is_used(tmp_path):
    path = tmp_path / "states-2.ckpt"
    path.write_bytes(b"no checkpoint")
    assert not refuse_of_another(path, ARGUMENTS, {}, SETTINGS, PLACES)
    torch.save({"model": {}}, path)
    assert not refuse_of_another(path, ARGUMENTS, {}, SETTINGS, PLACES)


class Program:
    """What makes a folder when it is read as a pickle is."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_checkpoint_that_holds_a_program_is_refused_and_does_not_run_it(mapped, tmp_path):
    torch.save({"Featurizer": Program(tmp_path / "made")}, tmp_path / "states-2.ckpt")
    with pytest.raises(MelHuBERTError, match=r"states-2\.ckpt: cannot be read as s3prl's checkpoint"):
        read_checkpoint(tmp_path / "states-2.ckpt", mapped=mapped)
    assert not (tmp_path / "made").exists()


def test_weights_are_known_whatever_is_beside_them(tmp_path):
    first, again, other, trained = (tmp_path / f"{name}.ckpt" for name in ("a", "b", "c", "d"))
    save(first, ARGUMENTS, SETTINGS)
    save(again, {**ARGUMENTS, "expdir": "moved"}, {**SETTINGS, "more": 1}, Step=7)
    save(other, ARGUMENTS, SETTINGS, Downstream={"w": torch.zeros(3)})
    save(trained, ARGUMENTS, SETTINGS, Upstream={"w": torch.zeros(3)})
    digests = [weights_digest(path) for path in (first, again, other, trained)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert weights_digest(tmp_path / "gone.ckpt") is None
    refuse_changed(again, digests[0])
    refuse_changed(other, None)  # of an older version
    refuse_changed(tmp_path / "gone.ckpt", digests[0])
    with pytest.raises(MelHuBERTError, match=r"c\.ckpt: has other weights than when it was tested"):
        refuse_changed(other, digests[0])


def test_weights_of_the_layers_are_shares_of_one():
    assert layer_weights({"Featurizer": {"weights": torch.tensor([0.0, math.log(3)])}}) == [0.25, 0.75]
    assert layer_weights({"Featurizer": {}}) == []


def test_checkpoints_come_by_their_steps_and_the_users_copies_do_not(tmp_path):
    for name in ("states-100.ckpt", "states-9.ckpt", "states-9-copy.ckpt", "states-x.ckpt", "dev-best.ckpt"):
        (tmp_path / name).touch()
    assert list(saved_steps(tmp_path).items()) == [
        (9, tmp_path / "states-9.ckpt"),
        (100, tmp_path / "states-100.ckpt"),
    ]
