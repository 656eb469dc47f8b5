"""MelHuBERT, a self-supervised speech model on log-Mel frames, at home in s3prl.

    config.py, masking.py, encoder.py, model.py, loss.py    the model, and what it learns from
    kernels/, packing.py                                    its operations, in forms that are fast
    audio.py, cut_audio.py                                  files of audio, whole or cut short
    fbank.py, frontend.py, statistics.py                    audio to what the model reads
    checkpoint.py, conversion.py, summary.py, published.py  files of weights; the published models
    extraction/, units/                                     hidden states and discrete units of many files
    export/, hub/, compression/                             other runtimes; the Hub; smaller models
    compat/                                                 s3prl finds us, and runs on today's torch
    cli.py, commands/, doctor/                              the `melhubert` command
    support/, errors.py                                     what all of these use

The folders `upstream_expert`, `pretrain` and `downstream_recipes` are subpackages of this one.

A line of a `.pth` file imports this package at every start of the interpreter, so it imports nothing;
names such as `s3prl_melhubert.MelHuBERT` are looked up when they are first used (PEP 562).
"""

__version__ = "0.1.0"

_HOME = {
    "MelHuBERT": "model",
    "MelHuBERTConfig": "config",
    "MelHuBERTError": "errors",
    "MelHuBERTOutput": "model",
    "FeatureStats": "statistics",
    "Quantizer": "units.quantizer",
    "Frontend": "frontend",
    "log_mel": "frontend",
    "Checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "load_model": "checkpoint",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__():
    return sorted(__all__)
