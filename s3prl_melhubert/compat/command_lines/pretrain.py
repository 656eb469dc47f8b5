"""The arguments of run_pretrain.py: the name, the upstream, and a checkpoint of a run."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from s3prl_melhubert.compat.command_lines import line
from s3prl_melhubert.compat.command_lines.line import CommandLine
from s3prl_melhubert.compat.experiments import passed_over
from s3prl_melhubert.compat.experiments.saving import only_run_in
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.devices import any_device
from s3prl_melhubert.support.settings import errors_of

RUNNER = ("n_epochs", *line.RUNNER)


class PretrainLine(CommandLine):
    """The arguments of run_pretrain.py, with paths from the root on."""

    program = "run-pretrain"
    parts = ("Upstream_Config", "Optimizer")
    root = "result/pretrain"
    needs = ("pretrain_expert.datarc", "optimizer", *(f"runner.{name}" for name in RUNNER))
    way_out = "for a run with others, `melhubert pretrain -i CHECKPOINT`"

    def check(self) -> None:
        args = self.args
        if self.past is not None:  # All else comes from the checkpoint.
            self.check_past()
            self.check_past_device()
            return
        for name, value in (("-n NAME", args.expname), ("-u melhubert", args.upstream)):
            if value is None:
                raise MelHuBERTError(f"no {name[:2]}: s3prl begins no run without it; give {name}")
        self.check_device()
        self.check_file("-g", args.upstream_config)
        settings = None if args.config is None else self.read_settings(args.config)
        self.check_override(settings)
        if settings is not None:
            self.check_complete(args.config, settings)
        if os.path.isdir(self.folder):
            with only_run_in(self.folder):  # s3prl copies `-c` and `-g` there before it says where it writes.
                pass

    def check_past_device(self) -> None:
        """Raise MelHuBERTError where a run would go on on a device that is not here."""
        recorded = None if self.run is None else self.run.args.get("device")
        if "device" in self.options:
            self.check_device()
        elif recorded is not None:
            with errors_of(f"{self.going_on}: without --device, it goes on where it was begun"):
                any_device(recorded)

    def settle_device(self, args: Namespace) -> None:
        """Have a run go on on the device that was typed, where s3prl would take that of its beginning."""
        if "device" in self.options and self.past is not None:
            args.device = self.args.device

    def tell_folder(self, args: Namespace) -> None:
        """`tell_other_folder`; s3prl passes over `-o`, too, when it goes on."""
        here = "-e {holds} does so, too; for a run in a folder of its own, `melhubert pretrain -i CHECKPOINT`"
        self.tell_other_folder(args, here)

    def _passed_over(self, args: Namespace, config: Mapping[str, Any]) -> list[str]:
        upstream = self.run and self.run.upstream
        if "upstream_config" not in self.options or not isinstance(upstream, Mapping):
            return super()._passed_over(args, config)
        # Whatever file the arguments name, s3prl takes the settings in the checkpoint.
        path = self.args.upstream_config
        args = Namespace(**{**vars(args), "upstream_config": path})
        others = self._other_file("-g", path, lambda settings: [*passed_over.different(settings, upstream)])
        return [*others, *super()._passed_over(args, config)]
