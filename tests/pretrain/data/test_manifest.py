"""The prepared folder on disk: what is written is read, what is published is read, mistakes are named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s3prl_melhubert import FeatureStats, MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data import description, manifest
from s3prl_melhubert.pretrain.data.description import DatasetInfo
from s3prl_melhubert.pretrain.data.manifest import Utterance

HEADER = "file_path,label_path,length,start,label_start,id\n"


def test_manifest_and_dataset_info_survive_a_round_trip(tmp_path):
    features, labels = Path("features/00000.npy"), Path("labels/00000.npy")
    rows = [Utterance("a", features, labels, 5, 0, 0), Utterance("b, c", features, labels, 4, 5, 3)]
    manifest.write_manifest(tmp_path / "manifest.csv", rows)
    stats = FeatureStats.load("librispeech-100h")
    info = DatasetInfo(stats, 7, 20, utterances=2, frames=9, rejected=1, made_by={"seed": 3})
    description.write_dataset_info(tmp_path / "dataset.yaml", info)
    data = description.read_prepared(tmp_path)
    assert [u.id for u in data.utterances] == ["a", "b, c"]
    assert data.utterances[1] == Utterance("b, c", tmp_path / features, tmp_path / labels, 4, 5, 3)
    assert data.info == info
    assert data.label_period_ms == 20
    assert str(replace(info, frames=900_000)) == "2 utterances, 2.5 h, 7 clusters, 20 ms labels"


def test_published_csv_loads_as_it_is(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((7, 40), np.float32))
    np.save(tmp_path / "y.npy", np.arange(7))
    np.save(tmp_path / "y20.npy", np.arange(4))
    csv = tmp_path / "elsewhere" / "train.csv"
    csv.parent.mkdir()
    csv.write_text(
        "file_path,label_path,length\n"
        f"{tmp_path}/x.npy,{tmp_path}/y.npy,7\n"
        f"{tmp_path}/x.npy,{tmp_path}/y20.npy,7\n"
        f"{tmp_path}/x.npy,{tmp_path}/y.npy,8\n"  # off by one frame, as some published rows are
    )
    data = description.read_prepared(csv)
    assert data.info is None
    assert data.label_period_ms is None
    assert data.utterances[0].id == "x"
    assert data.utterances[0].start is None
    assert [len(manifest.utterance_labels(u)) for u in data.utterances] == [7, 4, 7]
    assert [len(manifest.utterance_features(u)) for u in data.utterances] == [7, 7, 7]


def test_a_mark_of_the_encoding_is_no_part_of_the_first_column(tmp_path):
    csv = tmp_path / "train.csv"
    csv.write_text("file_path,label_path,length\nx.npy,y.npy,7\n", encoding="utf-8-sig")
    assert [each.id for each in description.read_prepared(csv).utterances] == ["x"]


def test_a_row_has_the_same_bytes_in_every_locale(tmp_path):
    for name in ("\u00fc \u65e5", "a\u2028b", "\udcff"):
        in_c = name.encode(errors="surrogateescape").decode("ascii", errors="surrogateescape")
        for path, given in ((tmp_path / "utf-8.csv", name), (tmp_path / "c.csv", in_c)):
            manifest.write_manifest(path, [Utterance(given, Path("x.npy"), Path("y.npy"), 7, 0, 0)])
        assert (tmp_path / "utf-8.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()


@pytest.mark.parametrize("option", ["--min-seconds", "--max-seconds"])
def test_seconds_that_are_no_number_choose_nothing(option, tmp_path, capsys):
    (tmp_path / "train.csv").write_text("file_path,label_path,length\nx.npy,y.npy,7\n")
    assert main(["manifest", str(tmp_path / "train.csv"), option, "nan"]) == 2
    assert f"{option} nan: expected a number of seconds" in capsys.readouterr().err


def test_rows_of_a_shard_are_views_of_it(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(400, dtype=np.float32).reshape(10, 40))
    np.save(tmp_path / "y.npy", np.arange(5, dtype=np.int16))
    (tmp_path / "manifest.csv").write_text(HEADER + "x.npy,y.npy,3,0,0,a\nx.npy,y.npy,6,3,2,b\n")
    data = description.read_prepared(tmp_path)
    features = manifest.utterance_features(data.utterances[1])
    assert features[:, 0].tolist() == [120, 160, 200, 240, 280, 320]
    assert manifest.utterance_labels(data.utterances[1], 20).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file_path,length\nx,1\n", ["line 1", "no column label_path"]),
        ("", ["line 1", "found nothing"]),
        (HEADER, ["no utterances"]),
        (HEADER + "x.npy,y.npy,5,0,0,a\nx.npy,y.npy,no,5,5,b\n", ["line 3", "length is 'no'"]),
        (HEADER + "x.npy,y.npy,0,0,0,a\n", ["line 2", "length is '0'", "at least 1"]),
        (HEADER + "x.npy,y.npy,,0,0,a\n", ["line 2", "length is empty"]),
        (HEADER + "x.npy,,5,0,0,a\n", ["line 2", "label_path is empty"]),
        (HEADER + "x.npy,y.npy,5,-1,0,a\n", ["line 2", "start is '-1'"]),
    ],
)
def test_a_bad_manifest_is_an_error_that_names_the_line(tmp_path, text, words):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(MelHuBERTError) as error:
        description.read_prepared(tmp_path)
    for word in ["manifest.csv", *words]:
        assert word in str(error.value)


def test_missing_folder_and_unprepared_folder_say_what_to_do(tmp_path):
    with pytest.raises(MelHuBERTError, match="no such file or folder"):
        description.read_prepared(tmp_path / "nowhere")
    with pytest.raises(MelHuBERTError, match="melhubert prepare"):
        description.read_prepared(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("label_period_ms", "15", "label_period_ms is 15"),
        ("clusters", "0", "clusters is 0"),
        ("statistics", "1", "no `statistics`"),
        ("frame_shift_ms", "5", "frame_shift_ms is 5"),
    ],
)
def test_a_bad_dataset_yaml_is_an_error_that_names_the_key(tmp_path, key, value, words):
    path = tmp_path / "dataset.yaml"
    description.write_dataset_info(path, DatasetInfo(FeatureStats.load("librispeech-100h"), 7))
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key}:")]
    if key == "statistics":
        lines = lines[: next(i for i, line in enumerate(lines) if line.strip() == "mean:")]
    path.write_text("\n".join([*lines, f"{key}: {value}"]))
    with pytest.raises(MelHuBERTError, match=words):
        description.read_dataset_info(path)


def test_lengths_that_disagree_name_file_and_numbers(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((7, 40), np.float32))
    np.save(tmp_path / "y.npy", np.arange(3))
    np.save(tmp_path / "wide.npy", np.ones((7, 80), np.float32))
    np.save(tmp_path / "soft.npy", np.ones((7, 3), np.float32))

    def utterance(**changes):
        return Utterance(
            **{"id": "a", "features": tmp_path / "x.npy", "labels": tmp_path / "y.npy", "length": 7} | changes
        )

    with pytest.raises(MelHuBERTError, match=r"x\.npy: 7 frames found for utterance a, expected 9"):
        manifest.utterance_features(utterance(length=9))
    with pytest.raises(MelHuBERTError, match=r"x\.npy: 2 frames .* from row 5, expected 7"):
        manifest.utterance_features(utterance(start=5))
    with pytest.raises(MelHuBERTError, match=r"y\.npy: 3 labels found for utterance a, expected 7"):
        manifest.utterance_labels(utterance(), 10)
    with pytest.raises(MelHuBERTError, match=r"shape \(7, 80\)"):
        manifest.utterance_features(utterance(features=tmp_path / "wide.npy"))
    with pytest.raises(MelHuBERTError, match="vector of whole numbers"):
        manifest.utterance_labels(utterance(labels=tmp_path / "soft.npy"), 10)
    with pytest.raises(MelHuBERTError, match=r"gone\.npy: cannot be read"):
        manifest.utterance_features(utterance(features=tmp_path / "gone.npy"))
