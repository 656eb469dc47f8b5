"""The gradient of a step, the optimizer, and the learning rate over the steps."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, load_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.optimization import (
    LearningRate,
    accumulate_gradients,
    build_optimizer,
    load_optimizer_state,
    remember_initial_rates,
)
from s3prl_melhubert.pretrain.training.sampler import MicroBatch
from s3prl_melhubert.pretrain.training.settings import OptimizerSettings, SchedulerSettings, Settings

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def gradients(model, batches):
    """The gradient of these micro-batches as one step."""
    model.zero_grad()
    masked = sum(batch.masked_frames for batch in batches)
    accumulate_gradients(model, batches, masked, sum(batch.unmasked_frames for batch in batches))
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("unmasked", [False, True])
def test_accumulated_gradient_is_that_of_the_large_batch(prepared, tiny_model, unmasked):
    weights = {"skip_nomask": not unmasked, "pred_nomask_weight": 0.5 * unmasked}
    model = tiny_model(**NO_DROPOUT, **weights).train().double()
    dataset = PretrainingDataset([read_prepared(prepared)], model.config)
    places = tuple(range(8))
    large = dataset[MicroBatch(0, places, places)]
    large.features = large.features.double()
    small = large.split(4)
    assert len({batch.masked_frames for batch in small}) == 4, "unequal, or the test would show nothing"
    expected = gradients(model, [large])
    assert (gradients(model, small) - expected).abs().max() < 1e-6 * expected.abs().max()
    mean_of_means = sum(gradients(model, [batch]) for batch in small) / 4
    assert (mean_of_means - expected).abs().max() > 1e-3 * expected.abs().max()


def test_an_optimizer_without_a_learning_rate_has_the_default():
    settings = Settings.from_mapping({"runner": {"total_steps": 5}, "optimizer": {"name": "SGD"}}, "file")
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    assert build_optimizer(parameters, settings.optimizer).param_groups[0]["lr"] == 1e-4


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_is_fused_and_goes_on_from_one_that_was_not(name):
    torch.manual_seed(0)
    gradients = torch.randn(6, 300, 7)

    def make(start, **arguments):
        parameter = torch.nn.Parameter(start.clone())
        settings = OptimizerSettings(name, {"lr": 0.1, "weight_decay": 0.1, **arguments})
        return parameter, build_optimizer([parameter], settings)

    def train(parameter, optimizer, some):
        for gradient in some:
            parameter.grad = gradient
            optimizer.step()

    start = torch.randn(300, 7)
    plain, plain_optimizer = make(start, foreach=False)
    fused, fused_optimizer = make(start)
    train(plain, plain_optimizer, gradients[:3])
    later, later_optimizer = make(plain.detach())
    load_optimizer_state(later_optimizer, deepcopy(plain_optimizer.state_dict()), "step-3.ckpt")
    train(plain, plain_optimizer, gradients[3:])
    train(later, later_optimizer, gradients[3:])
    train(fused, fused_optimizer, gradients)
    flags = [one.param_groups[0]["fused"] for one in (fused_optimizer, later_optimizer, plain_optimizer)]
    assert flags == [True, True, None]
    for parameter in (fused, later):
        torch.testing.assert_close(parameter, plain, rtol=1e-5, atol=1e-6)


@pytest.fixture
def stepped():
    """`stepped(name, steps, ...)`: parameters of one and two dimensions, and an optimizer after its steps."""

    def make(name, steps, **arguments):
        parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((3, 8), (5,))]
        optimizer = build_optimizer(parameters, OptimizerSettings(name, {"lr": 0.1, **arguments}))
        for step in range(steps):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 1.0 + step)
            optimizer.step()
        return parameters, optimizer

    return make


@pytest.mark.parametrize("name", ["Adafactor", "Adagrad", "ASGD", "NAdam", "SGD"])
def test_every_optimizer_takes_its_own_state(name, stepped):
    _, saved = stepped(name, 3)
    parameters, later = stepped(name, 0)
    load_optimizer_state(later, deepcopy(saved.state_dict()), "last.ckpt")
    for parameter, own in zip(parameters, saved.param_groups[0]["params"], strict=True):
        assert later.state[parameter].keys() == saved.state[own].keys()


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        (("AdamW", {}), ("RMSprop", {}), r"exp_avg_sq found, and it keeps step, square_avg\)"),
        (("AdamW", {}), ("SGD", {"momentum": 0.9}), "and it keeps momentum_buffer"),
        (("AdamW", {}), ("SGD", {}), "and it keeps nothing of a parameter"),
        (("Adam", {}), ("Adam", {"amsgrad": True}), "and it keeps step, exp_avg, exp_avg_sq, max_exp_avg_sq"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(there, here, words, stepped):
    state = stepped(there[0], 1, **there[1])[1].state_dict()
    optimizer = stepped(here[0], 0, **here[1])[1]
    with pytest.raises(MelHuBERTError, match=f"does not fit this model's {here[0]} .*{words}"):
        load_optimizer_state(optimizer, state, "last.ckpt")


def test_moments_that_are_wanted_must_be_there(stepped):
    """SGD keeps none; a run that goes on may have none, where its steps were skipped."""
    _, saved = stepped("SGD", 3)
    state = saved.state_dict()
    with pytest.raises(MelHuBERTError, match="nothing of a parameter found, and it keeps step, exp_avg"):
        load_optimizer_state(stepped("Adam", 0)[1], deepcopy(state), "sgd.ckpt", required=True)
    load_optimizer_state(stepped("Adam", 0)[1], deepcopy(state), "last.ckpt")
    load_optimizer_state(stepped("SGD", 0)[1], deepcopy(state), "sgd.ckpt", required=True)


def test_a_state_of_other_shapes_is_refused(stepped):
    state = stepped("Adafactor", 1)[1].state_dict()
    state["state"][0]["row_var"] = torch.zeros(4, 1)
    with pytest.raises(MelHuBERTError, match=r"row_var of shape \(4, 1\) found, expected \(3, 1\)"):
        load_optimizer_state(stepped("Adafactor", 0)[1], state, "last.ckpt")


@pytest.mark.parametrize(
    "argument",
    [{"amsgrad": 1}, {"capturable": True}, {"differentiable": True}],
    ids=str,
)
def test_arguments_that_fail_at_the_first_step_are_refused_before_it(argument, stepped):
    with pytest.raises(MelHuBERTError, match="Adam refuses its arguments"):
        stepped("Adam", 0, **argument)


def test_learning_rate_rises_and_falls():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = build_optimizer(parameters, OptimizerSettings("SGD", {"lr": "2e-1"}))
    remember_initial_rates(optimizer)
    rates = {}
    for name in ("constant", "linear", "cosine"):
        schedule = LearningRate(SchedulerSettings(name, 4), 12)
        rates[name] = [schedule.apply(optimizer, step) for step in range(12)]
        assert rates[name][:4] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert rates["constant"][4:] == pytest.approx([0.2] * 8)
    assert rates["linear"][4:] == pytest.approx(np.linspace(0.2, 0.025, 8))
    assert rates["cosine"][8] == pytest.approx(0.1)


def test_a_step_is_no_longer_than_clipping_allows(prepared, yamls, tmp_path, log, tiny_settings):
    """A step of plain descent with a rate of 1 is the gradient; the log has the norm before it is clipped."""
    torch.manual_seed(1337)  # the default of --seed
    before = MelHuBERT(MelHuBERTConfig(**tiny_settings)).state_dict()
    norms, lengths = [], []
    for name, clipping in (("clipped", 0.01), ("whole", 0.0)):
        settings = yamls(
            runner={"total_steps": 1, "gradient_clipping": clipping}, optimizer={"name": "SGD", "lr": 1.0}
        )
        exp = tmp_path / name
        assert main(["pretrain", *settings, "-n", str(exp), "--data", str(prepared), "--device", "cpu"]) == 0
        norms.append(float(log(exp)[0]["gradient_norm"]))
        after = load_checkpoint(exp / "last.ckpt").state
        lengths.append(math.hypot(*(float((after[key] - before[key]).norm()) for key in before)))
    assert norms[0] == norms[1] > 0.1
    assert lengths == pytest.approx([0.01, norms[1]], rel=1e-3)
