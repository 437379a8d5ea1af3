"""Adversarial training: the move is the one that the papers say, the rest of the training is left alone."""

from __future__ import annotations

import pytest
import torch
from tinynet import QUIET, batches, net, same_tensors
from torch import nn
from torch.nn import functional as F

from secateur.errors import InputError
from secateur.training import Moments, State, fit
from secateur.training.adversarial import Adversarial


def stated(model, batch):
    state = State(model, epochs=1, steps_per_epoch=1, moments=Moments(), loss_function=F.cross_entropy)
    state.batch = batch
    return state


def test_a_linear_network_is_moved_against_its_margin():
    """Of two classes the loss grows along the sign of a weight vector; the farthest start leaves a quarter of it."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 2, bias=False), torch.randn(4, 6)
    y = torch.zeros(4, dtype=torch.long)
    found = Adversarial(epsilon=0.5, weight=2.0).penalty(stated(model, (x, y))).item()
    away = (model.weight[1] - model.weight[0]).sign()
    least, most = (2 * F.cross_entropy(model(x + way * away), y).item() for way in (0.125, 0.5))
    assert least < found < most


def test_statistics_see_the_moved_inputs_once_and_random_draws_go_on():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    before = torch.get_rng_state()
    Adversarial(0.1).penalty(stated(model, (torch.randn(8, 6), torch.zeros(8, dtype=torch.long)))).backward()
    assert int(model[1].num_batches_tracked) == 1
    assert model[0].weight.grad is not None
    torch.set_rng_state(before)
    torch.randn(8, 6)
    following = torch.randn(3)
    torch.set_rng_state(before)
    Adversarial(0.1).penalty(stated(model, (torch.randn(8, 6), torch.zeros(8, dtype=torch.long))))
    assert torch.equal(torch.randn(3), following)


def test_the_same_seed_gives_the_same_network_and_a_more_robust_one():
    data = batches(6)

    def trained(methods):
        model = net(1)
        fit(model, data, epochs=6, methods=methods, **QUIET)
        return model.eval()

    plain, first, second = trained([]), trained([Adversarial(0.3)]), trained([Adversarial(0.3)])
    assert same_tensors(first.state_dict(), second.state_dict())

    def lost(model):
        terms = [Adversarial(0.3).penalty(stated(model, batch)) for batch in data]
        return torch.stack(terms).mean().item()

    assert lost(first) < lost(plain)


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"'epsilon' parameter of Adversarial must be a positive float. Got 0"):
        Adversarial(epsilon=0)
    with pytest.raises(InputError, match=r"inputs that are a tensor of floats. Got list"):
        Adversarial().penalty(stated(net(1), ([1], [0])))
