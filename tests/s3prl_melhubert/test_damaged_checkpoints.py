"""What a checkpoint file must prove: checksums, sizes, shapes and numbers, each refused in one line."""

from __future__ import annotations

import json
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from s3prl_melhubert import FeatureStats, MelHuBERTError, load_checkpoint, save_checkpoint
from s3prl_melhubert.checkpoint import DownstreamCheckpoint, check_state
from s3prl_melhubert.cli import main
from s3prl_melhubert.support import tensor_files


@pytest.fixture(scope="module")
def files(reference, tmp_path_factory) -> dict[str, Path]:
    """A published checkpoint, one of ours, and the same as .safetensors."""
    folder = tmp_path_factory.mktemp("files")
    loaded = load_checkpoint(reference / "tiny-20ms.ckpt")
    stats = FeatureStats.load("librispeech-360h")
    paths = {"published": reference / "tiny-20ms.ckpt"}
    for name in ("ours.ckpt", "ours.safetensors"):
        save_checkpoint(folder / name, loaded.config, loaded.state, stats)
        paths[name] = folder / name
    return paths


def same(a, b) -> bool:
    return (
        a.config == b.config
        and a.stats == b.stats
        and a.state.keys() == b.state.keys()
        and all(torch.equal(a.state[name], b.state[name]) for name in a.state)
    )


@pytest.mark.parametrize("name", ["published", "ours.ckpt", "ours.safetensors"])
def test_no_flipped_bit_changes_what_is_read(name, files, tmp_path):
    original, content = load_checkpoint(files[name]), files[name].read_bytes()
    choose = random.Random(5)
    refused = 0
    for _ in range(60):
        changed = bytearray(content)
        changed[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        path = tmp_path / files[name].name
        path.write_bytes(changed)
        try:
            read = load_checkpoint(path)
        except MelHuBERTError as error:
            refused += str(path) in str(error)
        else:
            assert same(read, original)
    assert refused > 40  # the others hit what means nothing, such as the padding between two entries


def test_safetensors_of_another_program_need_no_hash(files, tmp_path):
    from safetensors.torch import load_file, save_file

    loaded = load_checkpoint(files["ours.safetensors"])
    metadata = {"Upstream_Config": json.dumps({"melhubert": loaded.config.to_mapping()})}
    save_file(load_file(files["ours.safetensors"]), tmp_path / "theirs.safetensors", metadata)
    theirs = load_checkpoint(tmp_path / "theirs.safetensors")
    assert theirs.stats is None
    assert torch.equal(theirs.state["final_proj.bias"], loaded.state["final_proj.bias"])


def _itself(content):
    content["model"]["again"] = content["model"]


CHANGES = {
    "NaN": (lambda c: c["model"]["final_proj.bias"].fill_(float("nan")), "final_proj.bias holds NaN"),
    "infinite": (lambda c: c["model"]["final_proj.weight"][0].fill_(float("inf")), "final_proj.weight"),
    "integers": (
        lambda c: c["model"].update({"final_proj.bias": torch.ones(32).int()}),
        "int32",
    ),
    "bools": (lambda c: c["model"].update({"final_proj.bias": torch.ones(32, dtype=torch.bool)}), "bool"),
    "complex": (
        lambda c: c["model"].update({"final_proj.bias": torch.ones(32).cfloat()}),
        "complex",
    ),
    "8 bits": (
        lambda c: c["model"].update({"final_proj.bias": torch.ones(32).to(torch.float8_e4m3fn)}),
        "float8",
    ),
    "sparse": (lambda c: c["model"].update({"final_proj.bias": torch.ones(32).to_sparse()}), "sparse"),
    "quantized": (
        lambda c: c["model"].update(
            {"final_proj.bias": torch.quantize_per_tensor(torch.ones(32), 1.0, 0, torch.qint8)}
        ),
        "a sparse, quantized or empty tensor",
    ),
    "expanded": (
        lambda c: c["model"].update({"final_proj.bias": torch.ones(1).expand(2**40)}),
        "more than the file holds",
    ),
    "statistics are a number": (lambda c: c.update(Feature_Stats=5), "expected a mapping"),
    "statistics are text": (lambda c: c.update(Feature_Stats={"mean": "a" * 40, "std": [1] * 40}), "mean"),
    "statistics overflow": (
        lambda c: c.update(Feature_Stats={"mean": [1e99] * 40, "std": [1] * 40}),
        "mean",
    ),
    "statistics nest": (lambda c: c.update(Feature_Stats={"mean": [[]] * 40, "std": [1] * 40}), "mean"),
    "a million layers": (lambda c: c["Upstream_Config"]["hubert"].update(encoder_layers=10**6), "layers"),
    "a giant width": (
        lambda c: c["Upstream_Config"]["hubert"].update(encoder_embed_dim=2**30, encoder_attention_heads=4),
        "encoder_embed_dim|fit|hold",
    ),
    "step is text": (lambda c: c.update(Step="many"), "Step"),
    "step is a bool": (lambda c: c.update(Step=True), "Step is True"),
    "period is another model's": (lambda c: c.update(Frame_Period=10), "Frame_Period is 10 ms, but"),
    "period is a list": (lambda c: c.update(Frame_Period=[20]), "Frame_Period"),
    "holds itself": (_itself, "again"),
    "keys are numbers": (lambda c: c.update(model={1: torch.ones(1)}), "not fit"),
    "state is a list": (lambda c: c.update(model=[1, 2]), "not a MelHuBERT checkpoint"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_wrong_content_is_refused_in_one_line(case, reference, tmp_path):
    change, words = CHANGES[case]
    content = torch.load(reference / "tiny-20ms.ckpt", weights_only=False)
    section = content["Upstream_Config"]
    content["Upstream_Config"] = {"hubert": dict(section.get("hubert") or section["melhubert"])}
    content["model"] = OrderedDict(content["model"])
    change(content)
    path = tmp_path / "bad.ckpt"
    torch.save(content, path)
    with pytest.raises(MelHuBERTError, match=words) as error:
        load_checkpoint(path).build_model()
    message = str(error.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    assert len(message) < 1000


def test_compressed_entry_is_refused_before_it_unfolds(files, tmp_path):
    path = tmp_path / "bomb.ckpt"
    with (
        zipfile.ZipFile(files["ours.ckpt"]) as source,
        zipfile.ZipFile(path, "w", 8) as bomb,
    ):
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry))
        bomb.writestr("archive/data/999", bytes(50_000_000))
    with pytest.raises(MelHuBERTError, match="compressed"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("twice", "two entries of one name"),
        ("comment", "something stands before its entries or after its directory"),
        ("before", "something stands before its entries or after its directory"),
        ("pickle", r"data\.pkl has \d+ bytes"),
    ],
)
def test_archives_of_which_two_readers_could_make_two_things_are_refused(
    files, tmp_path, monkeypatch, change, words
):
    """Python's reader verifies what torch's then reads."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(zipfile.stringFileHeader * (change == "before") + files["ours.ckpt"].read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        if change == "twice":
            archive.writestr(archive.namelist()[0], b"other")
        elif change == "comment":
            archive.comment = b"other"
    if change == "pickle":
        monkeypatch.setattr(tensor_files, "MAX_PICKLE", 100)
    with pytest.raises(MelHuBERTError, match=words):
        load_checkpoint(path)


def test_storage_that_claims_more_than_its_entry_is_refused(tmp_path):
    torch.save({"model": {"a": torch.arange(4.0)}, "Upstream_Config": {"melhubert": {}}}, tmp_path / "a.ckpt")
    path = tmp_path / "claims.ckpt"
    with zipfile.ZipFile(tmp_path / "a.ckpt") as source, zipfile.ZipFile(path, "w") as changed:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                # The number of elements, 4, becomes 2**20, in the storage and in the shape.
                content = content.replace(b"K\x04", b"J" + struct.pack("<i", 2**20))
            changed.writestr(entry.filename, content)
    with pytest.raises(MelHuBERTError, match="damaged"):
        load_checkpoint(path)


def test_bare_pickle_is_refused_without_a_warning_of_torch(tmp_path, recwarn):
    import pickle

    path = tmp_path / "bare.ckpt"
    path.write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(MelHuBERTError, match=r"damaged or not a checkpoint|refused"):
        load_checkpoint(path)
    assert not recwarn.list


@pytest.mark.parametrize("command", ["info", "convert"])
def test_a_million_layers_are_refused_by_every_command(command, reference, tmp_path, capsys):
    content = torch.load(reference / "tiny-20ms.ckpt", weights_only=False)
    (settings,) = content["Upstream_Config"].values()
    settings["encoder_layers"] = 10**6
    path = tmp_path / "tall.ckpt"
    torch.save(content, path)
    more = [str(tmp_path / "out.ckpt"), "--stats", "librispeech-360h"] if command == "convert" else []
    assert main([command, str(path), *more]) == 2
    assert "tensors of 2 layers" in capsys.readouterr().err


def test_what_is_no_tensor_among_weights_is_named():
    with pytest.raises(MelHuBERTError, match=r"^a\.ckpt: .* b is a list, not a tensor$"):
        check_state({"b": [1.0]}, {"b": torch.ones(1)}, "a.ckpt")


def test_a_worker_sends_why_it_refused_a_file_without_the_weights():
    error = DownstreamCheckpoint(Path("a.ckpt"), {"Upstream": {"weight": torch.ones(10_000)}})
    sent = pickle.dumps(error)
    assert len(sent) < 1000
    assert str(pickle.loads(sent)) == str(error)
