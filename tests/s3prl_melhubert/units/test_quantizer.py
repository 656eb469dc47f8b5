"""A quantizer travels with its checkpoint, and is refused where it cannot be what was written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s3prl_melhubert import MelHuBERTError, load_checkpoint, save_checkpoint
from s3prl_melhubert.units.figures import UnitFigures, collapse
from s3prl_melhubert.units.nearest import ASSIGN_FRAMES, NearestCentroid, _OnDevice, read_centroids
from s3prl_melhubert.units.quantizer import LOG_MEL, MODEL, TEACHER, Quantizer

WIDTH = 48  # of the layers of the tiny reference model


def centroids(clusters: int = 5, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(clusters, width)).astype(np.float32)


@pytest.fixture
def save(reference, tmp_path):
    """`save(name, quantizer)`: the tiny model's file with it."""
    loaded = load_checkpoint(reference / "tiny-20ms.ckpt")

    def write(name, quantizer):
        path = tmp_path / name
        save_checkpoint(path, loaded.config, loaded.state, None, quantizer=quantizer)
        return path

    return write


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_a_file_of_either_format_holds_layer_centroids_and_origin(name, save):
    written = Quantizer.from_arrays(2, centroids(), MODEL, {"command": "relabel", "seed": 3}, "here")
    read = load_checkpoint(save(name, written)).quantizer
    assert (read.layer, read.source, read.made_by) == (2, MODEL, {"command": "relabel", "seed": 3})
    np.testing.assert_array_equal(read.centroids, written.centroids)
    assert read.digest == written.digest
    other_order = Quantizer.from_arrays(2, centroids(), MODEL, {"seed": 3, "command": "relabel"}, "here")
    assert other_order.digest == written.digest
    assert load_checkpoint(save(name, None)).quantizer is None


def test_units_are_the_numbers_of_the_nearest_centroids(save):
    quantizer = Quantizer.from_arrays(1, centroids(7), MODEL, {}, "here")
    hidden = torch.randn(3, 11, WIDTH, generator=torch.Generator().manual_seed(1))
    units = quantizer(hidden)
    distances = (
        (hidden[:, :, None].double() - torch.from_numpy(quantizer.centroids).double()).square().sum(-1)
    )
    assert units.dtype == torch.int64
    assert torch.equal(units, distances.argmin(-1))
    with pytest.raises(MelHuBERTError, match=r"width 40 found, expected 48, the width of layer 1"):
        quantizer(torch.zeros(1, 2, 40))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 40), np.float32), r"shape \(0, 40\) found, expected a row per cluster"),
        (np.zeros(40, np.float32), r"shape \(40,\) found, expected a row per cluster and columns"),
        (np.zeros((5, 40), np.int64), "not finite floating-point"),
        (np.full((5, 40), np.nan), "not finite floating-point"),
        (np.full((5, 40), 1e300), "not finite floating-point"),
    ],
    ids=["no row", "one axis", "integers", "NaN", "too large for float32"],
)
def test_a_file_of_what_are_no_centroids_is_refused(tmp_path, array, message):
    np.save(tmp_path / "kmeans.npy", array)
    with pytest.raises(MelHuBERTError, match=message):
        read_centroids(tmp_path / "kmeans.npy")


def test_other_devices_number_frames_as_the_cpu_does(monkeypatch):
    """Their form, on this device and a few frames at a time."""
    monkeypatch.setitem(ASSIGN_FRAMES, "cuda", 70)
    nearest = NearestCentroid(centroids(40))
    frames = torch.randn(601, WIDTH, dtype=torch.float64)
    expected = nearest(frames.numpy())
    nearest._on_device = _OnDevice(nearest._weight, nearest._squares, "cpu")
    assert nearest(frames[:0]).shape == (0,)
    for found in (nearest(frames), nearest(frames.numpy())):
        assert found.dtype == expected.dtype == np.int16
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", ["cpu", "other"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_frame_that_is_not_finite_is_near_no_centroid(value, form):
    """It was numbered 0, as if the model had heard that."""
    nearest = NearestCentroid(centroids(7))
    if form == "other":  # the form for other devices, on this one
        nearest._on_device = _OnDevice(nearest._weight, nearest._squares, "cpu")
    frames = torch.randn(600, WIDTH)
    assert len(nearest(frames)) == 600
    frames[570, 3] = value
    with pytest.raises(MelHuBERTError, match="NaN or infinite figures"):
        nearest(frames)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((2, WIDTH), np.float32), "frames are ndarray, expected a tensor"),
        (torch.zeros(2, WIDTH, dtype=torch.long), "frames are torch.int64, expected a tensor"),
        (torch.tensor(1.0), "frames of width none found"),
    ],
    ids=["array", "integers", "a number"],
)
def test_what_are_no_frames_is_named(frames, words):
    with pytest.raises(MelHuBERTError, match=words):
        Quantizer.from_arrays(1, centroids(), MODEL, {}, "here")(frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["centroids"].neg_(), r"not what was written \(its SHA-256 differs\)"),
        (lambda content: content.update(layer=2), r"not what was written"),
        (lambda content: content["made_by"].update(seed=4), r"not what was written"),
        (lambda content: content["centroids"].fill_(float("nan")), r"NaN or infinite"),
        (lambda content: content.update(layer=-1), r"layer -1 found"),
        (lambda content: content.update(centroids=torch.zeros(3)), r"shape \(3,\)"),
        (lambda content: content.update(centroids=[1.0]), r"centroids is a list"),
        (lambda content: content.update(source="x"), r"source 'x' found"),
        (lambda content: content.update(made_by=[3]), r"made_by is \[3\], expected a mapping"),
        (lambda content: content.pop("layer"), r"expected layer, source"),
    ],
)
def test_what_was_not_written_is_refused(change, message, save):
    path = save("a.ckpt", Quantizer.from_arrays(1, centroids(), MODEL, {"seed": 3}, "here"))
    content = torch.load(path, weights_only=False)
    change(content["Quantizer"])
    torch.save(content, path)
    with pytest.raises(MelHuBERTError, match=message) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: Quantizer: ")


def test_centroids_of_another_width_or_layer_are_refused_and_a_teachers_are_not(save):
    for quantizer, message in (
        (Quantizer.from_arrays(1, centroids(width=40), MODEL, {}, "here"), "40 wide found, expected 48"),
        (Quantizer.from_arrays(3, centroids(), MODEL, {}, "here"), "of layer 3, but the model has 2 layers"),
    ):
        with pytest.raises(MelHuBERTError, match=message):
            load_checkpoint(save("a.safetensors", quantizer))
    teachers = Quantizer.from_arrays(9, centroids(width=768), TEACHER, {}, "here")
    assert load_checkpoint(save("a.ckpt", teachers)).quantizer.layer == 9
    with pytest.raises(MelHuBERTError, match="48 wide at layer 0, expected 40"):
        Quantizer.from_arrays(0, centroids(), LOG_MEL, {}, "here")


def test_log_mel_units_last_10_ms_and_a_layers_last_the_models_frame_period():
    log_mel = Quantizer.from_arrays(0, centroids(5, 40), LOG_MEL, {}, "here")
    assert (log_mel.clusters, log_mel.period(10), log_mel.period(20)) == (5, 10, 10)
    layer = Quantizer.from_arrays(1, centroids(1), MODEL, {}, "here")
    assert (layer.clusters, layer.period(10), layer.period(20)) == (1, 10, 20)


def test_units_of_two_quantizers_are_the_same_where_layer_and_centroids_are():
    one = Quantizer.from_arrays(1, centroids(), MODEL, {"seed": 1}, "here")
    assert one.is_as(Quantizer.from_arrays(1, centroids(), MODEL, {"seed": 2}, "here"))
    assert not one.is_as(Quantizer.from_arrays(2, centroids(), MODEL, {"seed": 1}, "here"))
    assert not one.is_as(Quantizer.from_arrays(1, centroids(), TEACHER, {"seed": 1}, "here"))
    assert not one.is_as(Quantizer.from_arrays(1, -centroids(), MODEL, {"seed": 1}, "here"))


def test_weights_are_known_whatever_the_format(save, reference):
    digests = {load_checkpoint(save(name, None)).weights_digest() for name in ("a.ckpt", "a.safetensors")}
    assert digests == {load_checkpoint(reference / "tiny-20ms.ckpt").weights_digest()}
    assert load_checkpoint(reference / "tiny-10ms.ckpt").weights_digest() not in digests


def test_collapsed_runs_and_figures_by_hand():
    units, durations = collapse(np.array([4, 4, 4, 0, 4, 4]))
    assert (units.tolist(), durations.tolist()) == ([4, 0, 4], [3, 1, 2])
    assert collapse(np.array([0]))[1].tolist() == [1]
    figures = UnitFigures(8)
    figures.add(np.array([0, 1, 2, 3] * 5), 4_000)
    figures.add(np.array([0, 1, 2, 3] * 5), 28_000)
    assert (figures.utterances, figures.units, figures.in_use, figures.seconds) == (2, 40, 4, 2.0)
    assert (figures.unit_rate, figures.entropy, figures.bits_per_second) == (20, 2, 40)
    nothing_heard = UnitFigures(3)
    nothing_heard.add(np.array([0, 0, 1]), 0)
    assert (nothing_heard.in_use, nothing_heard.unit_rate) == (2, 0)


def test_units_of_hidden_states_in_half_precision():
    quantizer = Quantizer.from_arrays(1, centroids(), MODEL, {}, "here")
    hidden = torch.randn(2, 7, WIDTH)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(quantizer(hidden.to(dtype)), quantizer(hidden.to(dtype).float()))
