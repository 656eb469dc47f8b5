"""The versions that the doctor asks for, and how it compares versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3prl_melhubert.doctor import requirements


def test_requirements_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib")
    file = Path(__file__).parents[3] / "pyproject.toml"
    project = tomllib.loads(file.read_text())["project"]
    asked = {}
    for requirement in project["dependencies"]:
        name = requirement.replace(">", "<").partition("<")[0]
        asked[name] = requirement[len(name) :]
    assert {name: spec for name, (_, spec) in requirements.REQUIRED.items()} == asked
    assert project["requires-python"] == ">=" + ".".join(map(str, requirements.OLDEST_PYTHON))


@pytest.mark.parametrize(
    ("version", "spec", "fits"),
    [
        ("2.11.0+cu130", ">=2.4,<2.12", True),
        ("2.4", ">=2.4,<2.12", True),
        ("2.12.0", ">=2.4,<2.12", False),
        ("2.15.0a0+git1", ">=2.4,<2.12", False),
        ("1.13.1", ">=2.4,<2.12", False),
        ("0.4.18", ">=0.4.18,<0.5", True),
        ("0.4.9", ">=0.4.18,<0.5", False),
        ("4.0", "", True),
    ],
)
def test_versions_are_compared_by_number(version, spec, fits):
    assert requirements.in_range(version, spec) is fits
