"""Repositories of the Hub: read by name, uploaded, and what is told when that is not possible."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants

from s3prl_melhubert import MelHuBERTError, cli, load_checkpoint, load_model
from s3prl_melhubert.pretrain.data.teacher import Teacher
from s3prl_melhubert.support import huggingface
from s3prl_melhubert.support.huggingface import names_repository, repository_of
from s3prl_melhubert.upstream_expert import hubconf

NAME = "org/melhubert"


@pytest.fixture
def folder(all_exported):
    return all_exported[20].folder


def message_of(call, *args, **kwargs) -> str:
    with pytest.raises(MelHuBERTError) as raised:
        call(*args, **kwargs)
    message = str(raised.value)
    assert "\n" not in message
    return message


def same_weights(model, other) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_model_of_a_repository_is_that_of_the_folder(hub, folder):
    hub.add(NAME, folder)
    model, frontend = load_model(NAME)
    expected, expected_frontend = load_model(folder)
    assert same_weights(model, expected)
    assert torch.equal(frontend.mean, expected_frontend.mean)
    fetched = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET") and "resolve" in line}
    assert fetched == {"model.safetensors", "config.json"}


def test_upstream_reads_a_revision_and_refreshes(hub, all_exported):
    hub.add(NAME, all_exported[20].folder)
    hub.add(NAME, all_exported[10].folder, "ten")
    assert hubconf.melhubert_hf(NAME).get_downsample_rates("PR") == 320
    assert hubconf.melhubert_hf(f"{NAME}@ten").get_downsample_rates("PR") == 160
    by_commit = f"{NAME}@{hub.commit(NAME, 'ten')}"
    assert hubconf.melhubert_hf(ckpt=by_commit, model_config=None, refresh=True)
    assert "needs a repository" in message_of(hubconf.melhubert_hf)
    assert "did you mean" in message_of(hubconf.melhubert_hf, NAME, feature_stat="x")


def test_commands_read_a_repository(hub, all_exported, tmp_path, capsys):
    folder = all_exported[20].folder
    hub.add(NAME, folder, "v1")
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(scale=0.1, size=8000), 16000)
    name, audio = f"{NAME}@v1", str(tmp_path / "a.wav")
    for command in (
        ["info", name],
        ["convert", name, str(tmp_path / "a.ckpt")],
        ["extract", audio, "-c", name, "--out", str(tmp_path / "a.npy")],
        ["units", audio, "-c", name, "--out", str(tmp_path / "a.txt")],
        ["hub", name, "--out", str(tmp_path / "again")],
    ):
        assert cli.main(command) == 0, capsys.readouterr().err
    expected = load_checkpoint(folder).weights_digest()
    assert Teacher(name, 1, data_stats=load_checkpoint(folder).stats, device="cpu").weights == expected
    assert load_checkpoint(tmp_path / "again").weights_digest() == expected
    assert load_checkpoint(tmp_path / "a.ckpt").weights_digest() == expected


def test_cache_serves_without_a_network(hub, folder, monkeypatch):
    hub.add(NAME, folder)
    expected, _ = load_model(NAME)
    before = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(load_model(NAME)[0], expected)
    assert "cannot be fetched again (HF_HUB_OFFLINE is" in message_of(
        hubconf.melhubert_hf, NAME, refresh=True
    )
    assert len(hub.asked) == before
    says = message_of(load_model, "org/another")
    assert "not in the cache" in says
    assert "HF_HUB_OFFLINE is set" in says
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.unplug()
    assert same_weights(load_model(NAME)[0], expected)
    assert "the Hub cannot be reached" in message_of(load_model, "org/another")


def test_a_path_in_a_folder_that_is_here_is_told_with_where_it_was_looked_for(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp").mkdir()
    looked_for = f"no such file here (looked for {tmp_path / 'exp' / 'nothing'})"
    assert looked_for in message_of(load_model, "exp/nothing")
    assert "looked for" not in message_of(load_model, "org/nobody")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert looked_for in message_of(load_model, "exp/nothing")


def test_what_the_hub_lacks_is_one_line(hub, folder, tmp_path):
    (tmp_path / "pickles").mkdir()
    for name in ("config.json", "model.pt"):
        (tmp_path / "pickles" / name).write_bytes((folder / name).read_bytes())
    hub.add("org/pickles", tmp_path / "pickles")
    hub.add(NAME, folder)
    assert "has no model.safetensors" in message_of(load_model, "org/pickles")
    assert "has no revision nothing" in message_of(load_model, f"{NAME}@nothing")
    assert "no such repository" in message_of(load_model, "org/nobody")
    assert "no repository of the Hugging Face Hub" in message_of(hubconf.melhubert_hf, "nobody")


def test_weights_of_transformers_need_the_settings_beside_them(hub, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    plain = tmp_path / "plain"
    plain.mkdir()
    save_file(load_file(folder / "model.safetensors"), plain / "model.safetensors", {"format": "pt"})
    hub.add("org/plain", plain)
    assert "not a MelHuBERT checkpoint" in message_of(load_model, "org/plain")
    (plain / "config.json").write_bytes((folder / "config.json").read_bytes())
    hub.add("org/whole", plain)
    model, frontend = load_model("org/whole")
    expected, expected_frontend = load_model(folder)
    assert same_weights(model, expected)
    assert torch.equal(frontend.std, expected_frontend.std)


def test_damaged_weights_of_a_repository_are_refused(hub, folder, tmp_path):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    hub.add(NAME, tmp_path, only="*.safetensors")
    assert "not what was written" in message_of(load_model, NAME)


def test_files_and_repositories_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names_repository("org/name")
    assert names_repository("org/name@v1.0")
    assert not names_repository("exp/last.ckpt")
    assert not names_repository("/org/name")
    assert not names_repository("a/b/c")
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert not names_repository("org/name")
    assert repository_of("org/name@main") == ("org/name", "main")


def test_pushed_folder_is_what_was_written(hub, folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert cli.main(["hub", str(folder), "--push", "org/new", "--private"]) == 0
    assert capsys.readouterr().out == f"{hub.url}/org/new\n"
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    uploaded = hub.repositories["org/new"]["main"]
    uploaded.pop(".gitattributes", None)
    assert uploaded == written
    assert hub.private["org/new"]
    model, _ = load_model("org/new")
    assert same_weights(model, load_model(folder)[0])


def test_nothing_private_goes_into_a_public_repository(hub, folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert cli.main(["hub", str(folder), "--push", "org/new"]) == 0
    hub.repositories["org/new"]["main"].clear()
    assert cli.main(["hub", str(folder), "--push", "org/new", "--private"]) == 2
    error = capsys.readouterr().err
    assert "org/new: is on the Hub already and public" in error
    assert error.count("\n") == 1
    assert hub.repositories["org/new"]["main"] == {}


@pytest.mark.parametrize(
    "option", [["--stats", "librispeech-360h"], ["--name", "a/b"], ["--results", "."], ["--license", "mit"]]
)
def test_what_a_written_folder_cannot_take_is_refused(hub, folder, capsys, option):
    assert cli.main(["hub", str(folder), "--push", "org/new", *option]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"melhubert: {option[0]}: {folder} is a folder for the Hub already")
    assert error.count("\n") == 1
    assert not hub.asked


def test_a_hub_that_never_answers_is_one_that_cannot_be_reached(hub, folder, monkeypatch):
    hub.add(NAME, folder)
    expected, _ = load_model(NAME)
    monkeypatch.setattr(huggingface, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert same_weights(load_model(NAME)[0], expected)  # by the cache
        assert "the Hub cannot be reached" in message_of(load_model, "org/another")


def test_checkpoint_is_pushed_with_its_name_in_the_card(hub, reference, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    ckpt = str(reference / "tiny-10ms.ckpt")
    assert cli.main(["hub", ckpt, "--stats", "librispeech-360h", "--push", "org/ten"]) == 0
    assert b'from_pretrained("org/ten"' in hub.repositories["org/ten"]["main"]["README.md"]


def test_push_without_login_or_network_is_one_line(hub, folder, capsys, monkeypatch):
    assert cli.main(["hub", str(folder), "--push", "org/new"]) == 2
    error = capsys.readouterr().err
    assert "the Hub answers 401; log in" in error
    assert error.count("\n") == 1
    hub.unplug()
    assert cli.main(["hub", str(folder), "--push", "org/new"]) == 2
    error = capsys.readouterr().err
    assert "cannot be reached" in error
    assert error.count("\n") == 1
    assert cli.main(["hub", str(folder), "--push", "org/new@main"]) == 2
    assert "found with a revision" in capsys.readouterr().err


def test_training_goes_on_from_a_repository(hub, folder, tmp_path, capsys):
    hub.add(NAME, folder, "v1")
    frames, labels = np.random.default_rng(0).normal(size=(90, 40)).astype(np.float32), np.arange(90) % 32
    np.save(tmp_path / "frames.npy", frames)
    np.save(tmp_path / "labels.npy", labels)
    row = f"{tmp_path / 'frames.npy'},{tmp_path / 'labels.npy'},90"
    (tmp_path / "train.csv").write_text(f"file_path,label_path,length\n{row}\n")
    one_step = "runner: {total_steps: 1}\noptimizer: {lr: 0.0}\ndatarc: {num_workers: 0, max_timestep: 0}\n"
    (tmp_path / "runner.yaml").write_text(one_step)
    run = ["pretrain", "-c", str(tmp_path / "runner.yaml"), "--data", str(tmp_path / "train.csv")]
    assert cli.main([*run, "-n", str(tmp_path / "exp"), "-i", f"{NAME}@v1"]) == 0
    output = capsys.readouterr()
    assert f"initial weights: {NAME}@v1" in output.out
    assert f"statistics: those of {NAME}@v1; a published CSV does not say" in output.out
    assert output.err == ""
    model, frontend = load_model(tmp_path / "exp" / "last.ckpt")
    expected, expected_frontend = load_model(folder)
    assert same_weights(model, expected)
    assert torch.equal(frontend.mean, expected_frontend.mean)
    assert cli.main([*run, "-n", str(tmp_path / "exp2"), "-i", f"{NAME}@v2"]) == 2
    assert "the repository has no revision v2" in capsys.readouterr().err
