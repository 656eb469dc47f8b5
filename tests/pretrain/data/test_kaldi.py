"""The published archive, as kaldiio writes its like: what comes of it, and what is refused."""

import numpy as np
import pytest

kaldiio = pytest.importorskip("kaldiio")

from s3prl_melhubert import MelHuBERTError  # noqa: E402
from s3prl_melhubert.cli import main  # noqa: E402
from s3prl_melhubert.pretrain.data.kaldi.convert import prepare_kaldi  # noqa: E402
from s3prl_melhubert.pretrain.data.manifest import utterance_features, utterance_labels  # noqa: E402
from s3prl_melhubert.pretrain.data.workers import Workers  # noqa: E402

LENGTHS = {"utt-a": 31, "utt-b": 40, "utt-c": 17}
HERE = Workers(jobs=1)
FEATURES, LABELS = "train-clean-360.scp", "train-clean-360-k512-e10.bas.scp"


@pytest.fixture
def matrices():
    random = np.random.default_rng(0)
    return {key: random.normal(8, 3, (n, 40)).astype(np.float32) for key, n in LENGTHS.items()}


def write_labels(path, ids: dict[str, np.ndarray]):
    """The text of a label list and its .scp, with byte offsets into a path of another machine."""
    lines = []
    with path.with_suffix("").open("wb") as file:  # NAME.bas
        for key, values in ids.items():
            lines.append(f"{key} /home/somebody/kmeans/{path.stem}:{file.tell()}\n")
            file.write((" ".join(map(str, values)) + "\n").encode())
    path.write_text("".join(lines))


@pytest.fixture
def archive(tmp_path, matrices):
    """A folder as the 360-hour archive unpacks; the labels are frame numbers."""
    folder = tmp_path / "archive"
    folder.mkdir()
    ark = folder / "feats.ark"
    kaldiio.save_ark(str(ark), matrices, scp=str(folder / "here.scp"))
    text = (folder / "here.scp").read_text().replace(str(ark), "/home/somebody/fbank/feats.ark")
    (folder / "here.scp").unlink()
    (folder / FEATURES).write_text(text)
    write_labels(folder / LABELS, {key: np.arange(n) for key, n in LENGTHS.items()})
    frames = np.concatenate(list(matrices.values())).astype(np.float64)
    sums = [frames.sum(0).tolist(), np.square(frames).sum(0).tolist(), len(frames)]
    (folder / "train-clean-360.mean-var").write_text("\n".join(map(str, sums)) + "\n")
    return folder


def test_archive_becomes_a_prepared_set(archive, matrices, tmp_path, capsys):
    assert main(["prepare", "--kaldi", str(archive), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert "3 utterances" in capsys.readouterr().out
    data = prepare_kaldi(archive, tmp_path / "out", workers=HERE)  # complete: only read
    frames = np.concatenate(list(matrices.values())).astype(np.float64)
    np.testing.assert_allclose(data.info.stats.mean, frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(data.info.stats.std, frames.std(0), rtol=1e-5)
    assert [utterance.id for utterance in data.utterances] == list(LENGTHS)
    for utterance in data.utterances:
        expected = (matrices[utterance.id] - frames.mean(0)) / frames.std(0)
        np.testing.assert_allclose(utterance_features(utterance), expected, atol=1e-4)
        assert utterance_labels(utterance, 10).tolist() == list(range(LENGTHS[utterance.id]))
    assert (data.info.clusters, data.info.label_period_ms, data.info.frames) == (512, 10, 88)


def test_compressed_matrices_are_read(archive, matrices, tmp_path):
    ark = archive / "feats.ark"
    kaldiio.save_ark(str(ark), matrices, scp=str(archive / FEATURES), compression_method=2)
    data = prepare_kaldi(archive, tmp_path / "out", workers=HERE)
    features = utterance_features(data.utterances[1])
    expected = (matrices["utt-b"] - data.info.stats.mean) / data.info.stats.std
    np.testing.assert_allclose(features, expected, atol=0.05)


def test_labels_of_20_ms_are_told_by_their_number_and_chosen_by_pattern(archive, tmp_path):
    for period in (10, 20):
        folder = archive / f"stage2-cluster-{period}ms"
        folder.mkdir()
        step = period // 10
        write_labels(
            folder / "train_960.hubert8.bas.scp", {key: np.arange(n)[::step] for key, n in LENGTHS.items()}
        )
    for path in archive.glob("*.bas*"):
        path.unlink()
    with pytest.raises(MelHuBERTError, match=r"several .*10ms.*20ms.*choose with --labels"):
        prepare_kaldi(archive, tmp_path / "out", workers=HERE)
    with pytest.raises(MelHuBERTError, match="no label list fits --labels '\\*30ms\\*', found stage2"):
        prepare_kaldi(archive, tmp_path / "out", labels="*30ms*", workers=HERE)
    data = prepare_kaldi(archive, tmp_path / "out", labels="*20ms*", workers=HERE)
    assert data.label_period_ms == 20
    assert [utterance.label_start for utterance in data.utterances] == [0, 16, 36]
    assert utterance_labels(data.utterances[2], 20).tolist() == list(range(0, 17, 2))


def test_an_odd_last_frame_without_a_label_is_dropped(archive, tmp_path):
    write_labels(archive / LABELS, {key: np.arange(n // 2) for key, n in LENGTHS.items()})
    data = prepare_kaldi(archive, tmp_path / "out", workers=HERE)
    assert [utterance.length for utterance in data.utterances] == [30, 40, 16]
    assert data.label_period_ms == 20


def change_labels(archive, key, values):
    ids = {name: np.arange(n) for name, n in LENGTHS.items()}
    if values is None:
        del ids[key]
    else:
        ids[key] = values
    write_labels(archive / LABELS, ids)


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("utt-b", None, ["utterance utt-b", FEATURES, "but not in", LABELS]),
        ("utt-d", [1, 2], ["utterance utt-d", "but not in", FEATURES]),
        ("utt-b", range(39), ["utterance utt-b", "40 frames, but 39 labels", "expected 40 at 10 ms"]),
        ("utt-c", [600] * 17, ["utterance utt-c", "cluster id 600", "expected 0 to 511"]),
        ("utt-c", [-1] * 17, ["utterance utt-c", "cluster id -1"]),
        ("utt-c", ["x"] * 17, ["utterance utt-c", "expected cluster ids"]),
    ],
)
def test_lists_that_disagree_are_errors_that_name_the_utterance(archive, tmp_path, key, values, words):
    change_labels(archive, key, values)
    with pytest.raises(MelHuBERTError) as error:
        prepare_kaldi(archive, tmp_path / "out", workers=HERE)
    for word in words:
        assert word in str(error.value)


def test_damaged_archives_are_errors_that_name_the_place(archive, tmp_path, matrices):
    def refused(words):
        with pytest.raises(MelHuBERTError, match=words):
            prepare_kaldi(archive, tmp_path / "out", workers=HERE)

    scp = (archive / FEATURES).read_text()
    (archive / FEATURES).write_text(scp.replace(".ark:", ".gone:"))
    refused(r"line 1: .*feats\.gone is not there \(utterance utt-a\)")
    # What Kaldi would run as a command is refused.
    (archive / FEATURES).write_text("utt-a cat feats.ark |\n")
    refused(r"line 1: 'utt-a cat feats.ark \|' found, expected `key path:offset`")
    (archive / FEATURES).write_text(scp + scp.splitlines()[0])
    refused("line 4: utterance utt-a is listed twice")
    (archive / FEATURES).write_text(scp)

    ark = archive / "feats.ark"
    whole = ark.read_bytes()
    ark.write_bytes(whole[:-100])
    refused("utterance utt-c .*damaged matrix")
    ark.write_bytes(b"x" * len(whole))
    refused("utterance utt-a .*no binary Kaldi matrix")
    kaldiio.save_ark(
        str(ark), {key: value[:, :39] for key, value in matrices.items()}, scp=str(archive / FEATURES)
    )
    refused(r"utterance utt-a .*shape \(31, 39\)")
    ark.write_bytes(whole)
    (archive / FEATURES).write_text(scp)

    (archive / "train-clean-360.mean-var").write_text("[1, 2]\n[1, 4]\n7\n")
    refused("train-clean-360.mean-var: expected three lines")
    (archive / "train-clean-360.mean-var").unlink()
    refused(r"no NAME.mean-var \(statistics\)")


def test_options_of_audio_are_refused(archive, tmp_path, capsys):
    arguments = ["prepare", "--kaldi", str(archive), "--out", str(tmp_path / "out"), "--subset", "x"]
    assert main(arguments) == 2
    assert "--subset: goes with --audio" in capsys.readouterr().err


def test_an_interrupted_conversion_continues_to_the_same_bytes(archive, tmp_path, folder_bytes, monkeypatch):
    from s3prl_melhubert.pretrain.data.kaldi import convert as module

    monkeypatch.setattr(module, "SHARD_FILES", 1)
    prepare_kaldi(archive, tmp_path / "whole", workers=HERE)
    convert, done = module.convert_shard, []

    def stop_at_second(task):
        if done:
            raise KeyboardInterrupt
        done.append(task.index)
        return convert(task)

    monkeypatch.setattr(module, "convert_shard", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_kaldi(archive, tmp_path / "part", workers=HERE)
    monkeypatch.setattr(module, "convert_shard", convert)
    data = prepare_kaldi(archive, tmp_path / "part", workers=HERE)
    assert len({utterance.features for utterance in data.utterances}) == 3
    assert folder_bytes(tmp_path / "part") == folder_bytes(tmp_path / "whole")
