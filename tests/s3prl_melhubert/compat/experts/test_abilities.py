"""What s3prl's code for a task cannot do is told in a line before it begins; what it can is not refused."""

from __future__ import annotations

from argparse import Namespace
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from s3prl_melhubert.compat import finder, programs
from s3prl_melhubert.compat.experts.abilities import refuse_beyond, splits_in_code
from s3prl_melhubert.errors import MelHuBERTError

EXAMPLE = {
    "runner": {
        "total_steps": 2,
        "gradient_clipping": 1,
        "gradient_accumulate_steps": 1,
        "log_step": 1,
        "eval_step": 2,
        "save_step": 2,
        "max_keep": 1,
        "eval_dataloaders": ["dev"],
        "evaluate_ratio": 0.02,
    },
    "optimizer": {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 0.01},
    "downstream_expert": {
        "datarc": {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0},
        "modelrc": {"input_dim": 8},
    },
}
ASR = {"downstream_expert": {"datarc": {"train": ["a"], "test-clean": ["c"], "batch_size": 1}}}
CTC = {"downstream_expert": {"corpus": {"name": "libriphone", "train": ["a"], "dev": ["b"], "test": ["c"]}}}
SD = {"downstream_expert": {"loaderrc": {"train_dir": "a", "dev_dir": "b", "num_workers": 0}}}
# Tasks whose get_dataloader has none of the three forms.
OPEN = {"quesst14_dtw": "takes whatever is not dev for eval"}


@pytest.fixture(autouse=True, scope="module")
def _hook() -> None:
    finder.install()


def refused(words: str | None):
    return nullcontext() if words is None else pytest.raises(MelHuBERTError, match=words)


@pytest.mark.parametrize(
    ("task", "config", "split", "words"),
    [
        ("example", {}, "dev", None),
        ("example", {}, "dve", r"^-t dve: s3prl's example has no such split \(it has train, dev, test\); n"),
        ("voxceleb1", {}, "test", None),
        (
            "voxceleb1",
            {},
            "test-clean",
            "^-t test-clean: s3prl's voxceleb1 has no such .* .it has dev, test",
        ),
        ("speech_commands", {}, "x", r"^-t x: .* no such split \(it has train, dev, test\)"),
        ("quesst14_embedding", {}, "eval", None),
        ("quesst14_embedding", {}, "test", "^-t test: s3prl's quesst14_embedding has no such split"),
        ("quesst14_dtw", {}, "test", None),  # s3prl's own name of it
        ("asr", ASR, "test-clean", None),
        (
            "asr",
            ASR,
            "test",
            r"^-t test: asr has no such split, because there is no setting downstream_expert.datarc.test "
            r"\(it has train, test-clean\); add it, or name one of its own with -t$",
        ),
        ("asr", {"downstream_expert": None}, "test", None),  # s3prl's to refuse
        ("ctc", CTC, "test", None),
        ("ctc", {"downstream_expert": {"corpus": {1: "a"}}}, "x", r"corpus.x \(it has 1\)"),
        ("ctc", CTC, "x", r"no setting downstream_expert.corpus.x \(it has train, dev, test\)"),
        ("diarization", SD, "dev", None),
        ("diarization", SD, "test", r"no setting .*loaderrc.test_dir \(it has train_dir, dev_dir\)"),
        ("asteroid_is_not_here", {}, "test", None),
    ],
)
def test_split_that_a_task_does_not_have_is_told(task, config, split, words):
    with refused(words):
        refuse_beyond(Namespace(mode="evaluate", downstream=task, evaluate_split=split), config)


@pytest.mark.parametrize(
    ("runner", "words"),
    [
        ({"eval_step": 2, "total_steps": 4, "eval_dataloaders": ["dev", "test"]}, None),
        (
            {"eval_step": 2, "total_steps": 4, "eval_dataloaders": ["dev", "tets"]},
            r"^runner.eval_dataloaders tets: s3prl's example has no .*; -o config.runner.eval_data",
        ),
        ({"eval_step": 8, "total_steps": 4, "eval_dataloaders": ["tets"]}, None),  # it never comes to that
        ({"eval_step": "x", "total_steps": 4, "eval_dataloaders": ["tets"]}, None),  # s3prl's to refuse
        ({"train_dataloader": "trian"}, "^runner.train_dataloader trian: .* has no such split"),
        (None, None),
    ],
)
def test_split_of_a_training_is_told_before_it_is_trained_to(runner, words):
    with refused(words):
        refuse_beyond(Namespace(mode="train", downstream="example"), {"runner": runner})


def test_splits_of_every_task_of_s3prl_are_known():
    folder = import_module("s3prl.downstream").__path__[0]
    for file in Path(folder).glob("*/expert.py"):
        task = file.parent.name
        try:
            expert = import_module(f"s3prl.downstream.{task}.expert").DownstreamExpert
        except ImportError:  # a library that this task needs
            continue
        known = splits_in_code(expert)
        if known is None:
            assert task in {*OPEN, "asr", "ctc", "diarization", "speech_translation", "voxceleb2_ge2e"}
        else:
            assert {"train", "dev"} <= set(known)
            # s3prl gives nothing for another one, or fails.
            with suppress(AttributeError, NotImplementedError):
                assert expert.get_dataloader(object.__new__(expert), "another") is None


@pytest.mark.parametrize(
    ("code", "known"),
    [
        ("    if split == 'a':\n        return 1\n    return 2", None),
        ("    if split == 'a':\n        split = 'b'\n    if split == 'b':\n        return 1", None),
        ("    if split != 'a':\n        return 1", None),
        ("    if self.name == 'a':\n        return 1", None),
        ("    if split in ['a', 'b']:\n        return 1\n    raise KeyError", ["a", "b"]),
        ("    if split in {'a'}:\n        return 1\n    raise KeyError", ["a"]),
        ("    if split in 'a b':\n        return 1\n    raise KeyError", None),
        ("    if split in {'a': 1}:\n        return 1\n    raise KeyError", None),
        ("    if split == 1:\n        return 1\n    raise KeyError", None),
        ("    if split in ['a', 1]:\n        return 1\n    raise KeyError", None),
        (
            "    '''Words.'''\n    if split == 'a':\n        return 1\n    else:\n        raise KeyError",
            ["a"],
        ),
        ("    return self.loaders[split]", None),
    ],
)
def test_nothing_is_said_of_code_in_another_form(code, known, tmp_path, monkeypatch):
    body = "\n".join(f"    {line}" for line in code.splitlines())
    (tmp_path / "own_expert.py").write_text(
        f"class DownstreamExpert:\n    def get_dataloader(self, split):\n{body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_expert", raising=False)
    assert splits_in_code(import_module("own_expert").DownstreamExpert) == known


@pytest.mark.parametrize(
    ("rate", "channels", "words"),
    [
        (16000, 1, None),
        (8000, 1, r"^-t a.wav: 8000 Hz and 1 channels found, where s3prl's inference takes 16000 Hz and one"),
        (16000, 2, "^-t a.wav: 16000 Hz and 2 channels found"),
        (None, None, r"^-t a.wav: cannot be read as audio \(.*\); give another file$"),
        (None, 0, "^-t a.wav: no regular file"),
    ],
)
def test_file_of_an_inference_is_looked_at(rate, channels, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if rate is not None:
        soundfile.write("a.wav", np.zeros((rate, channels)), rate)
    elif channels is None:
        Path("a.wav").write_text("words")
    with refused(words):
        refuse_beyond(Namespace(mode="inference", downstream="asr", evaluate_split="a.wav"), ASR)


def test_command_that_converts_the_file_can_be_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a b.wav", np.zeros((8000, 2)), 8000)
    with refused("convert it, such as with: ffmpeg -i 'a b.wav' -ar 16000 -ac 1 OUT.wav$"):
        refuse_beyond(Namespace(mode="inference", downstream="asr", evaluate_split="a b.wav"), ASR)


def test_task_that_lacks_what_the_runner_calls_is_told(tmp_path, monkeypatch):
    import s3prl.downstream

    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/expert.py").write_text("class DownstreamExpert:\n    def log_records(self): ...\n")
    monkeypatch.setattr(s3prl.downstream, "__path__", [*s3prl.downstream.__path__, str(tmp_path)])
    with refused(r"^-d bare: s3prl's bare \(.*/bare/expert.py\) has no get_dataloader, without which"):
        refuse_beyond(Namespace(mode="train", downstream="bare"), {})


def test_the_program_ends_in_a_line_where_it_ended_in_a_traceback(tmp_path, monkeypatch):
    """s3prl's own program trains the task, is asked for what that cannot do, and then tests it."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump(EXAMPLE))
    soundfile.write("a.wav", np.zeros(16000), 16000)
    train = ["-m", "train", "-u", "fbank", "-d", "example", "-c", "c.yaml", "-p", "EXP", "--device", "cpu"]
    with refused(r"^runner.eval_dataloaders dve: s3prl's example has no such split"):
        programs.run_downstream([*train, "-o", "config.runner.eval_dataloaders=['dve']"])
    assert programs.run_downstream(train) == 0
    past = ["-e", "EXP", "--device", "cpu"]
    with refused(
        r"^-m inference: s3prl's example \(/.*/example/expert.py\) has no inference; test it with -m e"
    ):
        programs.run_downstream(["-m", "inference", "-t", "a.wav", *past])
    with refused(r"^-t dve: s3prl's example has no such split"):
        programs.run_downstream(["-m", "evaluate", "-t", "dve", *past])
    assert programs.run_downstream(["-m", "evaluate", "-t", "dev", *past]) == 0
