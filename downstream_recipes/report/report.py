"""The report: the results of several experiments as one table and one picture.

A row per upstream (s3prl's name and its checkpoint), a column per task; under them SUPERB's published
figures, for orientation. What a result was made with that is not SUPERB's stands in a footnote of the table,
and its bar in the picture is hatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from s3prl_melhubert.downstream_recipes.report.picture import draw
from s3prl_melhubert.downstream_recipes.report.results import RESULTS, Result
from s3prl_melhubert.downstream_recipes.report.search import experiments_below
from s3prl_melhubert.downstream_recipes.report.table import table
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import write_text
from s3prl_melhubert.support.writable import check_writable

REPORT, PICTURE = "report.md", "report.png"


def find_experiments(places: Iterable[str | Path]) -> list[Path]:
    """Find the experiments' folders, in the order of `places`; those below one place by name, and each once.

    An experiment may lie inside another one; the parts of one that has ended are none of their own.

    Raises:
        MelHuBERTError: there is none at or below one of the places.
    """
    found: dict[Path, Path] = {}  # by the resolved path
    for place in places:
        here = [folder for folder, _, files in experiments_below(place) if RESULTS in files]
        if not here:
            raise MelHuBERTError(
                f"{place}: no {RESULTS} here or below; give folders in which `melhubert superb TASK` ended"
            )
        for path in sorted(here):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def write_report(results: Sequence[Result], out: Path, folders: Sequence[Path] = ()) -> list[Path]:
    """Write `report.md` and `report.png` into `out`; return their paths. Arguments as in `table`."""
    check_writable(out)
    draw(results, out / PICTURE, folders)
    write_text(
        out / REPORT,
        f"# SUPERB results\n\n{table(results, folders)}\n\n![The table's figures as bars]({PICTURE})\n",
    )
    return [out / REPORT, out / PICTURE]
