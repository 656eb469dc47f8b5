"""`melhubert doctor`: what is wrong with this environment, and the command that mends it."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # There are no arguments but --help.


def run(args: argparse.Namespace) -> int:
    """Tell what is wrong with this environment, and the command that mends it.

    Example: melhubert doctor
    """
    from s3prl_melhubert.doctor.report import print_report

    del args
    return 1 if print_report() else 0
