"""An experiment that goes on in another folder has the files of its upstream, or a line warns."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from s3prl_melhubert.compat import finder
from s3prl_melhubert.compat.command_lines.downstream import RUNNER, DownstreamLine
from s3prl_melhubert.compat.command_lines.parser import checked

NEW = ["-m", "train", "-u", "fbank", "-d", "example", "-c", "c.yaml", "-p", "exp", "--device", "cpu"]
OLDER = ["-m", "evaluate", "--device", "cpu", "-e"]


@pytest.fixture
def settled(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[Namespace, str]]:
    """`settled(folder, ARGUMENT, ...)`: with what s3prl goes on there, and what is told of it.

    The folders A and B hold files and folders of the same names.
    """
    finder.install()
    from s3prl import run_downstream

    for name in ("A", "B"):
        for each in ("corpus", "ckpt", "org/name"):
            (tmp_path / name / each).mkdir(parents=True)
        settings = {
            "downstream_expert": {"datarc": {"root": "corpus", "split": "train", "size": 3}},
            "optimizer": {},
            "runner": dict.fromkeys(RUNNER, 1),
        }
        (tmp_path / name / "c.yaml").write_text(yaml.safe_dump(settings))
        for each in ("ckpt/model.ckpt", "g.yaml"):
            (tmp_path / name / each).write_text(name)

    def settle(folder: str, *arguments: str) -> tuple[Namespace, str]:
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setattr("sys.argv", ["run_downstream.py", *arguments])
        with checked(DownstreamLine) as line:
            args, config, _ = run_downstream.get_downstream_args()
        capsys.readouterr()
        line[0].settle_paths(args, config)
        return args, capsys.readouterr().out

    return settle


def save(args: Namespace, settings: str = "c.yaml") -> None:
    content = {"Args": args, "Config": yaml.safe_load(Path(settings).read_text())}
    torch.save({**content, "Featurizer": {}, "Downstream": {}}, "exp/states-4.ckpt")


def test_new_experiment_names_its_upstreams_files_from_the_root_on(settled, tmp_path):
    args, told = settled("A", *NEW, "-k", "ckpt/model.ckpt", "-g", "g.yaml")
    save(args)
    assert args.upstream_ckpt == f"{tmp_path}/A/ckpt/model.ckpt"
    again, told_again = settled("B", *OLDER, "../A/exp/states-4.ckpt")
    assert again.upstream_ckpt == f"{tmp_path}/A/ckpt/model.ckpt"
    assert again.upstream_model_config == f"{tmp_path}/A/g.yaml"
    assert told == ""
    assert told_again.startswith(
        f"-e ../A/exp/states-4.ckpt: downstream_expert.datarc.root corpus: looked for in {tmp_path}/B, where"
    )


@pytest.mark.parametrize(
    "arguments", [("-k", "https://x.org/y"), (), ("-u", "melhubert_hf", "-k", "org/name")]
)
def test_what_names_no_file_stays(settled, arguments):
    args, _ = settled("A", *NEW, *arguments)
    assert args.upstream_ckpt == (arguments[-1] if arguments else None)


def test_relative_paths_of_an_older_experiment_are_told_in_another_folder(settled, tmp_path):
    args, _ = settled("A", *NEW)
    args.upstream_ckpt, args.upstream_model_config = "ckpt/model.ckpt", "g.yaml"
    save(args)
    _, told = settled("B", *OLDER, "../A/exp")
    found = "-k ckpt/model.ckpt, -g g.yaml, downstream_expert.datarc.root corpus"
    assert told.startswith(f"-e ../A/exp: {found}: looked for in {tmp_path}/B")
    assert told.count("\n") == 1
    assert settled("A", *OLDER, "exp/states-4.ckpt")[1] == ""
    args.expdir = f"{tmp_path}/A/exp"
    save(args)
    assert "looked for in" in settled("A", *OLDER, "exp")[1]
    assert settled("A", *NEW, "-p", f"{tmp_path}/A/exp", "-a")[1] == ""  # The user gives them once more.


def test_experiment_that_was_moved_with_its_files_finds_them(settled, tmp_path):
    args, _ = settled("A", *NEW, "-k", "ckpt/model.ckpt", "-g", "g.yaml")
    save(args)
    (tmp_path / "A").rename(tmp_path / "C")
    again, told = settled("C", *OLDER, "exp/states-4.ckpt")
    assert again.upstream_ckpt == f"{tmp_path}/C/ckpt/model.ckpt"
    assert again.upstream_model_config == f"{tmp_path}/C/g.yaml"
    assert f"-k {tmp_path}/A/ckpt/model.ckpt is not there any more; ckpt/model.ckpt is taken" in told


def test_a_split_that_is_called_as_a_folder_is_no_path(settled, tmp_path):
    args, _ = settled("A", *NEW)
    save(args)
    (tmp_path / "B/train").mkdir()
    _, told = settled("B", *OLDER, "../A/exp/states-4.ckpt")
    assert "corpus" in told
    assert "train" not in told
