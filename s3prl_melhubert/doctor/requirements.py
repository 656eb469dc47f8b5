"""The versions that this package needs, as pyproject.toml asks for them, and how versions are compared."""

from __future__ import annotations

import re
from importlib import metadata

DISTRIBUTION = "s3prl-melhubert"
OLDEST_PYTHON = (3, 10)
NEWEST_PAIR = "2.11.0"  # the newest torch for which PyPI has a torchaudio; torchaudio 2.11.1 does not fit it

KENLM = "flashlight.lib.text.decoder.kenlm"  # the module of flashlight-text that needs a compiled library
NO_KENLM_WHEEL = (3, 13)  # the first Python for which flashlight-text has no wheel

# By distribution: the module to import, and the versions that pyproject.toml asks for.
REQUIRED = {
    "torch": ("torch", ">=2.4,<2.12"),
    "torchaudio": ("torchaudio", ">=2.4,<2.11.1"),
    "s3prl": ("s3prl", ">=0.4.18,<0.5"),
    "numpy": ("numpy", ""),
    "numba": ("numba", ""),
    "pyyaml": ("yaml", ""),
    "tqdm": ("tqdm", ""),
    "soundfile": ("soundfile", ""),
    "soxr": ("soxr", ""),
    "safetensors": ("safetensors", ""),
    "filelock": ("filelock", ""),
    "joblib": ("joblib", ""),
    "scipy": ("scipy", ""),
    "scikit-learn": ("sklearn", ""),
    "threadpoolctl": ("threadpoolctl", ""),
    "kaldiio": ("kaldiio", ""),
    "accelerate": ("accelerate", ">=1"),
    "matplotlib": ("matplotlib", ""),
    "gdown": ("gdown", ">=6.4"),
    # These are imported by s3prl's runners, and s3prl's own wheel does not ask for them.
    "huggingface_hub": ("huggingface_hub", ""),
    "tensorboardX": ("tensorboardX", ""),
    "pandas": ("pandas", ""),
    "librosa": ("librosa", ""),
    "editdistance": ("editdistance", ""),
    "packaging": ("packaging", ""),
    "setuptools": ("setuptools", ""),
}
# These have checks of their own, and `import s3prl` would import torch.
CHECKED_APART = ("torch", "torchaudio", "s3prl")


def installed_version(distribution: str) -> str | None:
    """Return its installed version as the package manager knows it, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: (2, 11, 0) of 2.11.0+cu130."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def minor(version: str) -> str:
    """Return the first two numbers of a version: 2.11 of 2.11.0+cu130."""
    return ".".join(map(str, release(version)[:2]))


def in_range(version: str, spec: str) -> bool:
    """Tell whether a version satisfies a requirement made of `>=` and `<` alone."""
    for clause in filter(None, spec.split(",")):
        operator, bound = ("<", clause[1:]) if clause.startswith("<") else (">=", clause[2:])
        if (release(version) < release(bound)) is not (operator == "<"):
            return False
    return True
