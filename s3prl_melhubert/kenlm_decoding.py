"""What s3prl's ASR lacks to decode with a KenLM language model: names that it uses, and a clear error.

    restore(module)            acts on `s3prl.downstream.asr.expert` or `.w2l_decoder`, just loaded
    check_flashlight_text()    raises, in one line, where flashlight-text or its KenLM cannot be imported

The decoder is flashlight-text's, whose wheels carry KenLM inside. Version 0.0.7 has every name that s3prl
0.4.18 imports, one of them (`decoder.KenLM`) on its way out. flashlight-text is imported only in a program
that decodes with it.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError

# What w2l_decoder imports from flashlight-text. It swallows a failure, and keeps the names before it.
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
    """Put into one of s3prl's two modules what it uses and has not; true if something was missing.

    `expert` evaluates a text like `-math.inf` for `unk_weight`, but does not import math. `w2l_decoder` goes
    on when an import from flashlight-text fails, until a `NameError` that does not tell why: its names are
    taken from where they are today, or raise what `check_flashlight_text` raises when somebody decodes.
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
        MelHuBERTError: it cannot, and why.
    """
    try:
        import flashlight.lib.text.decoder.kenlm
        import flashlight.lib.text.dictionary  # noqa: F401
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise MelHuBERTError(
            f"decoding with a language model needs flashlight-text, which cannot be imported ({cause}): "
            "`pip install flashlight-text` (it has wheels for Python 3.10 to 3.12), or decode without a "
            "language model (decoder_type: None)"
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
    """In place of a name of flashlight-text: raises when it is used, for s3prl may never use it."""

    def __init__(self, error: MelHuBERTError) -> None:
        self._error = error

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise self._error

    @property
    def CTC(self) -> None:  # CriterionType.CTC is the first thing that the decoder asks for
        raise self._error
