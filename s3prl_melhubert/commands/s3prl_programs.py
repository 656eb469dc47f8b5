"""`melhubert run-downstream` and `run-pretrain`: s3prl's own programs, for people who have s3prl from pip.

Their arguments are s3prl's, `--help` included, and go to them as they are: there is no `add_arguments` here.
"""

from __future__ import annotations

from collections.abc import Sequence

from s3prl_melhubert.support.progress import say


def run_downstream(argv: Sequence[str]) -> int:
    """Run s3prl's run_downstream.py with its own arguments.

    Example: melhubert run-downstream -m train -u melhubert -d example -c config.yaml -p EXPDIR
    """
    from s3prl_melhubert.compat.programs import run_downstream

    return run_downstream(argv, _tell_traps)


def _tell_traps(downstream: str) -> None:
    """Tell what s3prl's own program would take from earlier runs instead of from the corpus."""
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    for task in all_tasks().values():
        if task.downstream == downstream and (trap := task.trap()):
            say(f"-d {downstream}: {trap}")


def run_pretrain(argv: Sequence[str]) -> int:
    """Run s3prl's run_pretrain.py with its own arguments.

    Example: melhubert run-pretrain -u melhubert -c config_runner.yaml -n NAME
    """
    from s3prl_melhubert.compat.programs import run_pretrain

    return run_pretrain(argv)
