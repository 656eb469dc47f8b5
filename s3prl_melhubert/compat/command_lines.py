"""What people mistype on the command lines of s3prl's programs, told in a line before anything begins.

s3prl's own parser reads the arguments. What s3prl itself would fail at, in a traceback, is refused, and so is
going on with a copy of an experiment, because s3prl would write to the folder of the first one.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import yaml

from s3prl_melhubert.compat.experiments import passed_over, past, relative_paths
from s3prl_melhubert.compat.experiments.overrides import (
    names_of,
    other_syntax,
    overridden_name,
    parts_of,
    tell_mistyped,
)
from s3prl_melhubert.compat.experiments.saving import STATES, only_run_in, states_in
from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.support.devices import any_device
from s3prl_melhubert.support.progress import say
from s3prl_melhubert.support.settings import errors_of, nearest

UNTRAINED = ("quesst14_dtw",)  # s3prl's downstream tasks in which nothing is trained
# What is compared in a way of its own, or says where to go on.
NOT_COMPARED = {"past_exp", "auto_resume", "expname", "config"}


class CommandLine:
    """The arguments of one of s3prl's two programs, and what both make of them.

    Args:
        args: as s3prl's parser has read them; a copy is kept, because s3prl changes them.
        options: the short name of each that was typed: `{"upstream": "-u"}`.
    """

    program = ""  # its name, in words
    parts: Collection[str] = ()  # what its checkpoints hold, and those of the other program do not
    root = ""  # the folder in which s3prl makes one for the name of an experiment
    way_out = ""  # for who wants an argument that is passed over

    def __init__(self, args: Namespace, options: Mapping[str, str] | None = None):
        self.args, self.options = Namespace(**vars(args)), dict(options or {})
        self.folder = f"{self.root}/{args.expname}" if args.expdir is None else args.expdir
        # Whether s3prl finds something to go on with by itself, and the file or folder with which it goes on.
        self.resumes = bool(args.auto_resume and states_in(self.folder))
        self.past: str | None = self.folder if self.resumes else args.past_exp or None
        self.run: past.Past | None = None  # what its checkpoint says of it

    def check(self) -> None:
        """Raise MelHuBERTError where an argument names what is not there, or is missing."""
        raise NotImplementedError

    def sets(self, name: str) -> bool:
        """Whether `-o` sets the argument after the command line was read."""
        return f"args.{name}" in names_of(self.args.override)

    def check_override(self, settings: dict[str, Any] | None = None) -> None:
        """Raise MelHuBERTError where `-o` is not in s3prl's syntax, or sets an argument that is none.

        A setting that looks like another one mistyped is told, and not refused: nobody but s3prl's code for
        the task knows all of them.

        Args:
            settings: of `-c`, where they are known.
        """
        for part in parts_of(self.args.override):
            name = overridden_name(part)
            first, *keys = name.split(".")
            if not keys or not all(keys):
                raise other_syntax(part)
            if first == "args" and (len(keys) > 1 or not hasattr(self.args, keys[0])):
                known = nearest(".".join(keys), vars(self.args))
                raise MelHuBERTError(f"-o {name}: s3prl has no such argument ({known})")
            if first == "config" and settings is not None:
                tell_mistyped(name, keys, settings)

    def read_settings(self, path: str) -> dict[str, Any] | None:
        """The settings of `-c`; None of a pipe, which can be read once.

        Raises:
            MelHuBERTError: they are not written in YAML as s3prl reads it.
        """
        self.check_file("-c", path)
        if not os.path.isfile(path):
            return None
        try:
            with open(path) as file:
                settings = yaml.load(file, Loader=yaml.FullLoader)
        except (yaml.YAMLError, OSError, ValueError) as error:
            raise MelHuBERTError(f"-c {path}: not valid YAML ({said(error)})") from None
        if not isinstance(settings, dict):
            found = "nothing" if settings is None else type(settings).__name__
            raise MelHuBERTError(f"-c {path}: {found} found, expected a YAML mapping (lines of `key: value`)")
        return settings

    def check_device(self) -> None:
        if not self.sets("device"):
            with errors_of("--device (cuda, if not given)"):
                any_device(self.args.device)

    def check_past(self) -> None:
        assert self.past is not None
        if not os.path.isdir(self.past):
            self.check_file("-e", self.past)
        elif not states_in(self.past):
            raise MelHuBERTError(f"-e {self.past}: holds no {STATES}; name a checkpoint, or another folder")
        self.run = past.check_past("-a" if self.resumes else "-e", self.past, self.program, self.parts)

    def check_file(self, argument: str, path: str | None) -> None:
        """Raise MelHuBERTError unless there is something to read, which may be a pipe."""
        if path is not None and not os.path.exists(path):
            raise MelHuBERTError(f"{argument} {path}: no such file (looked for {os.path.abspath(path)})")
        if path is not None and os.path.isdir(path):
            raise MelHuBERTError(f"{argument} {path}: a folder found, expected a file")

    def tell_other_folder(self, args: Namespace, here: str, there: str = "") -> None:
        """Tell where s3prl goes on with an experiment that was copied or moved.

        s3prl takes the folder from the checkpoint, and passes over `-p`.

        Args:
            args: with which s3prl goes on.
            here: what to do to go on where the checkpoints are.
            there: the same for an experiment that the user names with `-e`.

        Raises:
            MelHuBERTError: the user names the folder to go on in (`-a`), and s3prl would write to another.
        """
        if self.past is None:
            return
        holds = self._holds()
        if os.path.realpath(holds) == os.path.realpath(args.expdir):
            return
        writes = os.path.abspath(args.expdir)
        if self.resumes:
            raise MelHuBERTError(
                f"-a: the checkpoints in {holds} name {writes}, and s3prl would write there; "
                + here.format(holds=os.path.abspath(holds))
            )
        say(f"-e {self.past}: s3prl writes to {writes}, which the checkpoint names{there}")

    @property
    def going_on(self) -> str:
        """The argument that names the checkpoint with which s3prl begins, in words."""
        if self.past is None:
            return f"-i {self.args.init_ckpt}"
        return "-a" if self.resumes else f"-e {self.past}"

    def _holds(self) -> str:
        """The folder of the checkpoint with which s3prl goes on."""
        assert self.past is not None
        return self.past if os.path.isdir(self.past) else os.path.dirname(self.past) or "."

    def tell_passed_over(self, args: Namespace, config: Mapping[str, Any]) -> None:
        """Tell in a line which of the typed arguments have no effect, because the checkpoint has others.

        Args:
            args: with which s3prl goes on.
            config: the settings with which it goes on.
        """
        if self.past is None:
            return
        found = self._passed_over(args, config)
        if found:
            others = ", ".join(found)
            say(f"{self.going_on}: s3prl goes by the checkpoint, and passes over {others}; {self.way_out}")

    def _passed_over(self, args: Namespace, config: Mapping[str, Any]) -> list[str]:
        # s3prl has applied this `-o`, be it of the command line or of the checkpoint.
        applied = names_of(args.override)
        options = {
            name: option
            for name, option in self.options.items()
            if name not in NOT_COMPARED and f"args.{name}" not in applied
        }
        if "expname" in self.options and "args.expdir" not in applied:
            options.setdefault("expdir", self.options["expname"])
        given = {**vars(self.args), "expdir": self.folder}
        found = list(passed_over.other_arguments(given, options, vars(args)))
        if "config" in self.options:
            but = {name.removeprefix("config.") for name in applied if name.startswith("config.")}
            found += self._other_file(
                "-c", self.args.config, lambda settings: passed_over.other_settings(settings, config, but)
            )
        return found

    def _other_file(self, option: str, path: str, compare: Callable[[dict], list]) -> list[str]:
        """A file of settings in words, where it is not what the checkpoint has."""
        try:
            settings = self.read_settings(path)
        except MelHuBERTError:  # Nobody needs it.
            return [f"{option} {path}"]
        different = [] if settings is None else compare(settings)
        return [passed_over.in_words(f"{option} {path}", different)] if different else []


class DownstreamLine(CommandLine):
    """The arguments of run_downstream.py."""

    program = "run-downstream"
    parts = past.TRAINED
    root = "result/downstream"
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
            _check_task(args.downstream)
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
        self.check_override(self.read_settings(args.config or default))

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


class PretrainLine(CommandLine):
    """The arguments of run_pretrain.py, with paths from the root on."""

    program = "run-pretrain"
    parts = ("Upstream_Config", "Optimizer")
    root = "result/pretrain"
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
        self.check_override(None if args.config is None else self.read_settings(args.config))
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


def _typed(parser: argparse.ArgumentParser, parse_args: Callable[..., Any]) -> dict[str, str]:
    """The arguments that stand on the command line, which was read before without an error, by short names.

    Args:
        parser: s3prl's.
        parse_args: argparse's own method.
    """
    names = {each.dest: each.option_strings[0] for each in parser._actions if each.option_strings}
    absent = object()
    # argparse puts a default only where there is nothing yet.
    read = parse_args(parser, namespace=Namespace(**dict.fromkeys(names, absent)))
    return {name: option for name, option in names.items() if getattr(read, name) is not absent}


@contextmanager
def checked(kind: type[CommandLine]) -> Iterator[list[Any]]:
    """Have s3prl's parser tell of mistakes; what is yielded holds the command line, once it has been read."""
    plain = argparse.ArgumentParser.parse_args
    read: list[Any] = []

    def parse_args(*given: Any, **options: Any) -> Any:
        args = plain(*given, **options)
        read.append(kind(args, _typed(given[0], plain)))
        read[0].check()
        return args

    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]
    try:
        yield read
    finally:
        argparse.ArgumentParser.parse_args = plain  # type: ignore[method-assign]


def _check_task(task: str | None) -> None:
    """Raise MelHuBERTError unless s3prl has code for the downstream task."""
    if task is None:
        raise MelHuBERTError("no -d: name the downstream task, such as -d ctc")
    folder = import_module("s3prl.downstream")
    module = f"{folder.__name__}.{task}.expert"
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError as error:
        found = not f"{module}.".startswith(f"{error.name}.")  # Otherwise, a library of the task is missing.
    except Exception:
        found = True  # s3prl fails in the same way, and its traceback shows where.
    if not found:
        known = [each.name for each in pkgutil.iter_modules(folder.__path__) if each.ispkg]
        raise MelHuBERTError(f"-d {task}: s3prl has no such downstream task ({nearest(task, known)})")


def check_upstream_name(upstream: str | None) -> None:
    """Raise MelHuBERTError unless s3prl has the upstream."""
    if upstream is None:
        raise MelHuBERTError("no -u: name the upstream, such as -u melhubert")
    hub = import_module("s3prl.hub")
    if hasattr(hub, upstream):
        return
    close = get_close_matches(upstream, [name for name in dir(hub) if not name.startswith("_")])
    raise MelHuBERTError(
        f"-u {upstream}: s3prl has no such upstream"
        + (f"; did you mean {', '.join(close)}?" if close else "")
    )
