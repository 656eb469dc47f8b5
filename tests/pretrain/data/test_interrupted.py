"""What is killed, or loses frames with the power, continues to the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import soundfile

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.pretrain.data import prepare
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.workers import Workers

SMALL = {"clusters": 6, "shard_files": 4, "workers": Workers(jobs=1)}  # as `prepared` was made

# Runs the command in forked children. The child that is to be killed dies of SIGKILL right before its Nth
# step on the disk: a rename, a removal, or a file made safe. The interpreter tells of the first two (by audit
# events), because pathlib keeps functions of its own for them in some versions of Python, and every version
# should count the same steps.
KILLER = """
    import os, shutil, signal, sys
    import scipy.fft, sklearn.cluster, soundfile  # once, before the forks
    import s3prl_melhubert.pretrain.data.prepare
    from s3prl_melhubert.cli import main

    arguments, out, whole = sys.argv[2:], sys.argv[1], None
    arguments += ["--out", out]

    def run(kill_at=None):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            steps, fsync = 0, os.fsync
            def step():
                nonlocal steps
                steps += 1
                if steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            def event(name, details):
                if name in ("os.rename", "os.remove", "os.rmdir") and str(details[0]).startswith(out):
                    step()
            sys.addaudithook(event)
            os.fsync = lambda handle: (step(), fsync(handle))
            os._exit(main(arguments))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def content():
        files = [os.path.join(at, name) for at, _, names in os.walk(out) for name in names]
        return {name: open(name, "rb").read() for name in sorted(files)}

    assert run() == 0
    whole = content()

    shutil.rmtree(out)  # killed once, everywhere
    kill_at = 0
    while True:
        kill_at += 1
        shutil.rmtree(out, ignore_errors=True)
        status = run(kill_at)
        assert status in (0, -signal.SIGKILL), status
        if status == 0:
            break
        assert run() == 0, f"killed at {kill_at}: cannot be continued"
        assert content() == whole, f"killed at {kill_at}: {set(content()) ^ set(whole)} or other bytes"

    shutil.rmtree(out)  # killed again and again, a few steps on: a shard and a bit each time
    kills = 0
    while run(21 + kills % 4) != 0:  # 20 steps at the end are one part
        kills += 1
        assert kills < 100
    assert content() == whole, f"killed {kills} times: {set(content()) ^ set(whole)} or other bytes"
    print(kill_at, kills)
"""


def test_killed_at_every_step_it_continues_to_the_same_bytes(corpus, tmp_path, run_python):
    (tmp_path / "killer.py").write_text(textwrap.dedent(KILLER))
    ran = run_python(
        tmp_path / "killer.py",
        tmp_path / "out",
        *("prepare", "--audio", corpus / "train-clean-100", "--jobs", 1, "--clusters", 4, "--shard-files", 6),
        OMP_WAIT_POLICY="passive",  # K-means would otherwise keep both cores while other tests run
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    places, kills = map(int, ran.stdout.split())
    assert places > 40
    assert kills >= 3


def test_frames_that_a_loss_of_power_took_are_made_again(prepared, corpus, tmp_path, folder_bytes):
    out = tmp_path / "out"
    with pytest.raises(MelHuBERTError, match="frames found for 90000 clusters"):
        prepare_audio([corpus], out, subsets=["train-clean-100"], **(SMALL | {"clusters": 90_000}))
    raw = out / "unfinished" / "log-mel"
    whole = (raw / "00000.npy").read_bytes()
    (raw / "00000.npy").write_bytes(whole[:128] + bytes(len(whole) - 128))  # as a file system may leave it
    (raw / "00001.npy").write_bytes(b"")
    (raw / "00002.json").unlink()
    prepare_audio([corpus], out, subsets=["train-clean-100"], **SMALL)
    assert folder_bytes(out) == folder_bytes(prepared.folder)


@pytest.mark.parametrize("features", ["float32", "none"])
def test_clusters_of_another_set_may_be_chosen_while_there_are_no_labels(
    prepared, corpus, tmp_path, folder_bytes, features
):
    out, more = tmp_path / "out", {"subsets": ["dev-clean"], "features": features} | SMALL
    with pytest.raises(MelHuBERTError, match="frames found for 90000 clusters"):
        prepare_audio([corpus], out, **(more | {"clusters": 90_000}))
    (out / "unfinished" / "log-mel" / "00001.npy").write_bytes(b"")  # as a loss of power may leave it
    more |= {"clusters": None, "kmeans": prepared.folder}
    prepare_audio([corpus], out, **more)
    prepare_audio([corpus], tmp_path / "whole", **more)
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")


def test_continued_elsewhere_with_a_copy_utterances_keep_their_audio(sweep, tmp_path, monkeypatch):
    audio = tmp_path / "a" / "wav"
    audio.mkdir(parents=True)
    for i in range(6):
        soundfile.write(audio / f"{i}.wav", sweep(i, 0.5), 16_000)
    (audio / "1.wav").write_bytes(b"RIFF")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    out, more = tmp_path / "out", SMALL | {"features": "none", "max_rejected": 0.5}
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(MelHuBERTError, match="frames found for 90000 clusters"):
        prepare_audio(["wav"], out, **(more | {"clusters": 90_000}))
    monkeypatch.chdir(tmp_path / "b")
    data = prepare_audio(["wav"], out, **more)
    assert [(u.id, u.features) for u in data.utterances] == [
        (str(i), tmp_path / "b" / "wav" / f"{i}.wav") for i in (0, 2, 3, 4, 5)
    ]


def test_audio_under_another_path_goes_on_and_other_files_do_not(sweep, tmp_path, monkeypatch, capsys):
    audio, out = tmp_path / "audio", tmp_path / "out"
    (audio / "a").mkdir(parents=True)
    for i in range(6):
        soundfile.write(audio / "a" / f"{i}.wav", sweep(i, 0.5), 16_000)
    with pytest.raises(MelHuBERTError, match="frames found for 90000 clusters"):
        prepare_audio([audio], out, **(SMALL | {"clusters": 90_000}))
    written = [path.stat().st_mtime_ns for path in sorted((out / "unfinished/log-mel").glob("*.npy"))]
    moved = audio.rename(tmp_path / "mounted")
    (moved / "a" / "5.wav").rename(moved / "a" / "6.wav")
    with pytest.raises(MelHuBERTError, match=r"names and sizes of the files .*, now "):
        prepare_audio([moved], out, **SMALL)
    (moved / "a" / "6.wav").rename(moved / "a" / "5.wav")
    (tmp_path / "link").symlink_to(moved)
    monkeypatch.chdir(tmp_path)
    for again in ("link", "mounted", moved):
        with pytest.raises(MelHuBERTError, match="frames found for 80000 clusters"):
            prepare_audio([again], out, **(SMALL | {"clusters": 80_000}))
        raw = sorted((out / "unfinished/log-mel").glob("*.npy"))
        assert [path.stat().st_mtime_ns for path in raw] == written
    assert prepare_audio([moved], out, **SMALL).info.utterances == 6
    assert prepare_audio(["link"], out, **SMALL).info.utterances == 6
    assert "It was made of files in" in capsys.readouterr().err


# The command stops itself when it is told of the first shard that is done.
STOPPING = """
import os, signal, sys
from s3prl_melhubert.cli import main
from s3prl_melhubert.support import progress

update = progress._Lines.update
def stop_at_first(bar, n=1):
    if bar.desc == "log-Mel" and not bar.n:
        os.kill(os.getpid(), signal.SIGSTOP)
    return update(bar, n)

progress._Lines.update = stop_at_first
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_a_run_of_two_processes_killed_in_mid_work_continues_to_the_same_bytes(
    prepared, corpus, tmp_path, folder_bytes
):
    out = tmp_path / "out"
    arguments = [*("--subset", "train-clean-100", "--clusters", "6", "--shard-files", "4", "--jobs", "2")]
    command = [
        sys.executable,
        "-c",
        STOPPING,
        "prepare",
        "--audio",
        corpus,
        "--out",
        out,
        *arguments,
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert list(out.glob("unfinished/log-mel/*.json"))
        listed = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
        workers = [int(pid) for pid in subprocess.check_output(listed, text=True).split()]
        assert len(workers) >= 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    # Its workers may still be writing: they must do no harm, and soon be gone.
    prepare_audio([corpus], out, subsets=["train-clean-100"], **SMALL)
    assert folder_bytes(out) == folder_bytes(prepared.folder)
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_audio_that_was_written_over_is_not_mixed_with_what_it_was(sweep, tmp_path, folder_bytes):
    audio, out = tmp_path / "audio", tmp_path / "out"
    audio.mkdir()
    for i in range(8):
        soundfile.write(audio / f"{i}.wav", sweep(i, 0.5), 16_000)
    copy = shutil.copytree(audio, tmp_path / "copy")  # copytree keeps the times
    with pytest.raises(MelHuBERTError, match="frames found for 90000 clusters"):
        prepare_audio([audio], out, **(SMALL | {"clusters": 90_000}))

    before = folder_bytes(out)
    soundfile.write(audio / "1.wav", 0.25 * sweep(1, 0.5), 16_000)
    assert (audio / "1.wav").stat().st_size == (copy / "1.wav").stat().st_size
    with pytest.raises(
        MelHuBERTError, match="modification times of the audio files changed; put back"
    ) as error:
        prepare_audio([audio], out, **SMALL)
    assert "\n" not in str(error.value)
    assert folder_bytes(out) == before

    shutil.rmtree(audio)
    shutil.copytree(copy, audio)
    prepare_audio([audio], out, **SMALL)
    whole = folder_bytes(out)
    prepare_audio([audio], tmp_path / "again", **SMALL)
    assert folder_bytes(tmp_path / "again") == whole

    # A complete set is of one state of the audio, and of a corpus that was copied without its times, too.
    (audio / "1.wav").touch()
    prepare_audio([audio], out, **SMALL)
    assert folder_bytes(out) == whole


def write_over(path: Path) -> None:
    shutil.copyfile(path.with_name("0.flac"), path)


def write_as_much(path: Path) -> None:
    now = path.stat().st_mtime_ns
    path.write_bytes(bytes(path.stat().st_size))  # which is rejected, too
    os.utime(path, ns=(now, now + 10 * 10**9))


@pytest.mark.parametrize(
    ("features", "change"), [("float32", write_over), ("float32", write_as_much), ("none", write_over)]
)
def test_audio_that_is_written_over_while_it_is_read_is_refused(
    features, change, sweep, tmp_path, folder_bytes, monkeypatch
):
    """The set would tell of other files than those that its frames are of."""
    audio, copy = tmp_path / "audio", tmp_path / "copy"
    audio.mkdir()
    for i in range(8):
        soundfile.write(audio / f"{i}.flac", sweep(i, 0.5), 16000)
    shutil.copytree(audio, copy)  # with the times
    asked = {**SMALL, "features": features}
    prepare_audio([audio], tmp_path / "undisturbed", **asked)
    make = prepare.make_shard

    def make_meanwhile(shard):
        if shard.index == 1:
            change(audio / "5.flac")
        return make(shard)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(prepare, "make_shard", make_meanwhile)
        with pytest.raises(MelHuBERTError, match=r"5\.flac: written over after"):
            prepare_audio([audio], tmp_path / "out", **asked)
    shutil.copy2(copy / "5.flac", audio / "5.flac")
    prepare_audio([audio], tmp_path / "out", **asked)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "undisturbed")
