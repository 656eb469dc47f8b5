"""Results of earlier versions say less of their upstream, and are told from other models by what is known."""

import json

import pytest

from s3prl_melhubert.downstream_recipes.experiment_files import FILES, STATISTICS
from s3prl_melhubert.downstream_recipes.report.results import Result, read_result, write_result
from s3prl_melhubert.downstream_recipes.report.table import rows
from s3prl_melhubert.statistics import FeatureStats


@pytest.fixture
def read_beside(result, tmp_path):
    """Read a result of one checkpoint beside an `experiment.json`, which tells what its -g named."""

    def read(task: str, named: str, settings: str = "a" * 64, used: str | None = None) -> Result:
        folder = tmp_path / task
        folder.mkdir()
        new = {"statistics_sha256": used, "upstream_config_sha256": settings, "precision": "fp32"}
        path = write_result(folder, result(task, 1, "m", "x/c.pt", upstream_config="g.yaml", **new))
        if used is None:  # Results of older versions have none of these.
            content = json.loads(path.read_text())
            path.write_text(json.dumps({name: content[name] for name in content if name not in new}))
        assert read_result(folder).named_statistics_sha256 is None
        (folder / "experiment.json").write_text(json.dumps({STATISTICS: named, FILES["-g"]: settings}))
        return read_result(folder)

    return read


def test_experiment_json_tells_of_an_older_result_which_statistics_its_settings_named(read_beside):
    digests = {"sid": FeatureStats.load("librispeech-100h").digest(), "er": "2" * 64}
    read = [read_beside(*each) for each in digests.items()]
    assert [each.statistics_sha256 for each in read] == [None, None]
    assert [row.label for row in rows(read)] == [
        "m x/c.pt g.yaml naming statistics librispeech-100h",
        "m x/c.pt g.yaml naming statistics 222222222222",
    ]


@pytest.mark.parametrize(
    ("identity", "precision"),
    [
        ({"-u": "melhubert_local", "-g": None, "--precision": "bf16"}, "bf16"),
        ({"-u": "melhubert_local", "-g": None, "--precision": None}, "fp32"),
        ({"-u": "melhubert_local", "-g": "g.yaml", "--precision": None}, None),  # which may have one
        ({"-u": "fbank", "-g": None, "--precision": None}, None),
    ],
)
def test_experiment_json_tells_of_an_older_result_its_precision(result, tmp_path, identity, precision):
    write_result(tmp_path, result("sid", 1, identity["-u"]))
    (tmp_path / "experiment.json").write_text(json.dumps(identity))
    older, newer = read_result(tmp_path), result("er", 2, identity["-u"], precision="bf16")
    assert older.precision == precision
    assert len(rows([older, newer])) == (2 if precision == "fp32" else 1)


@pytest.mark.parametrize(
    ("named", "used", "settings", "one_model"),
    [
        ("1", "2", "a", True),
        ("1", "1", "b", True),
        (None, "1", "b", True),
        ("2", "2", "a", False),
        (None, "2", "b", False),
    ],
    ids=["checkpoint's own", "settings rewritten", "no longer named", "named file changed", "unknown"],
)
def test_what_an_older_result_names_is_not_taken_for_what_it_used(
    read_beside, named, used, settings, one_model
):
    """A checkpoint's own statistics come before those of its settings."""
    older = read_beside("sid", "1" * 64)
    newer = read_beside("er", named and named * 64, settings * 64, used * 64)
    assert len(rows([older, newer])) == len(rows([newer, older])) == (1 if one_model else 2)


@pytest.mark.parametrize(
    ("now", "labels"),
    [
        ({"sid": "1", "er": "1"}, ["m hub/tiny"]),
        ({"sid": "1", "er": "2"}, ["m hub/tiny", "m hub/tiny 22222222"]),
    ],
    ids=["unchanged", "changed"],
)
def test_a_folder_that_had_no_hash_in_an_older_result_is_known_by_its_path(result, now, labels):
    """Two newer results whose hashes differ are of two models all the same."""
    older = result("pr", 1, "m", "hub/tiny")
    newer = [result(task, 2, "m", "hub/./tiny", checkpoint_sha256=digit * 64) for task, digit in now.items()]
    assert [row.label for row in rows([older, *newer])] == labels
    elsewhere = result("asr", 3, "m", "elsewhere/tiny", checkpoint_sha256="1" * 64)
    assert len(rows([older, elsewhere])) == 2
