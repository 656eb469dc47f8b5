"""SoX effects without SoX: `torchaudio.sox_effects`, which left torchaudio with version 2.9.

This module knows the effects that s3prl uses, in the forms in which it uses them, with SoX's meaning of their
arguments. `restorations` puts them in torchaudio's place for programs that use s3prl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.compat.torchaudio_files import load

if TYPE_CHECKING:
    import numpy as np
    import torch


def apply_effects_file(
    path: Any,
    effects: Sequence[Sequence[str]],
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
) -> tuple[torch.Tensor, int]:
    """`load` a file and apply `effects` to it; see `apply_effects_tensor`."""
    waveform, sample_rate = load(path, normalize=normalize, channels_first=channels_first)
    return apply_effects_tensor(waveform, sample_rate, effects, channels_first)


def apply_effects_tensor(
    tensor: torch.Tensor,
    sample_rate: int,
    effects: Sequence[Sequence[str]],
    channels_first: bool = True,
) -> tuple[torch.Tensor, int]:
    """Apply SoX effects, such as [["rate", "16000"], ["gain", "-3.0"]], one after the other.

    Samples are clipped to [-1, 1] before the first effect and after each one, as SoX's integers are.

    Args:
        tensor: (channels, time), or (time, channels) unless `channels_first`; floats in [-1, 1] or integers.
        sample_rate: the samples of a second, in Hz.
        effects: the name of each effect and its arguments.
        channels_first: whether the first axis is that of the channels.

    Returns:
        The samples, of the tensor's type and layout, and their sample rate.

    Raises:
        NotImplementedError: an effect that s3prl does not use (see `effect_names`), or another form of one.
        ValueError: an argument that is no number.
    """
    import numpy as np
    import torch

    array = tensor.detach().cpu().numpy()
    full_scale = 1.0
    if array.dtype.kind in "iu":
        full_scale = 2.0 ** (8 * array.dtype.itemsize - 1)
    zero = full_scale if array.dtype.kind == "u" else 0.0
    samples = (array.astype(np.float64) - zero) / full_scale
    samples = np.clip(samples if channels_first else samples.T, -1, 1)  # (channels, time)
    for name, *arguments in effects:
        if name not in _EFFECTS:
            raise NotImplementedError(
                f"the SoX effect {name!r} is not among those that s3prl-melhubert puts back for s3prl: "
                f"{', '.join(sorted(_EFFECTS))}"
            )
        samples, sample_rate = _EFFECTS[name](samples, sample_rate, [str(argument) for argument in arguments])
        samples = np.clip(samples, -1, 1)
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        samples = np.clip(np.rint(samples * full_scale + zero), limits.min, limits.max)
    result = np.ascontiguousarray((samples if channels_first else samples.T).astype(array.dtype))
    return torch.from_numpy(result), sample_rate


def effect_names() -> list[str]:
    """Return the names of the SoX effects that `apply_effects_tensor` knows."""
    return sorted(_EFFECTS)


def init_sox_effects() -> None:
    """Do nothing, as in the last torchaudio that had SoX."""


def shutdown_sox_effects() -> None:
    """Do nothing."""


def _refuse(effect: str, arguments: Sequence[str], known: str) -> NotImplementedError:
    given = " ".join([effect, *arguments])
    return NotImplementedError(f"the SoX effect {given!r}: s3prl-melhubert knows {known}")


def _number(effect: str, text: str, kilo: bool = False) -> float:
    """Return a number, which may end in k for thousands, where `kilo` says so."""
    try:
        return 1000 * float(text[:-1]) if kilo and text.endswith("k") else float(text)
    except ValueError:
        raise ValueError(f"the SoX effect {effect!r}: {text!r} is not a number") from None


def _duration(effect: str, text: str, sample_rate: int, bare: str = "t") -> int:
    """Return the samples of a time in SoX's notation: 1.5 or 0:01.5 (seconds), 1.5t, 24000s.

    `bare` says what a whole number without a mark means: seconds (t) or samples (s).
    """
    if text.endswith("s") or (bare == "s" and text.isdecimal()):
        return int(_number(effect, text.removesuffix("s")))
    seconds = 0.0
    for part in text.removesuffix("t").split(":"):
        seconds = 60 * seconds + _number(effect, part)
    return int(seconds * sample_rate + 0.5)


def _channels(samples: np.ndarray, sample_rate: int, arguments: list[str]) -> tuple[np.ndarray, int]:
    """channels N: average channels into fewer, or repeat them into more."""
    import numpy as np

    if len(arguments) != 1 or not arguments[0].isdecimal() or int(arguments[0]) == 0:
        raise _refuse("channels", arguments, "channels NUMBER")
    wanted, given = int(arguments[0]), len(samples)
    if wanted < given:
        return np.stack([samples[i::wanted].mean(axis=0) for i in range(wanted)]), sample_rate
    return samples[np.arange(wanted) % given], sample_rate


def _rate(samples: np.ndarray, sample_rate: int, arguments: list[str]) -> tuple[np.ndarray, int]:
    """rate [-q|-l|-m|-h|-v] HZ: resample with soxr, the library that SoX's rate effect became."""
    import soxr

    qualities = {"-q": "QQ", "-l": "LQ", "-m": "MQ", "-h": "HQ", "-v": "VHQ"}
    quality = "HQ"
    if len(arguments) == 2 and arguments[0] in qualities:
        quality = qualities[arguments[0]]
    elif len(arguments) != 1:
        raise _refuse("rate", arguments, "rate [-q|-l|-m|-h|-v] HZ")
    # It is rounded, because 32.05k comes as a float that is a little less than 32050.
    wanted = round(_number("rate", arguments[-1], kilo=True))
    if wanted == sample_rate:
        return samples, sample_rate
    return soxr.resample(samples.T, sample_rate, wanted, quality=quality).T, wanted


def _gain(samples: np.ndarray, sample_rate: int, arguments: list[str]) -> tuple[np.ndarray, int]:
    """gain [-n] DB: amplify, after normalizing with -n."""
    if arguments[:1] == ["-n"]:
        return _norm(samples, sample_rate, arguments[1:])
    if len(arguments) != 1:
        raise _refuse("gain", arguments, "gain [-n] DB")
    return samples * 10 ** (_number("gain", arguments[0]) / 20), sample_rate


def _norm(samples: np.ndarray, sample_rate: int, arguments: list[str]) -> tuple[np.ndarray, int]:
    """norm [DB]: amplify so that the loudest sample of all channels is at 0 dB, or at DB."""
    if len(arguments) > 1:
        raise _refuse("norm", arguments, "norm [DB]")
    level = 10 ** (_number("norm", arguments[0]) / 20) if arguments else 1.0
    peak = abs(samples).max(initial=0.0)
    return (samples * (level / peak) if peak > 0 else samples), sample_rate


def _pad(samples: np.ndarray, sample_rate: int, arguments: list[str]) -> tuple[np.ndarray, int]:
    """pad BEFORE [AFTER]: put silence at the ends."""
    import numpy as np

    if not 1 <= len(arguments) <= 2 or any("@" in argument for argument in arguments):
        raise _refuse("pad", arguments, "pad BEFORE [AFTER]")
    before, after = (_duration("pad", argument, sample_rate) for argument in [*arguments, "0"][:2])
    return np.pad(samples, ((0, 0), (before, after))), sample_rate


def _trim(samples: np.ndarray, sample_rate: int, arguments: list[str]) -> tuple[np.ndarray, int]:
    """trim START [LENGTH]: cut out a piece; =POSITION instead of LENGTH is where it ends."""
    if not 1 <= len(arguments) <= 2 or any(argument.startswith("-") for argument in arguments):
        raise _refuse("trim", arguments, "trim START [LENGTH | =END]")
    start = _duration("trim", arguments[0].lstrip("=+"), sample_rate)
    if len(arguments) == 1:
        return samples[:, start:], sample_rate
    end = _duration("trim", arguments[1].lstrip("=+"), sample_rate)
    return samples[:, start : end if arguments[1].startswith("=") else start + end], sample_rate


def _reverse(samples: np.ndarray, sample_rate: int, arguments: list[str]) -> tuple[np.ndarray, int]:
    """reverse: play from the last sample to the first."""
    if arguments:
        raise _refuse("reverse", arguments, "reverse")
    return samples[:, ::-1], sample_rate


# SoX's letters for the arguments of torchaudio.functional.vad.
_VAD_OPTIONS = {
    "-t": "trigger_level",
    "-T": "trigger_time",
    "-s": "search_time",
    "-g": "allowed_gap",
    "-p": "pre_trigger_time",
    "-b": "boot_time",
    "-N": "noise_up_time",
    "-n": "noise_down_time",
    "-r": "noise_reduction_amount",
    "-f": "measure_freq",
    "-m": "measure_duration",
    "-M": "measure_smooth_time",
    "-h": "hp_filter_freq",
    "-l": "lp_filter_freq",
    "-H": "hp_lifter_freq",
    "-L": "lp_lifter_freq",
}


def _vad(samples: np.ndarray, sample_rate: int, arguments: list[str]) -> tuple[np.ndarray, int]:
    """vad [-T SECONDS] [-p SECONDS] ...: drop what comes before the first speech."""
    import numpy as np
    import torch
    import torchaudio

    names, values = arguments[::2], arguments[1::2]
    if len(names) != len(values) or any(name not in _VAD_OPTIONS for name in names):
        raise _refuse("vad", arguments, f"vad with pairs of {' '.join(_VAD_OPTIONS)} and a number")
    options = {_VAD_OPTIONS[name]: _number("vad", value) for name, value in zip(names, values, strict=True)}
    # Where there is no speech, torchaudio keeps the first samples and SoX keeps none. Without the time before
    # the trigger the two agree, so that time is added here.
    before = int(options.pop("pre_trigger_time", 0.0) * sample_rate + 0.5)
    length = samples.shape[-1]
    if length == 0:
        return samples, sample_rate
    waveform = torch.from_numpy(samples.astype(np.float32))
    kept = torchaudio.functional.vad(waveform, sample_rate, **options).shape[-1]
    start = max(0, length - kept - before) if kept else length
    return samples[:, start:], sample_rate


def _silence(samples: np.ndarray, sample_rate: int, arguments: list[str]) -> tuple[np.ndarray, int]:
    """silence 1 DURATION THRESHOLD [1|-1 DURATION THRESHOLD]: drop silence at the start, then the pauses.

    A stretch is loud (or silent) when its level, the RMS of the 20 ms up to a sample, is above (or not
    above) THRESHOLD for DURATION. With the second three arguments, everything after the first silent
    stretch is dropped (1), or that stretch is, and the search for sound begins anew (-1).
    """
    import numpy as np

    if len(arguments) not in (3, 6) or arguments[0] != "1" or arguments[3:4] not in ([], ["1"], ["-1"]):
        raise _refuse("silence", arguments, "silence 1 DURATION THRESHOLD [1|-1 DURATION THRESHOLD]")
    loud_for = max(1, _duration("silence", arguments[1], sample_rate, bare="s"))
    loud_above = _threshold(arguments[2])
    silent_for, silent_below = 1, -1.0  # No level is below -1, so nothing counts as silent.
    if len(arguments) == 6:
        silent_for = max(1, _duration("silence", arguments[4], sample_rate, bare="s"))
        silent_below = _threshold(arguments[5])

    window = max(1, sample_rate // 50)
    length = samples.shape[-1]
    # The energy before each sample, and, at the end, that of all.
    energy = np.concatenate([[0.0], np.cumsum((samples**2).mean(axis=0))])

    def marks(start: int, stop: int) -> tuple[bytes, bytes]:
        """Tell which samples of [start, stop) are loud and which silent, by levels that begin at start."""
        ends = np.arange(start + 1, stop + 1)
        recent = energy[ends] - energy[np.maximum(ends - window, start)]
        level = np.sqrt(np.maximum(recent, 0.0) / window)
        return (level > loud_above).tobytes(), (level <= silent_below).tobytes()

    # With a byte for each sample, bytearray.find searches for a stretch, and only as far as is needed.
    loud, silent = map(bytearray, marks(0, length))
    pieces = [samples[:, :0]]
    position = 0
    while (begin := loud.find(b"\1" * loud_for, position)) >= 0:
        end = silent.find(b"\1" * silent_for, begin + loud_for)
        pieces.append(samples[:, begin : end if end >= 0 else length])
        if end < 0 or arguments[3] == "1":
            break
        position = end + silent_for
        # The search begins anew there, which changes the levels of the first 20 ms alone.
        stop = min(position + window, length)
        loud[position:stop], silent[position:stop] = marks(position, stop)
    return np.concatenate(pieces, axis=1), sample_rate


def _threshold(text: str) -> float:
    """Return a level in SoX's notation: -60d (dB), or 0.1% of full scale, with or without the mark."""
    if text.endswith("d"):
        return 10 ** (_number("silence", text[:-1]) / 20)
    return _number("silence", text.removesuffix("%")) / 100


_EFFECTS: dict[str, Callable[[Any, int, list[str]], tuple[Any, int]]] = {
    "channels": _channels,
    "gain": _gain,
    "norm": _norm,
    "pad": _pad,
    "rate": _rate,
    "reverse": _reverse,
    "silence": _silence,
    "trim": _trim,
    "vad": _vad,
}
