"""The package's import graph, read from the source with `ast`: nothing is imported, nothing is run.

    python tests/house/import_graph.py            # the rooms, and which imports which
    python tests/house/import_graph.py --modules  # every module, and what it imports

Imports inside functions count, because they are needed when the function runs. Imports under
`if TYPE_CHECKING` are kept apart, because no program executes them. A string that is exactly a module's name,
such as "s3prl_melhubert.cli" in a table of commands, is kept as well: commands are found in that way.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PACKAGE = "s3prl_melhubert"

# Where the folders of the checkout are installed; setup.py says the same.
FOLDERS = {
    "s3prl_melhubert": PACKAGE,
    "upstream_expert": f"{PACKAGE}.upstream_expert",
    "pretrain": f"{PACKAGE}.pretrain",
    "downstream_recipes": f"{PACKAGE}.downstream_recipes",
}

# The command line may use everything. Its two modules beside the model belong to the room of the commands.
FRONT_DOOR = (f"{PACKAGE}.cli", f"{PACKAGE}.__main__", f"{PACKAGE}.commands")

# What mends s3prl, with the name that a part of it had before.
COMPAT = (f"{PACKAGE}.compat", f"{PACKAGE}.s3prl_compat")

# The room of all folders that hold a SUPERB task.
TASKS = "downstream_recipes/TASK"


class Kind(Enum):
    """When Python comes upon an import."""

    START = "when the module is imported"
    LATER = "when a function runs"
    TYPING = "never: only a type checker reads it"
    NAMED = "when a table of commands is followed"


@dataclass(frozen=True)
class Import:
    """One module's need of another, and where it is written."""

    importer: str
    imported: str  # a module of the package, or another library's dotted name
    kind: Kind
    line: int

    @property
    def runs(self) -> bool:
        """Whether some run of the program executes it."""
        return self.kind in (Kind.START, Kind.LATER)

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} -> {self.imported}"


@dataclass(frozen=True)
class Graph:
    """Every module of the package with its file, and every import that is written in them."""

    checkout: Path
    files: Mapping[str, Path]
    imports: tuple[Import, ...]

    @cached_property
    def inside(self) -> dict[str, set[str]]:
        """Module -> the package's modules that it imports; neither for typing nor by name."""
        found: dict[str, set[str]] = {module: set() for module in self.files}
        for one in self.imports:
            if one.runs and one.imported in self.files and one.imported != one.importer:
                found[one.importer].add(one.imported)
        return found

    def room(self, module: str) -> str:
        """The folder of a module, such as "s3prl_melhubert" or "pretrain/data": two levels at most.

        The folders of SUPERB's tasks are one room, however many there are.
        """
        if within(module, FRONT_DOOR):
            return f"{PACKAGE}/commands"
        if within(module, COMPAT):
            return f"{PACKAGE}/compat"
        room = "/".join(self.files[module].relative_to(self.checkout).parent.parts[:2])
        return TASKS if (self.checkout / room / "task.py").is_file() and "/" in room else room

    def importers_of(self, library: str) -> list[Import]:
        """Every import of a library or of something inside it, such as "argparse" or "s3prl"."""
        return [one for one in self.imports if within(one.imported, [library]) and one.runs]

    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other, directly or through others (Tarjan's components)."""
        order: dict[str, int] = {}
        lowest: dict[str, int] = {}
        stack: list[str] = []
        found: list[list[str]] = []

        def visit(module: str) -> None:
            order[module] = lowest[module] = len(order)
            stack.append(module)
            for other in sorted(self.inside[module]):
                if other not in order:
                    visit(other)
                    lowest[module] = min(lowest[module], lowest[other])
                elif other in stack:
                    lowest[module] = min(lowest[module], order[other])
            if lowest[module] == order[module]:
                start = stack.index(module)
                if len(stack) - start > 1:
                    found.append(sorted(stack[start:]))
                del stack[start:]

        for module in sorted(self.files):
            if module not in order:
                visit(module)
        return found


def within(module: str, packages: Iterable[str]) -> bool:
    """Whether a dotted name is one of these or lies inside one of them."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def read_graph(checkout: Path = CHECKOUT) -> Graph:
    """Read all modules of a checkout."""
    files = {
        _module_name(path.relative_to(checkout / folder), package): path
        for folder, package in FOLDERS.items()
        for path in sorted((checkout / folder).rglob("*.py"))
    }
    imports = [one for module, path in files.items() for one in _imports_of(module, path, files)]
    return Graph(checkout, files, tuple(imports))


def _module_name(path: Path, package: str) -> str:
    parts = [*path.parent.parts, path.stem]
    return ".".join([package, *(part for part in parts if part != "__init__")])


def _imports_of(module: str, path: Path, modules: Collection[str]) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for_typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    in_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        kind = Kind.START
        if id(node) in for_typing:
            kind = Kind.TYPING
        elif id(node) in in_functions:
            kind = Kind.LATER
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, kind, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, package)
            for alias in node.names:
                # `from package import module` needs that module, `from module import name` the first.
                whole = f"{source}.{alias.name}"
                yield Import(module, whole if whole in modules else source, kind, node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if name in modules and "." in name:
                yield Import(module, name, Kind.NAMED, node.lineno)


def _source(node: ast.ImportFrom, package: str) -> str:
    """The module that `from ... import` names, with the dots of a relative import resolved."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def room_imports(graph: Graph) -> dict[str, dict[str, int]]:
    """Room -> room -> how many pairs of modules connect them, imports by name included."""
    pairs = {
        (one.importer, one.imported)
        for one in graph.imports
        if one.imported in graph.files and one.kind is not Kind.TYPING
    }
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for importer, imported in pairs:
        if graph.room(importer) != graph.room(imported):
            found[graph.room(importer)][graph.room(imported)] += 1
    return {room: dict(sorted(others.items())) for room, others in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description="Print which rooms, or modules, import which.")
    parser.add_argument("--modules", action="store_true", help="every module instead of the rooms")
    graph = read_graph()
    if parser.parse_args().modules:
        for module, imported in graph.inside.items():
            print(f"{module}: {', '.join(sorted(imported)) or '-'}")
    else:
        for room, others in room_imports(graph).items():
            print(f"{room}: {', '.join(f'{other} ({count})' for other, count in others.items())}")
    for circle in graph.circles():
        print("circle:", ", ".join(circle))


if __name__ == "__main__":
    main()
