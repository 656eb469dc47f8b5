"""A folder is gone on with by the command that began it, and by no other that would give another result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from s3prl_melhubert.downstream_recipes.experiment_files import CORPUS, FILES, PART, STATISTICS
from s3prl_melhubert.downstream_recipes.running.experiments.identity import Identity
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.task import TaskOptions
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError

RATES = (1e-3, 1e-4)


@pytest.fixture
def identity(tmp_path) -> Callable[..., Identity]:
    """`identity(task="asr", rates=RATES, **options)`: of one and the same folder, upstream and corpus."""
    (tmp_path / "up.ckpt").write_bytes(b"weights")
    (tmp_path / "g.yaml").write_text("feature_stats: librispeech-360h\n")

    def make(task: str = "asr", rates: tuple[float, ...] = RATES, **options) -> Identity:
        given = {
            "upstream": "melhubert_local",
            "upstream_ckpt": str(tmp_path / "up.ckpt"),
            "upstream_model_config": str(tmp_path / "g.yaml"),
            "task_options": TaskOptions({"librispeech": str(tmp_path / "there")}),
            **options,
        }
        return Identity(tmp_path, all_tasks()[task], RunOptions(expdir=tmp_path, **given), rates)

    begun = make()
    begun.refuse_another()
    begun.refuse_another_corpus("1" * 64)
    begun.write()
    return make


def test_the_same_command_goes_on(identity):
    again = identity()
    again.refuse_another()
    again.refuse_another_corpus("1" * 64)
    assert not again.moved
    assert not again.moved_for_certain


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": "pr"}, "task 'asr', now 'pr'"),
        ({"rates": (1e-3,)}, "--lr [0.001, 0.0001], now [0.001]"),
        ({"rates": (1e-4, 1e-3)}, "--lr [0.001, 0.0001], now [0.0001, 0.001]"),
        ({"upstream": "melhubert_custom"}, "-u 'melhubert_local', now 'melhubert_custom'"),
        ({"precision": "bf16"}, "--precision absent, now 'bf16'"),
        ({"keep_states": True}, "--keep-states absent, now True"),
        ({"steps": 2}, "--steps absent, now 2"),
        ({"seed": 1}, "--seed 1337, now 1"),
        ({"override": "config.runner.save_step=2"}, "-o absent, now 'config.runner.save_step=2'"),
        ({"upstream_ckpt": None}, "-k, its content (SHA-256) '"),
        ({"upstream_model_config": None}, "-g, its content (SHA-256) '"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_command_that_would_give_another_result_is_refused(changed, said, identity):
    with pytest.raises(MelHuBERTError) as refused:
        identity(**changed).refuse_another()
    assert f"holds an experiment with {said}" in str(refused.value)
    assert "give the same arguments, or another folder with -p" in str(refused.value)


@pytest.mark.parametrize("file", ["up.ckpt", "g.yaml"])
def test_an_upstream_with_another_content_is_refused_and_one_that_was_moved_is_not(file, identity, tmp_path):
    argument = {"up.ckpt": "upstream_ckpt", "g.yaml": "upstream_model_config"}[file]
    (tmp_path / file).rename(tmp_path / f"moved-{file}")
    moved = identity(**{argument: str(tmp_path / f"moved-{file}")})
    moved.refuse_another()
    assert moved.moved_for_certain
    with (tmp_path / f"moved-{file}").open("a") as opened:
        opened.write(" ")
    with pytest.raises(MelHuBERTError, match=r"its content \(SHA-256\)"):
        identity(**{argument: str(tmp_path / f"moved-{file}")}).refuse_another()


def test_workers_device_and_stage_may_differ(identity):
    identity(workers=0, device="cpu", stage="test").refuse_another()


def test_another_corpus_is_refused_and_one_that_was_moved_is_not(identity, tmp_path):
    moved = identity(task_options=TaskOptions({"librispeech": str(tmp_path / "moved")}))
    moved.refuse_another()
    moved.refuse_another_corpus("1" * 64)
    assert moved.moved_for_certain
    with pytest.raises(
        MelHuBERTError, match=f"on another corpus than that of --librispeech {tmp_path}/moved"
    ):
        moved.refuse_another_corpus("2" * 64)
    # A task that has no hash of its corpus knows it by its path.
    identity().refuse_another_corpus(None)
    with pytest.raises(MelHuBERTError, match="holds an experiment with --librispeech '"):
        moved.refuse_another_corpus(None)


def change(folder: Path, **changed: str | None) -> None:
    """Let a folder's description say something else, or nothing of it where that is None."""
    path = folder / "experiment.json"
    content = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_what_an_older_description_has_no_hash_of_is_known_by_its_path(identity, tmp_path):
    change(tmp_path, **{FILES["-k"]: None, FILES["-g"]: None, STATISTICS: None, CORPUS: None})
    identity().refuse_another()
    (tmp_path / "another.ckpt").write_bytes(b"weights")
    (tmp_path / "another.yaml").write_text("feature_stats: librispeech-360h\n")
    elsewhere = TaskOptions({"librispeech": str(tmp_path / "moved")})
    for argument, changed in (
        ("-k", {"upstream_ckpt": str(tmp_path / "another.ckpt")}),
        ("-g", {"upstream_model_config": str(tmp_path / "another.yaml")}),
        ("--librispeech", {"task_options": elsewhere}),
    ):
        with pytest.raises(MelHuBERTError, match=f"holds an experiment with {argument} '"):
            identity(**changed).refuse_another()


def test_settings_that_name_other_statistics_than_then_are_refused(identity, tmp_path):
    change(tmp_path, **{STATISTICS: "1" * 64})
    with pytest.raises(MelHuBERTError, match="holds an experiment with other statistics than those that -g"):
        identity().refuse_another()


def test_the_folder_of_a_part_is_not_that_of_the_whole(identity, tmp_path):
    change(tmp_path, **{PART: "fold1"})
    with pytest.raises(MelHuBERTError, match="holds an experiment of fold1 of asr, not of the whole"):
        identity().refuse_another()
