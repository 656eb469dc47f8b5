"""SUPERB's settings, what is changed of them, and that the difference is told."""

from typing import Any

import pytest

from s3prl_melhubert.downstream_recipes.running.settings import (
    HARMLESS_ARGUMENTS,
    S3PRL_ARGUMENTS,
    differences,
    overridden,
    refuse_optimizer,
    refuse_untested,
    with_override,
    with_steps,
)
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError

POOLED = {"projector_dim": 256, "select": "UtteranceLevel", "UtteranceLevel": {"pooling": "MeanPooling"}}
RECURRENT = {
    "project_dim": 1024,
    "select": "RNNs",
    "RNNs.total_rate": -1,
    "RNNs.module": "LSTM",
    "RNNs.bidirection": True,
    "RNNs.dim": [1024, 1024],
    "RNNs.dropout": [0.2, 0.2],
    "RNNs.layer_norm": [False, False],
    "RNNs.proj": [False, False],
    "RNNs.sample_rate": [1, 1],
}
SPECAUG = {
    "apply_time_warp": True,
    "time_warp_window": 5,
    "apply_time_mask": True,
    "num_time_mask": 2,
    "time_mask_width_range": [0, 40],
    "apply_freq_mask": True,
    "num_freq_mask": 4,
    "freq_mask_width_range": [0, 50],
}
DTW = {"dist_method": "cosine_exp", "minmax_norm": True, "step_pattern": "asymmetric", "subsequence": True}
CLASSIFIER = ("Adam", 1e-4, 1)
OWN = "s3prl's own AdamW"
# A network that estimates a mask for each signal.
RNN = {"model": "SepRNN", "rnn": "LSTM", "rnn_layers": 3, "hidden_size": 896, "bidirectional": True}
MASK = {"dropout": 0.5, "non_linear": "relu", "loss_type": "MSE", "mask_type": "NPSM"}
STFT = {"rate": 16_000, "n_fft": 512, "win_length": 512, "window": "hann", "center": True}
MASKS = {**{f"datarc.{name}": value for name, value in STFT.items()}, "modelrc": {**RNN, **MASK}}

# The table of SUPERB's public instructions and s3prl's default settings: s3prl's name, the best checkpoint;
# the optimizer, its learning rate, the gradient's clip; steps and accumulated batches, of what size; log,
# eval, save; and the rest.
SUPERB = {
    "pr": (
        ("ctc", "dev-best.ckpt"),
        ("Adam", 1e-2, 1),
        (100_000, 2, {"corpus.batch_size": 16}),
        (100, 1000, 100),
        {
            "corpus.bucketing": True,
            "text.mode": "word",
            "model": {"project_dim": 256, "zero_infinity": True, "select": "FrameLevel"},
        },
    ),
    "ks": (
        ("speech_commands", "dev-best.ckpt"),
        CLASSIFIER,
        (200_000, 1, {"datarc.batch_size": 32}),
        (100, 5000, 1000),
        {"modelrc": POOLED},
    ),
    "ic": (
        ("fluent_commands", "dev-best.ckpt"),
        CLASSIFIER,
        (200_000, 1, {"datarc.train_batch_size": 32, "datarc.eval_batch_size": 32}),
        (100, 5000, 250),
        {"modelrc": POOLED},
    ),
    "sid": (
        ("voxceleb1", "dev-best.ckpt"),
        CLASSIFIER,
        (200_000, 4, {"datarc.train_batch_size": 8, "datarc.eval_batch_size": 1}),
        (500, 5000, 1000),
        {"datarc.max_timestep": 128_000, "modelrc": POOLED},
    ),
    "er": (
        ("emotion", "dev-best.ckpt"),
        CLASSIFIER,
        (30_000, 8, {"datarc.train_batch_size": 4, "datarc.eval_batch_size": 4}),
        (500, 1000, 1000),
        {"datarc.valid_ratio": 0.2, "datarc.pre_load": True, "modelrc": POOLED},
    ),
    "asr": (
        ("asr", "dev-clean-best.ckpt"),
        CLASSIFIER,
        (200_000, 1, {"datarc.batch_size": 32, "datarc.eval_batch_size": 1}),
        (100, 2000, 500),
        {"datarc.zero_infinity": True, **{f"modelrc.{name}": value for name, value in RECURRENT.items()}},
    ),
    "qbe": (
        ("quesst14_dtw", None),
        None,
        (None, None, {"datarc.batch_size": 1}),
        None,
        {"feature_normalization": True, "dtwrc": DTW},
    ),
    "sf": (
        ("ctc", "dev-best.ckpt"),
        CLASSIFIER,
        (200_000, 1, {"corpus.batch_size": 32, "corpus.bucketing": True}),
        (100, 2000, 500),
        {
            "text.mode": "character-slot",
            "corpus.train_speakers": [
                "Ivy",
                "Joanna",
                "Joey",
                "Justin",
                "Kendra",
                "Kimberly",
                "Matthew",
                "Salli",
            ],
            "corpus.valid_speakers": ["Aditi", "Amy", "Geraint", "Nicole"],
            "corpus.test_speakers": ["Brian", "Emma", "Raveena", "Russell"],
            "metric_higher_better": True,
            "model.zero_infinity": True,
            **{f"model.{name}": value for name, value in RECURRENT.items()},
        },
    ),
    "asv": (
        ("sv_voxceleb1", None),
        ("AdamW", 1e-4, 1000),
        (200_000, 5, {"datarc.train_batch_size": 10, "datarc.eval_batch_size": 1}),
        (500, 10_000, 10_000),
        {
            "datarc.max_timestep": 128_000,
            "datarc.vad_config": {"min_sec": 32_000},
            "modelrc.input_dim": 512,
            "modelrc.module": "XVector",
            "modelrc.module_config.XVector": {"agg_dim": 1500, "dropout_p": 0.0, "batch_norm": False},
            "modelrc.agg_module": "SP",
            "modelrc.utter_module": "UtteranceExtractor",
            "modelrc.ObjectiveLoss": "AMSoftmaxLoss",
            "modelrc.LossConfig.AMSoftmaxLoss": {"s": 30.0, "m": 0.4},
        },
    ),
    "sd": (
        ("diarization", "best-states-dev.ckpt"),
        CLASSIFIER,
        (30_000, 4, {"loaderrc.train_batchsize": 8, "loaderrc.eval_batchsize": 1}),
        (500, 500, 500),
        {
            "datarc.chunk_size": 2000,
            "datarc.subsampling": 1,
            "datarc.label_delay": 0,
            "datarc.num_speakers": 2,
            "modelrc": {"rnn_layers": 1, "hidden_size": 512},
        },
    ),
    "se": (
        ("enhancement_stft", "best-states-dev.ckpt"),
        (OWN, 1e-4, 1),
        (150_000, 1, {"loaderrc.train_batchsize": 8, "loaderrc.eval_batchsize": 1}),
        (1250, 1250, 6250),
        {"datarc.num_speakers": 1, "datarc.src": ["noisy"], "datarc.tgt": ["clean"], **MASKS},
    ),
    "ss": (
        ("separation_stft", "best-states-dev.ckpt"),
        (OWN, 1e-4, 1),
        (150_000, 1, {"loaderrc.train_batchsize": 8, "loaderrc.eval_batchsize": 1}),
        (2000, 2000, 10_000),
        {"datarc.num_speakers": 2, "datarc.src": ["mix_clean"], "datarc.tgt": ["s1", "s2"], **MASKS},
    ),
}


def at(settings: dict[str, Any], place: str) -> Any:
    for name in place.split("."):
        settings = settings[name]
    return settings


@pytest.mark.parametrize("key", SUPERB)
def test_settings_are_those_of_superbs_instructions(key):
    task = all_tasks()[key]
    settings = task.superb_settings()
    runner, expert = settings["runner"], settings["downstream_expert"]
    names, learning, (steps, accumulated, batch), every, rest = SUPERB[key]
    assert (task.downstream, task.best_checkpoint) == names
    assert task.trained == (learning is not None)
    if learning is not None:
        kind, rate, clip = learning
        name = {"name": "AdamW"} if kind == OWN else {"name": "TorchOptim", "torch_optim_name": kind}
        assert settings["optimizer"] == {**name, "lr": rate}
        assert runner["gradient_clipping"] == clip
        assert (runner["total_steps"], runner["gradient_accumulate_steps"]) == (steps, accumulated)
        assert (runner["log_step"], runner["eval_step"], runner["save_step"]) == every
        assert "fp16" not in runner
    assert {place: at(expert, place) for place in {**batch, **rest}} == {**batch, **rest}
    assert settings.get("specaug") == (SPECAUG if key in ("asr", "sf") else None)
    assert "scheduler" not in settings


def test_the_settings_of_every_task_are_looked_up():
    absent = [key for key in all_tasks() if key not in SUPERB]
    assert not absent, f"say in SUPERB what the instructions ask for in {', '.join(absent)}"


def test_every_checkpoint_that_asv_tests_is_kept():
    runner = all_tasks()["asv"].superb_settings()["runner"]
    assert runner["max_keep"] == runner["total_steps"] // runner["save_step"] == 20


@pytest.mark.parametrize("steps", [1, 7, 100, 150, 1000, 1001, 99_999, 100_000])
def test_shorter_run_is_evaluated_and_saved_at_its_end_or_close_to_it(steps):
    runner = with_steps(all_tasks()["pr"].superb_settings(), steps)["runner"]
    assert runner["total_steps"] == steps
    for interval in ("log_step", "eval_step", "save_step"):
        last = steps // runner[interval] * runner[interval]
        assert last > 0
        assert steps - last < steps / runner[interval]


def test_full_length_run_differs_in_nothing_but_what_may_be_chosen():
    superb = all_tasks()["asr"].superb_settings()
    here, arguments = with_override(
        superb, "config.optimizer.lr=5e-4,,config.downstream_expert.datarc.num_workers=0"
    )
    here["downstream_expert"]["datarc"]["libri_root"] = "LibriSpeech"
    assert differences(superb, here, arguments) == []
    assert here["optimizer"]["lr"] == 5e-4


def test_every_other_change_is_told_misspelt_ones_too():
    superb = all_tasks()["pr"].superb_settings()
    here, arguments = with_override(
        superb,
        "config.downstream_expert.corpus.batch_size=8,,config.optimizer.weigt_decay=1,,"
        "args.upstream_trainable=True,,args.upstream_feature_selection=last_hidden_state,,"
        "args.upstream_layer_selection=3,,args.upstream_feature_normalize=True",
    )
    assert [str(each) for each in differences(superb, here, arguments)] == [
        "downstream_expert.corpus.batch_size 8 (SUPERB: 16)",
        "optimizer.weigt_decay 1 (SUPERB: not set)",
        "upstream_trainable True (SUPERB: False)",
        "upstream_feature_selection last_hidden_state (SUPERB: hidden_states)",
        "upstream_layer_selection 3 (SUPERB: None)",
        "upstream_feature_normalize True (SUPERB: False)",
    ]


@pytest.mark.parametrize("override", ["batch_size=8", "config.optimizer.lr", "config.runner.total_steps.x=1"])
def test_override_that_s3prl_could_not_read_is_explained(override):
    with pytest.raises(MelHuBERTError, match="-o "):
        with_override(all_tasks()["pr"].superb_settings(), override)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("args.upstream=fbank", "is set by -u,"),
        ("config.runner.log_step=1,, args.upstream_ckpt = b.ckpt", "is set by -k"),
        ("args.upstream_model_config=g.yaml", "is set by -g"),
        ("args.seed=1", "is set by --seed"),
        ("args.expdir=elsewhere", "is set by -p"),
        ("args.device=cpu", "is set by --device"),
        ("args.downstream=asr", "is set by the task itself"),
        ("args.hub=huggingface", "is set by -u melhubert_hf"),
        ("args.push_to_hf_hub=True", "no argument of s3prl's that -o may set"),
        ("args.upstream_trainble=True", "did you mean upstream_trainable"),
        ("args=x", "no argument of s3prl's that -o may set"),
    ],
)
def test_argument_that_an_option_sets_cannot_be_overridden(override, said):
    with pytest.raises(MelHuBERTError, match=f"-o args.*{said}"):
        with_override(all_tasks()["sid"].superb_settings(), override)


@pytest.mark.parametrize("name", [*S3PRL_ARGUMENTS, *HARMLESS_ARGUMENTS])
def test_argument_that_no_option_sets_can_be_overridden(name):
    with_override(all_tasks()["sid"].superb_settings(), f"args.{name}=None")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"total_steps": 4}, "eval_step 5000 exceeds the 4 steps .* give --steps 4"),
        ({"total_steps": 4, "eval_step": 20, "save_step": 2}, "eval_step 20 exceeds"),
        ({"total_steps": 4, "eval_step": 2, "save_step": 20}, "save_step 20 exceeds the 4 steps"),
        ({"eval_step": 0}, "eval_step=0: expected a number above zero"),
        ({"save_step": "often"}, "save_step=often: expected a number"),
        ({"total_steps": float("inf")}, "total_steps=inf: expected a number"),
        ({"log_step": 0}, "log_step=0: expected a number above zero"),
        ({"gradient_accumulate_steps": 0}, "gradient_accumulate_steps=0: expected a number above zero"),
        ({"gradient_accumulate_steps": None}, "gradient_accumulate_steps=None: expected a number above zero"),
        ({"gradient_clipping": 0}, "gradient_clipping=0: expected a number above zero"),
        ({"gradient_clipping": -1}, "gradient_clipping=-1: expected a number above zero"),
        ({"evaluate_ratio": -1}, "evaluate_ratio=-1: expected a number above zero"),  # of scores that are NaN
        ({"evaluate_ratio": "all"}, "evaluate_ratio=all: expected a number above zero"),
        ({"eval_dataloaders": []}, r"eval_dataloaders=\[\]: expected a list with dev in it"),
        ({"eval_dataloaders": ["test"]}, "expected a list with dev in it"),
        ({"eval_dataloaders": "dev"}, "eval_dataloaders=dev: expected a list"),
    ],
)
def test_run_that_would_leave_nothing_to_test_is_refused(changed, said):
    with pytest.raises(MelHuBERTError, match=said):
        refuse_untested({**all_tasks()["sid"].superb_settings()["runner"], **changed}, ["dev"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("config.optimizer.weight_decay=-1", "optimizer: .*Invalid weight_decay value: -1"),
        ("config.optimizer.betas=(0.9, 1.0)", "optimizer: .*Invalid beta parameter at index 1"),
        ("config.optimizer.weigt_decay=1", "optimizer: .*unexpected keyword argument 'weigt_decay'"),
        ("config.optimizer.torch_optim_name=Adan", "optimizer: .*no attribute 'Adan'"),
        ("config.optimizer.maximize=True", "optimizer: .*a gradient above 0 raises a parameter"),
        ("config.scheduler.name=linear", "scheduler: .*'get_linear' is not defined"),
    ],
)
def test_what_s3prl_can_make_no_optimizer_of_is_refused(override, said):
    superb = all_tasks()["sid"].superb_settings()
    refuse_optimizer(superb)
    decay = "config.scheduler.name=linear_schedule_with_warmup,,config.scheduler.num_warmup_steps=2"
    refuse_optimizer(with_override(superb, decay)[0])
    with pytest.raises(MelHuBERTError, match=f"-o config.{said}"):
        refuse_optimizer(with_override(superb, override)[0])


def test_splits_may_be_scored_beside_the_one_that_chooses():
    runner = {**all_tasks()["sid"].superb_settings()["runner"], "eval_dataloaders": ["dev", "test"]}
    refuse_untested(runner, ["dev"])


@pytest.mark.parametrize("key", [key for key, task in all_tasks().items() if task.trained])
@pytest.mark.parametrize("steps", [1, 7, None])
def test_run_of_any_length_leaves_something_to_test(key, steps):
    task = all_tasks()[key]
    settings = task.superb_settings() if steps is None else with_steps(task.superb_settings(), steps)
    refuse_untested(settings["runner"], task.superb_settings()["runner"]["eval_dataloaders"])
    refuse_untested({**settings["runner"], "eval_step": 10**9}, [])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("config.nope.x=1", "no such section .known are downstream_expert, optimizer"),
        ("config.optimzer.lr=1", "did you mean optimizer"),
        ("config.runner.evalstep=1", "did you mean eval_step"),
        ("config=1", "no such section"),
        (
            "config.downstream_expert.datarc=1",
            "is a section; expected config.downstream_expert.datarc.KEY=VALUE",
        ),
    ],
)
def test_setting_that_nothing_reads_is_refused(override, said):
    with pytest.raises(MelHuBERTError, match=f"-o config.*{said}"):
        with_override(all_tasks()["sid"].superb_settings(), override)


@pytest.mark.parametrize(
    "override",
    [
        "config.runner.fp16=True",
        "config.runner.evaluate_ratio=0.1",
        "config.optimizer.weight_decay=0.1",
        "config.scheduler.name=linear_schedule_with_warmup",
        "config.specaug={'apply_time_mask': True}",
        "config.downstream_expert.modelrc.FrameLevel.hidden_dims=[8]",
    ],
)
def test_setting_that_superb_leaves_out_can_be_given(override):
    with_override(all_tasks()["sid"].superb_settings(), override)


def test_settings_of_an_override_are_found_in_sections_too():
    override = (
        "config.optimizer={'name': 'TorchOptim', 'lr': 0.1},, config.runner.log_step = 5,,args.verbose=True"
    )
    here, _ = with_override(all_tasks()["sid"].superb_settings(), override)
    assert overridden(here, override) == {
        "optimizer.name": "TorchOptim",
        "optimizer.lr": 0.1,
        "runner.log_step": 5,
    }
    assert overridden(here, None) == {}
