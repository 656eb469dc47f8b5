"""Any damage to a checkpoint: it is read as what it was, or refused in a line that names the file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import STRANGE, damaged_bytes, damaged_fields, same_or_refused

from s3prl_melhubert import FeatureStats, load_checkpoint, save_checkpoint
from s3prl_melhubert.checkpoint import Checkpoint

# A setting of another name is told and passed over, which is what these tests want many times.
pytestmark = pytest.mark.filterwarnings("ignore:.*ignoring settings that this version does not know")
REFERENCE = Path(__file__).parents[1] / "reference"
NAMES = ("published.ckpt", "ours.ckpt", "ours.safetensors")

STRANGE_TENSORS = [
    torch.zeros(0),
    torch.full((48,), math.nan),
    torch.ones(48, dtype=torch.int64),
    torch.ones(1).expand(2**40),
    torch.ones(3, 3).to_sparse(),
    torch.ones(48, dtype=torch.complex64),
    torch.ones(48, dtype=torch.float64),
]


class Files(dict[str, tuple[bytes, Checkpoint]]):
    """Whole files and what they hold, by their names; Hypothesis prints it with a finding, so it is short."""

    def __repr__(self) -> str:
        return f"Files({', '.join(self)})"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("whole")
    published = load_checkpoint(REFERENCE / "tiny-20ms.ckpt")
    (folder / "published.ckpt").write_bytes((REFERENCE / "tiny-20ms.ckpt").read_bytes())
    stats = FeatureStats.load("librispeech-360h")
    for name in NAMES[1:]:
        save_checkpoint(folder / name, published.config, published.state, stats)
    return Files({name: ((folder / name).read_bytes(), load_checkpoint(folder / name)) for name in NAMES})


def same(a: Checkpoint, b: Checkpoint) -> bool:
    return (
        (a.config, a.stats, a.step) == (b.config, b.stats, b.step)
        and a.state.keys() == b.state.keys()
        and all(torch.equal(a.state[name], b.state[name]) for name in a.state)
    )


def try_bytes(files, folder: Path, data: st.DataObject, name: str) -> None:
    content, whole = files[name]
    path = folder / name
    path.write_bytes(data.draw(damaged_bytes(content)))
    same_or_refused(path, load_checkpoint, lambda read: same(read, whole))


def try_fields(folder: Path, data: st.DataObject) -> None:
    content = torch.load(REFERENCE / "tiny-20ms.ckpt", weights_only=False)
    content = {key: dict(content[key]) for key in ("model", "Upstream_Config")}
    content["Feature_Stats"] = FeatureStats.load("librispeech-360h").to_mapping()
    content |= {"Frame_Period": 20, "Step": 3}
    changed = data.draw(damaged_fields(content, [*STRANGE, *STRANGE_TENSORS]))
    path = folder / "fields.ckpt"
    torch.save(changed, path)
    same_or_refused(path, lambda path: load_checkpoint(path).build_model())


def try_metadata(files, folder: Path, data: st.DataObject) -> None:
    from safetensors.torch import load, save_file

    whole = files["ours.safetensors"][1]
    metadata = {
        "Upstream_Config": {"melhubert": whole.config.to_mapping()},
        "Feature_Stats": whole.stats.to_mapping(),
        "Frame_Period": 20,
        "Step": 3,
    }
    metadata = {key: json.dumps(value) for key, value in data.draw(damaged_fields(metadata)).items()}
    path = folder / "metadata.safetensors"
    save_file(load(files["ours.safetensors"][0]), path, metadata)
    same_or_refused(path, lambda path: load_checkpoint(path).build_model())


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_damaged_bytes(files, tmp_path_factory, name, data):
    try_bytes(files, tmp_path_factory.getbasetemp(), data, name)


@given(data=st.data())
def test_strange_fields(tmp_path_factory, data):
    try_fields(tmp_path_factory.getbasetemp(), data)


@given(data=st.data())
def test_strange_metadata(files, tmp_path_factory, data):
    try_metadata(files, tmp_path_factory.getbasetemp(), data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=700)
@given(data=st.data())
def test_much_damaged_bytes(files, tmp_path_factory, name, data):
    try_bytes(files, tmp_path_factory.getbasetemp(), data, name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=700)
@given(data=st.data())
def test_many_strange_fields(tmp_path_factory, data):
    try_fields(tmp_path_factory.getbasetemp(), data)
