"""What s3prl's ASR lacks to decode with a KenLM language model: names that it uses, and a clear error.

    restore(module)            acts on `s3prl.downstream.asr.expert` or `.w2l_decoder` when it has been loaded
    check_flashlight_text()    raises where flashlight-text or its KenLM cannot be imported, and says why

The decoder is flashlight-text's, whose wheels carry KenLM inside. Its version 0.0.7 has every name that s3prl
0.4.18 imports, though one of them (`decoder.KenLM`) is deprecated. flashlight-text is imported only in a
program that decodes with it.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError, named

# What w2l_decoder imports from flashlight-text. Where an import fails, it goes on with the names before that.
NAMES = (
    "create_word_dict",
    "load_words",
    "CriterionType",
    "LexiconDecoderOptions",
    "KenLM",
    "SmearingMode",
    "Trie",
    "LexiconDecoder",
)


def restore(module: ModuleType) -> bool:
    """Put what it uses and has not into one of s3prl's two modules; return true if something was missing.

    `expert` evaluates a text like `-math.inf` for `unk_weight`, but does not import math. `w2l_decoder` goes
    on when an import from flashlight-text fails, until a `NameError` that does not tell why. Its names are
    taken from where they are today. Where there are none, they raise what `check_flashlight_text` raises when
    somebody decodes.
    """
    names = ("math",) if module.__name__.endswith(".expert") else NAMES
    missing = [name for name in names if not hasattr(module, name)]
    if not missing:
        return False
    values = {"math": math} if missing == ["math"] else _decoder_names()
    for name in missing:
        setattr(module, name, values[name])
    return True


def check_flashlight_text() -> None:
    """Make sure that flashlight-text can be imported, KenLM included.

    Raises:
        MelHuBERTError: it cannot be imported; the message says why, and what to install.
    """
    try:
        import flashlight.lib.text.decoder.kenlm
        import flashlight.lib.text.dictionary  # noqa: F401
    except Exception as error:
        raise MelHuBERTError(
            "decoding with a language model needs flashlight-text, which cannot be imported "
            f"({named(error)}): `pip install flashlight-text` (it has wheels for Python 3.10 to 3.12), or "
            "decode without a language model (decoder_type: None)"
        ) from None


def _decoder_names() -> dict[str, Any]:
    try:
        check_flashlight_text()
    except MelHuBERTError as error:
        return dict.fromkeys(NAMES, _Unavailable(error))
    from flashlight.lib.text import decoder, dictionary
    from flashlight.lib.text.decoder import kenlm

    return {**vars(dictionary), **vars(decoder), **vars(kenlm)}


class _Unavailable:
    """Stands for a name of flashlight-text and raises when it is used, because s3prl may never use it."""

    def __init__(self, error: MelHuBERTError) -> None:
        self._error = error

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise self._error

    @property
    def CTC(self) -> None:  # CriterionType.CTC is the first thing that the decoder asks for.
        raise self._error
