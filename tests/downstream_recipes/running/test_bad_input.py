"""Bad input is named in a line, before any training."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.running.corpora_file import read_corpora
from s3prl_melhubert.downstream_recipes.running.options import read_rates
from s3prl_melhubert.errors import MelHuBERTError


def a_missing_file(root: Path, voxceleb: Path) -> str:
    path = next(voxceleb.glob("dev/wav/*/*/*.wav"))
    path.unlink()
    return "/".join(path.parts[-3:])


def an_unreadable_flac(root: Path, voxceleb: Path) -> str:
    path = next(root.glob("dev-clean/*/*/*.flac"))
    path.write_bytes(path.read_bytes()[:200])
    return path.name


def a_word_without_pronunciation(root: Path, voxceleb: Path) -> str:
    path = next(root.glob("train-clean-100/*/*/*.trans.txt"))
    path.write_text(path.read_text().replace("BARKED", "ABRACADABRA"))
    return "ABRACADABRA"


def an_absent_split(root: Path, voxceleb: Path) -> str:
    shutil.rmtree(root / "test-clean")
    return "test-clean"


def another_rate(root: Path, voxceleb: Path) -> str:
    path = next(root.glob("train-clean-100/*/*/*.flac"))
    soundfile.write(path, soundfile.read(path)[0], 44_100)
    return path.name


@pytest.mark.parametrize(
    ("task", "spoil"),
    [
        ("sid", a_missing_file),
        ("asr", an_unreadable_flac),
        ("pr", a_word_without_pronunciation),
        ("pr", an_absent_split),
        ("asr", another_rate),
    ],
)
def test_fault_in_a_corpus_is_named_before_any_training(
    task, spoil, corpus, librispeech, voxceleb, tmp_path, capsys, short
):
    named = spoil(librispeech, voxceleb[0])
    command = ["superb", task, *corpus[task], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
    assert main(command) == 2
    assert named in capsys.readouterr().err
    assert not list((tmp_path / "EXP").glob("*.ckpt"))
    assert not (tmp_path / "EXP/experiment.json").exists()  # mended, the same folder serves


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["-u", "fbnak"], "did you mean fbank"),
        (["-u", "melhubert_local", "-k", "nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["-u", "fbank", "--steps", "0"], "--steps 0"),
        (["-u", "fbank", "--device", "tpu"], "device 'tpu'"),
        (["-u", "fbank", "-o", "lr=1"], "-o lr=1"),
        (["-u", "fbank", "-o", "args.upstream=mel"], "args.upstream: is set by -u"),
        (["-u", "fbank", "-o", "config.runner.eval_step=20"], "eval_step 20 exceeds the 2 steps"),
        (["-u", "fbank", "-o", "config.runner.save_step=20"], "save_step 20 exceeds the 2 steps"),
        (["-u", "fbank", "-o", "config.nope.x=1"], "config.nope.x: s3prl reads no such section"),
        (["-u", "fbank", "-o", "config.downstream_expert.corpus.path=b"], "from --librispeech, --lexicon"),
        (["-u", "fbank", "-o", "config.downstream_expert.corpus={'path': 'b'}"], "corpus.path: is set by"),
        (["-u", "fbank", "-o", "config.downstream_expert.corpus.num_workers=7"], "is set by --workers"),
        (["-u", "fbank", "--lr", "1,2", "-o", "config.optimizer.lr=3"], "optimizer.lr: is set by --lr"),
        (["-u", "fbank", "-o", "config.runner.total_steps=9"], "total_steps: is set by --steps"),
        (["-u", "fbank", "--seed", "-1"], "--seed -1: expected 0 to 4294967295"),
        (["-u", "fbank", "--seed", "99999999999"], "--seed 99999999999: expected 0 to"),
        (["-u", "fbank", "--workers", "-1"], "--workers -1: expected 0"),
        (
            ["-u", "fbank", "-o", "config.optimizer.lr=float('nan')"],
            "optimizer.lr=nan: expected a number above",
        ),
        (["-u", "fbank", "-p", "a=b"], "a=b"),
        (["-u", "fbank", "-p", "EXP "], "cannot pass a path that ends in a space"),
        (["-u", "fbank", "-k", "/nothere.ckpt"], "-k /nothere.ckpt: no such file"),
        (["-u", "fbank", "-k", "nothere.pt"], "-k nothere.pt: no such file"),
        (["-u", "fbank", "-g", "nothere.yaml"], "-g nothere.yaml: no such file"),
        (["-u", "fbank", "-o", "config.runner.log_step=0"], "log_step=0: expected a number above zero"),
        (["-u", "fbank", "-o", "config.runner.eval_dataloaders=['test']"], "a list with dev in it"),
        (
            ["-u", "fbank", "-o", "config.runner.eval_dataloaders=['dev', 'tets']"],
            "runner.eval_dataloaders tets: ctc has no such split",
        ),
        (["-u", "fbank", "--precision", "bf16"], "-u fbank is no MelHuBERT"),
        (
            ["-u", "fbank", "-o", "args.upstream_feature_selection=hidden_state_9"],
            "selection=hidden_state_9: -u fbank gives no such output (did you mean ",
        ),
        (
            ["-u", "fbank", "-o", "args.upstream_layer_selection=7"],
            "upstream_layer_selection=7: hidden_states of -u fbank holds one layer; leave it out",
        ),
    ],
)
def test_wrong_argument_is_named(changed, said, corpus, tmp_path, capsys, monkeypatch, short):
    monkeypatch.chdir(tmp_path)
    assert main(["superb", "pr", *corpus["pr"], "-p", "EXP", *short(), *changed]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "EXP/experiment.json").exists()  # with the right argument, the same folder serves


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (
            "args.upstream_feature_selection=hidden_state_3",
            "hidden_state_3: -u melhubert_local gives no such",
        ),
        (
            "args.upstream_layer_selection=3",
            "hidden_states of -u melhubert_local holds 3 layers; expected 0 to 2",
        ),
        ("args.upstream_layer_selection=-4", "upstream_layer_selection=-4: hidden_states"),
        ("args.upstream_layer_selection='1'", "upstream_layer_selection='1': hidden_states"),
        (
            "args.upstream_feature_selection=last_hidden_state,,args.upstream_layer_selection=1",
            "last_hidden_state of -u melhubert_local holds one layer; leave it out",
        ),
        ("args.upstream_feature_selection=hidden_state_2", ""),
        ("args.upstream_layer_selection=-3", ""),
    ],
)
def test_layer_that_the_upstream_lacks_is_refused_by_the_check(
    chosen, said, corpus, upstream, tmp_path, capsys, short
):
    command = ["superb", "pr", *corpus["pr"], *upstream, "-p", str(tmp_path / "EXP"), *short(), "-o", chosen]
    assert main([*command, "--stage", "check"]) == (2 if said else 0)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ("1e-3,nan", "'1e-3,nan': expected different numbers above zero"),
        ("nan", "'nan': expected different numbers"),
        ("inf", "'inf': expected different numbers"),
        ("0.001,0.00100000001", "learning rates 0.001 and 0.00100000001: agree to six digits"),
    ],
)
def test_learning_rate_that_cannot_be_is_named(rates, said):
    with pytest.raises(MelHuBERTError, match=re.escape(said)):
        read_rates(rates)


def test_learning_rate_of_a_corpora_file_is_finite(corpus, tmp_path):
    (tmp_path / "corpora.yaml").write_text(f"voxceleb: {corpus['sid'][1]}\nsid:\n  lr: [1e-3, .nan]\n")
    with pytest.raises(MelHuBERTError, match=r"sid.*lr.*expected different numbers above zero"):
        read_corpora(tmp_path / "corpora.yaml")


def test_processes_of_a_settings_file_are_not_below_zero(tmp_path, capsys):
    assert main(["superb", "config", "sid", "--workers", "-1", "--out", str(tmp_path / "out")]) == 2
    assert "--workers -1: expected 0" in capsys.readouterr().err


def test_setting_that_is_given_as_an_option_gives_it_may_stand_in_an_override_too(
    corpus, tmp_path, monkeypatch, short
):
    monkeypatch.chdir(tmp_path)
    settings = (
        "config.runner.total_steps=2,,config.downstream_expert.corpus.num_workers=0,,config.optimizer.lr=3"
    )
    command = ["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", "EXP", *short(2), "--stage", "check"]
    assert main([*command, "--lr", "3", "-o", settings]) == 0


def test_folder_of_another_experiment_is_refused(corpus, tmp_path, capsys, short):
    command = ["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
    assert main(command) == 0
    assert main([*command, "--lr", "1e-3"]) == 2
    assert "holds an experiment with --lr [0.01], now [0.001]" in capsys.readouterr().err


def test_checkpoints_of_another_training_are_not_gone_on_from(corpus, upstream, tmp_path, capsys, short):
    """s3prl's own program may have trained in the folder, and notes nothing about whose it is."""
    experiment = tmp_path / "EXP"
    begin = ["superb", "sid", *corpus["sid"], "-p", str(experiment), *short()]
    begin += ["-o", "config.downstream_expert.modelrc.projector_dim=8,,config.optimizer.betas=(0.9, 0.99)"]
    fbank, melhubert = [*begin, "-u", "fbank"], [*begin, *upstream]
    assert main([*fbank, "--stage", "train"]) == 0
    (experiment / "states-2.ckpt").rename(experiment / "dev-best.ckpt")
    for name in ("experiment.json", "training.json"):
        (experiment / name).unlink()
    wave = next(Path(corpus["sid"][1]).glob("dev/wav/*/*/*.wav"))
    away = wave.rename(tmp_path / "away.wav")  # The folder is refused before the corpus is looked at.
    for changed, said in (
        (melhubert, "args.upstream 'fbank', now 'melhubert_local'"),
        ([*fbank, "--lr", "0.05"], "config.optimizer.lr 0.0001, now 0.05"),
    ):
        capsys.readouterr()
        assert main(changed) == 2
        error = capsys.readouterr().err
        assert f"dev-best.ckpt: is of another training than this experiment's ({said}); give" in error
        assert not (experiment / "experiment.json").exists()
    away.rename(wave)
    # Its own command goes on, with another number of processes, too.
    (experiment / "dev-best.ckpt").rename(experiment / "states-2.ckpt")
    assert main([*fbank, "--workers", "1"]) == 0


def test_checkpoint_that_was_trained_on_after_the_end_is_not_tested(corpus, tmp_path, capsys, short):
    experiment = tmp_path / "EXP"
    command = ["superb", "sid", *corpus["sid"], "-u", "fbank", "-p", str(experiment), *short()]
    assert main(command) == 0
    states = experiment / "states-2.ckpt"
    content = torch.load(states, weights_only=True)
    content["Config"]["runner"]["total_steps"] = 100
    torch.save(content, states)
    before = (experiment / "results.json").read_bytes()
    assert main([*command, "--stage", "test"]) == 2
    assert "states-2.ckpt: is of another training" in capsys.readouterr().err
    assert (experiment / "results.json").read_bytes() == before


def test_failure_of_s3prl_is_one_line_and_the_traceback_is_in_the_log(corpus, tmp_path, capsys, short):
    command = ["superb", "pr", *corpus["pr"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
    assert main([*command, "-o", "config.downstream_expert.model.select=NoSuchModel"]) == 2
    assert "NameError: name 'NoSuchModel'" in capsys.readouterr().err.splitlines()[-1]
    assert "Traceback" in (tmp_path / "EXP/log.txt").read_text()
