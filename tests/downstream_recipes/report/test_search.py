"""Which folders of a tree are experiments, for the report and for a submission."""

import json

import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.downstream_recipes.report.choice import choose_experiments
from s3prl_melhubert.downstream_recipes.report.report import find_experiments
from s3prl_melhubert.downstream_recipes.report.results import write_result


def test_experiments_are_found_below_a_folder_once_and_not_inside_each_other(result, tmp_path):
    for name in ("exp/b", "exp/a", "exp/a/lr-0.1", "exp/group/c"):
        (tmp_path / name).mkdir(parents=True)
        write_result(tmp_path / name, result("pr", 1))
    (tmp_path / "none").mkdir()
    places = [tmp_path / "exp" / "b", tmp_path / "exp", tmp_path / "exp" / ".." / "exp" / "a"]
    found = [path.relative_to(tmp_path).as_posix() for path in find_experiments(places)]
    assert found == ["exp/b", "exp/a", "exp/group/c"]
    with pytest.raises(MelHuBERTError, match=r"none: no results\.json here or below"):
        find_experiments([tmp_path / "none"])
    with pytest.raises(MelHuBERTError, match=r"absent: no results\.json here or below"):
        find_experiments([tmp_path / "absent"])


def test_experiments_inside_another_are_found_and_its_parts_are_not(result, tmp_path):
    """What an experiment keeps has no experiment.json, or is a part of its task."""
    outer, inner = tmp_path / "n1", tmp_path / "n1/group/er"
    folders = [outer, inner, *(inner / f"fold{n}" for n in range(1, 6))]
    for folder, task in zip(folders, ["sid", *["er"] * 6], strict=True):
        folder.mkdir(parents=True)
        write_result(folder, result(task, 50.0))
        (folder / "experiment.json").write_text(json.dumps({"task": task}))
    for kept in (outer / "lr-0.1", outer / "backup"):
        kept.mkdir()
        write_result(kept, result("sid", 1.0))
    (tmp_path / "corpus/pr").mkdir(parents=True)
    write_result(tmp_path / "corpus/pr", result("pr", 1.0))
    (outer / "group/link").symlink_to(tmp_path / "corpus")
    assert find_experiments([outer]) == [outer, inner]
    assert choose_experiments(outer) == {"sid": outer, "er": inner}
    # One that has not ended is told of as a whole.
    (inner / "results.json").unlink()
    (inner / "fold2/results.json").unlink()
    with pytest.raises(MelHuBERTError, match="of its parts, only fold1, fold3, fold4, fold5 ended; run"):
        choose_experiments(outer)


def test_experiments_are_found_through_links_and_each_once(result, tmp_path):
    elsewhere, tree = tmp_path / "elsewhere", tmp_path / "tree"
    for folder in (elsewhere / "pr", tree / "sid", tree / "ic"):
        folder.mkdir(parents=True)
        write_result(folder, result(folder.name, 50.0))
    (tree / "a-link").symlink_to(elsewhere / "pr")
    (tree / "another").symlink_to(elsewhere)
    (tree / "circle").symlink_to(tree)
    (tree / "again").symlink_to(tree / "sid")
    (tree / "nowhere").symlink_to(tmp_path / "nowhere")
    expected = [tree / name for name in ("a-link", "ic", "sid")]
    assert find_experiments([tree]) == expected
    assert choose_experiments(tree) == {path.name.replace("a-link", "pr"): path for path in expected}
    # What an experiment that has not ended links to is its corpus, and no place of experiments.
    (tree / "asr").mkdir()
    (tree / "asr/experiment.json").write_text("{}")
    (elsewhere / "asr").mkdir()
    write_result(elsewhere / "asr", result("asr", 50.0))
    (tree / "asr/corpus").symlink_to(elsewhere / "asr")
    (tree / "another").unlink()
    assert find_experiments([tree]) == expected
