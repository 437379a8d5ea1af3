"""Gumbel gates by hand: samples and gradients, prices, guards, resumption, and what comes out."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from method_nets import PLAIN, Residual, batches, found
from torch import nn
from torch.optim import SGD, AdamW

import secateur
from secateur import sparse
from secateur.errors import InputError
from secateur.methods import Aim, Climb, Constant, DualAscent, Gumbel, LogSchedule, Projection, Ramp, Standing
from secateur.methods.edges import Edges
from secateur.methods.gates import Gates
from secateur.methods.sampling import StraightThrough, hard_sample
from secateur.planning import Budget
from secateur.planning.fitting import Target
from secateur.schedule import exponential
from secateur.training import Moments, State, fit

PRICES = {
    "constant": lambda: Constant(1e-3),
    "ramp": lambda: Ramp(2e-3),
    "climb": lambda: Climb(2e-2),
    "aim": lambda: Aim(1e-3),
    "log schedule": LogSchedule,
    "dual ascent": lambda: DualAscent(1e-3),
    "projection": Projection,
}


class Three(nn.Module):
    """Three linear layers over a flat input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(25, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(x.flatten(1)).relu()).relu())


def three(**kw):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return secateur.elements(Three(), **kw)


def trained(method, epochs=5, **kw):
    return fit(method.groups.model, batches(), epochs=epochs, methods=[method], **{**PLAIN, **kw})


def started(method):
    state = State(method.groups.model, epochs=5, steps_per_epoch=8, moments=Moments([method]))
    added = state.moments.setup(state)
    state.optimizer = SGD([{"params": state.model.parameters()}, *added], lr=0.05)
    state.begin_step(batches()[0])
    return state


def test_a_hard_sample_and_its_gradient_by_hand():
    logits = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([-1.0, 3.0, -2.0], dtype=torch.float64)
    z, count = StraightThrough.apply(logits, *hard_sample(logits.detach(), noise, 2.0))
    assert z.tolist() == [0.0, 1.0, 0.0]  # 0 is not above 0
    assert count == 1
    ((z * torch.tensor([1.0, 10.0, 100.0])).sum() + 5 * count).backward()
    soft = [1 / (1 + math.exp(-lifted / 2)) for lifted in (-0.5, 2.0, 0.0)]
    by_hand = [factor * s * (1 - s) / 2 for factor, s in zip((6, 15, 105), soft, strict=True)]
    assert logits.grad.tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("numbers", [1, 2])
def test_gates_are_open_as_often_as_the_sigmoid_of_their_logit_says(numbers, temperature):
    net = nn.Linear(200, 200, bias=False)
    gates = Gates(secateur.elements(net), keep=0.5, logits=numbers)
    gates.mode, gates.temperature = "sampled", temperature
    for step, d in enumerate((-4.0, -1.0, 0.0, 2.0)):
        gates.set("weight", torch.full((40000,), d))
        torch.testing.assert_close(gates.difference("weight"), torch.full((40000,), d))
        gates.draw(1, step)
        z = gates.sample("weight")
        assert set(z.unique().tolist()) <= {0.0, 1.0}
        p = 1 / (1 + math.exp(-d))
        assert float(z.detach().mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 40000))


@pytest.mark.parametrize(("d", "tau", "factor"), [(0, 1, 0.167), (4, 3, 0.055), (2, 0.3, 0.110), (0, 3, 0.077)])
def test_the_temperature_shapes_the_gradient_as_published(d, tau, factor):
    noise = torch.rand(2_000_000, generator=torch.Generator().manual_seed(0)).logit()
    logits = torch.full_like(noise, d, requires_grad=True)
    StraightThrough.apply(logits, *hard_sample(logits.detach(), noise, float(tau)))[0].sum().backward()
    assert float(logits.grad.mean()) == pytest.approx(factor, rel=0.02)


def test_a_step_has_one_sample_for_every_access_and_for_the_price():
    method = Gumbel(groups=three(), budget="50% weights", price=Constant(1.0), penalty_on="sample", keep=0.5)
    state = started(method)
    first = state.model.fc1.weight
    assert torch.equal(first, state.model.fc1.weight)
    open_gates = sum(int(state.model.get_submodule(n).weight.count_nonzero()) for n in ("fc1", "fc2", "fc3"))
    assert float(method.penalty(state).detach()) == pytest.approx(open_gates)
    state.backward(state.objective()[0])
    state.moments("before_step", state)
    state.optimizer_step()
    state.step += 1
    state.moments("after_step", state)
    assert not torch.equal(first == 0, state.model.fc1.weight == 0)
    state.model.eval()
    assert torch.equal(state.model.fc1.weight == 0, (method.gates.difference("fc1.weight") <= 0).view(12, 25))


def test_the_price_of_expected_edges_is_their_number_and_its_gradient_exact():
    method = Gumbel(groups=three(), budget="50% weights", price=Constant(0.5), penalty_on="expected")
    state = started(method)
    with torch.no_grad():
        for parameter in method.gates.logits.values():
            parameter.copy_(torch.randn_like(parameter))
    d = method.gates.logits["fc2.weight"]
    penalty = method.penalty(state)
    expected = sum(p.detach().double().sigmoid().sum() for p in method.gates.logits.values())
    assert float(penalty.detach()) == pytest.approx(0.5 * float(expected), rel=1e-5)
    (gradient,) = torch.autograd.grad(penalty, d)
    torch.testing.assert_close(gradient, (0.5 * d.sigmoid() * (1 - d.sigmoid())).detach())


def test_edges_of_groups_are_what_widths_cost():
    method = Gumbel(groups=found(), budget="50% macs", price=Constant(1.0), penalty_on="expected", keep=0.5)
    state = started(method)
    cost = method.groups.cost({g.name: g.units // 2 for g in method.groups}).macs
    nothing = method.groups.cost({g.name: 0 for g in method.groups}).macs
    assert float(method.penalty(state).detach()) == pytest.approx(cost - nothing)


def test_prices_by_hand():
    at = Standing(50.0, asked=10.0, dense=1000.0, progress=0.4)
    assert Constant(2.0).charge(at) == (100, 2)
    assert Ramp(2.0, until=0.8).charge(at) == pytest.approx((50, 1))
    assert Aim(2.0).charge(at) == (80, 2)
    assert Aim(2.0).charge(Standing(4.0, 10.0, 1000.0, 0.4)) == (12, -2)
    assert LogSchedule(2.0, until=0.8).charge(at) == (0, 0)  # 100 are scheduled
    late = Standing(50.0, asked=10.0, dense=1000.0, progress=0.9)
    assert LogSchedule(2.0, until=0.8).charge(late) == pytest.approx((2 * math.log(5), 2 / 50))
    assert Projection(until=0.8).charge(at) is None
    assert Projection(until=0.8).limit(at) == pytest.approx(100)
    climb = Climb(10.0)
    climb.moved(at)
    assert climb.charge(at) == pytest.approx((200, 4))
    climb.moved(Standing(9.0, asked=10.0, dense=1000.0, progress=0.5))
    assert climb.charge(at) == (0, 0)  # 5 less would be below it
    climb.moved(Standing(11.0, asked=10.0, dense=1000.0, progress=0.7))
    assert climb.charge(at) == pytest.approx((100, 2))
    dual = DualAscent(10.0)
    dual.moved(at)
    assert dual.charge(at) == pytest.approx((20, 0.4))
    dual.moved(Standing(0.0, asked=100.0, dense=1000.0, progress=0.5))
    assert dual.price == 0


@pytest.mark.parametrize("kind", ["elements", "blocks", "groups"])
def test_a_charge_reaches_units_by_what_each_of_them_brings(kind):
    groups = {"elements": three, "groups": found}.get(kind, lambda: secateur.blocks(three().model, 2, 5))()
    unit = "macs" if kind == "groups" else "weights"
    edges = Edges(groups, Target(groups, Budget.parse(f"50% {unit}")), [g.name for g in groups])
    units = torch.tensor([g.units / 2 + 0.25 for g in groups], requires_grad=True)
    numbers = dict(zip(edges.units, units.tolist(), strict=True))
    penalty = edges.penalty(Aim(0.5), units, progress=0.4)
    assert penalty.item() == pytest.approx(0.5 * abs(edges.expected(numbers) - edges.asked))
    (3 * penalty).backward()
    sign = math.copysign(1.0, edges.expected(numbers) - edges.asked)
    for name, rate in zip(numbers, units.grad.tolist(), strict=True):
        more = edges.expected({**numbers, name: numbers[name] + 0.1}) - edges.expected(numbers)
        assert rate == pytest.approx(3 * 0.5 * sign * more / 0.1, rel=1e-3)


def test_a_gate_closes_where_its_weight_is_worth_less_than_the_price():
    """y = x1 + 0.1 x2: without the first weight the loss is 1 more, without the second 0.01."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(256, 2)
    y = x @ torch.tensor([[1.0], [0.1]])
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 0.1]])
    method = Gumbel(groups=secateur.elements(net), budget="100% weights", price=Constant(0.1), lr=0.1, outputs=())
    fit(net, [(x, y)] * 10, epochs=30, methods=[method], loss=nn.functional.mse_loss,
        **{**PLAIN, "optimizer": partial(SGD, lr=0.0)})  # fmt: skip
    assert method.plan.keep["weight"].tolist() == [0]


@pytest.mark.parametrize("price", PRICES)
def test_every_price_ends_within_the_budget_in_masks(price):
    groups = three()
    method = Gumbel(groups=groups, budget="60 weights", price=PRICES[price](), lr=0.2)
    history = trained(method, epochs=8)
    plan, net = method.plan, history.model
    assert plan.reached.weights <= 60
    assert sum(int(p.count_nonzero()) for p in net.parameters()) == plan.reached.weights
    assert all(bool(row.any()) for row in net.fc3.weight)  # every output has an edge
    assert not any("parametrizations" in name for name, _ in net.named_parameters())
    assert method.readings[-1].open == sum(int((d > 0).sum()) for _, d in method.gates.differences())
    assert all(0 <= r.stray <= r.expected for r in method.readings)


@pytest.mark.parametrize("kind", ["elements", "blocks", "groups"])
@pytest.mark.parametrize("price", ["log schedule", "projection"])
def test_what_follows_the_budget_comes_near_it_by_itself(kind, price):
    groups = {"elements": three, "groups": found}.get(kind, lambda: secateur.blocks(three().model, 2, 1))()
    budget = "50% macs" if kind == "groups" else "30% weights"
    method = Gumbel(groups=groups, budget=budget, price=PRICES[price](), lr=0.2, planning={"round_to": 1})
    trained(method, epochs=8)
    spent, asked = method.target.spent(method.plan.counts), method.target.asked
    assert 0.85 * asked <= spent <= asked
    dense, expected = sum(g.units for g in groups), method.readings[-1].expected
    share = asked / method.target.spent()
    assert 0.5 * share < expected / dense < (1.7 if kind == "groups" else 1.2) * share


def test_open_gates_alone_stay_where_they_spend_less_than_the_budget():
    method = Gumbel(groups=three(), budget="100% weights", lr=0.2, price=Ramp(3e-2))
    trained(method)
    for name, difference in method.gates.differences():
        assert method.plan.keep[name].tolist() == (difference > 0).nonzero().flatten().tolist()
    assert method.plan.reached.weights < 0.9 * method.plan.dense.weights


@pytest.mark.parametrize("optimizer", [PLAIN["optimizer"], partial(AdamW, lr=0.01)])
@pytest.mark.parametrize("epoch", [2, 4])
@pytest.mark.parametrize("price", ["dual ascent", "projection", "climb"])
def test_a_run_broken_off_ends_with_the_same_bits(price, epoch, optimizer, tmp_path):
    class Stop(Exception):
        pass

    def stop(row):
        if row.epoch == epoch:
            raise Stop

    def method():
        cooling = partial(exponential, start=3.0, end=1.0)
        more = {"logits": 2, "temperature": cooling, "snapshots": ["90% weights", "70% weights", "120 weights"]}
        return Gumbel(groups=three(), budget="80 weights", price=PRICES[price](), lr=0.2, **more)

    whole, resumed = method(), method()
    expected = trained(whole, optimizer=optimizer, ema=0.5)
    with pytest.raises(Stop):
        trained(method(), optimizer=optimizer, ema=0.5, checkpoint=tmp_path, on_epoch=stop)
    history = trained(resumed, optimizer=optimizer, ema=0.5, checkpoint=tmp_path)
    assert resumed.readings == whole.readings
    assert [(s.budget, s.step, s.spent) for s in resumed.taken] == [(s.budget, s.step, s.spent) for s in whole.taken]
    for key, value in history.model.state_dict().items():
        assert torch.equal(value, expected.model.state_dict()[key])
        assert torch.equal(history.ema[key], expected.ema[key])


@pytest.mark.parametrize("kind", ["elements", "groups"])
def test_snapshots_are_the_network_when_it_met_their_budgets(kind):
    groups, unit = (three(), "weights") if kind == "elements" else (found(), "params")
    budgets = [f"{share}% {unit}" for share in (40, 90, 70)]
    method = Gumbel(groups=groups, budget=f"30% {unit}", lr=0.2, snapshots=budgets, planning={"round_to": 1})
    plain = copy.deepcopy(groups.model)
    trained(method, epochs=8)
    assert [s.budget for s in method.taken] == [budgets[i] for i in (1, 2, 0)]
    assert [s.step for s in method.taken] == sorted(s.step for s in method.taken)
    dense = sum(p.numel() for p in plain.parameters())
    for snapshot, share in zip(method.taken, (0.9, 0.7, 0.4), strict=True):
        plain.load_state_dict(snapshot.state)
        assert 0.7 * share < snapshot.spent / dense <= share
        if kind == "elements":
            assert sum(int(p.count_nonzero()) for p in plain.parameters()) == snapshot.spent
    with pytest.raises(InputError, match=r"'snapshots' of Gumbel must count the same. They count macs and params"):
        Gumbel(groups=found(), snapshots=["50% macs", "50% params"])


def test_accumulated_batches_and_closures_see_the_same_sample():
    method = Gumbel(groups=three(), budget="50% weights")
    seen = []

    class Look:
        def before_step(self, state):
            before = state.model.fc1.weight == 0
            state.closure()
            seen.append(torch.equal(before, state.model.fc1.weight == 0))

    fit(method.groups.model, batches(), epochs=2, methods=[Look(), method], accumulate=2, **PLAIN)
    assert seen
    assert all(seen)


def test_bad_input_is_told_before_the_first_step():
    for name, value in (
        ("price", 1e-3),
        ("price", "ramp"),
        ("price", "ramp soon"),
        ("penalty_on", "all"),
        ("logits", 3),
        ("keep", 1.0),
        ("temperature", 0.0),
        ("lr", 0.0),
        ("rounds", 2),
    ):
        with pytest.raises(InputError, match=f"'{name}' parameter of Gumbel must be"):
            Gumbel(groups=three(), **{name: value})
    with pytest.raises(InputError, match=r"'price' parameter of Ramp must be a float above 0. Got -1"):
        Ramp(-1)
    with pytest.raises(InputError, match=r"'until' parameter of Projection must be a share in \(0, 1\]"):
        Projection(until=1.5)
    with pytest.raises(InputError, match=r"There is no group 'fc3'; the last are .*'fc3.weight'"):
        trained(Gumbel(groups=three(), budget="80 weights", outputs=["fc3"]))
    frozen = three()
    frozen.model.fc2.weight.requires_grad = False
    with pytest.raises(InputError, match=r"'fc2.weight' is not trained"):
        trained(Gumbel(groups=frozen, budget="80 weights"))
    tied = Three()
    tied.fc2 = nn.Linear(12, 12)
    tied.other, tied.fc3 = nn.Linear(12, 12), nn.Linear(12, 3)
    tied.other.weight = tied.fc2.weight
    with pytest.raises(InputError, match=r"'fc2.weight' is also 'other.weight'"):
        trained(Gumbel(groups=secateur.elements(tied), budget="100 weights"))


def test_what_remains_is_cleaned_and_computes_the_same():
    method = Gumbel(groups=three(), budget="70 weights", lr=0.2)
    net = trained(method).model.eval()
    network = sparse.read(net, torch.zeros(1, 1, 5, 5))
    small = sparse.compact(network, allow_lost=True)
    biases = 12 + 8 + 3
    assert network.counts["edges"] == method.plan.reached.weights - biases
    assert small.counts["edges"] <= network.counts["edges"]
    x = torch.randn(5, 1, 5, 5)
    torch.testing.assert_close(small(x), net(x), rtol=1e-5, atol=1e-6)


def test_a_copy_of_a_gated_model_has_gates_of_its_own():
    method = Gumbel(groups=three(), budget="50% weights", keep=0.5)
    model = started(method).model
    copied, x = copy.deepcopy(model), torch.randn(4, 25)
    torch.testing.assert_close(copied(x), model(x))
    before = copied(x)
    method.gates.draw(5, 0)
    assert not torch.equal(model(x), before)
    assert torch.equal(copied(x), before)


def test_gates_train_in_half_precision():
    method = Gumbel(groups=secateur.elements(Residual()), budget="40% weights", lr=0.2)
    trained(method, precision="bf16")
    assert method.plan.reached.weights <= 0.4 * method.plan.dense.weights
