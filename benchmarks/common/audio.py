"""Hours of audio where there is no corpus, and of any length where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from s3prl_melhubert.audio import audio_info, find_audio
from s3prl_melhubert.config import SAMPLE_RATE


def write_noise(folder: Path, files: int = 240, length: float = 13.0) -> None:
    """FLAC files of noise: a spectrum that falls by 6 dB an octave, and four syllables a second.

    So many files (42 minutes) have nearly as many frames as K-means sees, so that it hardly sees one twice,
    as in a corpus. It takes 200 to 230 steps on them, and 110 to 160 on half an hour of speech.
    """
    random = np.random.default_rng(0)
    for i in range(files):
        samples = int(SAMPLE_RATE * length * random.uniform(0.3, 1.3))
        spectrum = np.fft.rfft(random.standard_normal(samples))
        frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
        wave = np.fft.irfft(spectrum / np.maximum(frequency, 100), samples)
        syllables = np.sin(2 * np.pi * 2 * np.arange(samples) / SAMPLE_RATE + random.uniform(0, 6))
        wave *= 0.05 + np.square(syllables)
        soundfile.write(folder / f"{i:02d}.flac", 0.5 * wave / np.abs(wave).max(), SAMPLE_RATE)


def link_hours(paths: list[Path], hours: float, folder: Path) -> float:
    """Fill a folder with links to so many hours of audio; the hours that it came to."""
    seconds = [audio_info(path).seconds for path in paths]
    total, count = 0.0, 0
    while total < hours * 3600:
        path = paths[count % len(paths)]
        (folder / f"{count:07d}{path.suffix}").symlink_to(path.resolve())
        total += seconds[count % len(paths)]
        count += 1
    return total / 3600


def hours_of_audio(audio: Path | None, hours: float, folder: Path) -> tuple[Path, float]:
    """A folder of links to the files of `audio`, or else to noise; and the hours that it came to."""
    sources, links = folder / "sources", folder / "audio"
    links.mkdir()
    if audio is None:
        sources.mkdir()
        write_noise(sources)
    return links, link_hours(find_audio([audio or sources]), hours, links)
