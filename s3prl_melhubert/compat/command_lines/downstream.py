"""The arguments of run_downstream.py: the task, the upstream, and a checkpoint of an experiment."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from s3prl_melhubert.compat.command_lines import line
from s3prl_melhubert.compat.command_lines.line import CommandLine
from s3prl_melhubert.compat.command_lines.names import check_task, check_upstream_name
from s3prl_melhubert.compat.experiments import passed_over, past, relative_paths
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.progress import say

RUNNER = (*line.RUNNER, "eval_step", "eval_dataloaders")
UNTRAINED = ("quesst14_dtw",)  # s3prl's downstream tasks in which nothing is trained


class DownstreamLine(CommandLine):
    """The arguments of run_downstream.py."""

    program = "run-downstream"
    parts = past.TRAINED
    root = "result/downstream"
    needs = ("downstream_expert", "optimizer", *(f"runner.{name}" for name in RUNNER))
    way_out = "-o args.NAME=VALUE,,config.KEY=VALUE changes them all the same, but for the optimizer's"

    def check(self) -> None:
        args = self.args
        self.check_device()
        if args.mode == "inference" and not self.sets("evaluate_split"):
            self.check_file("-t", args.evaluate_split)
        if self.past is not None:
            self.check_past()
            self.check_override()
            return
        if not self.sets("downstream"):
            check_task(args.downstream)
        if args.hub == "torch" and not self.sets("upstream"):
            check_upstream_name(args.upstream)
        self.check_file("-i", args.init_ckpt or None)
        has_model = args.downstream not in UNTRAINED
        if args.init_ckpt:
            trainable = None if self.sets("upstream_trainable") else args.upstream_trainable
            self.run = past.check_weights(args.init_ckpt, args.mode, trainable, has_model=has_model)
        elif args.mode != "train" and has_model and not self.sets("init_ckpt"):
            raise MelHuBERTError(
                f"-m {args.mode}: neither -e nor -i, so that s3prl would take random weights; name a "
                "checkpoint with one of them"
            )
        default = f"./downstream/{args.downstream}/config.yaml"
        if args.config is None and not os.path.exists(default):
            raise MelHuBERTError(
                f"no -c, and there is no {default} here, which pip's s3prl lacks; give the task's settings "
                "with -c (`melhubert superb config TASK` writes those of SUPERB)"
            )
        settings = self.read_settings(args.config or default)
        self.check_override(settings)
        if args.mode == "train" and has_model and settings is not None:
            self.check_complete(args.config or default, settings)

    def tell_folder(self, args: Namespace) -> None:
        """`tell_other_folder`, unless the user says where to write."""
        if not self.sets("expdir"):
            here = "add -o args.expdir={holds} to go on here"
            self.tell_other_folder(args, here, "; -o args.expdir=FOLDER has it write elsewhere")

    def keep_optimizer(self, config: dict[str, Any]) -> None:
        """Tell of settings of the optimizer in `-o`, or in `-c` beside `-i`, that have no effect."""
        if self.args.mode == "train" and self.run is not None and self.run.has_optimizer:
            passed_over.keep_optimizer(self.going_on, config, self.run.config)

    def tell_ended(self, config: Mapping[str, Any]) -> None:
        """Tell in a line where s3prl would end without a word, because no step is left to train."""
        runner, done = config.get("runner"), self.run and self.run.step
        steps = runner.get("total_steps") if isinstance(runner, Mapping) else None
        if self.args.mode == "train" and isinstance(steps, int) and done is not None and done >= steps:
            say(
                f"{self.going_on}: the checkpoint is of step {done} of {steps}, so that nothing is left to "
                f"train; -o config.runner.total_steps=N, with N above {done}, trains on"
            )

    def settle_paths(self, args: Namespace, config: Mapping[str, Any]) -> None:
        """Have a new experiment name its upstream's files from the root on, and tell where one does not."""
        if self.past is None:
            relative_paths.make_absolute(args)
            return
        relative_paths.find_moved(self.going_on, args)
        began = None if self.resumes or self.run is None else self.run.args.get("expdir")
        if began is not None and not relative_paths.same_folder(began, self._holds()):
            relative_paths.tell(f"-e {self.past}", args, config)
