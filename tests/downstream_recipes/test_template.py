"""What is made from s3prl's template of a task, `downstream/example`, is a task here, too."""

from __future__ import annotations

import pytest
import torch

from s3prl_melhubert.cli import main

# The template's audio and labels are random, and it writes no predictions. Its model takes no lengths.
TASK = """
from pathlib import Path

from s3prl_melhubert.downstream_recipes.outputs import Classes
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.task import Argument, CheckedCorpus, Metric, Replacement, Task


def check(options):
    return CheckedCorpus(path=options.needed("corpus"), summary=[], test_utterances=["a"], differences=[])


def replacements(folder):
    from s3prl.downstream.example.dataset import RandomDataset

    class TwoClasses(RandomDataset):
        def __init__(self, **settings):
            self.class_num = 2

        def __len__(self):
            return 8

    seconds = ("EXAMPLE_WAV_MIN_SEC", "EXAMPLE_WAV_MAX_SEC")
    short = [Replacement("s3prl.downstream.example.dataset", name, 1) for name in seconds]
    return [*short, Replacement("s3prl.downstream.example.expert", "RandomDataset", TwoClasses)]


def logits(expert, features):
    return expert.model(expert.connector(features[None]))[0]


TASK = Task(
    key="tmpl",
    name="template",
    column=11,
    downstream="example",
    folder=Path(__file__).parent,
    arguments=(Argument("corpus", "DIR", "a folder", required=True),),
    check=check,
    fill_in=lambda settings, preparation: None,
    metric=Metric("ACC", higher_is_better=True, printed="acc", scale=100.0),
    test_split="test",
    test_name="test",
    best_checkpoint="dev-best.ckpt",
    predictions=(PredictionFile("test.txt", "test.txt", LineFormat("`NAME`", lambda fields: None)),),
    sizes={"test": 1},
    score=lambda tested: 0.25,
    replacements=replacements,
    outputs=Classes(
        kinds=("class",),
        labels=lambda settings: {"class": ["one", "two"]},
        stand_in=lambda settings, labels, folder: None,
        logits=logits,
    ),
)
"""
SETTINGS = """
runner: {total_steps: 2, gradient_clipping: 1, gradient_accumulate_steps: 1, log_step: 2, eval_step: 1,
         save_step: 1, max_keep: 2, eval_dataloaders: [dev]}
optimizer: {name: TorchOptim, torch_optim_name: Adam, lr: 1.0e-3}
downstream_expert:
  datarc: {num_workers: 0, train_batch_size: 8, eval_batch_size: 8}
  modelrc: {input_dim: 8}
"""


@pytest.fixture
def template(add_task) -> None:
    add_task("template", TASK, SETTINGS)


def test_its_model_predicts(template, run_task, predicted, tmp_path, write_audio):
    audio = write_audio(tmp_path / "corpus" / "a.wav")
    experiment, printed = run_task("tmpl", ["--corpus", str(audio.parent)])
    assert "tmpl ACC 25.00 % on test" in printed
    choices = predicted(experiment, audio.parent, "*.wav", "--top", "2")["a"]["class"]
    assert sum(each["probability"] for each in choices) == pytest.approx(1, abs=1e-5)


def test_an_expert_that_keeps_its_best_score_elsewhere_is_named(template, run_task, tmp_path, capsys):
    corpus = ["--corpus", str(tmp_path / "corpus")]
    (tmp_path / "corpus").mkdir()
    experiment, _ = run_task("tmpl", corpus)
    best = experiment / "dev-best.ckpt"
    content = torch.load(best, weights_only=False)
    del content["Downstream"]["best_score"]
    torch.save(content, best)
    again = ["superb", "tmpl", *corpus, "-u", "fbank", "-p", str(experiment), "--stage", "test"]
    assert main([*again, "--device", "cpu", "--workers", "0", "--steps", "2"]) == 2
    assert "dev-best.ckpt: holds no best_score, because s3prl's example" in capsys.readouterr().err
