"""A page tells of every option of every command."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from s3prl_melhubert import cli
from s3prl_melhubert.commands.superb import superb
from s3prl_melhubert.downstream_recipes.tasks import all_tasks

# Of s3prl's own programs the help is s3prl's.
COMMANDS = [[name] for name in cli.COMMANDS if name not in ("superb", "run-pretrain", "run-downstream")]
OF_SUPERB = [["superb", name] for name in [*all_tasks(), *superb.COMMANDS] if name != "config"]
CONFIG = [["superb", "config", task] for task in all_tasks()]
OPTION = re.compile(r"^  (-[^ ].*?)(?:  |$)", re.MULTILINE)
NAME = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")


@pytest.fixture(scope="module")
def pages(checkout) -> set[str]:
    """All names of options in README and the pages."""
    paths = [checkout / "README.md", *(checkout / "docs").rglob("*.md")]
    return {name for path in paths for name in NAME.findall(path.read_text())}


def options(help_text: str) -> Iterator[list[str]]:
    """The names of each option; some have several."""
    for line in OPTION.findall(help_text):
        yield NAME.findall(line)


@pytest.mark.parametrize("command", [*COMMANDS, *OF_SUPERB, *CONFIG], ids=" ".join)
def test_every_option_is_on_a_page(command, pages, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # An option's names stand in one line.
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    found = list(options(capsys.readouterr().out))
    assert ["-h", "--help"] in found
    absent = ["/".join(names) for names in found if not pages.intersection(names)]
    assert not absent, f"README and docs/*.md do not tell of {', '.join(absent)} of `{' '.join(command)}`"


@pytest.mark.parametrize("page", ["README.md", "docs/command-line.md"])
def test_every_command_is_in_the_table_of_commands(page, checkout):
    rows = [row for row in (checkout / page).read_text().splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(?:melhubert )?([\w-]+)", row.split(" | ")[0])}
    absent = [name for name in cli.COMMANDS if name not in named]
    assert not absent, f"{page}: no row of the table of commands names {', '.join(absent)}"


@pytest.mark.parametrize("page", ["README.md", "docs/superb.md", "docs/predict.md"])
def test_every_task_is_named(page, checkout):
    """The page of predictions names those, too, that predict nothing, and says why."""
    text = (checkout / page).read_text()
    absent = [key for key in all_tasks() if f"`{key}`" not in text]
    assert not absent, f"{page}: says nothing of the task {', '.join(absent)}"
