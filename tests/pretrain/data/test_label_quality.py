"""Label quality against figures worked out by hand."""

import math

import numpy as np
import pytest

from s3prl_melhubert import FeatureStats, MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data.description import DatasetInfo, read_prepared, write_dataset_info
from s3prl_melhubert.pretrain.data.label_quality import LabelQuality, label_quality
from s3prl_melhubert.pretrain.data.manifest import Utterance, write_manifest


def test_purities_and_pnmi_of_a_table_by_hand():
    # Two phones, three clusters, ten frames; the third cluster has none.
    quality = LabelQuality.from_counts(np.array([[4, 1, 0], [1, 4, 0]]))
    assert quality.phone_purity == pytest.approx(0.8)  # (4 + 4) / 10
    assert quality.cluster_purity == pytest.approx(0.8)
    information = 2 * 0.4 * math.log(0.4 / 0.25) + 2 * 0.1 * math.log(0.1 / 0.25)
    assert quality.pnmi == pytest.approx(information / math.log(2))
    assert (quality.frames, quality.phones, quality.clusters, quality.clusters_in_use) == (10, 2, 3, 2)


def test_one_cluster_a_frame_is_pure_for_phones_and_not_for_clusters():
    quality = LabelQuality.from_counts(np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]))
    assert quality.phone_purity == pytest.approx(1)
    assert quality.cluster_purity == pytest.approx(1 / 3)  # each phone: one of its three frames
    assert quality.pnmi == pytest.approx(1)


def test_labels_that_say_nothing_have_no_information():
    quality = LabelQuality.from_counts(np.array([[3], [1]]))
    assert quality.phone_purity == pytest.approx(0.75)
    assert quality.cluster_purity == pytest.approx(1)
    assert quality.pnmi == pytest.approx(0)
    assert LabelQuality.from_counts(np.array([[3, 2]])).pnmi == 0  # a single phone


def test_a_single_phone_has_no_entropy_of_rounding_errors():
    """The shares of these clusters add up to a little less than 1, of which PNMI made 2."""
    quality = LabelQuality.from_counts(np.array([[12, 5, 14, 8, 16, 19, 5]]))
    assert (quality.pnmi, quality.phone_purity) == (0, pytest.approx(1))
    random = np.random.default_rng(0)
    for _ in range(200):
        counts = random.integers(0, 20, random.integers(1, 9, 2))
        if counts.sum():
            assert 0 <= LabelQuality.from_counts(counts).pnmi <= 1


@pytest.fixture
def folder(tmp_path):
    """Two utterances of 6 and 5 frames; labels at 20 ms."""
    (tmp_path / "labels").mkdir()
    np.save(tmp_path / "labels" / "0.npy", np.array([0, 0, 1, 1, 1, 0], np.int16))
    labels, features = tmp_path / "labels" / "0.npy", tmp_path / "none.npy"
    rows = [Utterance("a", features, labels, 6, 0, 0), Utterance("b", features, labels, 5, 6, 3)]
    write_manifest(tmp_path / "manifest.csv", rows)
    write_dataset_info(tmp_path / "dataset.yaml", DatasetInfo(FeatureStats.load("librispeech-100h"), 4, 20))
    return tmp_path


def test_labels_at_20_ms_meet_every_second_phone(folder, capsys):
    # Phones at 2t: a: A A B, b: B B A; the others, X, must not count. An aligner's two frames more are cut.
    (folder / "one.txt").write_text("a A X A X B X\nsomeone-else A B\n\n", encoding="utf-8-sig")
    (folder / "two.txt").write_text("b B X B X A X X\n")
    files = [str(folder / "one.txt"), str(folder / "two.txt")]
    quality, coverage = label_quality(read_prepared(folder), files)
    assert (quality.phone_purity, quality.cluster_purity) == (1, 1)
    assert quality.pnmi == pytest.approx(1)
    assert (quality.frames, quality.clusters, quality.clusters_in_use) == (6, 4, 2)
    assert coverage == "2 of 2 utterances"
    assert main(["label-quality", "--data", str(folder), "--alignments", *files]) == 0
    assert "clusters in use 2 of 4" in capsys.readouterr().out


def test_an_utterance_without_a_label_is_passed_over(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((7, 40), np.float32))
    for name, labels in (("a", []), ("b", [1, 1, 2, 2, 2, 2])):
        np.save(tmp_path / f"{name}.label.npy", np.array(labels, np.int64))
    rows = [f"{tmp_path}/f.npy,{tmp_path}/{name}.label.npy,{n},{name}" for name, n in (("a", 1), ("b", 6))]
    path = tmp_path / "set.csv"
    path.write_text("\n".join(["file_path,label_path,length,id", *rows]) + "\n")
    (tmp_path / "phones.txt").write_text("a A\nb A A B B B B\n")
    quality, _ = label_quality(read_prepared(path), [tmp_path / "phones.txt"])
    assert (quality.frames, quality.phone_purity) == (6, 1)


def test_labels_at_20_ms_of_a_published_csv_meet_every_second_phone(tmp_path):
    """Nothing says their period but how many there are, also where an utterance has two."""
    path = tmp_path / "set.csv"
    rows = ["file_path,label_path,length"]
    for name, labels, length in (("a", [0, 1, 1], 6), ("b", [0, 1], 3)):
        np.save(tmp_path / f"{name}.label.npy", np.array(labels))
        rows.append(f"{tmp_path}/{name}.npy,{tmp_path}/{name}.label.npy,{length}")
    path.write_text("\n".join(rows) + "\n")
    (tmp_path / "phones.txt").write_text("a A X B X B X\nb A X B\n")
    quality, _ = label_quality(read_prepared(path), [tmp_path / "phones.txt"])
    assert (quality.frames, quality.phones, quality.phone_purity) == (5, 2, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a A A\n", r"line 1: 2 phones for utterance a, which has 6"),
        ("a A A A A A A\na A A A A A A\n", "line 2: a second alignment of utterance a"),
        ("c A A\n", "no alignment of any utterance"),
        ("a\n", "line 1: no phones after 'a'"),
    ],
)
def test_alignments_that_do_not_fit_are_errors(folder, text, words):
    (folder / "bad.txt").write_text(text)
    with pytest.raises(MelHuBERTError, match=words):
        label_quality(read_prepared(folder), [folder / "bad.txt"])
