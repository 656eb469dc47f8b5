"""The checks of `melhubert doctor` in their order, and their findings as lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from s3prl_melhubert.doctor.environment import check_cache, check_package, check_python, check_temporary
from s3prl_melhubert.doctor.findings import Context, Finding
from s3prl_melhubert.doctor.hub import check_hook, check_s3prl
from s3prl_melhubert.doctor.libraries import (
    check_audio,
    check_cuda,
    check_language_model,
    check_libraries,
    check_torch,
    check_torchaudio,
)
from s3prl_melhubert.doctor.requirements import DISTRIBUTION

# The checks stand in the order in which their problems should be mended.
CHECKS: list[tuple[str, Callable[[Context], Iterator[Finding]]]] = [
    ("Python", check_python),
    (DISTRIBUTION, check_package),
    ("temporary files", check_temporary),
    ("torch", check_torch),
    ("torchaudio", check_torchaudio),
    ("libraries", check_libraries),
    ("audio files", check_audio),
    ("the language model", check_language_model),
    ("the .pth file", check_hook),
    ("the download folder", check_cache),
    ("s3prl", check_s3prl),
    ("CUDA", check_cuda),
]


def print_report() -> int:
    """Run the checks and print what they find; return the number of problems."""
    context = Context()
    problems = 0
    for title, check in CHECKS:
        if sys.stderr.isatty():
            print(f"...      {title}", end="\r", file=sys.stderr, flush=True)
        for finding in check(context):
            if sys.stderr.isatty():
                print("\033[K", end="", file=sys.stderr, flush=True)
            print(f"{finding.status:8} {finding.text}", flush=True)
            if finding.mend:
                print(f"{'':8} mend: {finding.mend}", flush=True)
            problems += finding.status == "problem"
    if problems:
        print(f"\n{problems} problem{'s' * (problems > 1)}; mend from the top, then run it again")
    else:
        print("\nall is well")
    return problems
