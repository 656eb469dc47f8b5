"""`melhubert superb report`: what it prints, and what it writes."""

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import write_result
from s3prl_melhubert.downstream_recipes.report.table import table


def test_command_prints_the_table_and_writes_it_only_when_asked(results, tmp_path, capsys):
    for number, each in enumerate(results):
        (tmp_path / "exp" / str(number)).mkdir(parents=True)
        write_result(tmp_path / "exp" / str(number), each)
    before = sorted(tmp_path.rglob("*"))
    assert main(["superb", "report", str(tmp_path / "exp")]) == 0
    text = table(results)
    assert capsys.readouterr().out == f"{text}\n"
    assert sorted(tmp_path.rglob("*")) == before

    out = tmp_path / "new" / "out"
    assert main(["superb", "report", str(tmp_path / "exp"), "--out", str(out)]) == 0
    assert text in (out / "report.md").read_text(encoding="utf-8")
    assert "](report.png)" in (out / "report.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in out.iterdir()) == ["report.md", "report.png"]


def test_command_ends_with_status_2_where_it_cannot_write(results, tmp_path, capsys):
    write_result(tmp_path, results[0])
    assert main(["superb", "report", str(tmp_path), "--out", str(tmp_path / "results.json")]) == 2
    assert "results.json" in capsys.readouterr().err
