"""A checkpoint as a folder for the Hugging Face Hub, which transformers, s3prl and people can read.

config.json, model.safetensors, preprocessor_config.json
configuration_, modeling_, feature_extraction_melhubert.py    for transformers; made by `source_bundle`
expert.py, model.pt, requirements.txt, LICENSE                for s3prl's `--hub huggingface` and SUPERB
README.md                                                     for people; made by `card`
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s3prl_melhubert import __version__
from s3prl_melhubert.checkpoint import (
    ORIGIN,
    TRANSFORMERS_PREFIX,
    Checkpoint,
    resolve_stats,
    save_checkpoint,
)
from s3prl_melhubert.config import SAMPLE_RATE, TYPES, MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.hub.card import Card, Score, model_card
from s3prl_melhubert.hub.source_bundle import bundle
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import atomic_folder, remove_abandoned
from s3prl_melhubert.support.writable import write_faults

HERE = "s3prl_melhubert.hub"
CONFIGURATION, MODELING = "configuration_melhubert", "modeling_melhubert"
FEATURE_EXTRACTION = "feature_extraction_melhubert"

# transformers' Auto classes -> the classes of modeling_melhubert.py
AUTO_MODELS = {
    "AutoModel": "MelHuBERTModel",
    "AutoModelForPreTraining": "MelHuBERTForPreTraining",
    "AutoModelForCTC": "MelHuBERTForCTC",
    "AutoModelForAudioClassification": "MelHuBERTForSequenceClassification",
}
EXTRACTOR = "MelHuBERTFeatureExtractor"
# `auto_map` of config.json and of preprocessor_config.json: where transformers finds the classes
MODEL_MAP = {
    "AutoConfig": f"{CONFIGURATION}.MelHuBERTConfig",
    **{auto: f"{MODELING}.{model}" for auto, model in AUTO_MODELS.items()},
}
EXTRACTOR_MAP = {"AutoFeatureExtractor": f"{FEATURE_EXTRACTION}.{EXTRACTOR}"}

REQUIREMENTS = "torch>=2.4\nnumpy\n"  # of expert.py
MIT = Path(__file__).with_name("mit_license.txt")


@dataclass(frozen=True)
class License:
    """Under what others may use a checkpoint."""

    name: str = "mit"  # as the Hub has it
    text: str = MIT.read_text(encoding="utf-8")

    @classmethod
    def of(cls, name: str | None, file: str | Path | None) -> License:
        """Make one from what a command line says.

        Raises:
            MelHuBERTError: a license without its text, or a text that cannot be read.
        """
        if file is None:
            if name is not None and name.lower() != "mit":
                raise MelHuBERTError(
                    f"license: {name} found without its text; give the file that holds it, too"
                )
            return cls()
        try:
            return cls(name or "other", Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise MelHuBERTError(f"{file}: cannot be read as a license ({error})") from None


def export_folder(
    checkpoint: Checkpoint,
    folder: str | Path,
    *,
    stats: str | Path | FeatureStats | None = None,
    name: str | None = None,
    license: License | None = None,
    scores: Sequence[Score] = (),
) -> list[Path]:
    """Write a folder for the Hub.

    Args:
        checkpoint: the model.
        folder: where to write; it appears when it is whole.
        stats: log-Mel statistics, where the checkpoint holds none: a published name, a file, or the figures.
        name: what the repository will be called, `ORG/NAME`; the folder's name if not given.
        license: of the checkpoint; MIT if not given.
        scores: SUPERB's results, for README.md.

    Returns:
        The files.

    Raises:
        MelHuBERTError: the folder holds something, the statistics are unknown, the weights do not fit their
            settings, or the folder cannot be written.
    """
    folder = Path(folder)
    found = resolve_stats(checkpoint, stats)
    checkpoint.checked_shapes()
    license = license or License()
    called = os.path.basename(os.path.abspath(folder))  # so that `.` has a name, too
    card = Card(name or called, checkpoint, found, license.name, tuple(scores))
    refuse_filled(folder)
    with write_faults(folder), atomic_folder(folder) as temporary:
        for file, text in {**code_files(), **_settings_files(checkpoint.config, found)}.items():
            (temporary / file).write_text(text, encoding="utf-8")
        (temporary / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
        (temporary / "LICENSE").write_text(license.text, encoding="utf-8")
        # A name may be in another encoding than UTF-8.
        (temporary / "README.md").write_text(model_card(card), encoding="utf-8", errors="replace")
        _write_weights(checkpoint, found, temporary)
    return sorted(folder.iterdir())


def refuse_filled(folder: Path) -> None:
    """Raise a MelHuBERTError unless a folder is empty or not there."""
    remove_abandoned(folder)  # A killed command was at work in a folder that was there already.
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise MelHuBERTError(f"{folder}: holds something already; give a folder that is empty or not there")


def code_files() -> dict[str, str]:
    """The Python files of a folder: their names and what is in them, made from the package's modules."""
    note = (
        f"Made by s3prl-melhubert {__version__} from its own modules; it needs no more than what it imports."
    )
    plain = {"s3prl_melhubert.kernels": f"{HERE}.plain_kernels"}
    literals = {"DEFAULTS": asdict(MelHuBERTConfig()), "TYPES": TYPES}
    settings = {f"{HERE}.{CONFIGURATION}": CONFIGURATION, "s3prl_melhubert.config": CONFIGURATION}
    return {
        f"{CONFIGURATION}.py": bundle(f"{HERE}.{CONFIGURATION}", literals=literals, note=note),
        f"{MODELING}.py": bundle(f"{HERE}.{MODELING}", instead=plain, beside=settings, note=note),
        f"{FEATURE_EXTRACTION}.py": bundle(f"{HERE}.{FEATURE_EXTRACTION}", note=note),
        "expert.py": bundle(f"{HERE}.superb_expert", instead=plain, note=note),
    }


def _settings_files(config: MelHuBERTConfig, stats: FeatureStats) -> dict[str, str]:
    figures = {"feature_mean": stats.to_mapping()["mean"], "feature_std": stats.to_mapping()["std"]}
    figures |= {"frame_period": config.frame_period}  # type: ignore[dict-item]
    model: Mapping[str, Any] = {
        "model_type": "melhubert",
        "architectures": [AUTO_MODELS["AutoModelForPreTraining"]],
        "auto_map": MODEL_MAP,
        "dtype": "float32",
        **config.own_mapping(),
        **figures,
    }
    preprocessor: Mapping[str, Any] = {
        "feature_extractor_type": EXTRACTOR,
        "auto_map": EXTRACTOR_MAP,
        "sampling_rate": SAMPLE_RATE,
        "feature_size": config.feat_emb_dim,
        "padding_value": 0.0,
        "return_attention_mask": True,
        **figures,
    }
    return {
        "config.json": json.dumps(model, indent=2) + "\n",
        "preprocessor_config.json": json.dumps(preprocessor, indent=2) + "\n",
    }


def _write_weights(checkpoint: Checkpoint, stats: FeatureStats, folder: Path) -> None:
    state = {name: tensor.detach().clone().contiguous() for name, tensor in checkpoint.state.items()}
    # Plain data alone, so that `weights_only` reads model.pt without knowing any class.
    rest = {"Args": {}, **{key: value for key, value in checkpoint.rest.items() if key == ORIGIN}}
    for name, prefix in (("model.safetensors", TRANSFORMERS_PREFIX), ("model.pt", "")):
        save_checkpoint(
            folder / name,
            checkpoint.config,
            state,
            stats,
            checkpoint.step,
            rest,
            checkpoint.quantizer,
            prefix,
        )
