"""Mistakes on the command line of run_downstream.py are told in a line, and nothing that works is refused."""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from s3prl_melhubert.compat import programs
from s3prl_melhubert.compat.command_lines.downstream import DownstreamLine
from s3prl_melhubert.compat.command_lines.parser import checked
from s3prl_melhubert.compat.experiments.saving import saved_whole
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.locks import LOCK, only_writer

NEW = ["-m", "train", "-u", "fbank", "-d", "example", "-c", "c.yaml", "-p", "EXP"]
CPU = ["--device", "cpu"]


@pytest.fixture
def read(work, monkeypatch):
    """`read([ARGUMENT, ...])`: what s3prl's run_downstream.py makes of its arguments, with our checks."""
    from s3prl import run_downstream

    def get(arguments: list[str]) -> Namespace:
        monkeypatch.setattr("sys.argv", ["run_downstream.py", *arguments])
        with checked(DownstreamLine) as line:
            args, config, _ = run_downstream.get_downstream_args()
        line[0].tell_folder(args)
        line[0].tell_ended(config)
        return args

    return get


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*NEW[:6], *CPU], r"no -c, and there is no ./downstream/example/config.yaml here"),
        ([*NEW, "-c", "nope.yaml", *CPU], r"-c nope.yaml: no such file \(looked for /"),
        ([*NEW, "-c", "empty", *CPU], "-c empty: a folder found"),
        ([*NEW, "-c", "damaged.yaml", *CPU], "-c damaged.yaml: not valid YAML .*line 2"),
        ([*NEW, "-c", "list.yaml", *CPU], "-c list.yaml: list found, expected a YAML mapping"),
        (
            [*NEW, "-c", "short.yaml", *CPU],
            "-c short.yaml: lacks downstream_expert, optimizer, runner.total_steps, .* runner.max_keep",
        ),
        (
            [*NEW, "-c", "short.yaml", *CPU, "-o", "config.runner={},,config.optimizer.lr=1,,args.seed=1"],
            "-c short.yaml: lacks downstream_expert, without",
        ),
        (
            [*NEW, "-o", "config.runner.total_steps", *CPU],
            "-o config.runner.total_steps: expected config.KEY",
        ),
        ([*NEW, "-o", "args.seed=1,,runner.total_steps=3", *CPU], "-o runner.total_steps=3: expected config"),
        ([*NEW, "-o", "config..a=3", *CPU], "-o config..a=3: expected config.KEY"),
        ([*NEW, "-o", "args.sed=1", *CPU], r"-o args.sed: s3prl has no such argument \(did you mean seed"),
        (["-m", "train", "-e", "first", "-o", "args.sed=1", *CPU], "-o args.sed: s3prl has no such argument"),
        ([*NEW, "-i", "nope.ckpt", *CPU], "-i nope.ckpt: no such file"),
        (
            [*NEW, "-m", "evaluate", "-i", "upstream.ckpt", *CPU],
            "-i upstream.ckpt: no checkpoint of run-downstream, which has Downstream and Featurizer, so that",
        ),
        ([*NEW, "-m", "evaluate", *CPU], "-m evaluate: neither -e nor -i, so that s3prl would take random"),
        (
            ["-m", "evaluate", "-e", "upstream.ckpt", *CPU],
            "-e upstream.ckpt: no checkpoint of run-downstream",
        ),
        ([*NEW, "-u", "fbankk", *CPU], r"-u fbankk: s3prl has no such upstream; did you mean fbank\?"),
        ([*NEW[:2], *NEW[4:], *CPU], "no -u"),
        (
            [*NEW, "-d", "exampel", *CPU],
            r"-d exampel: s3prl has no such downstream task \(did you mean example",
        ),
        ([*NEW, "-d", "example.more", *CPU], r"-d example.more: s3prl has no such"),
        ([*NEW[:4], *NEW[6:], *CPU], "no -d"),
        ([*NEW, "--device", "cuda:99"], "--device .*cuda:99"),
        ([*NEW, "--device", "warp"], "--device .*'warp': unknown"),
        (["-m", "evaluate", "-e", "nope.ckpt", *CPU], "-e nope.ckpt: no such file"),
        (["-m", "evaluate", "-e", "empty", *CPU], r"-e empty: holds no states-\*.ckpt"),
        (
            ["-m", "train", "-a", "-p", "copy", *CPU],
            "-a: the checkpoints in copy name .*/first, and s3prl would",
        ),
    ],
)
def test_a_mistake_is_told_in_a_line(arguments, words, read):
    with pytest.raises(MelHuBERTError, match=words) as told:
        read(arguments)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [*NEW, *CPU],
        [*NEW, *CPU, "-k", "whatever", "-g", "whatever"],
        [*NEW, "-o", "args.device=cpu"],
        [
            *NEW,
            *CPU,
            "-c",
            "short.yaml",
            "-o",
            "config.runner={},,config.optimizer={},,config.downstream_expert={}",
        ],
        [*NEW, *CPU, "-o", "None"],
        [*NEW, *CPU, "-o", " config.runner.any = [1, 2] ,, config.scheduler.name='linear',,args.seed=3"],
        [*NEW, *CPU, "-u", "later", "-d", "later", "-o", "args.upstream=fbank,, args.downstream=example"],
        [*NEW, *CPU, "--hub", "huggingface", "-u", "someone/model"],
        [*NEW, *CPU, "-a", "-p", "empty"],
        [*NEW, *CPU, "-m", "evaluate", "-i", "first/states-4.ckpt"],
        [*NEW, *CPU, "-m", "evaluate", "-o", "args.init_ckpt='first/states-4.ckpt'"],
        [*NEW, *CPU, "-m", "evaluate", "-d", "quesst14_dtw"],
        [*NEW[:4], "-p", "EXP", "-d", "mine", "-o", "args.downstream=example", *CPU],
        ["-m", "evaluate", "-e", "first/states-4.ckpt", *CPU],
        ["-m", "train", "-e", "first", "-u", "unknown", "-d", "unknown", "-c", "unknown", *CPU],
        ["-m", "train", "-a", "-p", "first", *CPU],
        ["-m", "train", "-a", "-p", "copy", "-o", "args.expdir=copy", *CPU],
    ],
)
def test_what_works_is_not_refused(arguments, read, work, settings, capsys):
    default = work / "downstream/mine/config.yaml"  # as in a checkout of s3prl
    default.parent.mkdir(parents=True)
    default.write_text(settings)
    read(arguments)
    assert "s3prl writes to" not in capsys.readouterr().out


def test_experiment_in_a_folder_of_any_name_is_gone_on_with(read, work):
    (work / "first").rename(work / "e[1]")
    with saved_whole():
        went_on = read(["-m", "train", "-a", "-p", "e[1]", "-o", "args.expdir='e[1]'", *CPU])
        assert went_on.init_ckpt == "e[1]/states-4.ckpt"
        assert read(["-m", "evaluate", "-e", "e[1]", *CPU]).init_ckpt == "e[1]/states-4.ckpt"


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        (["-m", "train", "-a", "-p", "first"], "-a"),
        (["-m", "train", "-e", "first/states-4.ckpt"], "-e first/states-4.ckpt"),
        ([*NEW, "-i", "first/states-4.ckpt", "-o", "config.runner.total_steps=4"], "-i first/states-4.ckpt"),
        (["-m", "train", "-e", "first", "-o", "config.runner.total_steps=5"], None),
        (["-m", "train", "-e", "first", "-o", "config.runner.total_steps='many'"], None),  # s3prl's to refuse
        (["-m", "train", "-e", "first", "-o", "config.runner=7"], None),
        (["-m", "evaluate", "-e", "first"], None),
        (NEW, None),
    ],
)
def test_run_with_nothing_left_to_train_is_told(arguments, argument, read, capsys):
    read([*arguments, *CPU])
    told = [line for line in capsys.readouterr().out.splitlines() if "nothing is left" in line]
    assert told == (
        []
        if argument is None
        else [
            f"{argument}: the checkpoint is of step 4 of 4, so that nothing is left to train; "
            "-o config.runner.total_steps=N, with N above 4, trains on"
        ]
    )


def test_setting_that_looks_mistyped_is_told(read, work, capsys):
    read([*NEW, *CPU, "-o", "config.runner.totl_steps=3,,config.runer.x=1,,config.optimizer.lr=1"])
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("-o")]
    assert told == [
        "-o config.runner.totl_steps: a new setting, as -c has no totl_steps; did you mean total_steps?",
        "-o config.runer.x: a new setting, as -c has no runer; did you mean runner?",
    ]


def test_settings_may_come_through_a_pipe(read):
    reader, writer = os.pipe()
    os.write(writer, b"runner: {}\n")
    os.close(writer)
    read([*NEW, "-c", f"/dev/fd/{reader}", *CPU])
    os.close(reader)


def test_library_that_a_task_lacks_is_left_to_s3prl(read, installed_s3prl, tmp_path, monkeypatch):
    import s3prl.downstream

    (tmp_path / "needy").mkdir()
    (tmp_path / "needy/__init__.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.setattr(s3prl.downstream, "__path__", [*s3prl.downstream.__path__, str(tmp_path)])
    read([*NEW, "-d", "needy", *CPU])


def test_folder_that_the_checkpoint_names_is_told(read, work, capsys):
    read(["-m", "evaluate", "-e", "copy/states-4.ckpt", *CPU])
    assert f"-e copy/states-4.ckpt: s3prl writes to {work}/first, which the checkpoint names; -o" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["-m", "evaluate", "-e", "moved.ckpt"], "file/exp/first"),
        (["-m", "evaluate", "-e", "moved.ckpt", "-o", "args.expdir=file/first"], "file/first"),
        (["-m", "evaluate", "-e", "moved.ckpt", "-o", "args.expdir=empty"], None),
        ([*NEW, "-p", "file/new"], "file/new"),
        ([*NEW, "-p", "file/new", "-o", "args.expdir=empty"], "file/new"),
    ],
)
def test_folder_that_cannot_be_made_is_told(arguments, refused, work, monkeypatch):
    from s3prl import run_downstream

    content = torch.load("first/states-4.ckpt", weights_only=False)
    content["Args"].expdir = "file/exp/first"  # which cannot be made here, nor the folder above it
    torch.save(content, "moved.ckpt")
    Path("file").touch()
    monkeypatch.setattr(run_downstream.Runner, "__init__", lambda self, args, config: None)
    monkeypatch.setattr(run_downstream.Runner, "evaluate", lambda self: None)
    command = [*arguments, *CPU]
    if refused is None:
        assert programs.run_downstream(command) == 0
        return
    with pytest.raises(
        MelHuBERTError, match=rf"^{refused}: cannot be made \(Not a directory\); give another"
    ):
        programs.run_downstream(command)
    assert os.makedirs.__module__ == "os"
    assert type(isinstance) is type(len)  # s3prl's main replaces it.


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_one_run_trains_in_a_folder(mode, work, monkeypatch):
    from s3prl import run_downstream

    class Runner:
        def __init__(self, args: Namespace, config: dict):
            self.folder = Path(args.expdir)

        def train(self) -> None:
            held.append((self.folder / LOCK).exists())

        evaluate = train

    held: list[bool] = []
    monkeypatch.setattr(run_downstream, "Runner", Runner)
    command = ["-m", mode, "-e", "first", *CPU]
    programs.run_downstream(command)
    assert held == [mode == "train"]
    assert not (work / "first" / LOCK).exists()
    refused = pytest.raises(MelHuBERTError, match=r"^first: .* is at work on this folder")
    with only_writer(work / "first"), refused if mode == "train" else nullcontext():
        programs.run_downstream(command)
    monkeypatch.setenv("RANK", "1")  # of processes that train together
    with only_writer(work / "first"):
        programs.run_downstream(command)


@pytest.mark.parametrize(
    ("inside", "refused"),
    [("lr-0.1", True), ("fold1", True), ("fold1/lr-0.1", True), ("layer-3", True), ("mine", False)],
)
def test_no_run_trains_in_a_folder_of_a_working_superb(inside, refused, work, monkeypatch):
    """`melhubert superb` holds the lock of its experiment, and writes into the folders in it."""
    from s3prl import run_downstream

    monkeypatch.setattr(run_downstream.Runner, "__init__", lambda self, args, config: None)
    for mode in ("train", "evaluate"):
        monkeypatch.setattr(run_downstream.Runner, mode, lambda self: None)
    for folder in {"SUPERB", f"SUPERB/{inside}".removesuffix("/lr-0.1")} - {"SUPERB/mine", "SUPERB/layer-3"}:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "experiment.json").write_text("{}")
    place = ["-e", "first", "-o", f"args.expdir=SUPERB/{inside}", *CPU]
    told = pytest.raises(MelHuBERTError, match=r"^.*/SUPERB: .* at work on this folder")
    with only_writer("SUPERB"), told if refused else nullcontext():
        programs.run_downstream(["-m", "train", *place])
    with only_writer("SUPERB"):
        programs.run_downstream(["-m", "evaluate", *place])
    programs.run_downstream(["-m", "train", *place])
    assert not list(Path("SUPERB").rglob(LOCK))
