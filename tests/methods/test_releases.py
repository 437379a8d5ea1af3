"""What a release means for a host: what is necessary stays, another unit goes, and every run ends within its budget."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from method_nets import METHODS, Attending, found, trained
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

import secateur
from secateur.graph.elements import blocks, elements
from secateur.masks import Masks
from secateur.methods import Iterative
from secateur.removal import Decay, Immediate, Multiplicative, Rectify
from secateur.training import fit

OPTIMIZERS = {
    "sgd": partial(SGD, lr=0.05),
    "momentum": partial(SGD, lr=0.02, momentum=0.9),
    "adam": partial(Adam, lr=0.005),
}


class Planted(nn.Module):
    """Eight channels of which the fourth alone is read, behind a head that does not train."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if normed else nn.Identity()
        self.head = nn.Conv2d(8, 1, 1, bias=False)
        self.head.weight.data.zero_()
        self.head.weight.data[:, 3] = 1
        self.head.requires_grad_(requires_grad=False)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu())


def pruned(removal, optimizer, *, normed):
    """Which channels a host keeps that thinks least of the one that is needed, and of three that are not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x = Planted(normed), torch.randn(16, 3, 6, 6)
        groups = secateur.groups(net.eval(), torch.randn(1, 3, 6, 6))
        with torch.no_grad():
            target = net.train()(x)
    (name,) = [g.name for g in groups]
    method = Iterative(
        groups=groups,
        budget="50% units",
        removal=removal,
        rounds=1,
        start=0.1,
        stop=0.9,
        criterion=lambda _: {name: torch.tensor([1.0, 5, 6, 0, 7, 2, 8, 3])},
        planning={"round_to": 1},
    )
    fit(net, [(x, target)] * 10, epochs=14, methods=[method], loss=F.mse_loss, optimizer=optimizer, **QUIET)
    return method.plan.keep[name].tolist()


QUIET = {"progress": False, "precision": "fp32", "schedule": "constant"}
RELEASING = Rectify(rate=0.1, length=0.5, cooldown=5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("normed", [True, False])
def test_a_host_that_is_wrong_is_put_right(normed, optimizer):
    kinds = {"at once": Immediate(), "decay": Decay(50), "rectified": Decay(50, RELEASING)}
    kept = {kind: pruned(removal, OPTIMIZERS[optimizer], normed=normed) for kind, removal in kinds.items()}
    assert kept["at once"] == kept["decay"] == [1, 2, 4, 6]
    assert kept["rectified"] == [2, 3, 4, 6]  # channel 1 went instead: the next-lowest


@pytest.mark.parametrize("policy", [Decay, Multiplicative])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_in_which_everything_is_released_for_ever_ends_within_its_budget(name, policy):
    always = Rectify(rate=-1.0, length=0.0, after=1, memory=0.0, releases=10**6, cooldown=0)
    method = METHODS[name](groups=found(), removal=policy(6, always), planning={"round_to": 1})
    history = trained(method)
    assert method.plan.reached.macs <= 0.5 * method.plan.dense.macs
    assert secateur.record(history.model).proof.holds


def test_the_next_lowest_of_the_group_goes_in_the_place_of_what_was_released():
    groups = found()
    order = {g.name: torch.arange(g.units).double() for g in groups}
    once = Rectify(rate=-1.0, length=0.0, after=2, memory=0.0, cooldown=50)
    method = Iterative(
        groups=groups,
        rounds=1,
        start=0.1,
        stop=0.9,
        removal=Decay(5, once),
        criterion=lambda _: order,
        planning={"round_to": 1},
    )
    trained(method)
    for group in groups:
        own = [e for e in method.story.events if e.group == group.name and e.what != "gone"]
        chosen, released, instead = own[0], own[1], own[2]
        assert (chosen.what, released.what, instead.what) == ("leaving", "released", "leaving")
        assert set(released.units) == set(chosen.units) == set(range(len(chosen.units)))
        first, many = len(chosen.units), len(released.units)
        assert instead.units == tuple(range(first, first + min(many, group.units - first)))


def test_no_other_group_pays_for_what_one_released():
    """Each group gives up as many units as its scores say, whichever they are."""
    groups = found()
    order = {g.name: (1.0 + i) ** 2 * (1 + torch.arange(g.units).double()) for i, g in enumerate(groups)}
    released = Rectify(rate=-1.0, length=0.0, after=4, memory=0.0, releases=1, cooldown=50)
    counts = []
    for rectify in (None, released):
        method = Iterative(
            groups=groups,
            rounds=4,
            start=0.1,
            stop=0.9,
            removal=Decay(5, rectify),
            criterion=lambda _: order,
            planning={"round_to": 1, "allocation": "global"},
        )
        trained(method)
        counts.append(method.plan.counts)
        groups = found()
    assert len({counts[0][g.name] / g.units for g in groups}) > 1
    assert counts[1] == counts[0]


def test_what_was_released_sits_out_the_next_round_and_not_the_one_after():
    groups = found()
    order = {g.name: torch.arange(g.units).double() for g in groups}
    chosen = []

    class Watched(Iterative):
        def _aim(self, state, made, *, certain=False):
            chosen.append((state.step, {name: set(made.removed(name).tolist()) for name in made.units}))
            super()._aim(state, made, certain=certain)

    once = Rectify(rate=-1.0, length=0.0, after=1, memory=0.0, releases=1, cooldown=1)
    method = Watched(
        groups=groups,
        rounds=3,
        start=0.1,
        stop=0.9,
        removal=Decay(10, once),
        criterion=lambda _: order,
        planning={"round_to": 1},
    )
    trained(method)
    (_, first), (second_at, second), (_, third) = chosen
    name = next(name for name in first if first[name])
    early = {u for e in method.story.events if e.what == "released" and e.step < second_at for u in e.units}
    assert first[name] <= early
    assert not first[name] & second[name]
    assert first[name] <= third[name]


def released(groups, leaving, loss, optimizer):
    """Group name -> the units that a rectified decay of `leaving` lets go again, while `loss` is minimised."""
    removal = Decay(40, Rectify(rate=0.1, length=0.5))
    masks, moving = Masks(groups), optimizer([p for p in groups.model.parameters() if p.requires_grad])
    removal.start(groups, leaving)
    back = {}
    for _ in range(40):
        moving.zero_grad()
        loss().backward()
        masks.before_step()
        removal.before_step(groups)
        moving.step()
        for name, departure in masks.advance(removal, moving).items():
            back.setdefault(name, set()).update(departure.released.nonzero().flatten().tolist())
    return back


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_necessary_head_is_released_and_others_are_not(optimizer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x = Attending(), torch.randn(32, 1, 5, 5)
        with torch.no_grad():
            net.out.weight[:, :8], net.out.weight[:, 12:] = 0, 0  # the third head alone is read
            for part in (net.query, net.key, net.value):
                part.weight.mul_(3)
            net.out.weight.mul_(10)
        net.requires_grad_(requires_grad=False)
        for part in (net.query, net.key, net.value):
            part.requires_grad_(requires_grad=True)
        groups = secateur.groups(net, x[:1])
        target = net(x).detach()
    (heads,) = [g.name for g in groups if g.units == 4 and g.multiple > 1]
    found = released(
        groups, {heads: torch.tensor([0, 2, 3])}, lambda: F.mse_loss(net(x), target), OPTIMIZERS[optimizer]
    )
    assert found[heads] == {2}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["weights", "blocks"])
def test_necessary_weights_and_blocks_are_released_and_others_are_not(kind, optimizer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x = nn.Linear(12, 8, bias=False), torch.randn(32, 12)
        x[:, 4:] = 0  # the first columns alone are read
        groups = elements(net) if kind == "weights" else blocks(net, 2, 4)
        target = net(x).detach()
    columns = groups["weight"].units // (8 if kind == "weights" else 4)
    first = torch.arange(0, groups["weight"].units, columns)  # of every row: one that is read, and one that is not
    leaving = {"weight": torch.cat([first, first + columns - 1]).sort().values}
    found = released(groups, leaving, lambda: F.mse_loss(net(x), target), OPTIMIZERS[optimizer])
    assert found["weight"]
    assert found["weight"] <= set(first.tolist())


@pytest.mark.parametrize("activation", [nn.Softplus(), nn.Sigmoid()], ids=["softplus", "sigmoid"])
def test_what_is_gone_leaves_no_constant_behind_an_activation_that_is_not_zero_at_zero(activation):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), activation, nn.Conv2d(12, 8, 3, padding=1), nn.Flatten(), nn.Linear(200, 3)
        )
        groups = secateur.groups(net, torch.zeros(1, 1, 5, 5))
    method = Iterative(groups=groups, removal=Decay(6), rounds=1, start=0.1, stop=0.7, planning={"round_to": 1})
    history = trained(method)
    assert any(len(kept) < method.plan.units[name] for name, kept in method.plan.keep.items())
    assert secateur.record(history.model).proof.holds
    x = torch.randn(3, 1, 5, 5)
    torch.testing.assert_close(history.model.eval()(x), groups.model.eval()(x))
