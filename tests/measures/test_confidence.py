from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from secateur.errors import DataError, InputError
from secateur.measures.answers import Answers
from secateur.measures.confidence import calibration, temperature, tempered


def drawn(images: int = 2000, classes: int = 5, sharp: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their softmax: perfectly calibrated at sharpness 1."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    return sharp * logits, labels


def test_the_errors_are_those_of_torchmetrics() -> None:
    logits, labels = drawn(sharp=2.0)
    found = calibration(Answers.of(logits, labels))
    for norm, value in (("l1", found.ece), ("max", found.mce)):
        expected = multiclass_calibration_error(logits.softmax(dim=1), labels, 5, n_bins=15, norm=norm)
        assert value == pytest.approx(float(expected), abs=1e-6)


def test_likelihood_and_brier_by_hand() -> None:
    logits = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    found = calibration(Answers.of(logits, torch.tensor([0, 0])), bins=2)
    assert found.nll == pytest.approx(-(torch.tensor([0.8, 0.4]).log().mean().item()))
    assert found.brier == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)
    assert [(b.number, round(b.confidence, 6), b.accuracy) for b in found.bins] == [(2, 0.7, 0.5)]
    assert found.ece == pytest.approx(0.2)


def test_temperature_finds_what_the_logits_were_sharpened_by() -> None:
    logits, labels = drawn(images=20_000, sharp=3.0)
    assert temperature(logits, labels) == pytest.approx(3.0, rel=0.04)
    scaled, hot = tempered(logits, labels)
    assert hot == pytest.approx(3.0, rel=0.04)
    before, after = (calibration(each) for each in (Answers.of(logits, labels), scaled))
    assert after.ece < 0.02 < 0.1 < before.ece
    assert torch.equal(scaled.predictions, logits.argmax(dim=1))


def test_an_image_is_scaled_by_what_the_others_ask_for() -> None:
    logits, labels = drawn(images=400)
    labels[1::2] = logits[1::2].argmax(dim=1)  # odd images are always right: they ask for the coldest scale
    scaled, _ = tempered(logits, labels)
    even = (logits[0::2].double() / temperature(logits[1::2], labels[1::2])).softmax(dim=1).max(dim=1).values
    assert torch.allclose(scaled.confidence[0::2], even)


@pytest.mark.parametrize(
    ("outputs", "labels", "options", "words"),
    [
        (torch.zeros(2, 3, 4), None, {}, r"\[images, classes\]"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), {}, "labels from 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), {}, "integers"),
        (torch.full((2, 3), torch.nan), None, {}, "finite"),
        (torch.full((2, 4), 0.25), None, {}, "probabilities=True"),
        (torch.randn(2, 4), None, {"probabilities": True}, "sum to 1"),
    ],
)
def test_what_is_no_classification_is_refused(outputs, labels, options, words) -> None:
    with pytest.raises(InputError, match=words):
        Answers.of(outputs, labels, **options)


def test_probabilities_give_the_answers_of_their_logits() -> None:
    logits, labels = drawn(images=50)
    ours, theirs = Answers.of(logits, labels), Answers.of(logits.softmax(1), labels, probabilities=True)
    assert torch.equal(ours.predictions, theirs.predictions)
    assert torch.allclose(ours.nll, theirs.nll, atol=1e-5)
    assert theirs.energy.isnan().all()


def test_no_image_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="empty"):
        Answers.joined([])
