"""An .onnx file of a checkpoint: waveforms in, hidden states out, with nothing of this package at run time.

Inputs `waveforms` (B, n) float32 and `lengths` (B,) int64; outputs `hidden_states` (layers, B, T, C),
`last_hidden_state` (B, T, C), if the last layer is among them, and `frames` (B,) int64. B and n are free; n
is at least 400 samples.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_melhubert import __version__
from s3prl_melhubert.checkpoint import open_checkpoint, resolve_stats
from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.export.waveform_model import MIN_SAMPLES, WaveformModel
from s3prl_melhubert.extraction.states import resolve_layers
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import atomic_path

OPSET = 18
NEEDED = ("onnx", "onnxscript")  # what torch's exporter imports
MAX_BYTES = 2_000_000_000  # a file is one message of protobuf's, whose limit this is, nearly
EXAMPLE_SECONDS = (1.5, 1.0)  # of the waveforms that the exporter sees; what it writes takes any others


@dataclass(frozen=True)
class Exported:
    """What was written."""

    parameters: int
    frame_period: int  # ms
    layers: list[int]  # indices of the hidden states
    stats: FeatureStats


def export_onnx(
    source: str | Path,
    target: str | Path,
    *,
    layers: list[int] | None = None,
    stats: str | None = None,
    trust: bool = False,
    on_begin: Callable[[], object] | None = None,
) -> Exported:
    """Write a checkpoint as an .onnx file of opset 18.

    Args:
        source: a checkpoint of any format.
        target: the file to write.
        layers: indices into `MelHuBERTOutput.hidden_states`; all if not given. Without the last layer
            there is no output `last_hidden_state`, and layers above the highest are left out.
        stats: the name or file of the log-Mel statistics, where the source holds none.
        trust: run the code that the source may hold.
        on_begin: called when the checks are done and the long work begins.

    Raises:
        MelHuBERTError: a package is missing, torch is too old, the source cannot be used, there is no such
            layer, or the target cannot be written.
    """
    missing = [name for name in NEEDED if not _is_there(name)]
    if missing:
        raise MelHuBERTError(
            f"{target}: writing ONNX needs {' and '.join(missing)}, which cannot be imported; install "
            "what it takes with: pip install 's3prl-melhubert[onnx]'"
        )
    if "dynamic_shapes" not in inspect.signature(torch.onnx.export).parameters:
        raise MelHuBERTError(
            f"{target}: writing ONNX needs an exporter that torch {torch.__version__} does not have; install "
            "a newer torch, with the torchaudio of its version"
        )
    checkpoint = open_checkpoint(source, trust=trust)
    chosen = resolve_layers(layers, checkpoint.config)
    found = resolve_stats(checkpoint, stats)
    frontend = Frontend(found, checkpoint.frame_period)
    module = WaveformModel(checkpoint.build_model(), frontend, chosen).eval()
    facts = {
        "layers": json.dumps(chosen),
        "frame_period_ms": str(checkpoint.frame_period),
        "sample_rate": str(SAMPLE_RATE),
        "min_samples": str(MIN_SAMPLES),
        "made_by": f"s3prl-melhubert {__version__}",
    }
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if 4 * parameters > MAX_BYTES:
        raise MelHuBERTError(
            f"{target}: {4 * parameters / 1e9:.1f} GB of weights, and one file of ONNX holds 2 GB; take "
            "fewer with --layers"
        )
    if on_begin is not None:
        on_begin()
    with atomic_path(target) as temporary:
        _export(module, temporary, facts)
    return Exported(parameters, checkpoint.frame_period, chosen, found)


def _is_there(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def _export(module: WaveformModel, path: Path, facts: dict[str, str]) -> None:
    lengths = [int(seconds * SAMPLE_RATE) for seconds in EXAMPLE_SECONDS]
    waveforms = torch.zeros(len(lengths), max(lengths), dtype=torch.float32)
    batch = torch.export.Dim("batch", min=1)
    samples = torch.export.Dim("samples", min=MIN_SAMPLES)
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            module,
            (waveforms, torch.tensor(lengths)),
            input_names=["waveforms", "lengths"],
            output_names=module.outputs,
            dynamic_shapes={"waveforms": {0: batch, 1: samples}, "lengths": {0: batch}},
            opset_version=OPSET,
            dynamo=True,
        )
        assert program is not None  # It is None only where an old exporter writes a file itself.
        program.model.metadata_props.update(facts)
        program.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's account of its own steps from the user, who is told of errors by exceptions."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
