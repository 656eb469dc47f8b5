"""Audio files: what is found, what is read, and what is refused with which reason."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from s3prl_melhubert import audio
from s3prl_melhubert.audio import audio_info, audio_pieces, find_audio, read_audio, read_stretch
from s3prl_melhubert.cut_audio import cut_short
from s3prl_melhubert.errors import MelHuBERTError


def tone(seconds: float = 1.0, rate: int = 16_000, frequency: float = 440.0) -> np.ndarray:
    """(n,) a sine of amplitude 0.5."""
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def message_of(path, function=read_audio) -> str:
    """The error's message, which must be one line that begins with the file."""
    with pytest.raises(MelHuBERTError) as error:
        function(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def middle(waveform: np.ndarray) -> np.ndarray:
    """Without 50 ms at both ends, where a resampler or a lossy codec swings in."""
    return waveform[800:-800]


def test_reading_needs_no_torch():
    script = "import sys, s3prl_melhubert.audio; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(("name", "tolerance"), [("a.wav", 1e-4), ("a.flac", 1e-4), ("a.OGG", 0.05)])
def test_16_khz_mono_is_read_as_it_is(tmp_path, name, tolerance):
    soundfile.write(tmp_path / name, tone(), 16_000)
    read = read_audio(tmp_path / name)
    assert read.waveform.dtype == np.float32
    assert (read.original_rate, read.original_channels) == (16_000, 1)
    assert read.waveform.shape == (16_000,)
    np.testing.assert_allclose(middle(read.waveform), middle(tone()), atol=tolerance)


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("a.wav", 16_000, 1),
        ("b.flac", 16_000, 2),
        ("c.ogg", 16_000, 1),
        ("d.wav", 8_000, 1),
        ("e.mp3", 44_100, 2),
    ],
)
def test_a_stretch_is_a_part_of_what_is_read(tmp_path, monkeypatch, name, rate, channels):
    path = tmp_path / name
    soundfile.write(path, np.stack([tone(1.0, rate)] * channels, 1), rate)
    whole = read_audio(path).waveform
    exact = name in ("a.wav", "b.flac")
    assert audio_info(path).exact == (name[-3:] in ("wav", "lac"))
    if exact:  # what is not wanted is not decoded
        monkeypatch.setattr(audio, "_read", None)
    for start, stop in (
        (0, len(whole)),
        (1234, 5678),
        (len(whole) - 10, len(whole) + 10),
        (0, 0),
        (9**6, 9**7),
    ):
        stretch, samples = read_stretch(path, start, stop)
        assert samples == len(whole)
        np.testing.assert_allclose(stretch, whole[start:stop], atol=1e-6)


def test_mp3_is_read(tmp_path):
    soundfile.write(tmp_path / "a.mp3", tone(), 16_000)
    read = read_audio(tmp_path / "a.mp3")
    assert abs(len(read.waveform) - 16_000) <= 1_200  # an encoder may add a frame
    assert np.abs(read.waveform).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("rate", "suffix"), [(8_000, "wav"), (44_100, "flac"), (48_000, "ogg")])
def test_other_rates_are_resampled(tmp_path, rate, suffix):
    soundfile.write(tmp_path / f"a.{suffix}", tone(rate=rate), rate)
    read = read_audio(tmp_path / f"a.{suffix}")
    assert read.original_rate == rate
    assert read.waveform.shape == (16_000,)
    assert read.waveform.dtype == np.float32
    np.testing.assert_allclose(middle(read.waveform), middle(tone()), atol=0.05 if suffix == "ogg" else 1e-3)


def test_resampling_lets_nothing_above_8_khz_through(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(rate=44_100, frequency=12_000), 44_100)
    assert np.abs(middle(read_audio(tmp_path / "a.wav").waveform)).max() < 1e-3


def test_channels_are_mixed_down_by_their_mean(tmp_path):
    stereo = np.stack([tone(), 0.5 * tone(frequency=300)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 16_000, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav")
    assert read.original_channels == 2
    np.testing.assert_allclose(read.waveform, stereo.mean(axis=1), atol=1e-6)


def test_header_tells_length_rate_and_channels(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((22_050, 2)), 44_100)
    info = audio_info(tmp_path / "a.wav")
    assert (info.frames, info.rate, info.channels) == (22_050, 44_100, 2)
    assert info.seconds == 0.5
    assert info.samples == 8_000 == len(read_audio(tmp_path / "a.wav").waveform)


@pytest.mark.parametrize("function", [read_audio, audio_info])
def test_what_is_no_audio_is_refused_with_its_reason(tmp_path, function):
    (tmp_path / "empty.wav").touch()
    assert "empty file" in message_of(tmp_path / "empty.wav", function)
    (tmp_path / "text.wav").write_text("the transcript, not the speech\n")
    assert "not an audio file" in message_of(tmp_path / "text.wav", function)
    (tmp_path / "speech.raw").write_bytes(bytes(1000))
    assert "not an audio file" in message_of(tmp_path / "speech.raw", function)
    assert "No such file" in message_of(tmp_path / "absent.wav", function)
    assert "directory" in message_of(tmp_path, function)
    soundfile.write(tmp_path / "silent.wav", np.zeros(0), 16_000)
    assert "zero samples" in message_of(tmp_path / "silent.wav", function)


def test_damaged_audio_is_refused(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write(tmp_path / "whole.flac", noise, 16_000)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(content[: len(content) // 2])
    assert "damaged" in message_of(tmp_path / "half.flac")


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST"])
def test_a_file_that_was_cut_short_is_refused_where_its_header_tells(tmp_path, kind):
    path = tmp_path / "speech"
    soundfile.write(path, tone(1.00003), 16_000, "PCM_24", format=kind)  # 16 000 samples of 3 bytes
    content = path.read_bytes()
    assert len(read_audio(path).waveform) == 16_000
    path.write_bytes(content[:-200])
    for function in (read_audio, audio_info, lambda path: list(audio_pieces(path))):
        assert "cut short: its header tells of" in message_of(path, function)
    assert read_stretch(path, 0, 10)[1] < 16_000  # the length tells whether the file is as it was labelled


@pytest.mark.parametrize("change", [(b"sample_count -i 16000", b"sample_count -i 16000 "), (b"\n", b"\r\n")])
def test_a_sphere_file_is_cut_by_what_its_header_says_whatever_stands_behind(tmp_path, change):
    soundfile.write(tmp_path / "a.sph", tone(1.0), 16_000, format="NIST")
    content = (tmp_path / "a.sph").read_bytes()
    header, audio = content[: content.index(b"end_head")] + b"end_head\n", content[1024:]
    left_over = header + b"sample_count -i 99999\n"
    (tmp_path / "a.sph").write_bytes(left_over.ljust(1024) + audio)
    assert len(read_audio(tmp_path / "a.sph").waveform) == 16_000
    opened = soundfile.SoundFile(tmp_path / "a.sph")
    other = header.replace(*change).ljust(1024)
    (tmp_path / "a.sph").write_bytes(other + audio[:9_000])
    assert "cut short" in cut_short(opened)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["OGG", "MP3"])
@pytest.mark.parametrize("left", [0.5, 0.95])
def test_a_lossy_file_that_was_cut_short_is_refused(tmp_path, kind, channels, rate, left):
    path = tmp_path / "speech"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3 * rate, channels))
    soundfile.write(path, noise, rate, format=kind)
    content = path.read_bytes()
    if kind == "MP3":
        content = b"ID3\3\0\0\0\0\1\2" + bytes(130) + content
    path.write_bytes(content + b"TAG" + bytes(125))  # the words of an older kind of tag
    assert len(read_audio(path).waveform) == pytest.approx(48_000, abs=1)
    path.write_bytes(content[: int(left * len(content))])
    assert "cut short: it" in message_of(path)
    assert "cut short: it" in message_of(path, audio_info)


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_a_stretch_of_a_file_that_was_cut_short_is_read(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate), rate)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: len(content) // 2])
    stretch, samples = read_stretch(tmp_path / "a.wav", 100, 200)
    assert len(stretch) == 100
    assert samples == pytest.approx(8_000, abs=30)


def sized(path, size: int) -> None:
    """Make a WAV file's header tell of so many bytes of audio."""
    content = path.read_bytes()
    place = content.index(b"data") + 4
    path.write_bytes(content[:place] + size.to_bytes(4, "little") + content[place + 4 :])


@pytest.mark.parametrize("size", [2**32 - 1, 2**31, 2**31 - 4096, 0x7F00_0000, 32_000 + 44, 32_000 + 1])
def test_a_size_that_nobody_knew_or_that_counts_the_header_is_no_cut(tmp_path, size):
    soundfile.write(tmp_path / "a.wav", tone(), 16_000)
    sized(tmp_path / "a.wav", size)
    assert len(read_audio(tmp_path / "a.wav").waveform) == 16_000


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "NIST"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "ULAW"])
def test_bytes_after_the_audio_are_no_cut(tmp_path, kind, subtype):
    soundfile.write(tmp_path / "a", tone()[:-1], 16_000, subtype, format=kind)  # an odd number of samples
    with (tmp_path / "a").open("ab") as file:
        file.write(b"LIST\4\0\0\0abcd")
    assert len(read_audio(tmp_path / "a").waveform) >= 15_999


@pytest.mark.parametrize("claimed", [0, 2**36 - 1])
def test_header_with_an_impossible_length_is_refused_and_not_allocated(tmp_path, claimed):
    soundfile.write(tmp_path / "a.flac", tone(), 16_000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    # STREAMINFO begins at byte 8; its total of samples is the 36 bits from the middle of its byte 13.
    content[21] = content[21] & 0xF0 | claimed >> 32
    content[22:26] = (claimed & 0xFFFFFFFF).to_bytes(4, "big")
    (tmp_path / "a.flac").write_bytes(content)
    assert "length" in message_of(tmp_path / "a.flac")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, bad):
    waveform = tone()
    waveform[5] = bad
    soundfile.write(tmp_path / "a.wav", waveform, 16_000, subtype="FLOAT")
    assert "NaN or infinite" in message_of(tmp_path / "a.wav")


@pytest.mark.parametrize("function", [read_audio, lambda path: list(audio_pieces(path))])
def test_too_little_to_resample_is_refused_and_not_called_a_cut(tmp_path, function):
    soundfile.write(tmp_path / "short.wav", np.full(1, 0.1), 44_100)
    assert "nothing is left of its 1 samples at 44100 Hz" in message_of(tmp_path / "short.wav", function)


def test_folders_are_searched_sorted_and_through_links(tmp_path):
    for name in ("b/2.wav", "b/1.FLAC", "a/deep/er/x.ogg", "b/notes.txt", "b/._1.wav", ".hidden/y.wav"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.wav").touch()
    os.symlink(tmp_path / "elsewhere", tmp_path / "corpus" / "c")
    os.symlink(tmp_path / "corpus", tmp_path / "corpus" / "b" / "around")  # a loop
    found = [path.relative_to(tmp_path / "corpus").as_posix() for path in find_audio([tmp_path / "corpus"])]
    assert found == ["a/deep/er/x.ogg", "b/1.FLAC", "b/2.wav", "c/z.wav"]


def test_given_files_are_taken_in_their_order_whatever_they_are_called(tmp_path):
    for name in ("b.wav", "a.data"):
        (tmp_path / name).touch()
    assert find_audio([tmp_path / "b.wav", str(tmp_path / "a.data")]) == [
        tmp_path / "b.wav",
        tmp_path / "a.data",
    ]


def test_absent_paths_and_folders_without_audio_are_refused(tmp_path):
    assert "no such file or folder" in message_of(tmp_path / "absent", lambda path: find_audio([path]))
    assert ".flac" in message_of(tmp_path, lambda path: find_audio([path]))


@pytest.mark.parametrize("value", [1e20, 3e38, -3e38, float("inf"), float("nan")])
@pytest.mark.parametrize("channels", [1, 2])
def test_absurd_samples_of_a_float_file_are_refused(tmp_path, value, channels):
    samples = np.zeros((8000, channels), np.float32)
    samples[100] = value
    path = tmp_path / "loud.wav"
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    with pytest.raises(MelHuBERTError, match=r"loud\.wav: .*expected values in"):
        read_audio(path)


def test_long_files_are_read_in_pieces_to_the_same_samples(tmp_path, monkeypatch):
    samples = np.random.default_rng(0).normal(0, 0.1, (50_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    whole = read_audio(tmp_path / "long.wav").waveform
    monkeypatch.setattr(audio, "PIECE_VALUES", 7000)
    assert np.array_equal(read_audio(tmp_path / "long.wav").waveform, whole)


def test_flac_without_samples_is_empty(tmp_path):
    soundfile.write(tmp_path / "some.flac", np.zeros(1000), 16_000)
    content = bytearray((tmp_path / "some.flac").read_bytes())
    content[21] &= 0xF0  # the number of samples has 36 bits, of which these are the first four
    content[22:26] = bytes(4)
    end = 4
    while True:  # to the end of the last block of metadata, where the audio begins
        last, size = content[end] & 0x80, int.from_bytes(content[end + 1 : end + 4], "big")
        end += 4 + size
        if last:
            break
    (tmp_path / "none.flac").write_bytes(content[:end])
    with pytest.raises(MelHuBERTError, match="zero samples"):
        read_audio(tmp_path / "none.flac")


@pytest.mark.parametrize("rate", [1, 500, 2_000_000])
def test_rate_that_no_microphone_has_is_refused(tmp_path, rate):
    soundfile.write(tmp_path / "rate.wav", np.zeros(1000), rate)
    with pytest.raises(MelHuBERTError, match=f"rate of {rate} Hz"):
        read_audio(tmp_path / "rate.wav")


def test_links_that_lead_nowhere_are_listed_and_fail_by_name(tmp_path):
    (tmp_path / "circle.wav").symlink_to(tmp_path / "circle.wav")
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "gone.flac").symlink_to(tmp_path / "nowhere.flac")
    soundfile.write(tmp_path / "good.wav", np.zeros(1000), 16_000)
    assert [path.name for path in find_audio([tmp_path])] == ["circle.wav", "gone.flac", "good.wav"]
    for name in ("circle.wav", "gone.flac"):
        with pytest.raises(MelHuBERTError, match=name):
            read_audio(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 300 + ".wav", "a\0b.wav"])
def test_impossible_names_get_one_line(tmp_path, name):
    for call in (lambda: find_audio([tmp_path / name]), lambda: read_audio(tmp_path / name)):
        with pytest.raises(MelHuBERTError):
            call()
