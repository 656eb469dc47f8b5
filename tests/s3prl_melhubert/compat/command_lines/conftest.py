"""A working folder with settings and an experiment for either of s3prl's programs."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from s3prl_melhubert.compat import finder

SETTINGS = """\
downstream_expert: {}
pretrain_expert: {datarc: {}}
optimizer: {}
runner:
  n_epochs: 1
  total_steps: 9
  gradient_accumulate_steps: 1
  gradient_clipping: 1
  log_step: 1
  eval_step: 1
  eval_dataloaders: [dev]
  save_step: 1
  max_keep: 1
"""


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """The working folder: settings, and an experiment with a checkpoint that was made in it, and a copy."""
    finder.install()
    import s3prl.run_downstream  # noqa: F401 (it lets torch read a Namespace)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(SETTINGS)
    (tmp_path / "short.yaml").write_text("runner: {log_step: 1}\n")
    (tmp_path / "damaged.yaml").write_text("runner: [\n")
    (tmp_path / "list.yaml").write_text("- runner\n")
    for name in ("first", "copy"):
        (tmp_path / name).mkdir()
        args = Namespace(expdir="first", local_rank=None)
        content = {"Args": args, "Config": {"runner": {"total_steps": 4}}, "Step": 4}
        # for either program
        content |= {"Featurizer": {}, "Downstream": {}, "Upstream_Config": {}, "Optimizer": {"state": {}}}
        torch.save(content, tmp_path / name / "states-4.ckpt")
    torch.save({"model": {}}, tmp_path / "upstream.ckpt")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.fixture
def settings() -> str:
    """Settings with all that either program asks for, in YAML."""
    return SETTINGS
