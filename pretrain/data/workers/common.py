"""What all backends need."""

from __future__ import annotations

from s3prl_melhubert.errors import MelHuBERTError


def nothing() -> None:
    pass


def killed(what: str) -> MelHuBERTError:
    return MelHuBERTError(
        f"{what} (out of memory?); the same command continues, with fewer --jobs if memory is short"
    )


def not_installed(backend: str, package: str) -> MelHuBERTError:
    return MelHuBERTError(f"--backend {backend}: not installed; pip install '{package}'")
