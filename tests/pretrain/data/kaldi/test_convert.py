"""The published archive, as kaldiio writes its like: what comes of it."""

import os
import resource

import kaldiio
import numpy as np
import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data.kaldi.convert import prepare_kaldi
from s3prl_melhubert.pretrain.data.manifest import utterance_features, utterance_labels
from s3prl_melhubert.pretrain.data.workers import Workers

HERE = Workers(jobs=1)


def test_archive_becomes_a_prepared_set(archive, tmp_path, capsys):
    assert (
        main(["prepare", "--kaldi", str(archive.folder), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    )
    assert "3 utterances" in capsys.readouterr().out
    data = prepare_kaldi(archive.folder, tmp_path / "out", workers=HERE)  # complete: only read
    frames = np.concatenate(list(archive.matrices.values())).astype(np.float64)
    np.testing.assert_allclose(data.info.stats.mean, frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(data.info.stats.std, frames.std(0), rtol=1e-5)
    assert [utterance.id for utterance in data.utterances] == list(archive.lengths)
    for utterance in data.utterances:
        expected = (archive.matrices[utterance.id] - frames.mean(0)) / frames.std(0)
        np.testing.assert_allclose(utterance_features(utterance), expected, atol=1e-4)
        assert utterance_labels(utterance, 10).tolist() == list(range(archive.lengths[utterance.id]))
    assert (data.info.clusters, data.info.label_period_ms, data.info.frames) == (512, 10, 88)


def test_blanks_that_ascii_lacks_are_part_of_a_name(archive, tmp_path):
    for path in (archive.features, archive.labels):
        path.write_text(path.read_text().replace("utt-b", "utt\u00a0b\u2028"), newline="\r\n")
    data = prepare_kaldi(archive.folder, tmp_path / "out", workers=HERE)
    assert [utterance.id for utterance in data.utterances] == ["utt-a", "utt\u00a0b\u2028", "utt-c"]


def test_a_complete_set_says_so_when_the_archive_is_another(archive, tmp_path, capsys):
    prepare_kaldi(archive.folder, tmp_path / "out", workers=HERE)
    capsys.readouterr()
    next(archive.folder.rglob("*.ark")).touch()  # as if others had been put there
    prepare_kaldi(archive.folder, tmp_path / "out", workers=HERE)
    (line,) = capsys.readouterr().err.splitlines()
    assert "complete already; nothing was done. It was made of files with other times" in line


def test_compressed_matrices_are_read(archive, tmp_path):
    kaldiio.save_ark(
        str(archive.ark), dict(archive.matrices), scp=str(archive.features), compression_method=2
    )
    data = prepare_kaldi(archive.folder, tmp_path / "out", workers=HERE)
    features = utterance_features(data.utterances[1])
    expected = (archive.matrices["utt-b"] - data.info.stats.mean) / data.info.stats.std
    np.testing.assert_allclose(features, expected, atol=0.05)


def test_labels_of_20_ms_are_told_by_their_number_and_chosen_by_pattern(archive, tmp_path):
    for period in (10, 20):
        folder = archive.folder / f"stage2-cluster-{period}ms"
        folder.mkdir()
        step = period // 10
        archive.write_labels(
            {key: np.arange(n)[::step] for key, n in archive.lengths.items()},
            folder / "train_960.hubert8.bas.scp",
        )
    for path in archive.folder.glob("*.bas*"):
        path.unlink()
    with pytest.raises(MelHuBERTError, match=r"several .*10ms.*20ms.*choose with --labels"):
        prepare_kaldi(archive.folder, tmp_path / "out", workers=HERE)
    with pytest.raises(MelHuBERTError, match="no label list fits --labels '\\*30ms\\*', found stage2"):
        prepare_kaldi(archive.folder, tmp_path / "out", labels="*30ms*", workers=HERE)
    data = prepare_kaldi(archive.folder, tmp_path / "out", labels="*20ms*", workers=HERE)
    assert data.label_period_ms == 20
    assert [utterance.label_start for utterance in data.utterances] == [0, 16, 36]
    assert utterance_labels(data.utterances[2], 20).tolist() == list(range(0, 17, 2))


def test_an_odd_last_frame_without_a_label_is_dropped(archive, tmp_path):
    archive.write_labels({key: np.arange(n // 2) for key, n in archive.lengths.items()})
    data = prepare_kaldi(archive.folder, tmp_path / "out", workers=HERE)
    assert [utterance.length for utterance in data.utterances] == [30, 40, 16]
    assert data.label_period_ms == 20


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--subset", "x"),
        ("--seed", "0"),  # even with the value that it has for audio
        ("--sample-frames", "1000"),
        ("--shard-files", "2"),
        ("--max-rejected", "0.1"),
        ("--features", "float16"),
    ],
)
def test_options_of_audio_are_refused(option, value, archive, tmp_path, capsys):
    arguments = ["prepare", "--kaldi", str(archive.folder), "--out", str(tmp_path / "out"), option, value]
    assert main(arguments) == 2
    assert f"{option}: goes with --audio" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("clusters", ["0", "-3"])
def test_fewer_clusters_than_one_are_refused(clusters, archive, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["prepare", "--kaldi", str(archive.folder), "--out", str(out), "--clusters", clusters]
    assert main(arguments) == 2
    assert f"--clusters {clusters}: expected at least 1" in capsys.readouterr().err
    assert not out.exists()


def test_options_of_archives_are_refused_with_audio(corpus, tmp_path, capsys):
    arguments = ["prepare", "--audio", str(corpus), "--out", str(tmp_path / "out"), "--labels", "*20ms*"]
    assert main(arguments) == 2
    assert "--labels: goes with --kaldi" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_interrupted_conversion_continues_to_the_same_bytes(archive, tmp_path, folder_bytes, monkeypatch):
    from s3prl_melhubert.pretrain.data.kaldi import convert as module

    monkeypatch.setattr(module, "SHARD_FILES", 1)
    prepare_kaldi(archive.folder, tmp_path / "whole", workers=HERE)
    convert, done = module.convert_shard, []

    def stop_at_second(task):
        if done:
            raise KeyboardInterrupt
        done.append(task.index)
        return convert(task)

    monkeypatch.setattr(module, "convert_shard", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_kaldi(archive.folder, tmp_path / "part", workers=HERE)
    monkeypatch.setattr(module, "convert_shard", convert)
    matrices = next(archive.folder.rglob("*.ark"))
    times = matrices.stat().st_atime_ns, matrices.stat().st_mtime_ns
    matrices.touch()  # as if others had been put there
    with pytest.raises(MelHuBERTError, match="modification times of the archive's files changed"):
        prepare_kaldi(archive.folder, tmp_path / "part", workers=HERE)
    os.utime(matrices, ns=times)
    data = prepare_kaldi(archive.folder, tmp_path / "part", workers=HERE)
    assert len({utterance.features for utterance in data.utterances}) == 3
    assert folder_bytes(tmp_path / "part") == folder_bytes(tmp_path / "whole")


@pytest.mark.parametrize("name", ["ark", "bas"])
def test_an_archive_that_is_written_over_while_it_is_read_is_refused(name, archive, tmp_path, monkeypatch):
    """Half of the set would be of another archive, and nothing would tell."""
    from s3prl_melhubert.pretrain.data.kaldi import convert as module

    monkeypatch.setattr(module, "SHARD_FILES", 1)
    (path,) = archive.folder.rglob(f"*.{name}")
    convert, before = module.convert_shard, path.stat()

    def convert_meanwhile(task):
        if task.index == 1:
            path.write_bytes(path.read_bytes())  # of the same size, and as readable
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10 * 10**9))
        return convert(task)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(module, "convert_shard", convert_meanwhile)
        with pytest.raises(
            MelHuBERTError, match=rf"{path.name}: written over after this command had found it"
        ):
            prepare_kaldi(archive.folder, tmp_path / "out", workers=HERE)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(prepare_kaldi(archive.folder, tmp_path / "out", workers=HERE).utterances) == 3


def test_a_full_disk_gets_one_line_and_the_same_command_continues(
    archive, tmp_path, capsys, folder_bytes, monkeypatch
):
    """A limit of the size of files fails a write as a full disk does, with another number."""
    from s3prl_melhubert.pretrain.data.kaldi import convert as module

    monkeypatch.setattr(module, "SHARD_FILES", 1)
    prepare_kaldi(archive.folder, tmp_path / "whole", workers=HERE)
    command = ["prepare", "--kaldi", str(archive.folder), "--out", str(tmp_path / "out"), "--jobs", "1"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))  # The second matrix has 6400 bytes.
    try:
        assert main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("melhubert:")]
    assert "unfinished/features/00001.npy: cannot be written (File too large); nothing was left there" in line
    assert "make space, and give the same command again" in line
    assert (tmp_path / "out" / "features" / "00000.npy").is_file()
    assert main(command) == 0
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "whole")
