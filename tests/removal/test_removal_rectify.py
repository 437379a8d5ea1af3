"""The two criteria by hand, and what they say where weights are free of scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur.errors import InputError
from secateur.removal.rectify import Rectify, measure


def rows(before, step):
    """What `measure` gives for rows of a matrix moved by a step, all of one group."""
    return measure(
        before.norm(dim=1), (before + step).norm(dim=1), step.norm(dim=1), torch.ones(len(before)), [len(before)]
    )


def test_by_hand():
    before = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    step = torch.tensor([[0.6, 0.8], [-0.5, 0.0], [0.3, 0.0]])
    rate, length = rows(before, step)
    torch.testing.assert_close(rate, torch.tensor([1.0, -1.0, (4.09**0.5 - 2) / 0.3]))
    torch.testing.assert_close(length, torch.tensor([1.0, 0.5, 0.3]) / 0.6)


def test_variants_by_hand():
    before, after, moved = torch.tensor([5.0, 1.0]), torch.tensor([6.0, 0.5]), torch.tensor([1.0, 0.5])
    shrink = torch.tensor([2.0, 0.25])
    rate, _ = measure(before, after, moved, shrink, [2], "by step")
    assert rate.tolist() == [0.5, -2.0]
    rate, _ = measure(before, torch.tensor([26.0**0.5, 1.5]), moved, shrink, [2], "cosine")
    torch.testing.assert_close(rate, torch.tensor([0.0, 1.0]))  # the first step was orthogonal
    rate, length = measure(before, after, moved, shrink, [1, 1], "product")
    assert rate.tolist() == [1.0, -1.0]
    assert length.tolist() == [1.0, 1.0]


def test_small_plain_steps_give_the_cosine():
    torch.manual_seed(0)
    x, g = torch.randn(20, 30).double(), torch.randn(20, 30).double()
    rate, _ = rows(x, -1e-4 * g)
    torch.testing.assert_close(rate, -F.cosine_similarity(g, x), atol=1e-3, rtol=0)
    rate, _ = rows(x, -10 * g)
    assert (rate.abs() <= 1).all()


def test_what_is_gone_is_no_sibling_and_what_rests_has_no_rate():
    before = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    step = torch.tensor([[0.5, 0.0], [0.0, 0.0], [0.0, 0.0]])
    rate, length = rows(before, step)
    assert rate.tolist() == [1.0, 0.0, 0.0]
    assert length.tolist() == [2.0, 0.0, 0.0]


def shrunk_step(share: float, joint: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Both criteria for channel 0 of convolution and batch norm, shrunk to a share of its norm, for one plain step."""
    torch.manual_seed(0)
    conv, norm, head = (
        nn.Conv2d(2, 6, 3, bias=False).double(),
        nn.BatchNorm2d(6, eps=1e-12).double(),
        nn.Linear(6, 3).double(),
    )
    with torch.no_grad():
        conv.weight[0] *= share
        norm.weight[0] *= share
        norm.bias[0] *= share
    x, y = torch.randn(16, 2, 6, 6).double(), torch.randint(3, (16,))
    F.cross_entropy(head(norm(conv(x)).relu().mean((2, 3))), y).backward()
    parts = [conv.weight, *((norm.weight, norm.bias) if joint else ())]
    weights = torch.cat([p.detach().flatten(1) if p.dim() > 1 else p.detach()[:, None] for p in parts], 1)
    grads = torch.cat([p.grad.flatten(1) if p.dim() > 1 else p.grad[:, None] for p in parts], 1)
    rate, length = rows(weights, -1e-6 * grads)
    return rate[0], length[0]


def test_weights_free_of_scale_are_judged_with_their_norm():
    for share in (1.0, 0.1, 0.01):
        assert abs(shrunk_step(share, joint=False)[0]) < 1e-3  # a convolution alone never pushes outward
        assert abs(shrunk_step(share, joint=True)[0]) > 1e-2
    whole, small = (shrunk_step(share, joint=False)[1] for share in (1.0, 0.01))
    joint, tiny = (shrunk_step(share, joint=True)[1] for share in (1.0, 0.01))
    assert tiny < 3 * joint
    assert whole * 0.3 < small  # with its norm shrunk alike it is not inflated


def test_under_a_norm_that_does_not_shrink_a_convolution_is_inflated():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(2, 6, 3, bias=False).double(), nn.BatchNorm2d(6, eps=1e-12, affine=False).double()
    x, y = torch.randn(16, 2, 6, 6).double(), torch.randint(6, (16,))
    sizes = []
    for share in (1.0, 0.01):
        with torch.no_grad():
            conv.weight[0] *= share
        (grad,) = torch.autograd.grad(F.cross_entropy(norm(conv(x)).relu().mean((2, 3)), y), [conv.weight])
        sizes.append(grad[0].norm())
    torch.testing.assert_close(sizes[1], 100 * sizes[0])


def test_both_criteria_must_hold_but_for_the_product():
    rate, length = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([2.0, 0.5, 2.0])
    assert Rectify(rate=0.1, length=1.0).resists(rate, length).tolist() == [True, False, False]
    assert Rectify(rate=0.1, variant="product").resists(rate, length).tolist() == [True, True, False]


def test_thresholds_out_of_range_are_named():
    for bad, told in (
        ({"rate": 1.0}, r"'rate' parameter of Rectify must be a float in \[-1, 1\). Got 1.0"),
        ({"length": -0.1}, "'length' parameter of Rectify must be a float of at least 0"),
        ({"memory": 1.0}, r"'memory' parameter of Rectify must be a float in \[0, 1\)"),
        ({"after": 0}, "'after' parameter of Rectify must be an integer of at least 1"),
        ({"until": 0.0}, r"'until' parameter of Rectify must be a float in \(0, 1\]. Got 0.0"),
        ({"most": 1.1}, r"'most' parameter of Rectify must be a float in \(0, 1\]"),
        ({"releases": -1}, "'releases' parameter of Rectify must be an integer of at least 0"),
        ({"variant": "neither"}, "'variant' parameter of Rectify must be"),
    ):
        with pytest.raises(InputError, match=told):
            Rectify(**bad)
    assert Rectify(rate=2.0, variant="by step").rate == 2.0
