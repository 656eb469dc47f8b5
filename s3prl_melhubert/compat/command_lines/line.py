"""The arguments that both of s3prl's programs have, and which of them have no effect beside `-e`."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from typing import Any

import yaml

from s3prl_melhubert.compat.experiments import passed_over, past
from s3prl_melhubert.compat.experiments.overrides import (
    names_of,
    other_syntax,
    overridden_name,
    parts_of,
    tell_mistyped,
)
from s3prl_melhubert.compat.experiments.saving import STATES, states_in
from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.support.devices import any_device
from s3prl_melhubert.support.progress import say
from s3prl_melhubert.support.settings import errors_of, nearest

# What is compared in a way of its own, or says where to go on.
NOT_COMPARED = {"past_exp", "auto_resume", "expname", "config"}
# What the runners of both programs ask for; max_keep at the first save, after hours.
RUNNER = (
    "total_steps",
    "gradient_accumulate_steps",
    "gradient_clipping",
    "log_step",
    "save_step",
    "max_keep",
)


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
    needs: Collection[str] = ()  # settings without which its training fails, some of them at the first save

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

    def check_complete(self, path: str, settings: Mapping[str, Any]) -> None:
        """Raise MelHuBERTError where a training would miss one of the settings, at the latest when it saves.

        Args:
            path: of `-c`.
            settings: in it.
        """
        set_by_o = [f"{name.removeprefix('config.')}." for name in names_of(self.args.override)]
        missing = []
        for name in self.needs:
            value: Any = settings
            for key in name.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            whole = f"{name}."
            if value is None and not any(
                whole.startswith(each) or each.startswith(whole) for each in set_by_o
            ):
                missing.append(name)
        if missing:
            raise MelHuBERTError(f"-c {path}: lacks {', '.join(missing)}, without which s3prl does not train")

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
