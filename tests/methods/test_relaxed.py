"""Methods that learn something beside single weights: by hand, and what all of them keep to."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from method_nets import PLAIN, batches
from torch import nn
from torch.optim import Adam

import secateur
from secateur.errors import InputError
from secateur.methods import (
    ContinuousSparsification,
    DifferentiableSparsification,
    DynamicSparse,
    EdgePopup,
    GradualMagnitude,
    HardConcrete,
    ProbMask,
    SoftThreshold,
    Spred,
)
from secateur.methods.differentiable_sparsification import ReluThatLearns
from secateur.methods.dynamic_sparse import LongTailStep
from secateur.methods.edge_popup import Largest
from secateur.methods.prob_mask import project
from secateur.methods.relaxed import Beside
from secateur.training import Moments, State, fit

RELAXED = {
    "hard_concrete": partial(HardConcrete, lr=0.2),
    "continuous_sparsification": partial(ContinuousSparsification, lr=0.2),
    "str": partial(SoftThreshold, initial=-4.0),
    "dst": DynamicSparse,
    "spred": Spred,
    "differentiable": DifferentiableSparsification,
    "prob_mask": partial(ProbMask, lr=0.05),
    "edge_popup": partial(EdgePopup, lr=0.1),
}


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(25, 12), nn.ReLU(), nn.Linear(12, 3))
    return secateur.elements(net)


def started(method):
    state = State(method.groups.model, epochs=5, steps_per_epoch=8, moments=Moments([method]))
    state.moments.setup(state)
    return state


def beside(shape, **learned):
    return Beside({k: nn.Parameter(v) for k, v in learned.items()}, torch.zeros(shape))


@pytest.mark.parametrize("name", RELAXED)
def test_all_end_within_the_budget_with_masks_and_a_plan(name):
    method = RELAXED[name](groups=small(), budget="130 weights")
    net = fit(method.groups.model, batches(), epochs=5, methods=[method], **PLAIN).model
    assert 15 < method.plan.reached.weights <= 130
    assert sum(int(p.count_nonzero()) for p in net.parameters()) <= method.plan.reached.weights
    assert not any("parametrizations" in key for key in net.state_dict())
    for group, kept in method.plan.keep.items():
        gone = torch.ones(method.groups[group].units, dtype=torch.bool).scatter_(0, kept, value=False)
        assert not net.get_parameter(group).flatten()[gone].any()
    assert method.story.events


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("epoch", [2, 4])
def test_a_run_broken_off_ends_with_the_same_bits(name, epoch, tmp_path):
    class Stop(Exception):
        pass

    def stop(row):
        if row.epoch == epoch:
            raise Stop

    def run(**kw):
        method = RELAXED[name](groups=small(), budget="130 weights")
        settings = {**PLAIN, "optimizer": partial(Adam, lr=0.01), **kw}
        return fit(method.groups.model, batches(), epochs=5, methods=[method], ema=0.5, **settings)

    expected = run()
    with pytest.raises(Stop):
        run(checkpoint=tmp_path, on_epoch=stop)
    history = run(checkpoint=tmp_path)
    for key, value in history.model.state_dict().items():
        assert torch.equal(value, expected.model.state_dict()[key])
        assert torch.equal(history.ema[key], expected.ema[key])


@pytest.mark.parametrize("name", ["hard_concrete", "spred", "prob_mask"])
def test_the_network_at_first_and_a_copy_of_it(name):
    groups = small()
    x = batches()[0][0]
    before = groups.model(x)
    state = started(RELAXED[name](groups=groups, budget="130 weights"))
    model = state.model.eval()
    if name == "spred":
        torch.testing.assert_close(model(x), before)
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x))


def test_hard_concrete_by_hand():
    method = HardConcrete(groups=small(), budget="130 weights", price="constant 2.0", keep=0.4)
    state = started(method)
    first = method.besides["1.weight"]
    with torch.no_grad():
        first["alpha"].uniform_(-3, 3, generator=torch.Generator().manual_seed(0))
    draws = []
    for step in range(400):
        method._ready(step)
        draws.append(method.effective(torch.ones(12, 25), first, training=True).detach() > 0)
    chance = next(method.chances()).detach()
    often = torch.stack(draws).float().mean(0)
    assert float((often - chance).abs().max()) < 5 * math.sqrt(0.25 / 400)
    alpha, low, high = 0.7, -0.1, 1.1
    one = beside((1,), alpha=torch.tensor([alpha]))
    z = min(1, max(0, (high - low) / (1 + math.exp(-alpha)) + low))
    assert float(method.effective(torch.tensor([3.0]), one, training=False).detach()) == pytest.approx(3 * z)
    total = sum(float(c.detach().sum()) for c in method.chances())
    assert float(method.penalty(state).detach()) == pytest.approx(2 * total, rel=1e-5)


def test_continuous_sparsification_by_hand():
    method = ContinuousSparsification(groups=small(), initial=-0.1, sharpness=100.0)
    one = beside((2,), s=torch.tensor([0.2, -0.2]))
    one.progress = 0.5  # the temperature is 10
    scale = 1 + math.exp(0.1)
    soft = method.effective(torch.tensor([1.0, 1.0]), one, training=True)
    assert soft.tolist() == pytest.approx([scale / (1 + math.exp(-2)), scale / (1 + math.exp(2))])
    assert method.effective(torch.ones(2), one, training=False).tolist() == pytest.approx([scale, 0])


def test_thresholds_by_hand():
    w = torch.tensor([[0.9, -0.7, 0.2]])
    soft = SoftThreshold(groups=small())
    half = beside((1, 3), s=torch.zeros(1, 1))
    assert soft.effective(w, half, training=True).detach().flatten().tolist() == pytest.approx([0.4, -0.2, 0])
    share = DifferentiableSparsification(groups=small())
    third = beside((1, 3), b=torch.full((1, 1), math.log(0.5)))  # a third of 1.8
    assert share.effective(w, third, training=True).detach().flatten().tolist() == pytest.approx([0.3, -0.1, 0])
    step = DynamicSparse(groups=small())
    row = beside((1, 3), threshold=torch.full((1, 1), 0.5))
    assert step.effective(w, row, training=True).detach().flatten().tolist() == pytest.approx([0.9, -0.7, 0])


def test_surrogate_gradients_by_hand():
    x = torch.tensor([-2.0, -0.5, -0.1, 0.3, 0.4, 1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(LongTailStep.apply(x).sum(), x)
    assert gradient.tolist() == pytest.approx([0, 0.4, 1.6, 0.8, 0.4, 0.4])
    (gradient,) = torch.autograd.grad(ReluThatLearns.apply(x).sum(), x)
    assert gradient.tolist() == pytest.approx([math.exp(-2), math.exp(-0.5), math.exp(-0.1), 1, 1, 1])
    mask = Largest.apply(x, 2)
    assert mask.tolist() == [0, 0, 0, 0, 1, 1]
    (gradient,) = torch.autograd.grad((mask * torch.arange(6.0)).sum(), x)
    assert gradient.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_decay_of_both_factors_is_the_l1_norm_where_they_are_alike():
    method = Spred(groups=small(), strength=0.3)
    norms = sum(float(method.groups.tensor(g.name).detach().abs().sum()) for g in method.groups)
    state = started(method)
    assert float(method.penalty(state).detach()) == pytest.approx(0.3 * norms, rel=1e-5)


def test_a_projection_moves_down_as_little_as_it_must():
    p = [nn.Parameter(torch.tensor([0.9, 0.5])), nn.Parameter(torch.tensor([0.2, 1.4]))]
    project(p, 1.3)
    torch.testing.assert_close(torch.cat(p).detach(), torch.tensor([0.4, 0, 0, 0.9]), atol=1e-5, rtol=0)
    before = torch.cat(p).clone()
    project(p, 5.0)
    assert torch.equal(torch.cat(p), before)


def test_weights_under_edge_popup_stay_what_they_were():
    method = EdgePopup(groups=small(), budget="130 weights", lr=0.1)
    net = fit(method.groups.model, batches(), epochs=3, methods=[method], **PLAIN).model
    sizes = net[1].weight.detach().abs().unique()
    assert sizes.tolist() == pytest.approx([0, math.sqrt(2 / 25)])


def test_gradual_magnitude_follows_the_cube():
    method = GradualMagnitude(groups=small(), budget="130 weights", rounds=4)
    fit(method.groups.model, batches(), epochs=5, methods=[method], **PLAIN)
    k = 130 / 351
    gone = 0
    shares = []
    for step in method.round_at[:3]:
        gone += sum(len(e.units) for e in method.story.events if e.what == "gone" and e.step <= step + 1) - gone
        shares.append(1 - gone / 351)
    assert shares == pytest.approx([k + (1 - k) * (1 - n / 4) ** 3 for n in (1, 2, 3)], abs=0.01)


def test_bad_input_is_told():
    cases = ((HardConcrete, "stretch", (0.1, 1.0)), (ContinuousSparsification, "sharpness", 0.5),
             (DynamicSparse, "strength", -1.0), (DifferentiableSparsification, "power", 1.0),
             (ProbMask, "sharp", 0.0), (Spred, "threshold", -1.0), (SoftThreshold, "lr", 0.0))  # fmt: skip
    for kind, name, value in cases:
        with pytest.raises(InputError, match=f"'{name}' parameter of {kind.__name__} must be"):
            kind(groups=small(), **{name: value})
    with pytest.raises(InputError, match=r"'price' parameter of HardConcrete must be a Price or its name"):
        HardConcrete(groups=small(), price="cheap")
    with pytest.raises(InputError, match=r"'price' parameter of HardConcrete must be a price that is paid"):
        HardConcrete(groups=small(), price="projection")
    blocks = secateur.blocks(small().model, 2, 1)
    with pytest.raises(InputError, match=r"'groups' of Spred must be single weights"):
        fit(blocks.model, batches(), epochs=2, methods=[Spred(groups=blocks)], **PLAIN)
