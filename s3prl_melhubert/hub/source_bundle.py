"""One Python file made of several modules: what a module needs of the package, put together with it.

The files of a Hub folder run where this package is not installed. They are not written by hand: `bundle`
takes a module, follows the names that it uses into the package's other modules, and puts those definitions,
as they are written there, before its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "s3prl_melhubert"


@dataclass(frozen=True)
class Definition:
    """A class, a function or a constant at the top of a module."""

    module: str
    name: str
    line: int
    text: str  # with the comments before it
    uses: frozenset[str]  # the names that it mentions


@dataclass(frozen=True)
class Import:
    """A name that a module imports: `from home import what as name`, or `import home as name`."""

    home: str
    what: str | None

    def line(self, name: str) -> str:
        """The statement that brings the name."""
        if self.what is None:
            return f"import {self.home}" + ("" if self.home == name else f" as {name}")
        return f"from {self.home} import {self.what}" + ("" if self.what == name else f" as {name}")


@dataclass(frozen=True)
class Module:
    """What stands at the top of a module."""

    docstring: str
    definitions: Mapping[str, Definition]
    imports: Mapping[str, Import]


def bundle(
    root: str,
    *,
    instead: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
    literals: Mapping[str, Any] | None = None,
    note: str = "",
) -> str:
    """The text of a file that holds a module and what it needs of the package.

    Args:
        root: the module's dotted name. Where it defines a name itself, the parts taken from other modules
            use that definition.
        instead: modules of the package -> modules that stand in for them.
        beside: modules of the package -> names of files beside this one, which import them is left to.
        literals: names of constants -> the values to write in place of their definitions.
        note: a paragraph for the end of the docstring.
    """
    instead, beside, literals = instead or {}, beside or {}, literals or {}
    chosen: dict[str, Definition] = {}  # in the order of need: what is used stands before what uses it
    imports: set[str] = set()
    of_root = read_module(root).definitions

    def take(module: str, name: str) -> None:
        """Choose what a name means in a module, and before it what that needs."""
        content = read_module(module)
        if name in of_root:
            definition = of_root[name]
        elif name in content.definitions:
            definition = content.definitions[name]
        elif name in content.imports:
            one = content.imports[name]
            if one.home in beside:
                imports.add(f"from .{beside[one.home]} import {one.what}")
            elif one.home.partition(".")[0] == PACKAGE:
                assert one.what == name, f"{module}: {name} has another name in {one.home}"
                take(_home(module, one.home, instead), name)
            else:
                imports.add(one.line(name))
            return
        else:
            return  # a builtin, or a name inside a function
        before = chosen.get(name)
        if before is not None:
            assert before.module == definition.module, f"{name} is in {before.module} and in {module}"
            return
        chosen[name] = definition
        if name not in literals:
            for used in sorted(definition.uses):
                take(definition.module, used)

    for name in of_root:
        take(root, name)
    # Within a module the order is that of the source; modules that are imported stand before their importers.
    order = {module: place for place, module in enumerate(_importers_last(root, instead))}
    parts = sorted(chosen.values(), key=lambda part: (order[part.module], part.line))
    texts = [f"{p.name} = {literals[p.name]!r}" if p.name in literals else p.text for p in parts]
    docstring = read_module(root).docstring + (f"\n\n{note}\n" if note else "")
    head = [f'"""{docstring}"""', "from __future__ import annotations", "\n".join(sorted(imports))]
    return "\n\n".join(head) + "\n\n\n" + "\n\n\n".join(texts) + "\n"


def _home(importer: str, module: str, instead: Mapping[str, str]) -> str:
    """Return the module that stands in for one; a stand-in itself imports the module that it replaces."""
    return module if instead.get(module) == importer else instead.get(module, module)


def _importers_last(root: str, instead: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    visited: set[str] = set()  # a stand-in and what it imports may import each other

    def visit(module: str) -> None:
        visited.add(module)
        for one in read_module(module).imports.values():
            if one.home.partition(".")[0] == PACKAGE and one.what is not None:
                home = _home(module, one.home, instead)
                if home not in visited and _path(home) is not None:
                    visit(home)
        found.append(module)

    visit(root)
    return found


def _path(module: str) -> Path | None:
    spec = find_spec(module)
    return Path(spec.origin) if spec is not None and spec.origin else None


@cache
def read_module(module: str) -> Module:
    """Read the source of a module of the package, without running it."""
    path = _path(module)
    assert path is not None, module
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = source.splitlines()
    definitions: dict[str, Definition] = {}
    imports: dict[str, Import] = {}
    end = 0  # the line where the statement before ends
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            imports |= {each.asname or each.name: Import(str(node.module), each.name) for each in node.names}
        elif isinstance(node, ast.Import):
            imports |= {each.asname or each.name: Import(each.name, None) for each in node.names}
        last = node.end_lineno or node.lineno
        text = "\n".join(lines[end:last]).strip("\n")
        uses = frozenset(each.id for each in ast.walk(node) if isinstance(each, ast.Name))
        for name in _names_of(node):
            definitions[name] = Definition(module, name, node.lineno, text, uses - {name})
        end = last
    return Module(ast.get_docstring(tree, clean=False) or "", definitions, imports)


def _names_of(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
