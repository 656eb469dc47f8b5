"""The sum of the gradients of several processes."""

from __future__ import annotations

from pathlib import Path

import torch

from s3prl_melhubert.pretrain.training import gradients


def test_two_processes_have_the_gradient_of_both(run_python):
    """In float32 and bfloat16, with layers that some or all left out, and after a failure of one."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = run_python(*launcher, Path(__file__).with_name("summing.py"), OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("right") == 2


def test_a_single_process_has_its_gradient_alone():
    parameter = torch.nn.Parameter(torch.ones(3))
    sums = gradients.GradientSums([parameter])
    sums.begin()
    sums.send_with_next_backward()
    parameter.sum().backward()
    sums.finish()
    assert torch.equal(parameter.grad, torch.ones(3))
