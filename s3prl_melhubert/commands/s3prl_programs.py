"""`melhubert run-downstream` and `run-pretrain`: s3prl's own programs, for people who have s3prl from pip.

Their arguments are s3prl's, `--help` included, and go to them as they are: there is no `add_arguments` here.
"""

from __future__ import annotations

from collections.abc import Sequence


def run_downstream(argv: Sequence[str]) -> int:
    """Run s3prl's run_downstream.py with its own arguments.

    Example: melhubert run-downstream -m train -u melhubert -d example -c config.yaml -p EXPDIR
    """
    from s3prl_melhubert.compat.programs import run_downstream

    return run_downstream(argv)


def run_pretrain(argv: Sequence[str]) -> int:
    """Run s3prl's run_pretrain.py with its own arguments.

    Example: melhubert run-pretrain -u melhubert -c config_runner.yaml -n NAME
    """
    from s3prl_melhubert.compat.programs import run_pretrain

    return run_pretrain(argv)
