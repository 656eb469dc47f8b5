"""Hub folders of the tiny published checkpoints, and waveforms."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch


class Exported(NamedTuple):
    folder: Path
    checkpoint: Path
    period: int  # ms
    stats: str = "librispeech-360h"


@pytest.fixture(scope="session")
def all_exported(reference, tmp_path_factory) -> dict[int, Exported]:
    """Frame period in ms -> a folder as `melhubert hub` writes it."""
    from s3prl_melhubert.checkpoint import load_checkpoint
    from s3prl_melhubert.hub.export import export_folder

    place = tmp_path_factory.mktemp("hub")
    made = {
        period: Exported(place / f"tiny-{period}ms", reference / f"tiny-{period}ms.ckpt", period)
        for period in (20, 10)
    }
    for one in made.values():
        export_folder(load_checkpoint(one.checkpoint), one.folder, stats=one.stats)
    return made


@pytest.fixture(scope="session", params=[20, 10])
def exported(request, all_exported) -> Exported:
    """A folder as `melhubert hub` writes it, at 20 and at 10 ms."""
    return all_exported[request.param]


@pytest.fixture(scope="session")
def waveforms() -> list[torch.Tensor]:
    """Three waveforms of different lengths, one shorter than a window."""
    random = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(samples, generator=random) for samples in (16000, 9000, 300)]


@pytest.fixture(scope="session")
def ours(exported, waveforms):
    """Hidden states of the waveforms by this package, and the mask of padding."""
    from s3prl_melhubert import load_model

    model, frontend = load_model(exported.checkpoint, exported.stats)
    features, padding_mask = frontend(waveforms)
    with torch.no_grad():
        return model(features, padding_mask), padding_mask
