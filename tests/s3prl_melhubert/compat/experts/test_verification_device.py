"""s3prl's speaker verification on a CPU and on any GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from s3prl_melhubert.compat.experts import verification_device


class DownstreamExpert:
    """Moves a mask as s3prl's expert does."""

    def forward(self, mode, features, fail=False):
        mask = torch.ones(1).cuda()
        if fail:
            raise ValueError(mode)
        return mask


def test_mask_is_put_where_the_features_are_and_cuda_is_itself_again():
    cuda = torch.Tensor.cuda
    module = SimpleNamespace(DownstreamExpert=type("Expert", (DownstreamExpert,), {}))
    assert verification_device.restore(module)
    assert not verification_device.restore(module)  # once is enough
    expert = module.DownstreamExpert()
    for device in ("cpu", "meta"):
        assert expert.forward("train", [torch.ones(1, device=device)]).device.type == device
    with pytest.raises(ValueError, match="train"):
        expert.forward("train", [torch.ones(1)], fail=True)
    assert torch.Tensor.cuda is cuda
