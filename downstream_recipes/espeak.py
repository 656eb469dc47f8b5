"""Speech and pronunciations: eSpeak NG, through the library that the package espeakng-loader carries.

    with Espeak() as espeak:
        waveform = espeak.speak("the quiet boy laughed", Voice("en-us+m3", pitch=45))  # (n,) at 16 kHz
        ipa = espeak.ipa("laughed", "en-us")

Of eSpeak's C interface (its speak_lib.h) this uses what makes samples or phonemes; nothing is played.
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import soxr

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.errors import MelHuBERTError

# These constants are those of speak_lib.h.
SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, in this thread
DO_NOT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: an error is returned instead of ending the process
UTF8 = 1
IPA = 2  # phonemes are asked for in IPA
RATE, PITCH, PITCH_RANGE = 1, 3, 4

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """The way in which somebody speaks."""

    name: str  # a language and a variant of eSpeak's, such as en-us+m3
    rate: int = 175  # words a minute
    pitch: int = 50  # 0 to 99; 50 is the variant's own
    pitch_range: int = 50  # 0 (monotone) to 99
    tract: float = 1.0  # the vocal tract's length, as a multiple of the variant's own


def is_installed() -> bool:
    try:
        import espeakng_loader  # noqa: F401
    except ImportError:
        return False
    return True


class Espeak:
    """eSpeak NG, in the state that it has when it starts.

    What an utterance sounds like depends, by a little, on those that the library spoke before it: it keeps
    state that nothing resets. So each object loads a copy of the library; the same calls on two objects
    give the same samples.

    Raises:
        ImportError: it is not installed (ask `is_installed`).
        MelHuBERTError: it does not start.
    """

    def __init__(self) -> None:
        import espeakng_loader

        self._folder = tempfile.TemporaryDirectory(prefix="espeak-")
        home = Path(self._folder.name)
        source = Path(espeakng_loader.get_library_path())
        library = home / source.name
        shutil.copyfile(source, library)
        # eSpeak finds its data only where the path is short (160 characters), as that of an environment
        # need not be.
        data = home / "espeak-ng-data"
        data.symlink_to(espeakng_loader.get_data_path())
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise MelHuBERTError(f"{source}: cannot be loaded ({error})") from None
        # This is the number of samples per second, or below zero for an error.
        self._rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, str(data).encode(), DO_NOT_EXIT)
        if self._rate <= 0:
            raise MelHuBERTError(f"{data}: eSpeak NG does not start with this data (TMPDIR too long?)")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._chunks: list[np.ndarray] = []
        self._callback = CALLBACK(self._receive)  # the library keeps no reference of its own
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._library.espeak_TextToPhonemes.argtypes = [
            ctypes.POINTER(ctypes.c_char_p),
            ctypes.c_int,
            ctypes.c_int,
        ]

    def __enter__(self) -> Espeak:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.espeak_Terminate()
        self._folder.cleanup()

    def _receive(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    def speak(self, text: str, voice: Voice) -> np.ndarray:
        """Speak a sentence.

        A vocal tract that is longer by a factor has all of its resonances, and here the pitch, lower by the
        same factor: the sound of the variant, played more slowly. It is spoken faster, so that its duration
        stays.

        Returns:
            (n,) float32 in [-1, 1], 16 kHz.

        Raises:
            MelHuBERTError: eSpeak NG has no such voice, or makes no sound of this text.
        """
        library = self._library
        self._choose(voice.name)
        rate = round(voice.rate * voice.tract)
        for parameter, value in ((RATE, rate), (PITCH, voice.pitch), (PITCH_RANGE, voice.pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode() + b"\0"
        self._chunks.clear()
        status = library.espeak_Synth(encoded, len(encoded), 0, 1, 0, UTF8, None, None)
        if status != 0 or not self._chunks:
            raise MelHuBERTError(f"{voice.name}: eSpeak NG cannot speak {text!r} (status {status})")
        samples = np.concatenate(self._chunks).astype(np.float32) / 2**15
        return soxr.resample(samples, self._rate / voice.tract, SAMPLE_RATE, quality="HQ")

    def ipa(self, text: str, voice: str) -> str:
        """Return what it would say for a clause, in IPA with marks of stress; "" where it says nothing."""
        self._choose(voice)
        rest = ctypes.c_char_p(text.encode())  # eSpeak moves it past the clause, at the end to NULL
        return self._library.espeak_TextToPhonemes(ctypes.byref(rest), UTF8, IPA).decode()

    def _choose(self, voice: str) -> None:
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise MelHuBERTError(f"{voice}: eSpeak NG does not find this voice")
