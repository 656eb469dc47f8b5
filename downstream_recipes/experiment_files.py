"""The small files that an experiment keeps of what it is and has found, for all who run, use or report it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s3prl_melhubert.compat.experiments.saving import IDENTITY
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.files import read_json

# What `experiment.json` says under names of its own; the others are the arguments' names.
FOLDER, CORPUS, PART = "-p", "corpus, its content (SHA-256)", "part"
FILES = {"-k": "-k, its content (SHA-256)", "-g": "-g, its content (SHA-256)"}
STATISTICS = "-g, the statistics that it names (SHA-256)"

TEST_UTTERANCES = "test_utterances.txt"  # the names of the utterances that are tested


def read_identity(folder: Path) -> dict[str, Any]:
    """Read the `experiment.json` of an experiment's folder; nothing where there is none.

    Raises:
        MelHuBERTError: it cannot be read.
    """
    path = folder / IDENTITY
    remedy = "remove it, and give the experiment's own command, which writes it anew"
    try:
        content = read_json(path, remedy)
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        raise MelHuBERTError(f"{path}: is not of `melhubert superb` (no JSON object); {remedy}")
    return content


def read_score(path: Path, remedy: str) -> float:
    """Read a JSON file that holds a score, and nothing else, as `read_json` reads others."""
    score = read_json(path, remedy)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise MelHuBERTError(f"{path}: {shown(score)} found, expected a score; {remedy}")
    return float(score)
