"""Audio to a prepared set: the right figures, and the same bytes however often the work was interrupted."""

import csv
import shutil
import socket

import numpy as np
import pytest
import soundfile
import torch
import yaml

from s3prl_melhubert import FeatureStats, Frontend, MelHuBERTError, log_mel
from s3prl_melhubert.audio import read_audio
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data import shards
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.data.manifest import utterance_features, utterance_labels
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.workers import Workers
from s3prl_melhubert.support.locks import only_writer

HERE = Workers(jobs=1)  # in this process
SMALL = {"clusters": 6, "shard_files": 4, "workers": HERE}  # as `prepared` was made


def rejections(folder) -> dict[str, str]:
    with (folder / "rejected.csv").open() as file:
        return {row["file_path"].rsplit("/", 1)[1]: row["reason"] for row in csv.DictReader(file)}


def test_features_statistics_and_labels_are_what_they_should_be(prepared, corpus):
    paths = sorted((corpus / "train-clean-100").rglob("*.flac"))
    frames = [log_mel(torch.from_numpy(soundfile.read(path, dtype="float32")[0])).numpy() for path in paths]
    everything = np.concatenate(frames).astype(np.float64)
    stats = prepared.info.stats
    np.testing.assert_allclose(stats.mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats.std, everything.std(0), rtol=1e-5)

    assert [utterance.id for utterance in prepared.utterances] == [path.stem for path in paths]
    centroids = np.load(prepared.folder / "kmeans.npy").astype(np.float64)
    assert centroids.shape == (6, 40)
    for utterance, path, raw in zip(prepared.utterances, paths, frames, strict=True):
        features = utterance_features(utterance)
        assert features.dtype == np.float32
        assert len(features) == utterance.length == len(raw)
        as_upstream = Frontend(stats, 10)([torch.from_numpy(read_audio(path).waveform)])[0][0]
        # The bins of a sweep that it does not touch hold little beside rounding.
        np.testing.assert_allclose(features, as_upstream, atol=5e-4)
        distances = np.square(features[:, None] - centroids).sum(2)
        assert np.array_equal(utterance_labels(utterance, 10), distances.argmin(1))

    info = prepared.info
    assert (info.utterances, info.frames, info.rejected) == (12, len(everything), 0)
    assert info.made_by["subset"] == ["train-clean-100"]
    assert "unfinished" not in {path.name for path in prepared.folder.iterdir()}


def test_long_files_are_worked_on_in_parts_with_the_same_result(sweep):
    from s3prl_melhubert.frontend import blockwise_log_mel

    waveform = torch.from_numpy(sweep(1, 12.34))
    torch.testing.assert_close(blockwise_log_mel(waveform), log_mel(waveform), atol=1e-5, rtol=0)


def test_any_tree_of_audio_is_resampled_and_mixed_down(tmp_path, sweep):
    audio = tmp_path / "audio"
    (audio / "deep" / "er").mkdir(parents=True)
    wave = sweep(5, 1.0)
    soundfile.write(audio / "same.wav", wave, 16_000)
    soundfile.write(audio / "deep" / "stereo.flac", np.stack([wave, wave], 1), 16_000)
    soundfile.write(audio / "deep" / "er" / "slow.wav", sweep(6, 1.0)[::2], 8_000)
    soundfile.write(audio / "deep" / "er" / "lossy.ogg", sweep(7, 1.0), 16_000)
    soundfile.write(audio / "deep" / "er" / "same.mp3", sweep(8, 1.0), 44_100)
    data = prepare_audio([audio], tmp_path / "out", **SMALL)
    by_id = {utterance.id: utterance for utterance in data.utterances}
    # Two files are called `same`, so that names are paths.
    assert set(by_id) == {"same", "deep/stereo", "deep/er/slow", "deep/er/lossy", "deep/er/same"}
    assert by_id["deep/er/slow"].length == 98
    assert by_id["deep/er/same"].length == pytest.approx(16_000 / 44_100 * 98, abs=4)
    one, two = utterance_features(by_id["same"]), utterance_features(by_id["deep/stereo"])
    np.testing.assert_allclose(one, two, atol=0.02)  # 16-bit files of the same samples


def test_five_corrupt_files_of_a_hundred_are_left_out_with_their_reasons(tmp_path, sweep, melhubert):
    audio = tmp_path / "audio"
    audio.mkdir()
    for i in range(100):
        soundfile.write(audio / f"{i:03d}.flac", sweep(i, 0.3), 16_000)
    (audio / "010.flac").write_bytes(b"")
    (audio / "020.flac").write_bytes(b"fLaC and then nothing of the kind" * 9)
    (audio / "030.flac").unlink()
    soundfile.write(audio / "030.wav", np.zeros(0), 16_000)
    soundfile.write(audio / "040.flac", sweep(0, 0.02), 16_000)
    (audio / "050.flac").unlink()
    soundfile.write(audio / "050.wav", np.array([0.1, np.nan, 0.2] * 1000), 16_000, subtype="FLOAT")

    ran = melhubert("prepare", "--audio", audio, "--out", tmp_path / "out", "--clusters", 4, "--jobs", 1)
    assert ran.returncode == 0, ran.stderr
    assert "95 utterances" in ran.stdout
    assert "5 files left out" in ran.stdout
    reasons = rejections(tmp_path / "out")
    assert set(reasons) == {"010.flac", "020.flac", "030.wav", "040.flac", "050.wav"}
    for name, words in {
        "010.flac": "empty",
        "020.flac": "not an audio file",
        "030.wav": "zero samples",
        "040.flac": "too short: 320 samples",
        "050.wav": "NaN",
    }.items():
        assert words in reasons[name]
    data = read_prepared(tmp_path / "out")
    assert (len(data.utterances), data.info.rejected) == (95, 5)


def test_links_that_lead_nowhere_are_left_out_with_their_reasons(tmp_path, sweep):
    audio = tmp_path / "audio"
    audio.mkdir()
    for i in range(3):
        soundfile.write(audio / f"{i}.wav", sweep(i, 0.5), 16_000)
    (audio / "gone.flac").symlink_to("nowhere.flac")
    (audio / "circle.flac").symlink_to("circle.flac")
    data = prepare_audio([audio], tmp_path / "out", max_rejected=0.5, **SMALL)
    assert [utterance.id for utterance in data.utterances] == ["0", "1", "2"]
    reasons = rejections(data.folder)
    assert set(reasons) == {"gone.flac", "circle.flac"}
    assert all("cannot be read" in reason for reason in reasons.values())
    for path in audio.glob("*.wav"):
        path.unlink()
    with pytest.raises(MelHuBERTError, match=r"circle.flac: found twice"):
        prepare_audio([audio, audio], tmp_path / "twice", **SMALL)


def test_too_many_rejected_stop_the_run_and_a_larger_share_continues_it(tmp_path, sweep):
    audio = tmp_path / "audio"
    audio.mkdir()
    for i in range(6):
        soundfile.write(audio / f"{i}.wav", sweep(i, 0.5), 16_000)
    (audio / "2.wav").write_bytes(b"RIFF")
    with pytest.raises(MelHuBERTError, match=r"1 of 6 files cannot be used.*--max-rejected 0.1.*2\.wav"):
        prepare_audio([audio], tmp_path / "out", **SMALL)
    data = prepare_audio([audio], tmp_path / "out", max_rejected=0.2, **SMALL)
    assert len(data.utterances) == 5
    with pytest.raises(
        MelHuBERTError, match=r"1 of 6 files cannot be used.*--max-rejected 0.1 .*rejected.csv\)$"
    ):
        prepare_audio([audio], tmp_path / "out", **SMALL)  # complete, but with more left out than may be
    prepare_audio([audio], tmp_path / "out", max_rejected=0.2, **SMALL)


def test_exactly_the_share_that_may_be_rejected_is_rejected(tmp_path, sweep):
    audio = tmp_path / "audio"
    audio.mkdir()
    for i in range(50):
        soundfile.write(audio / f"{i:02d}.wav", sweep(i, 0.1 if i < 21 else 0.01), 16_000)
    with pytest.raises(MelHuBERTError, match=r"29 of 50 files cannot be used.*--max-rejected 0\.57 allows"):
        prepare_audio([audio], tmp_path / "out", max_rejected=0.57, **SMALL)
    assert prepare_audio([audio], tmp_path / "out", max_rejected=0.58, **SMALL).info.rejected == 29


def test_a_validation_set_gets_the_training_sets_statistics_and_clusters(prepared, corpus, tmp_path):
    dev = prepare_audio(
        [corpus], tmp_path / "dev", subsets=["dev-clean"], kmeans=prepared.folder, shard_files=5, workers=HERE
    )
    assert dev.info.stats == prepared.info.stats
    assert dev.info.clusters == 6
    assert (dev.folder / "kmeans.npy").read_bytes() == (prepared.folder / "kmeans.npy").read_bytes()
    assert dev.info.made_by["kmeans"].startswith(str(prepared.folder))

    shutil.copy(prepared.folder / "kmeans.npy", tmp_path / "alone.npy")
    with pytest.raises(MelHuBERTError, match="give --stats too"):
        prepare_audio([corpus], tmp_path / "x", kmeans=tmp_path / "alone.npy", workers=HERE)
    with pytest.raises(MelHuBERTError, match="--clusters 9: but --kmeans"):
        prepare_audio([corpus], tmp_path / "x", kmeans=prepared.folder, clusters=9, workers=HERE)
    with pytest.raises(MelHuBERTError, match="--stats librispeech-100h: other statistics than the frames of"):
        prepare_audio(
            [corpus], tmp_path / "x", kmeans=prepared.folder, stats="librispeech-100h", workers=HERE
        )
    named = prepare_audio(
        [corpus], tmp_path / "y", kmeans=tmp_path / "alone.npy", stats="librispeech-100h", workers=HERE
    )
    assert named.info.stats.mean[0] == pytest.approx(11.88, abs=0.5)


def test_what_a_folder_was_begun_with_must_be_repeated(prepared, corpus, tmp_path, folder_bytes):
    before = folder_bytes(prepared.folder)
    same = prepare_audio([corpus], prepared.folder, subsets=["train-clean-100"], **SMALL)
    assert len(same.utterances) == 12
    assert folder_bytes(prepared.folder) == before
    with pytest.raises(MelHuBERTError, match=r"made differently.*seed 0, now 1"):
        prepare_audio([corpus], prepared.folder, subsets=["train-clean-100"], seed=1, **SMALL)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(MelHuBERTError, match="not empty, and not begun by this command"):
        prepare_audio([corpus], tmp_path / "out", **SMALL)

    with pytest.raises(MelHuBERTError, match="frames found for 90000 clusters"):
        prepare_audio([corpus], tmp_path / "begun", **(SMALL | {"clusters": 90_000}))
    with pytest.raises(MelHuBERTError, match=r"other arguments.*shard_files 4, now 5"):
        prepare_audio([corpus], tmp_path / "begun", **(SMALL | {"shard_files": 5}))


def test_statistics_of_the_beginning_may_be_named_in_another_way(corpus, tmp_path, folder_bytes):
    given = {"subsets": ["dev-clean"], "stats": "librispeech-100h", **SMALL}
    prepare_audio([corpus], tmp_path / "out", **given)
    before = folder_bytes(tmp_path / "out")
    stats = tmp_path / "stats.yaml"
    stats.write_text(yaml.safe_dump(FeatureStats.load("librispeech-100h").to_mapping()))
    prepare_audio([corpus], tmp_path / "out", **{**given, "stats": stats})
    assert folder_bytes(tmp_path / "out") == before
    with pytest.raises(MelHuBERTError, match=r"made differently.*stats"):
        prepare_audio([corpus], tmp_path / "out", **{**given, "stats": "librispeech-360h"})


def test_folders_of_audio_may_be_written_with_a_slash_at_their_end(corpus, tmp_path, folder_bytes):
    """As a shell completes them."""
    prepare_audio([str(corpus)], tmp_path / "out", subsets=["dev-clean"], **SMALL)
    before = folder_bytes(tmp_path / "out")
    prepare_audio([f"{corpus}/"], tmp_path / "out", subsets=["dev-clean/"], **SMALL)
    assert folder_bytes(tmp_path / "out") == before
    with pytest.raises(MelHuBERTError, match=r"made differently.*subset"):
        prepare_audio([corpus], tmp_path / "out", subsets=["train-clean-100"], **SMALL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--subset", "train-clean-360"], "no subset train-clean-360 here, found dev-clean, train-clean-100"),
        (["--clusters", "0"], "--clusters 0: expected at least 1"),
        (["--max-rejected", "7"], "--max-rejected 7: expected a share"),
        (["--jobs", "0"], "--jobs 0"),
        (["--scheduler", "tcp://x:1"], "goes with --backend dask"),
        (["--stats", "librispeech-7h"], "no published name"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(corpus, tmp_path, capsys, arguments, words):
    status = main(["prepare", "--audio", str(corpus), "--out", str(tmp_path / "out"), *arguments])
    assert status == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_audio_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(MelHuBERTError, match="no such file or folder"):
        prepare_audio([tmp_path / "nowhere"], tmp_path / "out", **SMALL)
    with pytest.raises(MelHuBERTError, match="nowhere: no such folder, expected one with the subset x"):
        prepare_audio([tmp_path / "nowhere"], tmp_path / "out", subsets=["x"], **SMALL)
    with pytest.raises(MelHuBERTError, match="no audio in this folder"):
        prepare_audio([tmp_path], tmp_path / "out", **SMALL)


def test_a_file_that_is_given_twice_is_refused_however_its_path_is_written(tmp_path, sweep, monkeypatch):
    (tmp_path / "speech" / "more").mkdir(parents=True)
    (tmp_path / "elsewhere" / "speech").mkdir(parents=True)
    for i, folder in enumerate(("speech", "speech/more", "elsewhere/speech")):
        soundfile.write(tmp_path / folder / f"{i}.wav", sweep(i, 1.0), 16_000)
    monkeypatch.chdir(tmp_path)
    for again, words in (
        ("speech", "0.wav: found twice; is a folder"),
        (tmp_path / "speech", "0.wav: found twice, once as speech/0.wav; is a folder"),
        ("speech/../speech", "0.wav: found twice, once as speech/0.wav; is a folder"),
        ("speech/more/../more", "1.wav: found twice, once as speech/more/1.wav; is a folder"),
    ):
        with pytest.raises(MelHuBERTError, match=words):
            prepare_audio(["speech", again], "out", **SMALL)

    # A corpus may hold links, also to its own files; and behind a link, .. leads elsewhere than it reads.
    (tmp_path / "speech" / "linked.wav").symlink_to("0.wav")
    (tmp_path / "link").symlink_to("elsewhere/speech")
    data = prepare_audio(["speech", "link/../speech"], "out", **SMALL)
    assert [utterance.id for utterance in data.utterances] == ["0", "linked", "1", "2"]


def test_kmeans_sees_frames_of_all_shards_and_none_of_them_twice(tmp_path, sweep):
    """With as many clusters as frames, each frame is a centroid; with fewer of them, some frames are."""
    (tmp_path / "audio").mkdir()
    for i, seconds in enumerate((0.2, 0.3, 0.25)):
        soundfile.write(tmp_path / "audio" / f"{i}.wav", sweep(i, seconds), 16_000)
    more = {"shard_files": 1, "workers": HERE}
    every = prepare_audio([tmp_path / "audio"], tmp_path / "all", clusters=69, **more)
    parts = [np.asarray(utterance_features(utterance)) for utterance in every.utterances]
    labels = np.concatenate([utterance_labels(utterance, 10) for utterance in every.utterances])
    assert sorted(labels) == list(range(sum(map(len, parts))))
    some = prepare_audio([tmp_path / "audio"], tmp_path / "some", clusters=30, sample_frames=30, **more)
    equal = np.abs(np.load(some.folder / "kmeans.npy")[:, None] - np.concatenate(parts)).max(2) < 1e-4
    assert (equal.sum(1) == 1).all()
    assert equal.sum(0).max() == 1
    ends = np.cumsum([len(part) for part in parts])
    assert all(part.any() for part in np.split(equal, ends[:-1], axis=1))


def test_a_shard_that_is_worked_on_in_blocks_has_the_same_bytes(
    prepared, corpus, tmp_path, folder_bytes, monkeypatch
):
    """A shard of audio files of an hour has many blocks."""
    monkeypatch.setattr(shards, "BLOCK_FRAMES", 100)
    prepare_audio([corpus], tmp_path / "out", subsets=["train-clean-100"], **SMALL)
    assert folder_bytes(tmp_path / "out") == folder_bytes(prepared.folder)


def test_two_processes_write_the_same_bytes_as_one(prepared, corpus, tmp_path, folder_bytes):
    more = SMALL | {"workers": Workers(jobs=2)}
    prepare_audio([corpus], tmp_path / "out", subsets=["train-clean-100"], **more)
    assert folder_bytes(tmp_path / "out") == folder_bytes(prepared.folder)


def test_preparing_does_not_wait_for_torch(corpus, tmp_path, run_python):
    (tmp_path / "program.py").write_text(
        "import sys\n"
        "from s3prl_melhubert.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(sorted({'torch', 's3prl'} & set(sys.modules)))\n"
    )
    arguments = ["--subset", "dev-clean", "--clusters", "4", "--jobs", "1", "--out", tmp_path / "out"]
    ran = run_python(tmp_path / "program.py", "prepare", "--audio", corpus, *arguments)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.splitlines()[-1] == "[]"


def test_two_commands_do_not_work_on_one_folder(corpus, tmp_path, melhubert):
    (tmp_path / "out" / "unfinished").mkdir(parents=True)
    arguments = ["--audio", corpus, "--out", tmp_path / "out", "--clusters", 6, "--jobs", 1]
    with only_writer(tmp_path / "out" / "unfinished", "lock"):
        ran = melhubert("prepare", *arguments)
    assert ran.returncode == 2
    assert f"another process is at work on this folder (host {socket.gethostname()}, process" in ran.stderr
    assert melhubert("prepare", *arguments).returncode == 0


def test_a_folder_called_unfinished_that_somebody_else_made_is_left_as_it_is(corpus, tmp_path, folder_bytes):
    out = tmp_path / "out"
    (out / "unfinished" / "features").mkdir(parents=True)
    (out / "unfinished" / "features" / "00000.npy").write_text("symphony")
    (out / "unfinished" / "recipe.json").write_text('{"flour": "500 g"}')
    before = folder_bytes(out)
    with pytest.raises(MelHuBERTError, match="begun with other arguments"):
        prepare_audio([corpus], out, **SMALL)
    (out / "unfinished" / "recipe.json").unlink()
    del before["unfinished/recipe.json"]
    with pytest.raises(MelHuBERTError, match="not empty, and not begun by this command"):
        prepare_audio([corpus], out, **SMALL)
    assert {name: digest for name, digest in folder_bytes(out).items() if "lock" not in name} == before

    whole = prepare_audio([corpus], tmp_path / "whole", **SMALL)
    shutil.copytree(out / "unfinished", whole.folder / "unfinished")
    (whole.folder / "unfinished" / "recipe.json").write_text('{"flour": "500 g"}')
    before = folder_bytes(whole.folder)
    prepare_audio([corpus], whole.folder, **SMALL)
    assert folder_bytes(whole.folder) == before


def test_files_that_somebody_puts_into_unfinished_work_outlive_it(corpus, tmp_path, monkeypatch):
    from s3prl_melhubert.pretrain.data import prepare as module

    monkeypatch.setattr(module, "finish_shard", lambda task: 1 / 0)
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        prepare_audio([corpus], out, **SMALL)
    monkeypatch.undo()
    notes = {out / "unfinished" / ".notes.txt", out / "unfinished" / "log-mel" / "why.npy"}
    for path in notes:
        path.write_text("precious")
    prepare_audio([corpus], out, **SMALL)
    assert {path for path in (out / "unfinished").rglob("*") if path.is_file()} == notes


def test_real_speech(speech, tmp_path):
    data = prepare_audio(
        [speech / "digits"], tmp_path / "out", subsets=["dev-clean"], clusters=20, workers=HERE
    )
    assert len(data.utterances) == 51
    assert data.info.hours == pytest.approx(0.045, abs=0.002)
    frames = np.concatenate([utterance_features(utterance) for utterance in data.utterances])
    np.testing.assert_allclose(frames.mean(0, dtype=np.float64), 0, atol=1e-4)
    np.testing.assert_allclose(frames.std(0, dtype=np.float64), 1, atol=1e-4)
    labels = np.concatenate([utterance_labels(utterance, 10) for utterance in data.utterances])
    assert np.bincount(labels, minlength=20).min() > 0


@pytest.mark.parametrize("command", ["prepare", "relabel"])
def test_an_option_about_a_sample_that_is_not_made_is_warned_of(command, capsys):
    """The clusters of --kmeans are taken as they are."""
    sources = {
        "prepare": ["--audio", "nowhere"],
        "relabel": ["--data", "x", "--checkpoint", "y", "--layer", "1"],
    }
    given = [command, *sources[command], "--out", "out", "--kmeans", "train"]
    assert main([*given, "--seed", "3", "--sample-frames", "9"]) == 2
    warned = capsys.readouterr().err
    assert "--seed: of no effect, as --kmeans train gives the clusters" in warned
    assert "--sample-frames: of no effect" in warned
    assert main(given) == 2
    assert "of no effect" not in capsys.readouterr().err
