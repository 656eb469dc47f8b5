"""`melhubert compress --data`: stages of pruning and training, which survive a kill."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, load_checkpoint, save_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.config import layer_sizes
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain import pruning_stages
from s3prl_melhubert.pretrain.training.settings import Settings
from s3prl_melhubert.units.quantizer import Quantizer

STEPS = 4


@pytest.fixture(scope="module")
def stats(prepared):
    from s3prl_melhubert.pretrain.data.description import read_prepared

    return read_prepared(prepared).info.stats


@pytest.fixture
def source(tmp_path, tiny_settings, stats):
    """A dense checkpoint with the statistics of the prepared set."""
    torch.manual_seed(0)
    model = MelHuBERT(MelHuBERTConfig(**tiny_settings))
    save_checkpoint(tmp_path / "dense.ckpt", model.config, model.state_dict(), stats, 100)
    return tmp_path / "dense.ckpt"


@pytest.fixture
def arguments(source, prepared, yamls):
    settings = yamls(runner={"total_steps": 1, "save_minutes": 0.00001})[2:]
    return [
        "compress", source, "--heads", 2, "--ffn", 20, "--data", prepared, "--steps", STEPS, "--stages", 2,
        "--device", "cpu", *settings,
    ]  # fmt: skip


def test_stages_are_trained_and_what_was_stopped_ends_with_the_same_weights(
    arguments, tmp_path, source, monkeypatch, capsys
):
    arguments = list(map(str, arguments))
    whole, stopped = tmp_path / "whole.ckpt", tmp_path / "stopped.ckpt"
    assert main([*arguments, "--out", str(whole)]) == 0
    printed = capsys.readouterr().out
    assert "stage 1 of 2: 3 heads and 58 rows in each layer, 2 steps" in printed
    assert "stage 2 of 2: 2 heads and 20 rows" in printed
    made = load_checkpoint(whole)
    assert set(layer_sizes(made.config)) == {(2, 12, 20)}
    assert made.stats == load_checkpoint(source).stats
    assert made.step == 100 + STEPS
    assert (made.rest["Compression"]["steps"], made.rest["Compression"]["stages"]) == (STEPS, 2)
    assert not list(tmp_path.glob("whole.ckpt.stages/**/*.ckpt"))
    assert (tmp_path / "whole.ckpt.stages/stage-2/log.csv").is_file()

    with monkeypatch.context() as patch:
        run = pruning_stages.Pretraining.run
        patch.setattr(
            pruning_stages.Pretraining,
            "run",
            lambda training: 143 if training.folder.name == "stage-2" else run(training),
        )
        assert main([*arguments, "--out", str(stopped)]) == 143
    assert not stopped.exists()
    capsys.readouterr()
    assert main([*arguments, "--out", str(stopped)]) == 0
    assert "stage 1 of 2" not in capsys.readouterr().out
    assert load_checkpoint(stopped).weights_digest() == made.weights_digest()


def test_without_learning_the_stages_end_as_what_is_pruned_at_once(arguments, yamls, tmp_path, capsys):
    """So each stage begins with the weights of the one before it; here on a published CSV."""
    rows = ["file_path,label_path,length"]
    for name in "abcd":
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(80, 40)).astype(np.float32))
        np.save(tmp_path / f"{name}.label.npy", np.arange(80) % 16)
        rows.append(f"{tmp_path / name}.npy,{tmp_path / name}.label.npy,80")
    data = tmp_path / "train.csv"
    data.write_text("\n".join(rows))
    settings = yamls(runner={"total_steps": 1}, optimizer={"lr": 0.0})[2:]
    place = arguments.index("--data")
    command = [*arguments, *settings, "--steps", 2, "--out", tmp_path / "stages.ckpt"]
    command[place + 1] = data
    others = yamls(datarc={"feature_stats": "librispeech-360h"})[2:]
    assert main([*map(str, command), *others]) == 2
    assert f"{data}: its features were normalized with other statistics" in capsys.readouterr().err
    assert main(list(map(str, command))) == 0
    assert main([*map(str, arguments[:place]), "--out", str(tmp_path / "once.ckpt")]) == 0
    digests = {load_checkpoint(tmp_path / f"{name}.ckpt").weights_digest() for name in ("stages", "once")}
    assert len(digests) == 1


def test_steps_that_stages_cannot_share_evenly_are_taken_all_the_same():
    settings = Settings.from_mapping({"runner": {"n_epochs": 1, "save_step": 1, "log_step": 50}}, "file")
    training = pruning_stages.Training(("set",), 32, 3, settings)
    assert [training.steps_of(stage) for stage in (1, 2, 3)] == [11, 11, 10]
    runners = [training.settings_of(stage).runner for stage in (1, 2, 3)]
    assert [runner.steps(5) for runner in runners] == [11, 11, 10]  # more than the settings' only epoch has
    assert training.settings_of(2).datarc.sets == ("set",)


def test_a_warm_up_as_long_as_the_last_stage_is_refused_before_the_first(arguments, yamls, tmp_path, capsys):
    """Of 3 steps, the first of two stages has 2, and the second has 1."""
    settings = yamls(scheduler={"warmup_steps": 1})[2:]
    assert main([*map(str, arguments), "--steps", "3", *settings, "--out", str(tmp_path / "small.ckpt")]) == 2
    assert "warmup_steps: 1 found, expected fewer than the run's 1 steps" in capsys.readouterr().err
    assert not (tmp_path / "small.ckpt.stages").exists()


def test_units_of_the_larger_model_are_not_those_of_one_that_was_trained(
    arguments, make_prepared, source, tmp_path, capsys
):
    """What the data's labels stand for takes their place, as in any training."""
    whole = load_checkpoint(source)
    quantizer = Quantizer.from_arrays(1, np.ones((16, 48), np.float32), "model", {}, "here")
    save_checkpoint(source, whole.config, whole.state, whole.stats, 100, {}, quantizer)
    out = tmp_path / "small.ckpt"
    assert main([*map(str, arguments), "--out", str(out)]) == 0
    assert load_checkpoint(out).quantizer is None  # The set of the test does not hold its centroids.
    assert "its quantizer of layer 1" in capsys.readouterr().out


@pytest.mark.slow
def test_what_was_killed_ends_with_the_same_weights(arguments, melhubert, tmp_path):
    assert melhubert(*arguments, "--out", "whole.ckpt").returncode == 0
    command = [sys.executable, "-m", "s3prl_melhubert", *map(str, arguments), "--out", "killed.ckpt"]
    for stage in (1, 2):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (tmp_path / f"killed.ckpt.stages/stage-{stage}/last.ckpt").is_file():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not (tmp_path / "killed.ckpt").exists()
    again = melhubert(*arguments, "--out", "killed.ckpt")
    assert again.returncode == 0, again.stderr
    assert "stage 1 of 2" not in again.stdout
    digests = {load_checkpoint(tmp_path / f"{name}.ckpt").weights_digest() for name in ("whole", "killed")}
    assert len(digests) == 1


def test_what_does_not_go_together_is_told_in_one_line(arguments, tmp_path, source, capsys, monkeypatch):
    def refused(name: str, *more: str) -> str:
        assert main([*map(str, arguments), "--out", str(tmp_path / name), *more]) == 2
        [line] = capsys.readouterr().err.splitlines()
        return line

    (tmp_path / "full.ckpt.stages").mkdir()
    (tmp_path / "full.ckpt.stages/other.txt").write_text("mine")
    assert "holds something else already" in refused("full.ckpt")

    plan = tmp_path / "begun.ckpt.stages"
    plan.mkdir()
    digest = load_checkpoint(source).weights_digest()
    (plan / "compression.yaml").write_text(f"checkpoint: {digest}\nheads: 3\n")
    assert "was begun with heads 3, now 2" in refused("begun.ckpt")

    for count, words in (("2", "several processes found"), ("two", "WORLD_SIZE: 'two' found")):
        monkeypatch.setenv("WORLD_SIZE", count)
        assert words in refused("other.ckpt")
    monkeypatch.delenv("WORLD_SIZE")

    loaded = load_checkpoint(source)
    save_checkpoint(source, loaded.config, loaded.state, None)
    assert "normalized with other statistics" in refused("other.ckpt", "--stats", "librispeech-960h")
    assert not (tmp_path / "other.ckpt.stages").exists()


def test_what_was_killed_after_its_last_step_is_cleared_away_by_the_same_command(
    arguments, tmp_path, monkeypatch, capsys
):
    def kill(*files):
        raise KeyboardInterrupt

    small = tmp_path / "small.ckpt"
    command = [*map(str, arguments), "--stages", "1", "--out", str(small)]
    for name in ("unlink", "replace"):  # before it has cleared away, and before the result has its name
        with monkeypatch.context() as patch:
            if name == "unlink":
                patch.setattr(pruning_stages, "_clear", kill)
            else:
                patch.setattr(pruning_stages, "_move", kill)
                patch.setattr(pruning_stages, "_train", None)  # is not done again
            assert main(command) == 130
        assert not small.exists()
    assert main(command) == 0
    assert "trained for 4 steps" in capsys.readouterr().out
    assert load_checkpoint(small).step == 100 + STEPS
    assert not list(tmp_path.glob("small.ckpt.stages/**/*.ckpt"))


def test_other_settings_are_refused_between_stages_too(arguments, yamls, tmp_path, monkeypatch, capsys):
    """What a stage's own checkpoint tells is gone when the next stage begins."""
    monkeypatch.setattr(pruning_stages.Pretraining, "run", lambda training: 143)
    out = [*map(str, arguments), "--out", str(tmp_path / "small.ckpt")]
    assert main(out) == 143
    for changes, word in (
        ({"datarc": {"train_batch_size": 3}}, "batch of a step '4 utterances', now '6 utterances'"),
        ({"datarc": {"sequence_length": 50}}, "sequence_length 40, now 50"),
        ({"datarc": {"max_timestep": 100}}, "training data '20 utterances"),
        ({"runner": {"gradient_clipping": 0.5}}, "gradient_clipping 10.0, now 0.5"),
    ):
        capsys.readouterr()
        assert main([*out, *yamls(**changes)[2:]]) == 2
        assert f"was begun with {word}" in capsys.readouterr().err
    place = out.index("--data") + 1
    out[place] = str(shutil.copytree(out[place], tmp_path / "moved"))
    assert main(out) == 143  # the data is known by its content
    plan = tmp_path / "small.ckpt.stages" / "compression.yaml"
    noted = yaml.safe_load(plan.read_text())
    heads = {name: noted[name] for name in ("heads", "ffn", "data")}
    plan.write_text(yaml.safe_dump(heads))  # a version's that noted its path alone
    assert main(out) == 2
    assert "was begun with data" in capsys.readouterr().err
    plan.write_text(yaml.safe_dump({name: noted[name] for name in ("heads", "ffn")}))  # an earlier version's
    assert main([*out, *yamls(runner={"gradient_clipping": 0.5})[2:]]) == 143


def test_pretraining_goes_on_from_a_pruned_checkpoint_with_its_settings(
    compressed, prepared, yamls, tmp_path, capsys
):
    source = compressed("heads").path
    arguments = ["-i", str(source), "--data", str(prepared), "-n", str(tmp_path / "exp"), "--device", "cpu"]
    assert main(["pretrain", *arguments, *yamls(runner={"total_steps": 1})[2:]]) == 0
    trained, before = load_checkpoint(tmp_path / "exp/last.ckpt"), load_checkpoint(source)
    assert layer_sizes(trained.config) == layer_sizes(before.config)
    assert "encoder_head_dim: 12" in (tmp_path / "exp/config_model.yaml").read_text()


def test_damaged_weights_of_a_stage_are_told_with_what_to_do(tmp_path):
    """They are nowhere else, so that nobody can copy or fetch them again."""
    path = tmp_path / "out.stages" / "pruned-1.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"PK cut off")
    with pytest.raises(MelHuBERTError, match=r"pruned-1\.ckpt: damaged") as told:
        pruning_stages._read_pruned(path)
    assert str(told.value).endswith(f"; remove {path.parent} and give the same command again")
    assert "fetch" not in str(told.value)
