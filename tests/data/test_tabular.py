"""Tables are data sets like any other: split, normalised by feature, with names."""

from __future__ import annotations

from functools import partial

import pytest
import tiny
import torch
from torch.nn import functional as F
from torch.optim import Adam

import secateur
from secateur.building import load_data
from secateur.data import load
from secateur.errors import InputError


@pytest.mark.parametrize(
    ("name", "features", "classes", "samples"),
    [("breast_cancer", 30, 2, 569), ("wine", 13, 3, 178), ("diabetes", 10, 2, 442)],
)
def test_tables_of_scikit_learn(name: str, features: int, classes: int, samples: int) -> None:
    data = load(name, validation=0.2, batch_size=32)
    assert data.shape == (features, 1, 1)
    assert data.classes == classes == len(data.class_names or ())
    assert len(set(data.feature_names or ())) == features
    assert data.validation is not None
    assert data.train.samples + data.validation.samples + data.test.samples == samples
    inputs = torch.cat([x for x, _ in load(name, validation=0).train])
    assert inputs.shape[1:] == (features, 1, 1)
    torch.testing.assert_close(inputs.mean(0).flatten(), torch.zeros(features), atol=1e-4, rtol=0)
    torch.testing.assert_close(inputs.std(0, correction=0).flatten(), torch.ones(features), atol=1e-3, rtol=0)
    shares = [torch.bincount(torch.cat([y for _, y in part]), minlength=classes) for part in (data.train, data.test)]
    for a, b in zip(*(share / share.sum() for share in shares), strict=True):
        assert float(a) == pytest.approx(float(b), abs=0.12 if name == "diabetes" else 0.04)


def test_a_table_is_the_same_whatever_the_seed_of_its_split() -> None:
    first, second = (load("wine", seed=seed) for seed in (0, 1))
    assert torch.equal(first.test.images, second.test.images)
    assert not torch.equal(first.train.images, second.train.images)
    assert first.mean == second.mean


def test_the_toy_is_the_papers() -> None:
    data = load("toy", validation=0, batch_size=1000)
    assert data.numbers
    assert (data.train.samples, data.test.samples) == (1000, 1000)
    x, y = data.test.batch(0)
    x = x.flatten(1)
    assert x.abs().max() <= 1
    assert x.std() == pytest.approx(3**-0.5, abs=0.02)
    expected = torch.stack([3 * torch.sin((x[:, 0] - x[:, 1]) ** 2), (x[:, 2] + x[:, 3]) ** 3], dim=1)
    torch.testing.assert_close(y, expected)
    assert y.var(0).tolist() == pytest.approx([1.13, 2.3], rel=0.15)


def test_fit_learns_the_toy_with_a_loss_for_numbers() -> None:
    data = load("toy", batch_size=300)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    history = secateur.fit(net, data, epochs=4, optimizer=partial(Adam, lr=0.05), loss=F.l1_loss, progress=False)
    assert history.rows[-1].val_loss < history.rows[0].train_loss
    assert history.rows[-1].val_accuracy is None


def test_a_table_is_not_augmented() -> None:
    with pytest.raises(InputError, match="Got 'flip' for wine, a table"):
        load("wine", augment="flip")


def test_a_recipe_needs_classes() -> None:
    with pytest.raises(InputError, match="The targets of 'toy' are numbers; train on it with"):
        load_data(tiny.recipe(data__name="toy", data__limit=None), torch.device("cpu"))
