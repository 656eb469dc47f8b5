"""The house holds together: the wings point one way, nothing goes in a circle, files and folders are small.

    downstream_recipes -> upstream_expert -> s3prl_melhubert <- pretrain

A wing may skip one on its way down. `downstream_recipes` does not import `pretrain`: only the quickstart
needs it, and runs it as a user does, through the `melhubert` command. `commands/` and `cli.py` are the front
door and may import every wing. `compat/` serves s3prl, which asks for our entries and files, so it names
those of other wings, but only inside functions, when s3prl asks.

`python tests/house/import_graph.py` prints what is measured here.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

MAX_LINES = 400
MAX_MODULES = 14
MAX_MODULES_OF_THE_MODEL = 20  # its folder is flat: one noun a file

# Rooms whose modules are not named in their opening lines: a module has the name of its command there, which
# `melhubert --help` tells of, or of its task, or is an old name.
UNNAMED = {"s3prl_melhubert/commands", "s3prl_melhubert/commands/checkpoints"}
NOT_NAMED = {"s3prl_melhubert/s3prl_compat"}

PACKAGE = "s3prl_melhubert"
WINGS = ("upstream_expert", "pretrain", "downstream_recipes")

# Wing -> what it may import, besides itself. The model imports no other wing.
MAY_IMPORT = {
    "front door": {"model", "compat", "doctor", *WINGS},
    "downstream_recipes": {"upstream_expert", "model", "compat"},
    "upstream_expert": {"model"},
    "pretrain": {"model"},
    "compat": {"model"},
    "doctor": {"model", "compat"},  # it looks whether s3prl is mended
    "model": set(),
}

# What is against the rule above, and why. An entry that is not needed any more fails the test, too.
LATE = {
    (f"{PACKAGE}.compat.finder", f"{PACKAGE}.upstream_expert.hubconf"): "s3prl.hub gets our entries",
    (
        f"{PACKAGE}.compat.finder",
        f"{PACKAGE}.downstream_recipes",
    ): "s3prl from pip lacks modules of corpora, and ours stand in for them",
    (
        f"{PACKAGE}.compat.pretrain_workplace",
        f"{PACKAGE}.pretrain.link",
    ): "s3prl's run_pretrain.py wants a folder that holds our pretrain_expert",
}
FRONT_DOOR_USERS = {
    (
        f"{PACKAGE}.downstream_recipes.quickstart.quickstart",
        f"{PACKAGE}.cli",
    ): "the quickstart runs commands that its user can repeat",
    (f"{PACKAGE}.__main__", f"{PACKAGE}.cli"): "python -m s3prl_melhubert",
}

# Where data and training meet.
MEETING_PLACES = {
    f"{PACKAGE}.pretrain.data.manifest",
    f"{PACKAGE}.pretrain.data.description",
    f"{PACKAGE}.pretrain.data.clusters",
    f"{PACKAGE}.pretrain.training.seeds",
}

KNOWS_S3PRL = (
    f"{PACKAGE}.compat",
    f"{PACKAGE}.upstream_expert",
    f"{PACKAGE}.pretrain.pretrain_expert",
    f"{PACKAGE}.downstream_recipes",
)

# Who may import argparse without being a command, and why.
ARGPARSE = {
    f"{PACKAGE}.checkpoint": "a published checkpoint holds an argparse.Namespace",
    f"{PACKAGE}.pretrain.training.checkpointing": "ours hold one, too, because the published scripts read it",
    f"{PACKAGE}.support.tensor_files": "a published checkpoint holds an argparse.Namespace",
    f"{PACKAGE}.conversion": "`convert` keeps the Namespace of a published checkpoint",
    f"{PACKAGE}.compat.restorations": "s3prl's checkpoints hold an argparse.Namespace",
    f"{PACKAGE}.compat.pretrain_workplace": "reads the one argument of s3prl's program that it has to know",
    **{
        f"{PACKAGE}.compat.command_lines.{name}": "looks at what s3prl's parser has read"
        for name in ("line", "downstream", "pretrain", "parser")
    },
}


@pytest.fixture(scope="module")
def graph(import_graph):
    return import_graph.read_graph()


def wing(import_graph, module: str) -> str:
    if import_graph.within(module, import_graph.FRONT_DOOR):
        return "front door"
    if import_graph.within(module, import_graph.COMPAT):
        return "compat"
    for name in (*WINGS, "doctor"):
        if import_graph.within(module, [f"{PACKAGE}.{name}"]):
            return name
    return "model"


def test_no_modules_import_each_other_in_a_circle(graph):
    assert graph.circles() == []


def test_wings_import_one_way(graph, import_graph):
    wrong = []
    for one in graph.imports:
        if not one.runs or one.imported not in graph.files or one.imported == PACKAGE:
            continue
        pair = (one.importer, one.imported)
        source, target = wing(import_graph, one.importer), wing(import_graph, one.imported)
        if source == target or target in MAY_IMPORT[source] or pair in FRONT_DOOR_USERS:
            continue
        if pair in LATE and one.kind is import_graph.Kind.LATER:
            continue
        wrong.append(f"{one} ({source} -> {target})")
    assert wrong == []


def test_every_exception_is_still_needed(graph):
    pairs = {(one.importer, one.imported) for one in graph.imports}
    assert {*LATE, *FRONT_DOOR_USERS} - pairs == set()
    assert ARGPARSE.keys() - {one.importer for one in graph.importers_of("argparse")} == set()


def test_data_and_training_meet_in_what_a_set_says_of_itself_and_seeds(graph, import_graph):
    data, training = [f"{PACKAGE}.pretrain.data"], [f"{PACKAGE}.pretrain.training"]
    between = [
        one
        for one in graph.imports
        if one.runs
        and (
            (import_graph.within(one.importer, data) and import_graph.within(one.imported, training))
            or (import_graph.within(one.importer, training) and import_graph.within(one.imported, data))
        )
    ]
    assert [str(one) for one in between if one.imported not in MEETING_PLACES] == []


def test_only_what_serves_s3prl_imports_it(graph, import_graph):
    found = [one for one in graph.importers_of("s3prl") if not import_graph.within(one.importer, KNOWS_S3PRL)]
    assert [str(one) for one in found] == []


def test_only_commands_know_argparse(graph, import_graph):
    allowed = (*import_graph.FRONT_DOOR, *ARGPARSE)
    found = [one for one in graph.importers_of("argparse") if not import_graph.within(one.importer, allowed)]
    assert [str(one) for one in found] == []


def test_support_needs_nothing_of_the_package_but_its_error(graph, import_graph):
    needed = {
        (module, other)
        for module, others in graph.inside.items()
        if graph.room(module) == f"{PACKAGE}/support"
        for other in others
        if graph.room(other) != f"{PACKAGE}/support"
    }
    assert {other for _, other in needed} <= {f"{PACKAGE}.errors"}


def test_every_file_is_short(checkout):
    files = [
        path
        for folder in (PACKAGE, *WINGS, "tests", "benchmarks", "docs")
        for path in (checkout / folder).rglob("*.py")
    ]
    lines = {str(path.relative_to(checkout)): len(path.read_text().splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_no_folder_is_crowded(graph):
    folders = Counter(path.parent for path in graph.files.values() if path.name != "__init__.py")
    crowded = {
        str(folder.relative_to(graph.checkout)): count
        for folder, count in folders.items()
        if count > (MAX_MODULES_OF_THE_MODEL if folder == graph.checkout / PACKAGE else MAX_MODULES)
    }
    assert crowded == {}


def test_the_opening_lines_of_a_room_name_all_that_is_in_it(checkout):
    missing = []
    for wing in ("s3prl_melhubert", *WINGS, "benchmarks"):
        for file in (checkout / wing).rglob("__init__.py"):
            room = file.parent
            opening = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            # A folder with a task.py is one of SUPERB's tasks, which tasks.py lists.
            inside = [path.stem for path in room.glob("[!_]*.py") if path.name != "task.py"]
            rooms = [path.parent for path in room.glob("*/__init__.py")]
            inside += [path.name for path in rooms if not (path / "task.py").exists()]
            name = room.relative_to(checkout).as_posix()
            missing += [
                f"{name}/{each}"
                for each in sorted(inside)
                if name not in UNNAMED and not re.search(rf"(?<!\w){each}(?!\w)", opening)
            ]
    unnamed = sorted(set(missing) - NOT_NAMED)
    assert not unnamed, f"name these in the docstring of their folder's __init__.py: {', '.join(unnamed)}"
    assert set(missing) == NOT_NAMED


def test_lazy_and_typing_imports_are_told_apart(tmp_path: Path, import_graph):
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "here.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from s3prl_melhubert import there\n"
        "else:\n    import json\n"
        "def function():\n    from s3prl_melhubert.there import name\n"
    )
    (folder / "there.py").write_text("from . import here\nTABLE = 's3prl_melhubert.here:main'\n")
    graph = import_graph.read_graph(tmp_path)
    assert [(one.imported, one.kind.name) for one in graph.imports if one.importer == f"{PACKAGE}.here"] == [
        ("typing", "START"),
        (f"{PACKAGE}.there", "TYPING"),
        ("json", "START"),
        (f"{PACKAGE}.there", "LATER"),
    ]
    assert [(one.imported, one.kind.name) for one in graph.imports if one.importer == f"{PACKAGE}.there"] == [
        (f"{PACKAGE}.here", "START"),
        (f"{PACKAGE}.here", "NAMED"),
    ]
    assert graph.circles() == [[f"{PACKAGE}.here", f"{PACKAGE}.there"]]
