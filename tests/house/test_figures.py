"""The figures on the pages are those of `benchmarks/results/`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

# The row of a single operation: processors with AVX-512 and with AVX2 stand beside each other on the page.
OPERATION = re.compile(r"(.+), (AVX512|AVX2): speed to torch's own")


# Sections whose figures stand in tables of another form.
OWN_TABLES = ("kernels", "superb_sweep", "quickstart", "onnx")


@pytest.fixture(scope="module")
def figures(checkout) -> Iterator[ModuleType]:
    """The module that reads and writes figures; `benchmarks/` is no part of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout))
        from benchmarks.common import figures

        yield figures
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        sys.modules.pop(name)


def rows_below(page: str, header: str) -> list[str]:
    """The rows of the table with such a header."""
    lines = page.splitlines()
    rows = lines[lines.index(header) + 2 :]
    return rows[: next(number for number, row in enumerate(rows) if not row.startswith("|"))]


def in_a_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def test_the_table_of_figures_is_that_of_the_results(checkout, figures):
    results = [figures.load(path.stem)[1] for path in figures.RESULTS.glob("*.json")]
    known = {in_a_row(figure.row()) for section in results for figure in section}
    page = (checkout / "docs/performance.md").read_text()
    rows = rows_below(page, in_a_row(figures.HEADER))
    assert rows
    assert [row for row in rows if row not in known] == []


def test_every_program_that_measures_is_run_by_all_or_named_as_an_exception(checkout, figures):
    from benchmarks import __main__ as all_of_them

    programs = {path.stem for path in (checkout / "benchmarks").glob("[!_]*.py")}
    others = sorted(programs - set(all_of_them.SECTIONS))
    absent = [name for name in others if not re.search(rf"\b{name}\b", all_of_them.__doc__)]
    assert not absent, f"{', '.join(absent)}: neither in SECTIONS of benchmarks/__main__.py nor named there"


def test_every_figure_is_on_a_page_or_has_a_table_of_its_own(checkout, figures):
    page = (checkout / "docs/performance.md").read_text()
    measured = {path.stem: figures.load(path.stem)[1] for path in figures.RESULTS.glob("*.json")}
    absent = {
        name: missing
        for name, section in measured.items()
        if name not in OWN_TABLES
        and (missing := [row for figure in section if (row := in_a_row(figure.row())) not in page])
    }
    assert not absent, f"docs/performance.md lacks rows of benchmarks/results/: {absent}"


def test_the_table_of_operations_is_that_of_the_results(checkout, figures):
    cells: dict[str, list[str]] = {}
    for figure in figures.load("kernels")[1]:  # Those with AVX-512 come first.
        operation = OPERATION.fullmatch(figure.what)[1]
        cells.setdefault(operation, [operation]).extend([f"{figure.measured:.3g}", figure.note])
    page = (checkout / "docs/performance-in-depth.md").read_text()
    times = ["AVX-512: times as fast as torch's own", "ours and torch's", "AVX2", "ours and torch's"]
    rows = rows_below(page, in_a_row(["operation, precision", *times]))
    assert rows == [in_a_row(row) for row in cells.values()]


def test_the_table_of_faults_is_that_of_the_results(checkout):
    results = (checkout / "benchmarks/results/faults.md").read_text()
    header, *_ = results.splitlines()
    page = (checkout / "docs/reliability.md").read_text()
    assert rows_below(page, header) == rows_below(results, header)
