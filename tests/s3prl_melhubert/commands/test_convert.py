"""`melhubert convert`: formats change, weights and statistics do not, and code stays behind."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import shutil
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from s3prl_melhubert import FeatureStats, MelHuBERTError, cli, load_checkpoint, load_model
from s3prl_melhubert.downstream_recipes.experiment_files import STATISTICS

STATS = "librispeech-360h"


class Callback:
    """What somebody's trainer left in a checkpoint."""


@pytest.fixture
def convert(capsys):
    """Run `melhubert convert`: status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = cli.main(["convert", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def with_code(reference, tmp_path) -> Path:
    """A published checkpoint with objects in it that only code can make."""
    content = torch.load(reference / "tiny-20ms.ckpt", weights_only=False)
    content["Args"].callback = Callback()
    content["Args"].expdir = Path("exp/a")
    content["Args"].torch = torch.__version__  # a class of torch's, which is a str, too
    content["Runner"] = OrderedDict(
        best=np.float64(1.5), history=np.arange(3), hook=[Callback(), {2: (1, "a")}], wide=np.ones(2, "g")
    )
    content["model"] = {name: torch.nn.Parameter(tensor) for name, tensor in content["model"].items()}
    torch.save(content, tmp_path / "code.ckpt")
    return tmp_path / "code.ckpt"


def assert_same_weights(path: Path, reference: Path):
    state, expected = load_checkpoint(path).state, load_checkpoint(reference / "tiny-20ms.ckpt").state
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


def test_published_to_ours_to_safetensors_and_back(run_python, convert, reference, tmp_path):
    content = torch.load(reference / "tiny-20ms.ckpt", weights_only=False)
    averages = {"exp_avg": torch.randn(48, 80), "exp_avg_sq": torch.eye(48).to_sparse()}
    content["Optimizer"]["state"] = {0: {"step": torch.tensor(1234.0), **averages}}
    source = tmp_path / "published.ckpt"
    torch.save(content, source)
    done = run_python("-m", "s3prl_melhubert", "convert", source, "ours.ckpt", "--stats", STATS)
    assert done.returncode == 0, done.stderr
    assert "ours.ckpt: " in done.stdout
    assert STATS in done.stdout
    for given, made in (("ours.ckpt", "a.safetensors"), ("a.safetensors", "back.ckpt")):
        status, printed, _ = convert(tmp_path / given, tmp_path / made)
        assert status == 0
        assert f"statistics {STATS}" in printed
    for name in ("ours.ckpt", "a.safetensors", "back.ckpt"):
        assert_same_weights(tmp_path / name, reference)
        again = load_checkpoint(tmp_path / name)
        assert again.stats == FeatureStats.load(STATS)
        assert again.step == 1234
        load_model(tmp_path / name)  # needs no statistics from anywhere else
    rest = load_checkpoint(tmp_path / "ours.ckpt").rest
    assert rest["Args"] == content["Args"]
    assert rest["Optimizer"]["param_groups"] == content["Optimizer"]["param_groups"]
    for key, value in content["Optimizer"]["state"][0].items():
        assert torch.equal(rest["Optimizer"]["state"][0][key].to_dense(), value.to_dense())


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_an_unknown_step_stays_unknown(convert, reference, tmp_path, name):
    content = torch.load(reference / "tiny-20ms.ckpt", weights_only=False)
    del content["Step"]
    torch.save(content, tmp_path / "published.ckpt")
    status, printed, _ = convert(tmp_path / "published.ckpt", tmp_path / name, "--stats", STATS)
    assert status == 0
    assert "unknown step" in printed
    assert load_checkpoint(tmp_path / name).step is None


def test_what_safetensors_cannot_hold_is_told(convert, reference, tmp_path):
    _, printed, _ = convert(reference / "tiny-20ms.ckpt", tmp_path / "a.safetensors", "--stats", STATS)
    assert "left out" in printed
    assert "Optimizer" in printed


def test_a_file_may_be_converted_in_place(convert, reference, tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes((reference / "tiny-20ms.ckpt").read_bytes())
    assert convert(path, path, "--stats", STATS)[0] == 0
    assert load_checkpoint(path).stats == FeatureStats.load(STATS)
    assert_same_weights(path, reference)
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("name", ["plain.ckpt", "plain.safetensors"])
def test_trusted_code_is_left_behind(convert, reference, with_code, tmp_path, name):
    status, _, notes = convert(with_code, tmp_path / name, "--stats", STATS)
    assert status == 2
    assert "--trust" in notes
    assert not (tmp_path / name).exists()

    status, printed, _ = convert(with_code, tmp_path / name, "--stats", STATS, "--trust")
    assert status == 0
    assert "left out" in printed
    assert_same_weights(tmp_path / name, reference)  # read without trust
    if name.endswith(".ckpt"):
        assert "Args.callback" in printed
        assert "Callback" in printed
        assert "Runner.hook.0" in printed
        assert "Runner.wide (numpy.ndarray)" in printed
        rest = load_checkpoint(tmp_path / name).rest
        assert isinstance(rest["Args"], argparse.Namespace)
        assert rest["Args"].frame_period == 20
        assert rest["Args"].expdir == "exp/a"
        assert rest["Args"].torch == str(torch.__version__)
        assert rest["Runner"]["best"] == 1.5
        assert rest["Runner"]["history"].tolist() == [0, 1, 2]
        assert rest["Runner"]["hook"] == [None, {2: (1, "a")}]


def test_code_that_fails_is_one_clear_line(convert, tmp_path):
    class Absent:
        def __reduce__(self):
            return __import__, ("a_module_that_nobody_has",)

    class Fails:
        def __reduce__(self):
            return int, ("no number",)

    for value, word in ((Absent(), "a_module_that_nobody_has"), (Fails(), "no number")):
        (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"model": value}, protocol=2))
        status, _, notes = convert(tmp_path / "a.ckpt", tmp_path / "b.ckpt", "--trust")
        assert status == 2
        assert notes.count("\n") == 1
        assert word in notes


def test_views_are_written_without_what_they_are_views_of(convert, reference, tmp_path):
    content = torch.load(reference / "tiny-20ms.ckpt", weights_only=False)
    flat = torch.cat([tensor.flatten() for tensor in content["model"].values()] + [torch.zeros(10**6)])
    start = 0
    for name, tensor in content["model"].items():
        content["model"][name] = flat[start : start + tensor.numel()].view_as(tensor)
        start += tensor.numel()
    torch.save(content, tmp_path / "flat.ckpt")
    for name in ("a.ckpt", "a.safetensors"):
        assert convert(tmp_path / "flat.ckpt", tmp_path / name, "--stats", STATS)[0] == 0
        assert (tmp_path / name).stat().st_size < 10**6
        assert_same_weights(tmp_path / name, reference)


def test_bad_requests_are_refused(convert, reference, tmp_path):
    source = reference / "tiny-20ms.ckpt"
    broken = torch.load(source, weights_only=False)
    del broken["model"]["final_proj.bias"]
    torch.save(broken, tmp_path / "broken.ckpt")
    for arguments, words in (
        ([source, tmp_path / "a.ckpt"], ["statistics are unknown", "librispeech-360h"]),
        ([source, tmp_path, "--stats", STATS], ["is a folder"]),
        ([source, tmp_path / "absent/a.ckpt", "--stats", STATS], ["cannot be written"]),
        ([tmp_path / "absent.ckpt", tmp_path / "a.ckpt"], ["absent.ckpt: no such"]),
        ([tmp_path / "broken.ckpt", tmp_path / "a.ckpt", "--stats", STATS], ["final_proj.bias"]),
    ):
        status, printed, notes = convert(*arguments)
        assert status == 2
        assert printed == ""
        assert notes.count("\n") == 1
        for word in words:
            assert word in notes
    assert not (tmp_path / "a.ckpt").exists()


@pytest.mark.parametrize("name", ["new.ckpt", "new.safetensors"])
def test_a_full_disk_gets_one_line_and_leaves_the_file_that_was_there(convert, reference, tmp_path, name):
    """A limit of the size of files fails a write as a full disk does, with another number."""
    arguments = reference / "tiny-20ms.ckpt", tmp_path / name, "--stats", STATS
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for there in (False, True):
        if there:
            assert convert(*arguments)[0] == 0
        content = [path.read_bytes() for path in tmp_path.iterdir()]
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        try:
            status, _, told = convert(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        state = "the file that was there is as it was" if there else "nothing was left there"
        (line,) = told.splitlines()
        assert status == 2
        assert line.startswith(
            f"melhubert: {tmp_path / name}: cannot be written (File too large); {state}: make"
        )
        assert line.endswith("make space, and give the same command again")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == content


@pytest.fixture
def fine_tuned(reference, tmp_path):
    """s3prl's upstream after a step of fine-tuning, and the downstream checkpoint that holds it."""
    hubconf = pytest.importorskip("s3prl_melhubert.upstream_expert.hubconf")
    began, settings, path = tmp_path / "began.ckpt", tmp_path / "g.yaml", tmp_path / "dev-best.ckpt"
    shutil.copy(reference / "tiny-20ms.ckpt", began)
    settings.write_text(f"feature_stats: {STATS}\n")
    upstream = hubconf.melhubert_local(str(began), model_config=str(settings))
    torch.stack(upstream([torch.randn(8000)])["hidden_states"]).square().mean().backward()
    torch.optim.SGD(upstream.parameters(), lr=0.1).step()
    args = argparse.Namespace(
        upstream="melhubert_local", upstream_ckpt=str(began), upstream_model_config=str(settings)
    )
    parts = {"Featurizer": {}, "Downstream": {}, "Optimizer": {}, "Step": 12, "Epoch": 0, "Config": {}}
    torch.save({**parts, "Args": args, "Upstream": upstream.state_dict()}, path)
    return SimpleNamespace(upstream=upstream.eval(), began=began, path=path)


def test_a_fine_tuned_upstream_becomes_a_checkpoint(convert, fine_tuned, tmp_path):
    out = tmp_path / "out.ckpt"
    status, told, error = convert(fine_tuned.path, out)
    assert (status, error) == (0, "")
    assert f"statistics {STATS}, unknown step" in told
    assert load_checkpoint(out).config == load_checkpoint(fine_tuned.began).config
    waveform = torch.randn(16_000)
    with torch.no_grad():
        expected = fine_tuned.upstream([waveform])["hidden_states"]
        model, frontend = load_model(out)
        for found, wanted in zip(model(*frontend([waveform])).hidden_states, expected, strict=True):
            torch.testing.assert_close(found, wanted[:, : found.shape[1]], atol=0, rtol=0)
        before, _ = load_model(fine_tuned.began, feature_stats=STATS)
        assert not torch.equal(before(*frontend([waveform])).last_hidden_state, expected[-1])


def test_a_fine_tuned_upstream_needs_the_checkpoint_that_it_was(convert, fine_tuned, tmp_path):
    content = torch.load(fine_tuned.began, weights_only=False)
    content["model"]["final_proj.bias"] += 1
    torch.save(content, fine_tuned.began)
    status, _, error = convert(fine_tuned.path, tmp_path / "out.ckpt")
    assert status == 2
    assert f"did not begin as {fine_tuned.began}, which is another model or was changed" in error
    fine_tuned.began.unlink()
    status, _, error = convert(fine_tuned.path, tmp_path / "out.ckpt")
    assert status == 2
    assert f"from which fine-tuning began, {fine_tuned.began}, which cannot be read; say with -k" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.parametrize("paths", ["absolute", "relative", "as typed"])
def test_a_fine_tuned_upstream_of_a_folder_that_was_moved(convert, fine_tuned, tmp_path, monkeypatch, paths):
    """All that it needs lay in one project folder, which lies elsewhere now."""
    old, new = tmp_path / "old", tmp_path / "elsewhere/new"
    exp = old / "result/downstream/exp"
    exp.mkdir(parents=True)
    (old / "models").mkdir()
    files = {"upstream_ckpt": fine_tuned.began, "upstream_model_config": tmp_path / "g.yaml"}
    content = torch.load(fine_tuned.path, weights_only=False)
    args, typed = content["Args"], {}
    for name, file in files.items():
        where = file.rename(old / "models" / file.name)
        typed[name] = f"models/{file.name}"
        setattr(args, name, typed[name] if paths == "relative" else str(where))
    args.expdir = str(exp) if paths == "absolute" else "result/downstream/exp"
    if paths == "as typed":
        args.paths_as_typed = typed
    torch.save(content, exp / fine_tuned.path.name)
    new.parent.mkdir()
    old.rename(new)
    moved, out = new / "result/downstream/exp" / fine_tuned.path.name, tmp_path / "out.ckpt"
    status, told, _ = convert(moved, out)
    assert status == 0
    for name in files:
        assert f"{getattr(args, name)} is not there any more; {new / typed[name]} is taken" in told
    assert load_checkpoint(out).stats == FeatureStats.load(STATS)

    (new / "models/g.yaml").unlink()
    status, _, error = convert(moved, out)
    assert (status, error.count("\n")) == (2, 1)
    assert f"{args.upstream_model_config}, which may name its log-Mel statistics, are not there" in error
    began = (new / "models/began.ckpt").rename(tmp_path / "began.ckpt")
    status, _, error = convert(moved, out, "--stats", STATS)
    assert (status, error.count("\n")) == (2, 1)
    assert f"{args.upstream_ckpt}, which cannot be read; say with -k where it is now" in error
    assert convert(moved, out, "--stats", STATS, "-k", began)[0] == 0
    assert convert(out, tmp_path / "again.ckpt", "-k", began)[0] == 2


@pytest.mark.parametrize("noted", ["experiment.json", "lr-0.1", "g_2026-11-30-02-47-09.yaml"])
def test_statistics_of_a_fine_tuned_upstream_are_those_that_it_was_trained_with(
    convert, fine_tuned, tmp_path, noted
):
    """The settings of its -g were changed since, and what the experiment's folder keeps of them was not."""
    settings, path, other = tmp_path / "g.yaml", fine_tuned.path, "librispeech-100h"
    if noted.endswith(".yaml"):
        shutil.copy(settings, tmp_path / noted)
        (tmp_path / "g_other.yaml").write_text(f"feature_stats: {other}\n")
    else:
        identity = {STATISTICS: FeatureStats.load(STATS).digest()}
        (tmp_path / "experiment.json").write_text(json.dumps(identity))
        if noted == "lr-0.1":
            (tmp_path / noted).mkdir()
            path = shutil.move(path, tmp_path / noted)
    assert convert(path, tmp_path / "before.ckpt")[0] == 0
    # Where they name none, those of the published checkpoint of this name would be taken.
    began = shutil.copy(fine_tuned.began, tmp_path / "melhubert_20ms_100h_stage1.ckpt")
    for named in (f"feature_stats: {other}\n", "feature_stats: null\n"):
        settings.write_text(named)
        status, _, error = convert(path, tmp_path / "out.ckpt", "-k", began)
        assert (status, error.count("\n")) == (2, 1)
        assert f"{settings}: names other log-Mel statistics than when {path} was trained" in error
    assert not (tmp_path / "out.ckpt").exists()
    assert convert(path, tmp_path / "out.ckpt", "--stats", STATS)[0] == 0


def test_what_a_copy_of_the_settings_names_is_looked_for_where_they_were(
    convert, fine_tuned, tmp_path, monkeypatch
):
    """Other statistics have the same name in the working folder."""
    for folder, name in ((tmp_path, STATS), (tmp_path / "elsewhere", "librispeech-100h")):
        folder.mkdir(exist_ok=True)
        (folder / "stats.yaml").write_text(json.dumps(FeatureStats.load(name).to_mapping()))
    (tmp_path / "g.yaml").write_text("feature_stats: stats.yaml\n")
    exp = tmp_path / "exp"
    exp.mkdir()
    path = shutil.move(fine_tuned.path, exp)
    shutil.copy(tmp_path / "g.yaml", exp / "g_2026-11-30-02-47-09.yaml")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert convert(path, "out.ckpt")[0] == 0
    assert load_checkpoint("out.ckpt").stats == FeatureStats.load(STATS)


def test_of_several_trainings_in_a_folder_the_one_that_made_a_checkpoint_tells_its_statistics(
    convert, fine_tuned, tmp_path
):
    """The first began by mistake with other statistics, and the last ended before it saved anything."""
    settings = tmp_path / "g.yaml"
    shutil.copy(settings, tmp_path / "g_2026-11-30-02-47-09.yaml")
    for date in ("2026-11-30-01-00-00", "2026-11-30-05-00-00"):
        (tmp_path / f"g_{date}.yaml").write_text("feature_stats: librispeech-100h\n")
    saved = datetime(2026, 11, 30, 4).timestamp()
    os.utime(fine_tuned.path, (saved, saved))
    assert convert(fine_tuned.path, tmp_path / "out.ckpt")[0] == 0
    settings.write_text("feature_stats: librispeech-100h\n")
    status, _, error = convert(fine_tuned.path, tmp_path / "other.ckpt")
    assert status == 2
    assert "names other log-Mel statistics than when" in error


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"Upstream": None},
            "its upstream was frozen: give the one that it was trained with (-u 'melhubert_lo",
        ),
        (
            {"Args": argparse.Namespace(upstream="fbank")},
            "its fine-tuned upstream is 'fbank', expected one of",
        ),
        ({"Upstream": {}}, "Upstream: the weights do not fit their settings: "),
    ],
    ids=["frozen", "fbank", "empty"],
)
def test_other_checkpoints_of_downstream_models_are_told_apart(convert, fine_tuned, tmp_path, changes, says):
    content = {**torch.load(fine_tuned.path, weights_only=False), **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, fine_tuned.path)
    status, _, error = convert(fine_tuned.path, tmp_path / "out.ckpt")
    assert status == 2
    assert says in error
    assert error.count("\n") == 1


def test_other_commands_say_how_a_fine_tuned_upstream_is_taken_out(fine_tuned, capsys):
    assert cli.main(["info", str(fine_tuned.path)]) == 2
    assert f"out with: melhubert convert {fine_tuned.path} OUT.ckpt" in capsys.readouterr().err
    with pytest.raises(MelHuBERTError) as raised:
        load_checkpoint(fine_tuned.path)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # as a worker process sends it
