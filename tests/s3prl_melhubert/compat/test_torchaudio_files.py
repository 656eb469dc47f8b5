"""torchaudio's load, info and save through soundfile: what they meant before torchaudio 2.9."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import torch

from s3prl_melhubert.compat import torchaudio_files


@pytest.fixture
def stereo() -> np.ndarray:
    """Half a second of stereo, (time, channels), on the grid of 16-bit samples."""
    rng = np.random.default_rng(0)
    return np.round(rng.uniform(-0.9, 0.9, (8000, 2)) * 32768).astype(np.float32) / 32768


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_load_reads_float32_channels_first(tmp_path, stereo, suffix):
    soundfile.write(tmp_path / f"a.{suffix}", stereo, 16000, subtype="PCM_16")
    waveform, rate = torchaudio_files.load(tmp_path / f"a.{suffix}")
    assert rate == 16000
    assert waveform.dtype == torch.float32
    np.testing.assert_array_equal(waveform.numpy(), stereo.T)
    waveform, _ = torchaudio_files.load(str(tmp_path / f"a.{suffix}"), channels_first=False)
    np.testing.assert_array_equal(waveform.numpy(), stereo)


@pytest.mark.parametrize(
    ("offset", "frames", "expected"),
    [(0, -1, slice(None)), (100, 50, slice(100, 150)), (7990, 50, slice(7990, None)), (9000, -1, slice(0))],
)
def test_load_reads_a_piece(tmp_path, stereo, offset, frames, expected):
    soundfile.write(tmp_path / "a.wav", stereo, 16000, subtype="PCM_16")
    waveform, _ = torchaudio_files.load(tmp_path / "a.wav", frame_offset=offset, num_frames=frames)
    np.testing.assert_array_equal(waveform.numpy(), stereo[expected].T)


def test_load_and_info_read_file_objects(tmp_path, stereo):
    soundfile.write(tmp_path / "a.flac", stereo, 8000)
    content = (tmp_path / "a.flac").read_bytes()

    class Stream:
        """What torchaudio called file-like: it can only be read."""

        def __init__(self):
            self.read = io.BytesIO(content).read

    for file in (io.BytesIO(content), Stream()):
        assert torchaudio_files.load(file, format="flac")[0].shape == (2, 8000)
    assert torchaudio_files.info(io.BytesIO(content)).num_frames == 8000


@pytest.mark.parametrize(
    ("subtype", "dtype", "scale"),
    [
        ("PCM_16", torch.int16, 2**15),
        ("PCM_24", torch.int32, 2**31),
        ("PCM_32", torch.int32, 2**31),
        ("FLOAT", torch.float32, 1),
        ("DOUBLE", torch.float64, 1),
    ],
)
def test_load_unnormalized_keeps_the_files_number_type(tmp_path, stereo, subtype, dtype, scale):
    soundfile.write(tmp_path / "a.wav", stereo, 16000, subtype=subtype)
    waveform, _ = torchaudio_files.load(tmp_path / "a.wav", normalize=False)
    assert waveform.dtype == dtype
    np.testing.assert_allclose(waveform.numpy().T / scale, stereo, atol=2e-7)


def test_load_unnormalized_reads_unsigned_bytes_from_wav_alone(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([-1.0, 0.0, 0.5]), 16000, subtype="PCM_U8")
    assert torchaudio_files.load(tmp_path / "a.wav", normalize=False)[0].tolist() == [[0, 128, 192]]
    soundfile.write(tmp_path / "a.flac", np.zeros(4), 16000)
    assert torchaudio_files.load(tmp_path / "a.flac", normalize=False)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("suffix", "subtype", "bits", "encoding"),
    [
        ("wav", "PCM_16", 16, "PCM_S"),
        ("wav", "PCM_U8", 8, "PCM_U"),
        ("wav", "FLOAT", 32, "PCM_F"),
        ("wav", "ULAW", 8, "ULAW"),
        ("flac", "PCM_24", 24, "FLAC"),
        ("ogg", "VORBIS", 0, "VORBIS"),
        ("mp3", "MPEG_LAYER_III", 0, "MP3"),
        ("wav", "IMA_ADPCM", 0, "UNKNOWN"),
    ],
)
def test_info_uses_torchaudios_names(tmp_path, stereo, suffix, subtype, bits, encoding):
    soundfile.write(tmp_path / f"a.{suffix}", stereo, 16000, subtype=subtype)
    found = torchaudio_files.info(tmp_path / f"a.{suffix}")
    assert (found.sample_rate, found.num_channels) == (16000, 2)
    assert (found.bits_per_sample, found.encoding) == (bits, encoding)
    if encoding not in ("MP3", "UNKNOWN"):  # whose frames are padded
        assert found.num_frames == 8000


SAVED = {
    torch.float32: [-0.5, 0.0, 0.25, 0.5],
    torch.float64: [-0.5, 0.0, 0.25, 0.5],
    torch.bfloat16: [-0.5, 0.0, 0.25, 0.5],
    torch.int16: [-(2**14), 0, 2**13, 2**14],
    torch.int32: [-(2**30), 0, 2**29, 2**30],
    torch.uint8: [64, 128, 160, 192],
}


@pytest.mark.parametrize(
    ("options", "dtype", "expected"),
    [
        ({}, torch.float32, ("WAV", "FLOAT")),
        ({}, torch.float64, ("WAV", "DOUBLE")),
        ({}, torch.int16, ("WAV", "PCM_16")),
        ({}, torch.int32, ("WAV", "PCM_32")),
        ({}, torch.uint8, ("WAV", "PCM_U8")),
        ({}, torch.bfloat16, ("WAV", "FLOAT")),
        ({"bits_per_sample": 16}, torch.float32, ("WAV", "PCM_16")),
        ({"bits_per_sample": 8}, torch.float32, ("WAV", "PCM_U8")),
        ({"encoding": "PCM_S"}, torch.float32, ("WAV", "PCM_32")),
        ({"encoding": "PCM_S", "bits_per_sample": 24}, torch.float32, ("WAV", "PCM_24")),
        ({"encoding": "PCM_U"}, torch.float32, ("WAV", "PCM_U8")),
        ({"encoding": "PCM_F"}, torch.int16, ("WAV", "FLOAT")),
        ({"encoding": "PCM_F", "bits_per_sample": 64}, torch.int32, ("WAV", "DOUBLE")),
        ({"encoding": "PCM_F"}, torch.uint8, ("WAV", "FLOAT")),
        ({"encoding": "PCM_F", "bits_per_sample": 64}, torch.float32, ("WAV", "DOUBLE")),
        ({"encoding": "ULAW"}, torch.float32, ("WAV", "ULAW")),
        ({"format": "flac"}, torch.float32, ("FLAC", "PCM_16")),
        ({"format": "flac", "bits_per_sample": 24}, torch.float32, ("FLAC", "PCM_24")),
        ({"format": "flac", "bits_per_sample": 8}, torch.float32, ("FLAC", "PCM_S8")),
        ({"format": "sph"}, torch.float32, ("NIST", "PCM_16")),
    ],
)
def test_save_writes_the_encoding_asked_for(tmp_path, options, dtype, expected):
    torchaudio_files.save(tmp_path / "a.wav", torch.tensor([SAVED[dtype]], dtype=dtype), 16000, **options)
    written = soundfile.info(tmp_path / "a.wav")
    assert (written.format, written.subtype, written.frames) == (*expected, 4)
    read, _ = torchaudio_files.load(tmp_path / "a.wav")
    torch.testing.assert_close(read, torch.tensor([SAVED[torch.float32]]), atol=0.02, rtol=0)


def test_save_takes_either_order_of_axes_and_file_objects(stereo):
    for samples, first in ((torch.from_numpy(stereo.T.copy()), True), (torch.from_numpy(stereo), False)):
        file = io.BytesIO()
        torchaudio_files.save(file, samples, 16000, channels_first=first, format="wav")
        read, _ = torchaudio_files.load(io.BytesIO(file.getvalue()))
        np.testing.assert_array_equal(read.numpy(), stereo.T)
    with pytest.raises(ValueError, match="format="):
        torchaudio_files.save(io.BytesIO(), torch.zeros(1, 4), 16000)


def test_save_takes_one_channel_without_its_axis_and_a_format_by_its_codecs_name(tmp_path):
    torchaudio_files.save(tmp_path / "a.wav", torch.tensor(SAVED[torch.float32]), 16000)
    assert torchaudio_files.load(tmp_path / "a.wav")[0].tolist() == [SAVED[torch.float32]]
    torchaudio_files.save(tmp_path / "a", torch.zeros(1, 8000), 16000, format="vorbis")
    assert soundfile.info(tmp_path / "a").subtype == "VORBIS"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: torchaudio_files.save(path, torch.zeros(1, 1, 4), 16000), r"shape \(1, 1, 4\)"),
        (lambda path: torchaudio_files.save(path, torch.zeros(1, 4), 16000, encoding="GSM"), "'GSM'"),
        (lambda path: torchaudio_files.load(path, frame_offset=-1), "frame_offset is -1"),
    ],
    ids=["three axes", "encoding", "offset"],
)
def test_what_torchaudio_refused_is_refused(tmp_path, call, message):
    """libsndfile would count a negative offset from the end."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(4), 16000)
    with pytest.raises(ValueError, match=message):
        call(path)
