"""The loss: its weights, and that sums over parts of a batch make the loss of the whole."""

import pytest
import torch

from s3prl_melhubert import MelHuBERTConfig, MelHuBERTError
from s3prl_melhubert.loss import NO_LABEL, LossWeights, PredictionLoss


@pytest.fixture
def some_loss(tiny_model):
    """`some_loss(name=value, ...)`: the loss of the same 2 x 30 frames under these settings."""

    def compute(rows: slice = slice(None), **settings) -> PredictionLoss:
        model = tiny_model(**settings)
        torch.manual_seed(1)
        features, mask = torch.randn(2, 30, 80), torch.rand(2, 30) < 0.5
        labels = torch.randint(0, 16, (2, 30))
        features, mask, labels = features[rows], mask[rows], labels[rows]
        return model.prediction_loss(model(features, mask=mask).last_hidden_state, labels, mask)

    return compute


def test_weights_choose_the_frames(some_loss):
    masked, both = some_loss(), some_loss(pred_nomask_weight=0.5, skip_nomask=False)
    unmasked_mean = both.unmasked_loss / both.unmasked_frames
    assert masked.loss.item() == pytest.approx((masked.masked_loss / masked.masked_frames).item())
    assert both.loss.item() == pytest.approx((masked.loss + 0.5 * unmasked_mean).item(), rel=1e-5)
    assert int(masked.masked_frames) + int(masked.unmasked_frames) == 60


def test_frames_of_no_weight_have_no_gradient(some_loss):
    loss = some_loss()
    assert loss.masked_loss.requires_grad
    assert not loss.unmasked_loss.requires_grad


def test_frames_of_no_weight_cannot_make_the_loss_infinite():
    finite, infinite = ([torch.tensor(x) for x in (loss, 1.0, 3.0)] for loss in (6.0, float("inf")))
    for sums, weights in (([*finite, *infinite], (1.0, 0.0)), ([*infinite, *finite], (0.0, 1.0))):
        loss = PredictionLoss(*sums, weights=LossWeights(*weights))
        assert loss.loss == loss.share_of(3, 3) == 2


@pytest.mark.parametrize("settings", [{}, {"pred_nomask_weight": 0.5, "skip_nomask": False}], ids=str)
def test_parts_of_a_batch_add_up_to_its_loss(some_loss, settings):
    whole = some_loss(**settings)
    parts = [some_loss(slice(i, i + 1), **settings) for i in range(2)]
    frames = int(whole.masked_frames), int(whole.unmasked_frames)
    assert sum(part.share_of(*frames) for part in parts).item() == pytest.approx(whole.loss.item(), rel=1e-5)
    total = PredictionLoss.zero(whole.weights)
    for part in parts:
        total += part.detach().on_host()
    assert total.means() == pytest.approx(whole.detach().on_host().means(), rel=1e-5)
    assert total.sums() == pytest.approx(whole.detach().on_host().sums(), rel=1e-5)
    mean = whole.masked_loss / whole.masked_frames
    assert total.means()["masked_loss"] == pytest.approx(mean.item())
    assert total.means()["masked_accuracy"] == pytest.approx(whole.masked_accuracy.item())
    assert total.means()["unmasked_accuracy"] == pytest.approx(whole.unmasked_accuracy.item())


def test_a_kind_of_frames_that_is_skipped_has_no_weight():
    both = {"pred_masked_weight": 2.0, "pred_nomask_weight": 0.5}
    assert LossWeights.of(MelHuBERTConfig(**both, skip_nomask=False)) == (2.0, 0.5)
    assert LossWeights.of(MelHuBERTConfig(**both, skip_nomask=True)) == (2.0, 0.0)
    assert LossWeights.of(MelHuBERTConfig(**both, skip_nomask=False, skip_masked=True)) == (0.0, 0.5)


def test_a_single_frame_of_a_kind_is_its_mean(tiny_model):
    model = tiny_model(pred_nomask_weight=1.0, skip_nomask=False).eval()
    last, labels = torch.randn(1, 2, 48), torch.tensor([[3, 5]])
    masked, unmasked = torch.nn.functional.cross_entropy(
        model.predict(last[0]), labels[0], reduction="none"
    ).tolist()
    loss = model.prediction_loss(last, labels, torch.tensor([[True, False]]))
    assert loss.loss.item() == pytest.approx(masked + unmasked)
    assert loss.share_of(1, 1).item() == pytest.approx(masked + unmasked)
    labels = model.predict(last).argmax(-1)
    loss = model.prediction_loss(last, labels, torch.tensor([[True, False]]))
    assert loss.masked_accuracy == loss.unmasked_accuracy == 1


def test_loss_of_a_model_in_float64_is_as_exact_as_the_model(tiny_model):
    model = tiny_model().double()
    labels, mask = torch.randint(0, 16, (1, 6)), torch.ones(1, 6, dtype=torch.bool)
    last = torch.randn(1, 6, 48, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda last: model.prediction_loss(last, labels, mask).loss, (last,))


def test_no_frames_have_no_mean():
    assert PredictionLoss.zero(LossWeights(1.0, 0.0)).means() == {}


def test_frames_without_a_label_do_not_count(tiny_model):
    model = tiny_model(pred_nomask_weight=0.5, skip_nomask=False).eval()
    features, labels = torch.randn(1, 30, 80), torch.randint(0, 16, (1, 30))
    mask = torch.arange(30)[None] % 2 == 0
    last = model(features, mask=mask).last_hidden_state
    labels[:, 10:] = NO_LABEL
    found = model.prediction_loss(last, labels, mask)
    expected = model.prediction_loss(last[:, :10], labels[:, :10], mask[:, :10])
    assert found.detach().on_host().sums() == pytest.approx(expected.detach().on_host().sums())
    assert int(found.masked_frames) == int(found.unmasked_frames) == 5


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8])
def test_labels_may_be_of_the_type_of_their_files(tiny_model, dtype):
    model = tiny_model().eval()
    labels, mask = torch.randint(0, 16, (1, 30)), torch.rand(1, 30) < 0.5
    last = model(torch.randn(1, 30, 80), mask=mask).last_hidden_state
    assert (
        model.prediction_loss(last, labels.to(dtype), mask).loss
        == model.prediction_loss(last, labels, mask).loss
    )
    with pytest.raises(MelHuBERTError, match="labels: ndarray found, expected a tensor"):
        model.prediction_loss(last, labels.numpy(), mask)
    with pytest.raises(MelHuBERTError, match="mask: None found"):
        model.prediction_loss(last, labels, None)
    for bad in (labels.float(), labels[:, 1:], mask):
        with pytest.raises(MelHuBERTError, match=r"labels: .* expected integers, .*: \(1, 30\)"):
            model.prediction_loss(last, bad, mask)


def test_labels_and_masks_that_cannot_be_are_named(tiny_model):
    model = tiny_model().eval()
    labels, mask = torch.randint(0, 16, (2, 30)), torch.arange(60).view(2, 30) % 2 == 0
    last = model(torch.randn(2, 30, 80), mask=mask).last_hidden_state
    for wrong in (16, 111, -1):
        labels[1, 4] = wrong
        with pytest.raises(MelHuBERTError, match=f"labels: {wrong} found, expected 0 to 15, .* or -100 at"):
            model.prediction_loss(last, labels, mask)
    # What stands at padding is no label.
    model.prediction_loss(last, labels, mask, torch.arange(30) >= torch.tensor([[30], [4]]))
    for bad in (mask.long(), mask[:1], mask[0]):
        with pytest.raises(MelHuBERTError, match=r"^mask: .* bools of shape \(2, 30\)"):
            model.prediction_loss(last, labels, bad)
        with pytest.raises(MelHuBERTError, match=r"^padding_mask: .* bools of shape \(2, 30\)"):
            model.prediction_loss(last, labels, mask, bad)
