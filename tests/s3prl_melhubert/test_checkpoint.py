"""Checkpoints: what is read and written, where statistics come from, and what is refused."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from s3prl_melhubert import (
    FeatureStats,
    MelHuBERTError,
    checkpoint,
    load_checkpoint,
    load_model,
    published,
    save_checkpoint,
)
from s3prl_melhubert.support import files
from s3prl_melhubert.support.tensor_files import write_safetensors


@pytest.fixture
def loaded(reference):
    return load_checkpoint(reference / "tiny-20ms.ckpt")


@pytest.fixture
def stats():
    return FeatureStats.load("librispeech-360h")


def published_dict(reference) -> dict:
    return torch.load(reference / "tiny-20ms.ckpt", weights_only=False)


def message_of(function, *arguments, **keywords) -> str:
    """The error's message, which must be one line."""
    with pytest.raises(MelHuBERTError) as error:
        function(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_published_checkpoint_is_read(loaded):
    assert loaded.step == 1234
    assert loaded.frame_period == 20
    assert loaded.config.encoder_embed_dim == 48
    assert loaded.stats is None
    assert loaded.rest["Args"].frame_period == 20
    assert loaded.rest["Optimizer"]["param_groups"][0]["lr"] == 1e-4


@pytest.mark.parametrize("name", ["ours.ckpt", "ours.safetensors"])
def test_ours_survive_a_round_trip(tmp_path, loaded, stats, name):
    save_checkpoint(tmp_path / name, loaded.config, loaded.state, stats, loaded.step, loaded.rest)
    again = load_checkpoint(tmp_path / name)
    assert again.config == loaded.config
    assert again.stats == stats
    assert again.step == 1234
    assert list(again.state) == list(loaded.state) or name.endswith("safetensors")
    assert all(torch.equal(again.state[key], tensor) for key, tensor in loaded.state.items())
    if name.endswith(".ckpt"):
        assert again.rest["Optimizer"]["param_groups"] == loaded.rest["Optimizer"]["param_groups"]
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no temporary file stays


def test_published_scripts_find_their_keys_in_ours(tmp_path, loaded, stats):
    save_checkpoint(tmp_path / "ours.ckpt", loaded.config, loaded.state, stats, 5)
    content = torch.load(tmp_path / "ours.ckpt", weights_only=False)
    assert {"Optimizer", "Step", "Args", "Runner", "model", "Upstream_Config"} <= set(content)
    assert content["Upstream_Config"]["melhubert"]["attention_type"] == "original"
    assert content["Frame_Period"] == 20
    assert len(content["Feature_Stats"]["mean"]) == 40


def test_old_name_of_the_settings_is_read(tmp_path, reference):
    content = published_dict(reference)
    content["Upstream_Config"] = {"hubert": content["Upstream_Config"]["melhubert"]}
    torch.save(content, tmp_path / "old.ckpt")
    assert load_checkpoint(tmp_path / "old.ckpt").config.encoder_layers == 2


def test_unknown_setting_of_a_checkpoint_warns_and_is_read(tmp_path, reference):
    content = published_dict(reference)
    content["Upstream_Config"]["melhubert"]["teacher"] = "none"
    torch.save(content, tmp_path / "newer.ckpt")
    with pytest.warns(UserWarning, match=r"newer\.ckpt.*teacher"):
        load_checkpoint(tmp_path / "newer.ckpt").build_model()


def test_a_failed_write_leaves_the_old_file(tmp_path, loaded, stats):
    file = tmp_path / "ours.ckpt"
    save_checkpoint(file, loaded.config, loaded.state, stats, 5)
    before = file.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(file, loaded.config, loaded.state, stats, 6, {"Optimizer": lambda: None})
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["ours.ckpt"]


@pytest.mark.parametrize("name", ["ours.ckpt", "ours.safetensors"])
def test_a_checkpoint_has_the_permissions_of_any_new_file(tmp_path, loaded, stats, name):
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / name, loaded.config, loaded.state, stats)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_safetensors_are_written_into_the_file_that_is_there(tmp_path):
    """So the system itself says that the disk is full, and the file keeps its lock."""
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        write_safetensors(tmp_path / "full", {"a": torch.zeros(10_000)}, {})
    assert error.value.errno == errno.ENOSPC


def test_safetensors_hold_every_tensor(tmp_path):
    from safetensors.torch import load_file

    state = {
        "h": torch.arange(3).half(),
        "b": torch.arange(6).bfloat16().reshape(2, 3),
        "none": torch.empty(0, 4),
    }
    state |= {"d": torch.tensor(1.5, dtype=torch.float64), "ü": torch.arange(12.0).reshape(3, 4).T}
    state["as d"] = state["d"].view(1)  # in the same memory
    write_safetensors(tmp_path / "a.safetensors", state, {"said": "ü"})
    read = load_file(tmp_path / "a.safetensors")
    assert set(read) == set(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_a_folder_that_is_absent_is_named(tmp_path, loaded, stats):
    message = message_of(save_checkpoint, tmp_path / "no" / "x.ckpt", loaded.config, loaded.state, stats)
    assert str(tmp_path / "no" / "x.ckpt") in message
    assert "cannot be written" in message


class LeavesAFile:
    """A pickle of this creates the file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle"])
def test_malicious_pickle_does_not_run(tmp_path, how):
    trap, file = tmp_path / "trap", tmp_path / "evil.ckpt"
    content = {"model": LeavesAFile(trap), "Upstream_Config": {"melhubert": {}}}
    if how == "plain pickle":
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "zip")
    message = message_of(load_checkpoint, file)
    assert not trap.exists()
    for word in (str(file), "refused", "melhubert convert --trust"):
        assert word in message
    assert "system" in message
    torch.load(file, weights_only=False) if how != "plain pickle" else pickle.loads(file.read_bytes())
    assert trap.exists()  # the trap works: it is the reading above that did not spring it


@pytest.mark.parametrize("allowed_before", ["", "torch.serialization.add_safe_globals([Namespace]);"])
def test_the_allow_list_is_left_as_it_was(tmp_path, reference, run_python, allowed_before):
    """Reading a checkpoint must not teach torch to accept more elsewhere in the program, nor less."""
    code = (
        "import torch, sys; from argparse import Namespace; from s3prl_melhubert import load_checkpoint;"
        f"{allowed_before}"
        "before = set(torch.serialization.get_safe_globals()); load_checkpoint(sys.argv[1]);"
        "assert before == set(torch.serialization.get_safe_globals())"
    )
    result = run_python("-c", code, reference / "tiny-20ms.ckpt")
    assert result.returncode == 0, result.stderr


def test_threads_may_read_at_once(reference):
    allowed = set(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda _: load_checkpoint(reference / "tiny-20ms.ckpt").step, range(100)))
    assert read == [1234] * 100
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.999])
@pytest.mark.parametrize("name", ["ours.ckpt", "ours.safetensors"])
def test_truncated_file_is_named(tmp_path, loaded, stats, name, share):
    file = tmp_path / name
    save_checkpoint(file, loaded.config, loaded.state, stats)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    message = message_of(load_checkpoint, file)
    for word in (str(file), "damaged", "again"):
        assert word in message


@pytest.mark.parametrize(
    "content",
    [
        {"cfg": {"_name": "hubert"}, "model": {"a": torch.ones(2)}},
        {"Upstream_Config": {"transformer": {}}, "model": {"a": torch.ones(2)}},
        {"Upstream_Config": {"melhubert": {}}},
        torch.ones(3),
        [1, 2],
    ],
    ids=["fairseq", "other upstream", "no weights", "tensor", "list"],
)
def test_file_of_another_model_is_named(tmp_path, content):
    file = tmp_path / "other.ckpt"
    torch.save(content, file)
    message = message_of(load_checkpoint, file)
    for word in (str(file), "not a MelHuBERT checkpoint", "Upstream_Config"):
        assert word in message


def test_safetensors_of_another_model_is_named(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    assert "not a MelHuBERT checkpoint" in message_of(load_checkpoint, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("encoder.layers.1.fc1.bias"), ["encoder.layers.1.fc1.bias is missing"]),
        (
            lambda state: state.update({"final_proj.weight": torch.ones(3, 3)}),
            ["final_proj.weight has shape (3, 3), expected (32, 48)"],
        ),
        (lambda state: state.update(extra=torch.ones(1)), ["extra is not a tensor of this model"]),
        (lambda state: state.update({"final_proj.bias": 3}), ["final_proj.bias is a int"]),
        (lambda state: state.clear(), ["pre_extract_proj.weight is missing", "more"]),
    ],
    ids=["missing", "misshapen", "unknown", "no tensor", "empty"],
)
def test_bad_tensor_is_named_with_its_file(tmp_path, reference, change, words):
    content = published_dict(reference)
    change(content["model"])
    torch.save(content, tmp_path / "bad.ckpt")
    message = message_of(lambda: load_checkpoint(tmp_path / "bad.ckpt").build_model())
    for word in [str(tmp_path / "bad.ckpt"), *words]:
        assert word in message


def test_contradicting_frame_period_is_named(tmp_path, reference):
    content = published_dict(reference)
    content["Frame_Period"] = 10
    torch.save(content, tmp_path / "bad.ckpt")
    message = message_of(load_checkpoint, tmp_path / "bad.ckpt")
    assert "Frame_Period is 10 ms" in message
    assert "20 ms" in message


def test_a_folder_without_one_file_of_weights_tells_what_to_do(tmp_path):
    assert "is a folder without model.safetensors" in message_of(load_checkpoint, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    message = message_of(load_checkpoint, tmp_path)
    for word in (str(tmp_path), "in several files", "max_shard_size"):
        assert word in message


def test_absent_checkpoint_tells_what_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = message_of(load_checkpoint, "nowhere/model.ckpt")
    assert f"looked for {tmp_path.resolve()}/nowhere/model.ckpt" in message
    assert "is a folder" in message_of(load_checkpoint, tmp_path)


class TestStatistics:
    """The first place that has them wins: file, caller, configuration, published table."""

    ours, callers, configured = (f"librispeech-{hours}h" for hours in (100, 360, 960))

    def test_the_file_wins(self, loaded):
        loaded.stats = FeatureStats.load(self.ours)
        with pytest.warns(UserWarning, match=r"trained with.*ignores.*librispeech-360h"):
            found = checkpoint.resolve_stats(loaded, self.callers, self.configured, self.configured)
        assert found == FeatureStats.load(self.ours)

    def test_no_warning_where_both_agree(self, loaded):
        loaded.stats = FeatureStats.load(self.ours)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            checkpoint.resolve_stats(loaded, self.ours)

    def test_then_the_caller(self, loaded):
        found = checkpoint.resolve_stats(loaded, self.callers, self.configured, self.ours)
        assert found == FeatureStats.load(self.callers)

    def test_then_the_configuration(self, loaded):
        found = checkpoint.resolve_stats(loaded, None, self.configured, self.ours)
        assert found == FeatureStats.load(self.configured)

    def test_then_the_entry(self, loaded):
        assert checkpoint.resolve_stats(loaded, entry_stats=self.ours) == FeatureStats.load(self.ours)

    @pytest.mark.parametrize(
        "name", ["melhubert_20ms_100h_stage1.ckpt", "abc.1ppz5w5eTGOL81QjYqwxRwFFmq-hqInD6"]
    )
    def test_then_the_table_by_name(self, tmp_path, reference, name):
        shutil.copy(reference / "tiny-20ms.ckpt", tmp_path / name)
        found = checkpoint.resolve_stats(load_checkpoint(tmp_path / name))
        assert found == FeatureStats.load("librispeech-100h")

    def test_then_the_table_by_hash(self, tmp_path, reference, monkeypatch):
        digest = files.sha256_of(reference / "tiny-20ms.ckpt")
        entry = published.PublishedCheckpoint("x", "y" * 33, 20, "librispeech-960h", digest)
        monkeypatch.setitem(published.PUBLISHED, "x", entry)
        found = checkpoint.resolve_stats(load_checkpoint(reference / "tiny-20ms.ckpt"))
        assert found == FeatureStats.load("librispeech-960h")

    def test_from_nowhere_is_an_error_that_says_all_this(self, reference):
        message = message_of(load_model, reference / "tiny-20ms.ckpt")
        for word in (
            "tiny-20ms.ckpt",
            "feature_stats=",
            "--stats",
            "-g YAML",
            "published",
            "librispeech-960h",
        ):
            assert word in message


def test_readers_never_see_half_a_file(tmp_path, loaded, stats):
    """A writer that is killed at any moment leaves a file that can be read."""
    file = tmp_path / "ours.ckpt"
    save_checkpoint(file, loaded.config, loaded.state, stats, 0)
    code = f"""
import sys
from s3prl_melhubert import load_checkpoint, save_checkpoint
loaded = load_checkpoint({str(file)!r})
step = 1
while True:
    save_checkpoint({str(file)!r}, loaded.config, loaded.state, loaded.stats, step)
    if step == 1:
        print("ready", flush=True)
    step += 1
"""
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        writer.stdout.readline()
        seen: set[int | None] = set()  # On a busy machine, the writer may stand still for a while.
        loads = 0
        while loads < 50 or len(seen) < 5:
            assert writer.poll() is None
            seen.add(load_checkpoint(file).step)
            loads += 1
    finally:
        writer.kill()
        writer.wait()
    assert load_checkpoint(file).step >= max(seen)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("step", [np.int64(5), torch.tensor(5)])
def test_what_is_written_can_be_loaded(tmp_path, loaded, stats, name, step):
    for given in (stats, "librispeech-360h", stats.to_mapping()):
        save_checkpoint(tmp_path / name, loaded.config, loaded.state, given, step)
        read = load_checkpoint(tmp_path / name)
        assert (read.step, read.stats) == (5, stats)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_what_could_not_be_loaded_is_not_written(tmp_path, loaded, stats, name):
    def refusal(state=loaded.state, **keywords):
        message = message_of(save_checkpoint, tmp_path / name, loaded.config, state, stats, **keywords)
        assert message.startswith(str(tmp_path / name))
        assert not list(tmp_path.iterdir())
        return message

    for step in ("5", 5.0, torch.tensor(5.0)):
        assert "expected a whole number of steps" in refusal(step=step)
    bias = torch.full_like(loaded.state["final_proj.bias"], float("nan"))
    message = refusal({**loaded.state, "final_proj.bias": bias})
    assert "not written: final_proj.bias holds NaN" in message
    wrapped = {f"module.{key}": value for key, value in loaded.state.items()}
    assert "the weights do not fit their settings" in refusal(wrapped)
    if name.endswith(".ckpt"):  # Another format leaves the rest out.
        assert "numpy" in refusal(rest={"extra": np.arange(3)})


def test_device_that_does_not_exist_is_named(reference):
    with pytest.raises(MelHuBERTError, match="device 'cuba': unknown to torch"):
        load_model(reference / "tiny-20ms.ckpt", "librispeech-360h", device="cuba")
