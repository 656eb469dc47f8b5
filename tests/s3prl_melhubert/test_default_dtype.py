"""torch's default type is its user's affair: weights, features, hidden states and masks do not follow it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from s3prl_melhubert import load_model
from s3prl_melhubert.frontend import mel_banks
from s3prl_melhubert.masking import span_mask

STATS = "librispeech-360h"
WAVEFORM = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(1))
OTHERS = [torch.float64, torch.bfloat16]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within the block, torch makes tensors of this type where it is told none."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", OTHERS)
def test_hidden_states_are_the_same_under_another_default_type(dtype, reference):
    def hidden_states() -> torch.Tensor:
        model, frontend = load_model(reference / "tiny-20ms.ckpt", STATS)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        with torch.inference_mode():
            return torch.stack(model(*frontend([WAVEFORM, WAVEFORM[:5000]])).hidden_states)

    expected = hidden_states()
    with default_dtype(dtype):
        assert torch.equal(hidden_states(), expected)


@pytest.mark.parametrize("dtype", OTHERS)
def test_mel_filters_are_the_same_under_another_default_type(dtype, run_python):
    """They are kept, so that a process that has none yet must make them."""
    same = "import torch; from s3prl_melhubert.frontend import mel_banks; "
    same += f"torch.set_default_dtype({dtype}); "
    same += "print(mel_banks(torch.device('cpu'), torch.float32).double().sum().item())"
    done = run_python("-c", same)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == mel_banks(torch.device("cpu"), torch.float32).double().sum().item()


@pytest.mark.parametrize("dtype", OTHERS)
def test_masks_are_the_same_under_another_default_type(dtype):
    def mask() -> torch.Tensor:
        return span_mask(range(30, 130), 130, 0.65, 10, torch.Generator().manual_seed(2))

    expected = mask()
    with default_dtype(dtype):
        assert torch.equal(mask(), expected)
