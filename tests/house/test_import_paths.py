"""Every import path that README or the pages have ever named still works."""

from __future__ import annotations

import importlib
import re

import pytest

EVER_NAMED = (
    "s3prl_melhubert:load_model",
    "s3prl_melhubert:load_checkpoint",
    "s3prl_melhubert:save_checkpoint",
    "s3prl_melhubert:FeatureStats",
    "s3prl_melhubert:Frontend",
    "s3prl_melhubert:log_mel",
    "s3prl_melhubert:MelHuBERT",
    "s3prl_melhubert:MelHuBERTConfig",
    "s3prl_melhubert:MelHuBERTError",
    "s3prl_melhubert.s3prl_compat:restore",
    "s3prl_melhubert.compat.restorations:restore",
    "s3prl_melhubert.audio:audio_pieces",
    "s3prl_melhubert.audio:read_audio",
    "s3prl_melhubert.downstream_recipes.prediction:Predictor",
    "s3prl_melhubert.extraction:Windows",
    "s3prl_melhubert.extraction:streamed_features",
    "s3prl_melhubert.extraction:windowed_hidden_states",
    "s3prl_melhubert.kernels:torch_operations",
    "s3prl_melhubert.upstream_expert:__path__",
    "s3prl_melhubert.upstream_expert.expert:UpstreamExpert",
)

IMPORT = re.compile(r"\bfrom (s3prl_melhubert[\w.]*) import (\w+(?:, \w+)*)")
PROGRAM = re.compile(r"python -m (benchmarks[\w.]*)|`(benchmarks/\w+\.py)`")


@pytest.mark.parametrize("path", EVER_NAMED)
def test_old_path_still_works(path):
    module, _, name = path.partition(":")
    assert getattr(importlib.import_module(module), name) is not None


def test_what_the_pages_import_is_there_and_is_kept(checkout):
    text = "\n".join(path.read_text() for path in [checkout / "README.md", *(checkout / "docs").glob("*.md")])
    named = {f"{module}:{name}" for module, names in IMPORT.findall(text) for name in names.split(", ")}
    assert named
    assert named <= set(EVER_NAMED)


def test_benchmarks_that_the_pages_name_are_there(checkout):
    text = "\n".join(path.read_text() for path in (checkout / "docs").glob("*.md"))
    files = {script or module.replace(".", "/") for module, script in PROGRAM.findall(text)}
    assert [file for file in files if not list(checkout.glob(f"{file.removesuffix('.py')}*"))] == []
