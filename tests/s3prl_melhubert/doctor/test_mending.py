"""The commands that the doctor advises can be copied into a shell, with pip, uv or neither."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

import s3prl_melhubert
from s3prl_melhubert.doctor import environment, mending
from s3prl_melhubert.doctor.findings import Context

PACKAGE = Path(s3prl_melhubert.__file__).resolve().parent
HAVE_PIP, HAVE_UV, HAVE_NONE = (True, False), (False, True), (False, False)  # pip, uv


@pytest.fixture(params=["/usr/bin/python", "/my env/bin/python"])
def python(request, monkeypatch):
    monkeypatch.setattr(sys, "executable", request.param)
    return shlex.quote(request.param)


def have(monkeypatch, pip: bool, uv: bool) -> None:
    monkeypatch.setattr(mending, "find_spec", lambda name: object() if pip else None)
    monkeypatch.setattr(mending.shutil, "which", lambda name: "/usr/bin/uv" if uv else None)


@pytest.mark.parametrize(
    ("there", "install", "again"),
    [
        (HAVE_PIP, "{0} -m pip install 'a>=1'", "{0} -m pip uninstall -y a && {0} -m pip install a"),
        (
            HAVE_UV,
            "uv pip install --python {0} 'a>=1'",
            "uv pip uninstall --python {0} a && uv pip install --python {0} a",
        ),
        (
            HAVE_NONE,
            "{0} -m ensurepip && {0} -m pip install 'a>=1'",
            "{0} -m ensurepip && {0} -m pip uninstall -y a && {0} -m ensurepip && {0} -m pip install a",
        ),
    ],
)
def test_what_installs_is_what_is_there(monkeypatch, python, there, install, again):
    have(monkeypatch, *there)
    assert mending.pip("a>=1") == install.format(python)
    assert mending.reinstall("a") == again.format(python)


def test_a_checkout_is_installed_as_one(monkeypatch, tmp_path, python):
    have(monkeypatch, *HAVE_PIP)
    package = tmp_path / "my checkout" / "s3prl_melhubert"
    package.mkdir(parents=True)
    assert mending.install_itself(package).endswith(" install --force-reinstall --no-deps s3prl-melhubert")
    (package.parent / "pyproject.toml").touch()
    assert mending.install_itself(package) == f"{python} -m pip install -e '{package.parent}'"


@pytest.mark.parametrize(
    ("checkout", "variable", "mend"),
    [
        (True, True, "{python} -m pip install -e {folder}"),
        (False, True, "unset PYTHONPATH  # or take {folder} out of it"),
        (
            False,
            False,
            "{python} -m pip uninstall -y s3prl-melhubert && {python} -m pip install s3prl-melhubert",
        ),
    ],
)
def test_of_two_copies_one_goes(monkeypatch, tmp_path, python, checkout, variable, mend):
    """pip uninstalls nothing from the folders of PYTHONPATH."""
    have(monkeypatch, *HAVE_PIP)
    installed, other = tmp_path / "site" / "s3prl_melhubert", tmp_path / "lib" / "s3prl_melhubert"
    for copy in (installed, other):
        copy.mkdir(parents=True)
        (copy / "__init__.py").touch()
    if checkout:
        (other.parent / "pyproject.toml").touch()
    monkeypatch.setattr(environment.s3prl_melhubert, "__file__", str(installed / "__init__.py"))
    monkeypatch.setattr(environment, "installed_version", lambda name: "0.1.0")
    monkeypatch.setattr(sys, "path", [str(other.parent), str(installed.parent)])
    monkeypatch.setenv("PYTHONPATH", f":{other.parent}" if variable else "")
    (finding,) = environment.check_package(Context())
    assert finding.text == f"s3prl-melhubert: two copies, {installed} (used) and {other}"
    assert finding.mend == mend.format(python=python, folder=other.parent, us="s3prl-melhubert")


def test_a_copy_that_is_not_installed_is_to_be(monkeypatch):
    monkeypatch.setattr(environment, "installed_version", lambda name: None)
    (finding,) = environment.check_package(Context())
    assert (finding.status, finding.mend) == ("problem", mending.install_itself(PACKAGE))
