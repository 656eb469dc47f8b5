"""The test suite on every version of Python that the package supports, each in an environment of its own.

    nox                  # all of them
    nox -s tests-3.13    # one
    nox -s tests-3.13 -- tests/house -x     # a part: what follows -- is pytest's

A version that this machine does not have is an error. pyenv installs them, and has nox find them:

    PYENV_VERSION=3.11.7:3.10.13:3.12.1:3.13.0 nox

`.ci/run` is for one version, and checks more: lint, types, the site and the slow tests.
"""

from __future__ import annotations

import nox

VERSIONS = ("3.10", "3.11", "3.12", "3.13")

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True


@nox.session(python=VERSIONS)
def tests(session: nox.Session) -> None:
    """Install the package as a user does, with what its tests need, and run them."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)
