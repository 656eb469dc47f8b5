"""Both kinds of processors, on any."""

import pytest

from s3prl_melhubert.kernels import conditions


@pytest.fixture(params=[True, False], ids=["AVX-512", "no AVX-512"])
def avx512(request, monkeypatch) -> bool:
    """Take the forms for processors with it, then those for processors without it, wherever this runs."""
    monkeypatch.setattr(conditions, "HAS_AVX512", request.param)
    return request.param
