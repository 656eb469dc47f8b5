"""s3prl's unmodified programs find the upstream, train with it, evaluate, and resume."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from s3prl.upstream.interfaces import Featurizer

from s3prl_melhubert.compat.layer_choice import missing_layers_refused
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.upstream_expert import hubconf

RUNNER = {
    "gradient_clipping": 1,
    "gradient_accumulate_steps": 1,
    "log_step": 2,
    "eval_step": 10,
    "save_step": 10,
    "max_keep": 1,
}
OPTIMIZER = {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 1e-2}


@pytest.fixture
def settings(tmp_path) -> dict[str, Path]:
    """The YAML files of a run: `g`, the upstream's; `example`, a task on noise that needs no corpus."""
    (tmp_path / "g.yaml").write_text("feature_stats: librispeech-360h\n")
    example = {
        "runner": {**RUNNER, "total_steps": 10, "eval_dataloaders": ["dev"], "evaluate_ratio": 0.02},
        "optimizer": OPTIMIZER,
        "downstream_expert": {
            "datarc": {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0},
            "modelrc": {"input_dim": 8},
        },
    }
    (tmp_path / "example.yaml").write_text(yaml.safe_dump(example))
    return {"g": tmp_path / "g.yaml", "example": tmp_path / "example.yaml"}


def sid_settings(path: Path, corpus: Path, split_file: Path) -> Path:
    settings = {
        "runner": {**RUNNER, "total_steps": 10, "eval_dataloaders": ["dev", "test"]},
        "optimizer": OPTIMIZER,
        "downstream_expert": {
            "datarc": {
                "file_path": str(corpus),
                "meta_data": str(split_file),
                "num_workers": 0,
                "train_batch_size": 8,
                "eval_batch_size": 1,
                "max_timestep": 32000,
            },
            "modelrc": {
                "projector_dim": 32,
                "select": "UtteranceLevel",
                "UtteranceLevel": {"pooling": "MeanPooling"},
            },
        },
    }
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def synthesized_voxceleb(tmp_path) -> tuple[Path, Path]:
    """VoxCeleb1's layout with three speakers who hum at different pitches, and its split file."""
    corpus, lines = tmp_path / "VoxCeleb1", []
    random = np.random.default_rng(0)
    for speaker, pitch in enumerate((110, 180, 290)):
        for utterance in range(6):
            name = f"id{10001 + speaker}/video/{utterance:05d}.wav"
            time = np.arange(16000 + 1000 * utterance) / 16000
            samples = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.01 * random.standard_normal(len(time))
            (corpus / "dev/wav" / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(corpus / "dev/wav" / name, samples, 16000)
            lines.append(f"{1 + max(0, utterance - 3)} {name}\n")
    (tmp_path / "split.txt").write_text("".join(lines))
    return corpus, tmp_path / "split.txt"


@pytest.fixture
def real_voxceleb(tmp_path, speech) -> tuple[Path, Path]:
    """The digits in VoxCeleb1's layout; copies of the folder may hold its links as files of one line."""
    source, corpus = speech / "digits/VoxCeleb1", tmp_path / "VoxCeleb1"
    for entry in (source / "dev/wav").glob("id*/*"):
        link = corpus / entry.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((entry.parent / entry.read_text().strip()).resolve() if entry.is_file() else entry)
    return corpus, speech / "digits/iden_split.txt"


def succeeds(result) -> str:
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def check_sid_experiment(run_python, checkout, reference, settings, tmp_path, voxceleb) -> str:
    """Train, evaluate and resume speaker identification in a checkout; return the output of the test."""
    config, experiment = sid_settings(tmp_path / "sid.yaml", *voxceleb), tmp_path / "EXP"

    def run_downstream(*arguments):
        return succeeds(
            run_python(
                "run_downstream.py",
                *arguments,
                "--device",
                "cpu",
                cwd=checkout,
                PYTHONPATH=str(checkout.parent),
            )
        )

    upstream = ["-u", "melhubert_local", "-k", reference / "tiny-20ms.ckpt", "-g", settings["g"]]
    run_downstream("-m", "train", *upstream, "-d", "voxceleb1", "-c", config, "-p", experiment)
    written = {path.name for path in experiment.iterdir()}
    assert {"dev-best.ckpt", "states-10.ckpt", "test_predict.txt", "test_truth.txt", "log.log"} <= written

    (experiment / "test_predict.txt").unlink()
    tested = run_downstream("-m", "evaluate", "-e", experiment / "dev-best.ckpt")
    predictions = (experiment / "test_predict.txt").read_text().splitlines()
    split_file = voxceleb[1].read_text().splitlines()
    assert len(predictions) == sum(line.startswith("3 ") for line in split_file)

    resumed = run_downstream("-m", "train", "-e", experiment, "-o", "config.runner.total_steps=20")
    assert "Resume from" in resumed
    assert (experiment / "states-20.ckpt").is_file()
    states = torch.load(experiment / "states-20.ckpt", weights_only=False)
    assert states["Step"] == 20
    assert states["Featurizer"]["weights"].shape == (3,)
    return tested


def test_speaker_identification_in_a_checkout(
    run_python, s3prl_checkout, reference, settings, tmp_path, synthesized_voxceleb
):
    tested = check_sid_experiment(
        run_python, s3prl_checkout, reference, settings, tmp_path, synthesized_voxceleb
    )
    assert "test acc:" in tested


@pytest.mark.slow
def test_speaker_identification_on_real_speech(
    run_python, s3prl_checkout, reference, settings, tmp_path, real_voxceleb
):
    tested = check_sid_experiment(run_python, s3prl_checkout, reference, settings, tmp_path, real_voxceleb)
    assert "test acc:" in tested


@pytest.mark.slow
def test_example_task_in_a_checkout_with_fine_tuning(
    run_python, s3prl_checkout, reference, settings, tmp_path
):
    """-f trains the upstream, and its weights are saved and loaded again."""
    experiment = tmp_path / "EXP"
    upstream = ["-u", "melhubert_local", "-k", reference / "tiny-20ms.ckpt", "-g", settings["g"], "-f"]
    task = ["-d", "example", "-c", settings["example"], "-p", experiment, "--device", "cpu"]
    here = {"cwd": s3prl_checkout, "PYTHONPATH": str(s3prl_checkout.parent)}
    succeeds(run_python("run_downstream.py", "-m", "train", *upstream, *task, **here))
    (states,) = experiment.glob("states-*.ckpt")
    saved = torch.load(states, weights_only=False)["Upstream"]["model.encoder.layers.0.fc1.weight"]
    start = torch.load(reference / "tiny-20ms.ckpt", weights_only=False)["model"]
    assert not torch.equal(saved, start["encoder.layers.0.fc1.weight"])
    again = ["-m", "evaluate", "-e", states, "-t", "dev", "--device", "cpu"]
    assert "Loading Upstream weights" in succeeds(run_python("run_downstream.py", *again, **here))


def test_example_task_as_a_module_of_pips_s3prl(run_python, reference, settings, tmp_path):
    """`python -m s3prl.run_downstream`, with one layer chosen by -s and -l."""
    upstream = ["-u", "melhubert_local", "-k", reference / "tiny-20ms.ckpt", "-g", settings["g"]]
    chosen = ["-s", "hidden_states", "-l", "1"]
    task = ["-d", "example", "-c", settings["example"], "-p", "EXP", "--device", "cpu"]
    succeeds(run_python("-m", "s3prl.run_downstream", "-m", "train", *upstream, *chosen, *task))
    assert list((tmp_path / "EXP").glob("states-*.ckpt"))


@pytest.mark.parametrize("upstream", ["fbank", "melhubert_local"])
def test_front_door_works_with_the_hook_turned_off(run_python, reference, settings, tmp_path, upstream):
    mine = ["-k", reference / "tiny-20ms.ckpt", "-g", settings["g"]] if upstream != "fbank" else []
    task = ["-d", "example", "-c", "example.yaml", "-p", "EXP", "--device", "cpu"]
    program = ["-m", "s3prl_melhubert", "run-downstream", "-m", "train", "-u", upstream]
    succeeds(run_python(*program, *mine, *task, S3PRL_MELHUBERT_AUTOLOAD="0"))
    assert list((tmp_path / "EXP").glob("states-*.ckpt"))


BAD = {
    "no such file": (["-k", "nowhere.ckpt"], "looked for {tmp_path}/nowhere.ckpt"),
    "no such layer": (
        ["-s", "hidden_state_6"],
        "-s hidden_state_6: the model gives no such output (expected hidden",
    ),
    "no such weights": (["-i", "nope.ckpt"], "-i nope.ckpt: no such file (looked for {tmp_path}/nope.ckpt)"),
}


@pytest.mark.parametrize("case", BAD)
def test_front_door_tells_bad_input_in_one_line(run_python, reference, settings, tmp_path, case):
    arguments, words = BAD[case]
    upstream = ["-u", "melhubert_local", "-k", reference / "tiny-20ms.ckpt", "-g", settings["g"]]
    task = ["-d", "example", "-c", "example.yaml", "-p", "EXP", "--device", "cpu"]
    program = ["-m", "s3prl_melhubert", "run-downstream", "-m", "train"]
    result = run_python(*program, *upstream, *arguments, *task)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert words.format(tmp_path=tmp_path.resolve()) in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("selection", "layer", "words"),
    [
        ("hidden_states", 3, "-l 3: hidden_states of the model holds 3 layers; expected 0 to 2"),
        ("hidden_states", -4, "-l -4: hidden_states of the model holds 3 layers"),
        ("hidden_state_3", None, "-s hidden_state_3: .* no such output .expected .*_0 to hidden_state_2"),
        ("hidden_state_02", None, "-s hidden_state_02: the model gives no such output"),
        ("nonsense", None, "-s nonsense: the model gives no such output .known are hidden_state_0, .*, last"),
        ("hidden_state_2", 1, "-l 1: hidden_state_2 of the model holds one layer; leave it out"),
        ("last_hidden_state", 0, "-l 0: last_hidden_state of the model holds one layer; leave it out"),
        *(("hidden_states", layer, "") for layer in (2, -3, None)),
        *((f"hidden_state_{layer}", None, "") for layer in (0, 2)),
        ("last_hidden_state", None, ""),
    ],
)
def test_a_layer_that_the_model_lacks_is_refused(reference, selection, layer, words):
    upstream = hubconf.melhubert_local(reference / "tiny-20ms.ckpt", feature_stats="librispeech-360h")
    with (
        missing_layers_refused(),
        pytest.raises(MelHuBERTError, match=words) if words else nullcontext(),
    ):
        chosen = Featurizer(upstream, selection, "cpu", layer_selection=layer)
        assert chosen.feature_selection == selection
    assert Featurizer.__init__.__module__ == Featurizer.__module__
    assert not hasattr(Featurizer.__init__, "__wrapped__")


def test_hub_lists_and_loads_the_entries(run_python, reference):
    code = """
import sys, torch
import s3prl.hub as hub
names = [name for name in dir(hub) if "melhubert" in name]
assert len(names) == 12 and set(names) <= set(hub.options()), names
assert "melhubert_local" not in hub.options(only_registered_ckpt=True)
assert "melhubert_10ms_960h_stage2" in hub.options(only_registered_ckpt=True)
upstream = hub.melhubert_local(ckpt=sys.argv[1], feature_stats="librispeech-360h")
assert len(upstream([torch.randn(16000)])["hidden_states"]) == 3
"""
    succeeds(run_python("-c", code, reference / "tiny-20ms.ckpt"))


@pytest.mark.parametrize("which", ["s3prl's hubconf.py", "this package's folder"])
def test_torch_hub_sees_the_entries(run_python, reference, tmp_path, which):
    folder = tmp_path / "repository"
    folder.mkdir()
    if which == "this package's folder":
        hubconf = Path(__file__).parents[2] / "upstream_expert/hubconf.py"
        shutil.copy(hubconf, folder)
    else:  # as s3prl's checkout has it
        (folder / "hubconf.py").write_text("from s3prl.hub import *\n")
    code = """
import sys, torch
upstream = torch.hub.load(sys.argv[1], "melhubert_local", source="local", ckpt=sys.argv[2],
                          feature_stats="librispeech-360h")
assert upstream([torch.randn(16000)])["last_hidden_state"].shape == (1, 49, 48)
"""
    succeeds(run_python("-c", code, folder, reference / "tiny-20ms.ckpt"))
