"""Upstreams of s3prl's whose library is imported when one of them is made, and not with `s3prl.hub`.

    postpone(spec)    has a module that the hub is about to import wait
    settle()          is called when the hub has been imported

The hub imports every upstream that s3prl has. Two of them import transformers, which takes longer than torch
and all the rest of the hub together, and hardly a program uses either. A third imports ESPnet, and where that
is missing, as it mostly is, it warns every program. The hub asks them for no more than a name,
`UpstreamExpert`, to call it later. So the module's code runs at the first call of that, or when anything else
of the module is asked for; it is the same module then as it would have been.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType
from typing import Any

UPSTREAM = "UpstreamExpert"  # the one name that the hub imports

_waiting: list[_Waiting] = []


def postpone(spec: ModuleSpec) -> None:
    """Have the loader of this module leave its code for later."""
    loader = spec.loader
    assert loader is not None
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        if module.__spec__ is spec:
            _waiting.append(_Waiting(module, execute))
        else:  # A zip file has one loader for all its modules.
            execute(module)

    loader.exec_module = exec_module  # type: ignore[method-assign]


def settle() -> None:
    """Take back the name that the hub was given: whoever imports it from now on gets what it stands for."""
    while _waiting:
        _waiting.pop().settle()


class _Waiting:
    """A module whose code has not run yet.

    Args:
        module: new and empty.
        execute: runs its code.
    """

    def __init__(self, module: ModuleType, execute: Callable[[ModuleType], None]):
        self.module, self.execute = module, execute
        self.lock = RLock()
        self.running = self.done = False

        def upstream(*arguments: Any, **named: Any) -> Any:
            self.load()
            return getattr(module, UPSTREAM)(*arguments, **named)

        self.upstream = upstream
        vars(module)[UPSTREAM] = upstream
        vars(module)["__getattr__"] = self.attribute

    def settle(self) -> None:
        if vars(self.module).get(UPSTREAM) is self.upstream:
            del vars(self.module)[UPSTREAM]

    def attribute(self, name: str) -> Any:
        """Load the module for a name that it does not have yet."""
        # The import system asks a module for such names as `__path__`, without meaning to use it.
        if not (name.startswith("__") and name.endswith("__")):
            self.load()
            if name in vars(self.module):
                return vars(self.module)[name]
        raise AttributeError(f"module {self.module.__name__!r} has no attribute {name!r}")

    def load(self) -> None:
        """Run the module's code, once; after an error it can be tried again."""
        with self.lock:  # of whichever thread comes first
            if self.running or self.done:
                return
            self.settle()
            before = dict(vars(self.module))
            self.running = True
            try:
                self.execute(self.module)
            except BaseException:
                vars(self.module).clear()
                vars(self.module).update(before)
                raise
            finally:
                self.running = False
            self.done = True
            del vars(self.module)["__getattr__"]
