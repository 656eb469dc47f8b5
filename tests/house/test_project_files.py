"""The files that describe the project agree with it: its version, its Pythons, its pages, its names."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from pathlib import Path

import pytest
import yaml

import s3prl_melhubert
from s3prl_melhubert.pretrain.training import settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

DIRECTIVE = re.compile(r"^::: s3prl_melhubert\.([\w.]+)$", re.MULTILINE)
DEFINITIONS = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
LINK = re.compile(r"\]\((?!https?://|#)([^)\s#]+)")
# A row of the table of settings: key, type, default; and types that have another name there than in Python.
KEY = re.compile(r"^\| `(\w+\.\w+)` \| ([\w ]+) \| `([^`]+)` \|", re.MULTILINE)
TYPES = {"tuple[str, ...]": "list", "bool | str": "bool or str", "str | None": "str or null"}


@pytest.fixture(scope="module")
def project(checkout) -> dict:
    return tomllib.loads((checkout / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def site(checkout) -> dict:
    return yaml.safe_load((checkout / "mkdocs.yml").read_text())


def pages_of(navigation: object) -> list[str]:
    if isinstance(navigation, str):
        return [navigation]
    parts = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for part in parts for page in pages_of(part)]


def test_one_version_everywhere(checkout, project):
    citation = yaml.safe_load((checkout / "CITATION.cff").read_text())
    changes = (checkout / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    versions = {project["version"], str(citation["version"]), released[0], s3prl_melhubert.__version__}
    assert len(versions) == 1, versions


def test_citation_names_the_package_and_the_paper(checkout, project):
    citation = yaml.safe_load((checkout / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "type"} <= citation.keys()
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Lin", "Lee", "Tang"]
    assert "2211.09944" in paper["url"]


def test_changelog_has_a_place_for_the_next_change(checkout):
    assert "## [Unreleased]" in (checkout / "CHANGELOG.md").read_text()


def test_the_same_pythons_are_promised_and_tested(checkout, project):
    classifiers = "\n".join(project["classifiers"])
    promised = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    nox = ast.parse((checkout / "noxfile.py").read_text())
    (tested,) = (
        ast.literal_eval(node.value)
        for node in nox.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSIONS"
    )
    assert list(tested) == promised
    assert project["requires-python"] == f">={promised[0]}"
    assert f"Python {promised[0]} to {promised[-1]}" in (checkout / "README.md").read_text()
    workflow = yaml.safe_load((checkout / ".github/workflows/ci.yml").read_text())["jobs"]
    assert {"run": ".ci/run"} in workflow["run"]["steps"]
    (own,) = [step["with"]["python-version"] for step in workflow["run"]["steps"] if "with" in step]
    assert {own, *workflow["versions"]["strategy"]["matrix"]["python-version"]} == set(promised)


def test_checks_at_a_commit_are_those_of_ci(checkout):
    configuration = yaml.safe_load((checkout / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repository in configuration["repos"] for hook in repository["hooks"]]
    script = (checkout / ".ci/run").read_text()
    assert all(entry.removesuffix(" --fix") in script for entry in entries)


def test_every_page_is_in_the_site_and_in_the_readme(checkout, site):
    pages = {str(path.relative_to(checkout / "docs")) for path in (checkout / "docs").rglob("*.md")}
    assert pages == set(pages_of(site["nav"]))
    readme = (checkout / "README.md").read_text()
    named = [page for page in pages if not page.startswith(("api/", "index"))]
    assert [page for page in named if f"(docs/{page})" not in readme] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name, checkout):
    # Links between the pages in docs/ are checked where the site is built.
    links = LINK.findall((checkout / name).read_text())
    assert [link for link in links if not (checkout / link).exists()] == []


def test_table_of_the_runners_keys_is_that_of_the_settings(checkout):
    sections = {
        "runner": settings.RunnerSettings,
        "scheduler": settings.SchedulerSettings,
        "datarc": settings.DataSettings,
    }
    expected = {
        f"{section}.{field.name}": (TYPES.get(str(field.type), str(field.type)), field.default)
        for section, kind in sections.items()
        for field in dataclasses.fields(kind)
    }
    # The arguments of an optimizer are its own. Those in the table are Adam's, as the package's file has
    # them, where a whole number stands for a fraction.
    optimizer = yaml.safe_load((checkout / "pretrain/config_runner.yaml").read_text())["optimizer"]
    kinds = {str: "str", list: "list", float: "float", int: "float"}
    expected |= {f"optimizer.{name}": (kinds[type(value)], value) for name, value in optimizer.items()}
    page = (checkout / "docs/pretraining.md").read_text()
    rows = {key: (kind, yaml.safe_load(default)) for key, kind, default in KEY.findall(page)}
    assert rows.keys() == expected.keys()
    for key, (kind, default) in expected.items():
        default = list(default) if isinstance(default, tuple) else default
        assert rows[key] == (kind, default), key


def test_every_schedule_is_named_beside_its_key(checkout):
    files = ["docs/pretraining.md", "pretrain/config_runner.yaml", "pretrain/config_runner_10ms.yaml"]
    for name in files:
        text = (checkout / name).read_text()
        _, section, rest = text.partition("scheduler.name" if name.endswith(".md") else "\nscheduler:")
        [row] = re.findall(r"^.*constant.*$", (section + rest).split("warmup_steps")[0], re.MULTILINE)
        absent = [each for each in settings.SCHEDULES if not re.search(rf"\b{each}\b", row)]
        assert not absent, f"{name}: name {absent} where it tells of the scheduler's name"


def test_every_public_class_and_function_has_an_entry(checkout, import_graph):
    text = "\n".join(path.read_text() for path in sorted((checkout / "docs/api").glob("*.md")))
    documented = DIRECTIVE.findall(text)
    homes = {s3prl_melhubert._HOME[name] for name in s3prl_melhubert.__all__ if name != "__version__"}
    assert homes <= set(documented)
    files = import_graph.read_graph().files
    undocumented = []
    for module in documented:
        name = f"s3prl_melhubert.{module}"
        if name not in files:  # one class or function of a module
            name, _, only = name.rpartition(".")
            assert only in definitions(files[name])
            continue
        undocumented += [f"{name}.{what}" for what in without_docstring(files[name])]
    assert undocumented == []


def definitions(path: Path) -> set[str]:
    """The classes and functions of a module."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, DEFINITIONS)}


def without_docstring(path: Path) -> list[str]:
    """Public classes, functions, methods and properties of a module that the reference would leave out."""
    found = []

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
                if ast.get_docstring(node) is None:
                    found.append(f"{prefix}{node.name}")
                if isinstance(node, ast.ClassDef):
                    look(node.body, f"{prefix}{node.name}.")

    look(ast.parse(path.read_text()).body, "")
    return found
